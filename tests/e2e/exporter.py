"""The program under test, as a running process."""

import itertools
import os
import re
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from exposition import Exposition
from lab import children, kill, until

REPOSITORY = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("EXPORTER") or REPOSITORY / "target/release/smaps-container-exporter").resolve()
EVERYTHING = ("--filter", "*/*/*/*")


class Client:
    """An HTTP client of an exporter."""

    def __init__(self, address: str):
        self.address = address

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{self.address}{path}", timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metrics(self) -> Exposition:
        return Exposition(self._text())

    def _text(self) -> str:
        status, body = self.get("/metrics")
        assert status == 200, f"/metrics returned status {status}"
        return body

    def _texts(self):
        """Yields the text of the exposition after each scrape that ends after this call.

        To find out whether a text is new, this function reads only one value: the time at which the scrape
        ended. Parsing the whole text would use much CPU time.
        """
        last = ended_at(self._text())
        while True:

            def newer(last=last):
                text = self._text()
                return text if ended_at(text) > last else None

            text = until(newer, 30, "a scrape ends")
            last = ended_at(text)
            yield text

    def scrapes(self):
        """Yields the exposition of each scrape that ends after this call."""
        return map(Exposition, self._texts())

    def after(self, n_scrapes: int = 2) -> Exposition:
        """Returns the exposition after the `n_scrapes`-th scrape that ends after this call.

        The first such scrape may have begun before this call. The second one certainly begins after it.
        """
        return Exposition(next(itertools.islice(self._texts(), n_scrapes - 1, None)))


def ended_at(text: str) -> float:
    """Returns the time at which the scrape of an exposition ended."""
    name = "smaps_exporter_last_scrape_timestamp_seconds"
    return float(re.search(rf"^{name} (\S+)$", text, re.MULTILINE)[1])


class Exporter(Client):
    """A running exporter on a port of its own.

    `prefix` is a command that starts the exporter, such as unshare.
    """

    def __init__(self, *arguments: str | Path, prefix: tuple[str, ...] = (), addr: str = "127.0.0.1:0"):
        self._log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [*prefix, BINARY, "--addr", addr, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        try:
            self.address = until(self._listening, 20, "the exporter listens")
            until(lambda: self.get("/readyz")[0] == 200, 20, "the exporter has finished a scrape")
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _listening(self):
        assert self.process.poll() is None, f"the exporter exited {self.process.returncode}:\n{self.log()}"
        return (found := re.search(r"listening on http://(\S+:[1-9]\d*)/", self.log())) and found[1]

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def unusual_log_lines(self) -> list[str]:
        """Returns the log except the lines of every start: version, source, address, selection."""
        usual = (
            "smaps-container-exporter ",
            "containers are listed by ",
            "containers are those of ",
            "listening on ",
            "filter ",
        )
        return [line for line in self.log().splitlines() if not line.partition("] ")[2].startswith(usual)]

    def close(self):
        """Kills the exporter. Prints its log, which pytest shows only if the test failed."""
        for pid in [*children(self.process.pid), self.process.pid] if self.process.poll() is None else []:
            kill(pid, 9)
        self.process.wait()
        print(f"the exporter's log:\n{self.log()}")
        self._log.close()


def assert_exits_within_a_second(exporter: Exporter, how: signal.Signals = signal.SIGTERM):
    """Sends a signal. Asserts that the exporter then exits with code 0 in less than a second."""
    sent = time.monotonic()
    exporter.process.send_signal(how)
    assert exporter.process.wait(timeout=10) == 0
    assert time.monotonic() - sent < 1


def once(*arguments: str | Path) -> str:
    """Runs the program until it exits, and returns its output."""
    done = subprocess.run([BINARY, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{arguments} exited {done.returncode}:\n{done.stderr}"
    return done.stdout
