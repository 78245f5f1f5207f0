"""Runs a real Prometheus server for a test."""

import json
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request

from clients import free_port
from lab import BOOKWORM


class Prometheus:
    """Debian's Prometheus on a free port.

    `targets` is one address, a list of (node, address), or a list of whole scrape configurations.
    """

    def __init__(self, directory, targets: str | list[tuple[str, str]] | list[dict], interval: str = "1s"):
        self.address = f"127.0.0.1:{free_port()}"
        match targets:
            case str():
                configs = _config([{"targets": [targets]}])
            case [dict(), *_]:
                configs = targets
            case _:
                configs = _config(
                    [{"targets": [address], "labels": {"node": node}} for node, address in targets]
                )
        config = directory / "prometheus.yml"
        config.write_text(f"""
global: {{scrape_interval: {interval}}}
scrape_configs: {json.dumps(configs)}
""")
        self._log = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [
                BOOKWORM / "usr/bin/prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={directory}/data",
                f"--web.listen-address={self.address}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait(timeout=30)
        self._log.seek(0)
        print(f"the log of Prometheus:\n{self._log.read()}")
        self._log.close()

    def query(self, expression: str) -> list[dict]:
        """Returns the result vector of a query.

        The vector is empty while Prometheus starts. Fails if the expression is invalid.
        """
        return self._get("query", {"query": expression}, lambda data: data["result"])

    def label_values(self, label: str, selector: str) -> list[str]:
        """Returns the values of a label in the selected series."""
        return self._get(f"label/{label}/values", {"match[]": selector}, lambda data: data)

    def _get(self, what: str, question: dict[str, str], pick):
        assert self._process.poll() is None, "Prometheus has exited"
        address = f"http://{self.address}/api/v1/{what}?{urllib.parse.urlencode(question)}"
        try:
            with urllib.request.urlopen(address, timeout=10) as response:
                return pick(json.load(response)["data"])
        except urllib.error.HTTPError as error:
            assert error.code == 503, f"{question}: {error.read().decode()}"
            return []
        except (urllib.error.URLError, ConnectionError):
            return []


def _config(groups: list[dict]) -> list[dict]:
    return [{"job_name": "smaps", "honor_labels": True, "static_configs": groups}]
