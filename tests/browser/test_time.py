"""What changes while the page is open: growth, marks, pauses, ends; why nothing is there; and how long drawing takes."""

import re
import subprocess
import sys
import time
from collections import Counter

import pytest

from conftest import RECORDED_NODE, until
from recording import Container, Mapping, Process, write

# Grows by 1 MiB a second, when asked to, under a name of its own.
GROWS = """
import sys, time
open('/proc/self/comm', 'w').write(sys.argv[1])
kept, start = [], time.monotonic()
print(flush=True)
while True:
    time.sleep(.25)
    while len(kept) < (time.monotonic() - start) * 4 * float(sys.argv[2]):
        kept.append(bytearray(b'x') * (256 << 10))
"""


@pytest.fixture
def live(tmp_path):
    """A node whose proc is the live one, with a container that holds two processes: one grows, one does not."""
    processes = []
    for name, speed in (("leak-grows", "1"), ("leak-a-steady", "0")):
        process = subprocess.Popen([sys.executable, "-c", GROWS, name, speed], stdout=subprocess.PIPE)
        processes.append(process)
        process.stdout.readline()
    (tmp_path / "live").mkdir()
    (tmp_path / "live/proc").symlink_to("/proc")
    (tmp_path / "live/containers.tsv").write_text(f"id\tinit_pid\tnamespace\tpod\tcontainer\nabc\t{processes[0].pid}\tlive\tpod\tapp\n")
    yield tmp_path / "live"
    for process in processes:
        process.kill()
        process.wait()


def test_a_leak_is_the_first_row_by_change_within_10_s(exporter, page, live):
    one = exporter(live, "--filter", "*/*/*/leak-*")
    page.open(one, "#/live/pod/app?sort=-change")
    opened = time.monotonic()
    until("growth", lambda: page.names() == ["leak-grows", "leak-a-steady"] and page.changes()[0] > 2 << 20, 10)
    print(f"a leak of 1 MiB/s is first after {time.monotonic() - opened:.1f} s")
    assert page.tab.locator("#rows tr:first-child svg path").get_attribute("d").count("L") >= 2
    page.tab.click("#mark")
    assert page.changes()[0] < 1 << 20 and "opening" not in page.text("#since")
    before = page.changes()[0]
    until("growth since the mark", lambda: page.changes()[0] > before + (1 << 20))
    page.screenshot("leak")
    page.tab.click("#unmark")
    assert page.changes()[0] > 3 << 20 and page.tab.is_hidden("#unmark")


def test_it_refreshes_every_scrape_and_not_more(exporter, tmp_path, page):
    node = write(tmp_path / "node", [Container("a", "b", "c", [Process(b"d", [Mapping(b"", 100)])])])
    one = exporter(node, "--filter", "*/*/*/*", "--scrape-interval", "2s")
    stamps, answers = Counter(), []
    page.tab.on("response", lambda answer: answers.append(answer) if answer.url.endswith("/metrics") else None)
    page.open(one)

    def seen():
        page.tab.evaluate("0")  # lets the responses in
        while answers:
            (stamp,) = re.findall(r"^smaps_exporter_last_scrape_timestamp_seconds (.*)$", answers.pop(0).text(), re.M)
            stamps[stamp] += 1
        return len(stamps) >= 6

    until("six scrapes", seen, 30)
    times = sorted(map(float, stamps))
    assert all(later - earlier < 3 for earlier, later in zip(times, times[1:])), "a scrape was passed over"
    # Once the interval is known, two requests a scrape are the most, when a request comes just before its scrape.
    assert sum(stamps[stamp] for stamp in list(stamps)[2:]) <= 2 * (len(stamps) - 2), stamps


def test_a_pause_holds_the_picture(exporter, page, live):
    one = exporter(live, "--filter", "*/*/*/leak-*")
    page.open(one, "#/live/pod/app")
    page.tab.click("#pause")
    assert page.text("#pause") == "Resume"
    requests, shown = len(page.requests), page.column("pss")
    grown = one.exposition().total("pss") + (2 << 20)
    until("growth", lambda: one.exposition().total("pss") > grown)
    assert page.column("pss") == shown and len(page.requests) == requests
    page.tab.click("#pause")
    until("growth to show", lambda: sum(page.column("pss")) > grown)


