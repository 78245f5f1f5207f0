"""Tests the documented nginx proxy: TLS, client certificates, a token. Prometheus scrapes through it."""

import http.client
import ssl
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

import readme
from clients import command, free_port, running
from lab import until
from prometheus import Prometheus
from target import ONCE, Target, record, without_age

TOKEN = "correct-horse"


def openssl(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def authority(directory: Path, name: str):
    """Makes a certificate authority with this name."""
    key, certificate = directory / f"{name}.key", directory / f"{name}.crt"
    openssl(
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        2,
        "-subj",
        f"/CN={name}",
        "-keyout",
        key,
        "-out",
        certificate,
    )


def certificate(directory: Path, name: str, ca: str):
    """Makes a certificate for 127.0.0.1 that the certificate authority `ca` has signed."""
    key, request = directory / f"{name}.key", directory / f"{name}.csr"
    openssl(
        "req",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        f"/CN={name}",
        "-keyout",
        key,
        "-out",
        request,
    )
    (directory / "san").write_text("subjectAltName=IP:127.0.0.1\n")
    signed = directory / f"{name}.crt"
    openssl(
        "x509",
        "-req",
        "-days",
        2,
        "-in",
        request,
        "-CA",
        directory / f"{ca}.crt",
        "-CAkey",
        directory / f"{ca}.key",
        "-extfile",
        directory / "san",
        "-out",
        signed,
    )


class Proxy(NamedTuple):
    port: int
    keys: Path


@contextmanager
def nginx(directory: Path, target):
    """Runs nginx with the server block of src/kubernetes/README.md.

    As in the nginx image, the main configuration includes the file that contains this block.
    """
    [server] = readme.blocks(readme.KUBERNETES_PAGE, "nginx")
    keys, port = directory / "tls", free_port()
    keys.mkdir()
    for ca in ("ca", "other-ca"):
        authority(keys, ca)
    for name, ca in [("tls", "ca"), ("client", "ca"), ("stranger", "other-ca")]:
        certificate(keys, name, ca)
    for before, after in [
        ("8443", f"127.0.0.1:{port}"),
        ("127.0.0.1:8080", target.address),
        ("/tls/", f"{keys}/"),
        ("TOKEN", TOKEN),
    ]:
        assert before in server
        server = server.replace(before, after)
    temporary = " ".join(
        f"{what}_temp_path {directory}/{what};"
        for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (directory / "nginx.conf").write_text(
        f"daemon off; pid {directory}/nginx.pid; error_log stderr; worker_processes 1; events {{}}\n"
        f"http {{ access_log off; {temporary}\n{server} }}"
    )
    with running(
        command("nginx", "-c", directory / "nginx.conf", "-p", directory, "-e", "stderr"), ("127.0.0.1", port)
    ):
        yield Proxy(port, keys)


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    with Target(record(tmp_path_factory.mktemp("node"), n_containers=2, n_mappings=5), *ONCE) as target:
        yield target


@pytest.fixture(scope="module")
def proxy(target, tmp_path_factory):
    with nginx(tmp_path_factory.mktemp("proxy"), target) as proxy:
        yield proxy


def get(
    proxy: Proxy, path: str, client: str | None = "client", token: str | None = TOKEN, ca: str = "ca"
) -> tuple[int, bytes]:
    context = ssl.create_default_context(cafile=proxy.keys / f"{ca}.crt")
    if client:
        context.load_cert_chain(proxy.keys / f"{client}.crt", proxy.keys / f"{client}.key")
    connection = http.client.HTTPSConnection("127.0.0.1", proxy.port, timeout=10, context=context)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_proxy_requires_certificate_and_token(proxy, target):
    status, body = get(proxy, "/metrics")
    assert (status, without_age(body)) == (200, without_age(target.scrape()[1]))
    for wrong in ("wrong", TOKEN + "x", TOKEN[:-1], TOKEN.upper(), None):
        assert get(proxy, "/metrics", token=wrong)[0] == 401, wrong
    assert get(proxy, "/metrics", client=None)[0] == 401
    assert get(proxy, "/metrics", client="stranger")[0] == 400
    assert get(proxy, "/", token=None)[0] == 401
    with pytest.raises(ssl.SSLCertVerificationError):
        get(proxy, "/metrics", ca="other-ca")
    # The kubelet's probes have neither a certificate nor a token.
    for path in ("/healthz", "/readyz"):
        assert get(proxy, path, client=None, token=None) == (200, b"ok\n")
    for path in ("/healthz/../metrics", "/healthz/metrics", "/x/healthz", "//healthz/..//metrics"):
        assert get(proxy, path, client=None, token=None)[0] == 401, path


def test_proxy_refuses_plain_http(proxy):
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
    connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    response = connection.getresponse()
    assert (response.status, b"process_smaps" in response.read()) == (400, False)


def test_prometheus_scrapes_through_the_proxy(proxy, target, tmp_path):
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "wrong").write_text("wrong")
    jobs = {
        "good": ("client", "token"),
        "wrong-token": ("client", "wrong"),
        "stranger": ("stranger", "token"),
    }
    configs = []
    for job, (client, token) in jobs.items():
        keys = {
            "ca_file": str(proxy.keys / "ca.crt"),
            "cert_file": str(proxy.keys / f"{client}.crt"),
            "key_file": str(proxy.keys / f"{client}.key"),
        }
        configs.append(
            {
                "job_name": job,
                "honor_labels": True,
                "scheme": "https",
                "tls_config": keys,
                "authorization": {"credentials_file": str(tmp_path / token)},
                "static_configs": [{"targets": [f"127.0.0.1:{proxy.port}"]}],
            }
        )
    with Prometheus(tmp_path, configs) as prometheus:
        up = lambda: {series["metric"]["job"]: series["value"][1] for series in prometheus.query("up")}
        assert until(lambda: len(found := up()) == len(jobs) and found, 60, "each job has scraped") == {
            "good": "1",
            "wrong-token": "0",
            "stranger": "0",
        }
        pods = prometheus.query("count by (job) (process_smaps_pss_bytes)")
        assert [series["metric"]["job"] for series in pods] == ["good"]
