"""A real Prometheus."""

import json
import socket
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request

from lab import BOOKWORM


class Prometheus:
    """Debian's Prometheus with one target, on a free port."""

    def __init__(self, directory, target: str):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = "127.0.0.1:%d" % free.getsockname()[1]
        config = directory / "prometheus.yml"
        config.write_text(f"""
global: {{scrape_interval: 1s}}
scrape_configs: [{{job_name: smaps, honor_labels: true, static_configs: [{{targets: ["{target}"]}}]}}]
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
        print(f"Prometheus' log:\n{self._log.read()}")
        self._log.close()

    def query(self, expression: str) -> list[dict]:
        """The answer's vector, empty while Prometheus starts."""
        assert self._process.poll() is None, "Prometheus has ended"
        question = urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(f"http://{self.address}/api/v1/query?{question}", timeout=10) as response:
                return json.load(response)["data"]["result"]
        except (urllib.error.URLError, ConnectionError):
            return []