def test_what_ends_leaves(exporter, tmp_path, page):
    def record(pods):
        return [Container("a", pod, "c", [Process(b"d", [Mapping(b"", 100)])]) for pod in pods]

    home = tmp_path / "node"
    write(home, record(["one", "two"]))
    page.open(exporter(home, "--filter", "*/*/*/*"))
    assert sorted(page.names()) == ["a/one", "a/two"]
    page.tab.click("#rows a:has-text('one')")
    lines = (home / "containers.tsv").read_text().splitlines(keepends=True)
    (home / "containers.tsv").write_text(lines[0] + lines[2])
    until("its end", lambda: page.state() == "Nothing here now")
    page.tab.keyboard.press("Escape")
    until("the other", lambda: page.names() == ["a/two"])
    (home / "containers.tsv").write_text("".join(lines))
    until("its return", lambda: sorted(page.names()) == ["a/one", "a/two"])


# ---- Why nothing is there


def test_no_container_matches(exporter, page):
    one = exporter(RECORDED_NODE, "--filter", "nowhere/*/*/*", "--filter", "<b>/x/y/z")
    page.open(one)
    assert page.state() == "No container matches the filter"
    assert page.tab.locator("#empty code").all_inner_texts() == ["nowhere/*/*/*", "<b>/x/y/z"]
    assert page.text("#filters") == "filter nowhere/*/*/*, <b>/x/y/z"
    page.screenshot("empty")


def altered(page, change):
    """Has the page read the exporter's exposition as `change(text)` makes it, from now on."""

    def answer(route):
        response = route.fetch()
        route.fulfill(response=response, body=page.change(response.text()))

    if not hasattr(page, "change"):
        page.tab.route("**/metrics", answer)
    page.change = change


def own(name, value):
    """Sets one of the exporter's own samples, which this exporter may not have at all."""

    def change(text):
        return "\n".join(line for line in text.split("\n") if not line.startswith(name + " ")) + f"{name} {value}\n"

    return change


def without_processes(text):
    return "\n".join(line for line in text.split("\n") if "process_smaps_" not in line)


def test_containerd_is_down(node, page):
    down = own("smaps_exporter_containerd_up", 0)
    altered(page, lambda text: down(without_processes(text)))
    page.open(node)
    assert page.state() == "containerd does not answer"
    assert page.text("#containerd") == "containerd does not answer"


def test_containerd_is_down_and_containers_are_known(node, page):
    altered(page, own("smaps_exporter_containerd_up", 0))
    page.open(node)
    assert page.state() == "" and "only known containers are read" in page.text("#note")
    altered(page, own("smaps_exporter_containerd_up", 1))
    until("its return", lambda: page.text("#containerd") == "containerd answers" and page.tab.is_hidden("#note"))


def test_reads_are_denied(node, page):
    denied = iter(range(3, 1000, 3))
    altered(page, lambda text: own('smaps_exporter_read_errors_total{reason="denied"}', next(denied))(without_processes(text)))
    page.open(node)
    for reads in ("3", "6"):
        until("the count", lambda: page.state() == "The kernel denies the reads" and f"{reads} reads" in page.text("#empty"))


def test_the_exporter_is_gone_and_comes_back(exporter, tmp_path, page):
    node = write(tmp_path / "node", [Container("a", "b", "c", [Process(b"d", [Mapping(b"", 100)])])])
    one = exporter(node, "--filter", "*/*/*/*")
    page.open(one)
    shown = page.names(), page.text("#total")
    page.expected.append("net::ERR")
    one.process.kill()
    one.process.wait()
    until("the note", lambda: page.tab.is_visible("#note") and "does not answer" in page.text("#note"))
    assert (page.names(), page.text("#total")) == shown
    page.screenshot("gone")
    again = type(one)(node, tmp_path / "again.log", "--filter", "*/*/*/*", port=one.port)
    try:
        until("its return", lambda: page.tab.is_hidden("#note"))
    finally:
        again.stop()


# ---- Large nodes


def measured(page):
    """The time from the last response to its drawn picture, in ms."""
    return page.tab.evaluate("performance.getEntriesByName('response to drawn').at(-1).duration")


def first_draw(page):
    """That of the first picture, which makes the whole tree: the best of three, for the machine does other things too."""
    times = [measured(page)]
    for _ in range(2):
        page.tab.reload()
        page.drawn()
        times.append(measured(page))
    return min(times)


