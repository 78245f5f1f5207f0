"""Tests that the table of groups has every test once, and that no test module imports another."""

import re
import subprocess
import sys

import pytest

import groups
from lab import HERE


def test_each_test_is_in_exactly_one_group():
    collect = [sys.executable, "-m", "pytest", HERE, "--collect-only", "-q"]
    listed = subprocess.run(collect, capture_output=True, text=True, check=True).stdout
    tests = set(re.findall(r"^(?:.*/)?(test_\w+)\.py::(\w+)", listed, re.MULTILINE))
    assert len(tests) > 100, "too few tests are collected"
    assert groups.stale(tests) == [], "groups.py names tests that do not exist"
    assert {groups.group_of(*test) for test in tests} == groups.GROUPS.keys(), "a group is empty"
    entries = [entry for group in groups.GROUPS.values() for entry in group.tests]
    assert len(entries) == len(set(entries)), "groups.py has an entry twice"


def test_test_without_a_group_fails():
    with pytest.raises(AssertionError, match="no group for test_new::test_x"):
        groups.group_of("test_new", "test_x")


def test_no_test_module_imports_another():
    sources = [*HERE.glob("*.py"), *HERE.parent.glob("nodes/**/*.py"), *HERE.parent.glob("browser/*.py")]
    assert len(sources) > 50
    for source in sources:
        imports = re.findall(r"^\s*(?:from|import) (test_\w+)", source.read_text(), re.MULTILINE)
        assert imports == [], (
            f"{source.name} imports {imports}: move shared code to conftest.py or a lab module"
        )
