#!/usr/bin/env python3
"""Reduces snapshots of anonymous memory to what the rules need: one line per mapping.

usage: anonymous.py FROM TO [NAME...]

FROM has NAME.smaps and NAME.truth.json. NAME.truth.json has the resident bytes of each address range by their
real use. The script writes TO/NAME.tsv: the addresses, permissions and flags of each mapping, its resident
KiB by use, and its path. Mappings with a path are kept only if the rules depend on them.
"""

import json
import re
import sys
from pathlib import Path

HEADER = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ \d+ *(.*)")
FLAGS = {"nh", "nr", "ac", "dc", "gu"}


def mappings(text: str) -> list[list[str]]:
    """Returns the start, end, permissions, flags and path of each mapping."""
    found = []
    for line in text.splitlines():
        if header := HEADER.fullmatch(line):
            begin, end, permissions, path = header.groups()
            found.append([begin, end, permissions, "", path])
        elif line.startswith("VmFlags:"):
            found[-1][3] = ",".join(flag for flag in line.split() if flag in FLAGS)
    return found


def shortened(text: str, truth: dict) -> str:
    uses = {addresses: uses for addresses, uses in truth["parts"]}
    lines = [f"# {truth['what']}; Linux {truth['kernel']}"]
    found = mappings(text)
    for (begin, end, permissions, flags, path), above in zip(found, found[1:] + [[""] * 5]):
        # The addresses in truth.json have no leading zeros.
        resident = uses.pop("-".join(address.lstrip("0") for address in (begin, end)), {})
        is_below_anonymous = above[0] == end and not above[4]
        if path and not is_below_anonymous and not re.search(r"/server/libjvm\.so|java_heap|\.jsa", path):
            continue
        kib = "" if path else " ".join(f"{use}={n // 1024}" for use, n in resident.items() if n)
        lines.append("\t".join((f"{begin}-{end}", permissions, flags, kib, path)))
    assert not uses, f"truth.json has addresses without a mapping: {uses}"
    return "\n".join(lines) + "\n"


def main(source: Path, target: Path, names: list[str]):
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.glob("*.smaps")):
        if not names or path.stem in names:
            truth = json.loads(path.with_suffix(".truth.json").read_text())
            (target / f"{path.stem}.tsv").write_text(shortened(path.read_text(errors="replace"), truth))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
