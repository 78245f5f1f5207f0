"""Records the node of fixtures/node: real programs in pods of a real containerd.

usage: record.py EXPORTER DIR [ROOTFS.tar]

The programs come from Debian's packages (mmdebstrap). All containers share one root file system. If
ROOTFS.tar is given, it is used as this file system. No program listens on the network, because the pods use
the network of the host.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))

import grpc  # noqa: E402
import image  # noqa: E402
from lab import Container, Lab, Pod, until  # noqa: E402

PACKAGES = "postgresql nginx-light redis-server nodejs openjdk-17-jre-headless libh2-java python3-minimal"
IMAGE = "lab.test/debian:1"
MIB = 1 << 20

AS_POSTGRES = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
POSTGRES = [
    *AS_POSTGRES,
    "/usr/lib/postgresql/15/bin/postgres",
    "--config-file=/etc/postgresql/15/main/postgresql.conf",
    "--listen-addresses=",
    "--unix-socket-directories=/tmp",
]
PSQL = [*AS_POSTGRES, "psql", "--host=/tmp", "--quiet", "--command"]
ORDERS = """
create table orders as
    select id, id % 977 as customer, now() - id * interval '1 minute' as placed, repeat('x', id % 60) as note
    from generate_series(1, 100000) as id;
create index on orders (customer);
analyze orders;
"""
REDIS = ["redis-server", "--port", "0", "--unixsocket", "/tmp/redis.sock", "--save", ""]
REDIS_CARTS = "for id = 1, 20000 do redis.call('hset', 'cart:' .. id, 'item', id * 7, 'count', id % 5) end"
NGINX = """
user www-data;
worker_processes 2;
pid /tmp/nginx.pid;
error_log stderr;
events {}
http { access_log off; server { listen unix:/tmp/nginx.sock; root /usr/share/nginx/html; } }
"""
NODE = """
const pages = new Map(Array.from({length: 50000}, (_, id) => [`/orders/${id}`, {id, hits: 0}]));
const answer = (request, response) => response.end(JSON.stringify(pages.get(request.url)));
require('http').createServer(answer).listen('/tmp/app.sock');
console.log('ready');
"""
H2 = ["java", "-Xmx48m", "-XX:+UseSerialGC", "-Dh2.bindAddress=127.0.0.1", "-cp", "/usr/share/java/h2.jar"]
H2 += ["org.h2.tools.Server", "-tcp", "-tcpPort", "0"]
REPORT = """
import time
rows = {number: 'order %d' % number for number in range(100000)}
print('ready', flush=True)
while True:
    total = sum(map(len, rows.values()))
    time.sleep(10)
