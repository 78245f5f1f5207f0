"""Starts the exporter and Chromium for the tests of the page.

EXPORTER is the program (default target/release/smaps-container-exporter). RECORDED_NODE is the recording that
the program serves (default fixtures/node). Screenshots go to target/browser.
"""

import os
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from exposition import Exposition

REPOSITORY = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
EXPORTER = Path(os.environ.get("EXPORTER", TARGET / "release/smaps-container-exporter"))
RECORDED_NODE = Path(os.environ.get("RECORDED_NODE", REPOSITORY / "fixtures/node"))
SCREENSHOTS = REPOSITORY / "target/browser"
AXE = REPOSITORY / "target/browser/node_modules/axe-core/axe.min.js"
# The test machine may have no network, so Chromium's own network services are off.
CHROMIUM = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


def until(what, condition, seconds=20):
    """Polls `condition()` until its result is true, and returns the result."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"timed out after {seconds} s waiting for {what}"
        time.sleep(0.02)


def get(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Exporter:
    """A running exporter."""

    def __init__(self, directory, log, *arguments, port=None):
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self.log = log
        # The interval is half the default, so tests that wait for the next scrape take half as long.
        interval = () if "--scrape-interval" in arguments else ("--scrape-interval", "500ms")
        command = [
            EXPORTER,
            "--addr",
            f"127.0.0.1:{self.port}",
            "--fixture",
            directory,
            *interval,
            *arguments,
        ]
        with open(log, "wb") as stderr:
            self.process = subprocess.Popen([str(word) for word in command], stderr=stderr)
        until(f"the start of {command}", self.ready, 60)

    def ready(self):
        assert self.process.poll() is None, self.log.read_text()
        try:
            return get(self.url + "readyz") is not None
        except OSError:
            return False

    def exposition(self):
        """Requests the view that the page uses."""
        return Exposition(get(self.url + "metrics?group-by=path&fields=all"))

    def stop(self):
        self.process.terminate()
        self.process.wait(10)


@pytest.fixture
def exporter(tmp_path):
    """A function that starts exporters for one test: exporter(directory, *arguments)."""
    running = []

    def start(directory, *arguments):
        running.append(Exporter(directory, tmp_path / f"exporter-{len(running)}.log", *arguments))
        return running[-1]

    yield start
    for one in running:
        one.stop()


@pytest.fixture(scope="session")
def serve(tmp_path_factory):
    """A function that starts exporters that several tests share: serve(directory, *arguments)."""
    running = []

    def start(directory, *arguments):
        running.append(Exporter(directory, tmp_path_factory.mktemp("shared") / "log", *arguments))
        return running[-1]

    yield start
    for one in running:
        one.stop()


@pytest.fixture(scope="session")
def node(serve):
    """An exporter of the whole recorded node. All tests share it."""
    return serve(RECORDED_NODE, "--filter", "*/*/*/*")


@pytest.fixture(scope="session")
def chromium():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=CHROMIUM)
        yield browser
        browser.close()


class Page:
    """The memory map in a tab.

    An error in the browser's console fails the test unless the test expects it.
    """

    def __init__(self, context):
        self.tab = context.new_page()
        self.problems, self.expected, self.requests = [], [], []
        self.tab.on(
            "console", lambda message: self.problem(message.text) if message.type == "error" else None
        )
        self.tab.on("pageerror", lambda error: self.problem(str(error)))
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.add_init_script(
            "window.violations = []; addEventListener('securitypolicyviolation', "
            "e => violations.push(e.violatedDirective + ' ' + e.blockedURI))"
        )

    def problem(self, text):
        self.problems.append(text)

    def open(self, exporter, fragment=""):
        self.origin = exporter.url
        self.tab.goto(exporter.url + fragment, wait_until="domcontentloaded")
        self.drawn()

    def drawn(self):
        until(
            "the first picture",
            lambda: self.tab.evaluate("performance.getEntriesByName('response to drawn').length"),
        )

    def text(self, selector):
        return self.tab.locator(selector).inner_text()

    def value(self, selector):
        """Returns the exact number, which the displayed text rounds."""
        value = self.tab.locator(selector).get_attribute("data-value")
        return None if value == "NaN" else float(value)

    def crumbs(self):
        return self.tab.locator("#crumbs a").all_inner_texts()

    def column(self, name):
        """Returns the numbers of a column from top to bottom. For a dash it returns None."""
        cells = self.tab.eval_on_selector_all(
            f"#rows td[data-key={name}]", "cells => cells.map(c => c.dataset.value)"
        )
        return [None if cell == "NaN" else float(cell) for cell in cells]

    def names(self):
        return self.tab.eval_on_selector_all(
            "#rows th",
            "cells => cells.map(c => [...c.querySelectorAll('bdi')].map(b => b.textContent).join(''))",
        )

    def changes(self):
        return [
            float(v)
            for v in self.tab.eval_on_selector_all(
                "#rows td[data-key=change] :last-child", "cells => cells.map(c => c.dataset.value)"
            )
        ]

    def select(self, field):
        self.tab.select_option("#field", field)

    def sort(self, column):
        self.tab.click(f"#sort-{column}")

    def go(self, fragment):
        self.tab.evaluate("hash => { location.hash = hash }", fragment)

    def hash(self):
        return self.tab.evaluate("location.hash")

    def state(self):
        """Returns the heading that the page shows instead of data, or an empty string."""
        return self.text("#empty h2") if self.tab.is_visible("#empty h2") else ""

    def screenshot(self, name):
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.tab.screenshot(path=SCREENSHOTS / f"{name}.png")

    def check(self):
        unexpected = [text for text in self.problems if not any(part in text for part in self.expected)]
        assert unexpected == [], "the browser's console"
        assert self.tab.evaluate("violations") == [], "Content-Security-Policy"
        assert [url for url in self.requests if not url.startswith((self.origin, "data:"))] == [], (
            "requests to other hosts"
        )


@pytest.fixture
def browse(chromium):
    """A function that opens tabs: browse(width=..., height=..., scheme=...)."""
    pages = []

    def start(width=1600, height=1000, scheme="light"):
        context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        context.set_default_timeout(20_000)
        pages.append(Page(context))
        return pages[-1]

    yield start
    try:
        for page in pages:
            # The routes are removed after the checks, because without routes a request would reach the real
            # server.
            page.check()
            page.tab.unroute_all(behavior="ignoreErrors")
    finally:
        for page in pages:
            page.tab.context.close()


@pytest.fixture
def page(browse):
    return browse()


def copied(page) -> str:
    """Clicks the copy button and returns the copied text."""
    page.tab.evaluate("navigator.clipboard.writeText('nothing')")
    page.tab.click("#copy")
    until("a copy", lambda: page.tab.evaluate("navigator.clipboard.readText()") != "nothing")
    return page.tab.evaluate("navigator.clipboard.readText()")