def report(what, page, first, frame):
    refreshed = measured(page)
    print(f"{what}: response to drawn {first:.0f} ms, refreshed {refreshed:.0f} ms; longest frame while hovering {frame:.0f} ms")
    assert first < 1000 and refreshed < 1000


def smoothness(page, seconds=3):
    """Moves the pointer over the map and returns the longest time between two frames, in ms."""
    page.tab.evaluate("""() => {
        let last = performance.now();
        window.longest = 0;
        const frame = now => { longest = Math.max(longest, now - last); last = now; requestAnimationFrame(frame); };
        requestAnimationFrame(frame);
    }""")
    box, end, step = page.tab.locator("#canvas").bounding_box(), time.monotonic() + seconds, 0
    while time.monotonic() < end:
        step += 37
        page.tab.mouse.move(box["x"] + step % box["width"], box["y"] + step * 3 % box["height"])
    return page.tab.evaluate("longest")


def test_100_000_samples_of_every_field(exporter, tmp_path, page):
    containers = [
        Container("load", f"pod-{pod:03}", "app", [Process(b"server", [Mapping(b"/opt/app/lib/part-%03d.so" % k, 40 + (k * 7919 + pod) % 4000) for k in range(100)])])
        for pod in range(45)
    ]
    one = exporter(write(tmp_path / "node", containers), "--filter", "*/*/*/*", "--max-samples", "0", "--cpu-budget", "0")
    exposition = one.exposition()
    samples = sum(len(exposition.families[name]) for name in exposition.metrics().values())
    assert samples > 100_000
    page.open(one)
    first = first_draw(page)
    assert page.value("#total") == exposition.total("pss") and len(page.names()) == 45
    page.screenshot("100000-samples")
    report(f"{samples} samples of 4,500 series", page, first, smoothness(page))


def test_100_000_samples_of_two_families(node, page):
    def series(k):
        return f'namespace="load",pod="pod-{k % 100:03}",container="app",comm="server-{k % 300:03}",path="/var/lib/app/{k:06}/segment.dat"'

    lines = ["# TYPE process_smaps_pss_bytes gauge"] + [f"process_smaps_pss_bytes{{{series(k)}}} {4096 * (1 + k * 7919 % 5000)}" for k in range(50_000)]
    lines += [f"process_smaps_mappings{{{series(k)}}} 1" for k in range(50_000)]
    body = "\n".join(lines) + "\n"
    altered(page, lambda text: body + without_processes(text))
    page.open(node)
    first = first_draw(page)
    assert page.value("#total") == sum(4096 * (1 + k * 7919 % 5000) for k in range(50_000))
    page.screenshot("50000-series")
    report("100,000 samples of 50,000 series", page, first, smoothness(page))


def test_thousands_of_rows_come_in_parts(node, page):
    lines = [f'process_smaps_pss_bytes{{namespace="n",pod="p",container="c",comm="d",path="/{k}"}} {k}' for k in range(1, 1001)]
    altered(page, lambda text: "\n".join(lines) + "\n" + without_processes(text))
    page.open(node, "#/n/p/c/d?sort=-pss")
    assert page.column("pss") == list(range(1000, 800, -1))
    page.tab.click("#more")
    assert page.column("pss") == list(range(1000, 300, -1))


def test_processes_that_come_and_go_leave_nothing_behind(node, page):
    rounds = iter(range(10_000))
    last = []

    def churn(text):
        k = next(rounds)
        pids = [1, *range(1000 * k + 1000, 1000 * k + 2500)]
        last[:] = pids
        series = [f'namespace="n",pod="p",container="c",comm="d",pid="{pid}",path="/x"' for pid in pids]
        lines = [f"process_smaps_pss_bytes{{{s}}} {(1 + k if pid == 1 else 1) * 4096}" for s, pid in zip(series, pids)]
        lines += [f"process_smaps_mappings{{{s}}} 1" for s in series]
        return "\n".join(lines) + "\n" + without_processes(text)

    altered(page, churn)
    page.open(node, "#/n/p/c/d/1")
    started = page.value("#total")
    # 1,500 processes a scrape, each of two nodes: after six scrapes the page has let go of the dead more than once.
    until("six scrapes", lambda: page.value("#total") >= started + 6 * 4096, 40)
    assert page.tab.evaluate("nodes.length") < 3 * 2 * 1500 + 2500
    assert float(page.tab.locator("#delta").get_attribute("data-value")) == page.value("#total") - started