"""


def main(exporter: Path, out: Path, rootfs: Path | None = None):
    with Lab() as lab:
        if rootfs is None:
            rootfs = lab.directory / "rootfs.tar"
            options = [
                "--quiet",
                "--variant=minbase",
                f"--include={PACKAGES}",
                "--dpkgopt=path-exclude=/usr/share/doc/*",
            ]
            subprocess.run(["mmdebstrap", *options, "bookworm", rootfs], check=True)
        archive = lab.directory / "debian.tar"
        image.pack(archive, rootfs, {IMAGE: []})
        lab.import_image(archive)
        # The files of the image were just unpacked, so their page cache is dirty. On most nodes, images were
        # unpacked long ago, and their page cache is clean. So the dirty pages are written to disk here.
        os.sync()

        shop_postgres(lab)
        shop_redis(lab)
        shop_search(lab)
        default_web(lab)
        batch_report(lab)

        recording = lab.directory / "recording"
        arguments = [
            "--filter",
            "*/*/*/*",
            "--containerd-sock",
            lab.socket,
            "--cgroup-metrics",
            "memory,cpu,pids",
        ]
        subprocess.run([exporter, "--record", recording, *arguments], check=True)
        assert_complete(lab, recording)
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(recording, out)


def shop_postgres(lab: Lab):
    """Runs a database with data and two clients.

    The clients are started in the container in the way of kubectl exec. Each keeps a connection open.
    """
    pod = lab.run_pod("shop", "postgres-0", [container("postgres", POSTGRES, 256)])
    lab.limit_pod(pod, 256 * MIB)
    postgres = pod["postgres"]
    wait_for_success(lab, pod, "postgres", [*PSQL, "select"])
    lab.exec_sync(postgres, [*PSQL, ORDERS])
    for query in ["select count(*) from orders where customer = 7", "select sum(length(note)) from orders"]:
        lab.exec(postgres, [*PSQL, f"{query}; select pg_sleep(1000000)"])
    sleeping = "select 1 / (count(*) = 2)::int from pg_stat_activity where wait_event = 'PgSleep'"
    wait_for_success(lab, pod, "postgres", [*PSQL, sleeping])


def shop_redis(lab: Lab):
    pod = lab.run_pod("shop", "redis-0", [container("redis", REDIS, 24)])
    lab.limit_pod(pod, 24 * MIB)
    redis_cli = ["redis-cli", "-s", "/tmp/redis.sock"]
    wait_for_success(lab, pod, "redis", [*redis_cli, "ping"])
    lab.exec_sync(pod["redis"], [*redis_cli, "eval", REDIS_CARTS, "0"])


def shop_search(lab: Lab):
    """Runs a database in a JVM with a small heap."""
    pod = lab.run_pod("shop", "search-6f4c8b7d9-kq2wz", [container("h2", H2, 160)])
    lab.limit_pod(pod, 160 * MIB)
    until(lambda: "TCP server running" in lab.log_of(pod, "h2"), 60, "H2 runs")


def default_web(lab: Lab):
    """Runs two containers: a web server with two workers, and the application behind the server."""
    start = f"printf '%s' '{NGINX}' > /tmp/nginx.conf; exec nginx -c /tmp/nginx.conf -g 'daemon off;'"
    containers = [container("nginx", ["sh", "-c", start], 64), container("app", ["node", "-e", NODE])]
    pod = lab.run_pod("default", "web-7d4b9c6f5d-x2x8k", containers)
    until(lambda: "ready" in lab.log_of(pod, "app"), 60, "the application is ready")


def batch_report(lab: Lab):
    pod = lab.run_pod("batch", "report-28391040-9xv5k", [container("report", ["python3", "-c", REPORT])])
    until(lambda: "ready" in lab.log_of(pod, "report"), 60, "the report is ready")


def container(name: str, command: list[str], limit_mib: int = 0) -> Container:
    return Container(name, command, image=IMAGE, env={"LANG": "C.UTF-8"}, memory_limit_bytes=limit_mib * MIB)


def wait_for_success(lab: Lab, pod: Pod, where: str, command: list[str]):
    """Waits until a command succeeds in a container."""
    try:
        until(lambda: succeeds(lab, pod[where], command), 60, f"{command} succeeds in {where}")
    except AssertionError as error:
        error.add_note(f"{where} printed:\n{lab.log_of(pod, where)}")
        raise


def succeeds(lab: Lab, where: Container, command: list[str]) -> bool:
    try:
        lab.exec_sync(where, command)
    except (AssertionError, grpc.RpcError):
        return False
    return True


def assert_complete(lab: Lab, recording: Path):
    """Asserts that the recording has all started programs and the cgroup of each listed container.

    Its files must not contain the path of the lab's directory, which is a path of this machine.
    """
    commands = [comm.read_text().strip() for comm in recording.glob("proc/*/comm")]
    expected = {"postgres": 8, "psql": 2, "redis-server": 1, "java": 1, "nginx": 3, "node": 1, "python3": 1}
    found = {command: commands.count(command) for command in sorted(set(commands))}
    assert found == expected, f"recorded {found}, expected {expected}"
    files = [path for path in recording.rglob("*") if path.is_file()]
    accounts = {path.parent.name for path in (recording / "cgroup").rglob("memory.stat")}
    assert accounts == {
        line.split("\t")[0] for line in (recording / "containers.tsv").read_text().splitlines()[1:]
    }, accounts
    for path in files:
        assert str(lab.directory) not in path.read_text(errors="replace"), (
            f"{path} contains the lab's directory"
        )
    print(f"{len(files)} files, {sum(path.stat().st_size for path in files)} bytes")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit("usage: record.py EXPORTER DIR [ROOTFS.tar]")
    main(*(Path(argument).resolve() for argument in sys.argv[1:]))
