"""Tests what changes while the page is open: growth, marks, pauses, and exporters that end.

Also tests empty states and large nodes.
"""

import re
import subprocess
import sys
import time
from collections import Counter

import pytest

from conftest import RECORDED_NODE, until
from recording import Container, Mapping, Process, write

# A program that sets its name and grows by a given number of MiB per second.
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
    """A directory like a recording, with a link to the live /proc.

    The container has two processes, one of which grows.
    """
    processes = []
    for name, speed in (("leak-grows", "1"), ("leak-a-steady", "0")):
        process = subprocess.Popen([sys.executable, "-c", GROWS, name, speed], stdout=subprocess.PIPE)
        processes.append(process)
        process.stdout.readline()
    (tmp_path / "live").mkdir()
    (tmp_path / "live/proc").symlink_to("/proc")
    (tmp_path / "live/containers.tsv").write_text(
        f"id\tinit_pid\tnamespace\tpod\tcontainer\nabc\t{processes[0].pid}\tlive\tpod\tapp\n"
    )
    yield tmp_path / "live"
    for process in processes:
        process.kill()
        process.wait()


def test_leak_is_the_first_row_by_change_within_10_s(exporter, page, live):
    one = exporter(live, "--filter", "*/*/*/leak-*")
    page.open(one, "#/live/pod/app?sort=-change")
    opened = time.monotonic()
    until(
        "growth", lambda: page.names() == ["leak-grows", "leak-a-steady"] and page.changes()[0] > 2 << 20, 10
    )
    print(f"a leak of 1 MiB/s is first after {time.monotonic() - opened:.1f} s")
    assert page.tab.locator("#rows tr:first-child svg path").get_attribute("d").count("L") >= 2
    page.tab.click("#mark")
    assert page.changes()[0] < 1 << 20 and "opening" not in page.text("#since")
    before = page.changes()[0]
    until("growth since the mark", lambda: page.changes()[0] > before + (1 << 20))
    page.screenshot("leak")
    page.tab.click("#unmark")
    assert page.changes()[0] > 3 << 20 and page.tab.is_hidden("#unmark")


def test_page_refreshes_once_per_scrape(exporter, tmp_path, page):
    node = write(tmp_path / "node", [Container("a", "b", "c", [Process(b"d", [Mapping(b"", 100)])])])
    one = exporter(node, "--filter", "*/*/*/*", "--scrape-interval", "2s")
    stamps, answers = Counter(), []
    page.tab.on("response", lambda answer: answers.append(answer) if "/metrics?" in answer.url else None)
    page.open(one)

    def seen():
        page.tab.evaluate("0")  # gives the browser driver a chance to handle responses
        while answers:
            (stamp,) = re.findall(
                r"^smaps_exporter_last_scrape_timestamp_seconds (.*)$", answers.pop(0).text(), re.M
            )
            stamps[stamp] += 1
        return len(stamps) >= 6

    until("six scrapes", seen, 30)
    times = sorted(map(float, stamps))
    assert all(later - earlier < 3 for earlier, later in zip(times, times[1:])), "the page skipped a scrape"
    # Once the page knows the interval between scrapes, it sends at most two requests per scrape. It needs the
    # second request if the first one comes just before the scrape. The page measures the interval during the
    # first two scrapes, and may send more requests then, so these scrapes are not counted.
    assert sum(stamps[stamp] for stamp in list(stamps)[2:]) <= 2 * (len(stamps) - 2), stamps


def test_pause_stops_refreshing(exporter, page, live):
    one = exporter(live, "--filter", "*/*/*/leak-*")
    page.open(one, "#/live/pod/app")
    page.tab.click("#pause")
    assert page.text("#pause") == "Resume" and page.text("#state").startswith("Paused at ")
    requests, shown = len(page.requests), page.column("pss")
    grown = one.exposition().total("pss") + (2 << 20)
    until("growth", lambda: one.exposition().total("pss") > grown)
    assert page.column("pss") == shown and len(page.requests) == requests
    page.tab.click("#pause")
    until("displayed growth", lambda: sum(page.column("pss")) > grown)


def test_chart_has_axes_and_a_slope(exporter, page, live):
    one = exporter(live, "--filter", "*/*/*/leak-*")
    page.open(one, "#/live/pod/app/leak-grows")

    def slope():
        return (
            float(re.match(r"\+?([\d.]+) MiB/min$", page.text("#slope").replace("−", "-"))[1])
            if "+" in page.text("#slope")
            else 0
        )

    # The process grows by 1 MiB per second, which is 60 MiB per minute.
    until("a slope", lambda: 50 < slope() < 70, 30)
    assert page.tab.locator("#line path").get_attribute("d").count("L") >= 2
    assert (
        re.match(r"[\d.]+ [KMG]iB$", page.text("#low"))
        and re.match(r"[\d.]+ [KMG]iB$", page.text("#high"))
        and page.text("#low") != page.text("#high")
    )
    start, end = page.text("#from"), page.text("#to")
    assert re.match(r"\d\d:\d\d:\d\d$", start) and start != end
    assert "MiB/min" in page.tab.locator("#line").get_attribute("aria-label")
    # The header links to the process that grows.
    assert "MiB/min" in page.text("#node-grows_fastest") and "leak-grows" in page.text("#node-grows_fastest")
    page.go("#/")
    page.tab.click("#node-grows_fastest a")
    until("the grower", lambda: page.crumbs()[-1] == "leak-grows")
    # In the table of the pod's commands, only a significant change is coloured.
    page.go("#/live/pod/app")
    until("the rows", lambda: len(page.names()) == 2)
    colours = page.tab.eval_on_selector_all(
        "#rows tr",
        """all => all.map(tr => [
            tr.querySelector('.tail').parentNode.textContent,
            tr.querySelector('[data-key=change] :last-child').className,
        ])""",
    )
    assert dict(colours) == {"leak-grows": "up", "leak-a-steady": "zero"}
    # The trend lines of all rows have the same scale, so that they can be compared.
    assert re.fullmatch(
        r"Trend \(scale ±[\d.]+ [KM]iB\)", page.text("th[data-key=trend]")
    ) and "one scale" in page.tab.locator("th[data-key=trend]").get_attribute("title")


def test_reload_keeps_the_history(exporter, page, live):
    one = exporter(live, "--filter", "*/*/*/leak-*")
    page.open(one, "#/live/pod/app?sort=-change")
    until("growth", lambda: page.names() == ["leak-grows", "leak-a-steady"] and page.changes()[0] > 3 << 20)
    page.tab.click("#mark")
    page.tab.click("#unmark")
    since, before, points = page.text("#since"), page.changes()[0], page.tab.evaluate("since().points.length")
    page.tab.reload()
    page.drawn()
    assert (
        page.text("#since") == since
        and page.changes()[0] >= before
        and page.tab.evaluate("since().points.length") >= points > 1
    )
    assert page.tab.locator("#rows .new:visible").count() == 0


def test_ended_pods_disappear_and_return(exporter, tmp_path, page):
    def record(pods):
        return [Container("a", pod, "c", [Process(b"d", [Mapping(b"", 100)])]) for pod in pods]

    home = tmp_path / "node"
    write(home, record(["one", "two"]))
    page.open(exporter(home, "--filter", "*/*/*/*"))
    assert sorted(page.names()) == ["a/one", "a/two"]
    page.tab.click("#rows a:has-text('one')")
    lines = (home / "containers.tsv").read_text().splitlines(keepends=True)
    (home / "containers.tsv").write_text(lines[0] + lines[2])
    until("its disappearance", lambda: page.state() == "Nothing here now")
    page.tab.keyboard.press("Escape")
    until("the other pod", lambda: page.names() == ["a/two"])
    (home / "containers.tsv").write_text("".join(lines))
    until("its return", lambda: sorted(page.names()) == ["a/one", "a/two"])


# ---- Empty states and notes


def test_filter_without_matches_has_an_empty_state(exporter, page):
    one = exporter(RECORDED_NODE, "--filter", "nowhere/*/*/*", "--filter", "<b>/x/y/z")
    page.open(one)
    assert page.state() == "No container matches the filter"
    assert page.tab.locator("#empty code").all_inner_texts() == [
        "nowhere/*/*/*",
        "<b>/x/y/z",
        "batch",
        "default",
        "shop",
    ]
    assert page.text("#filters") == "filter nowhere/*/*/*, <b>/x/y/z"
    for control in ("#q", "#by", "#field", "#copy", "#mark", "#stats"):
        assert page.tab.is_hidden(control), control
    page.screenshot("empty")


def test_empty_node_does_not_blame_the_filter(exporter, tmp_path, page):
    (tmp_path / "empty/proc").mkdir(parents=True)
    (tmp_path / "empty/containers.tsv").write_text("id\tinit_pid\tnamespace\tpod\tcontainer\n")
    page.open(exporter(tmp_path / "empty"))
    assert page.state() == "No container runs here"
    assert page.tab.locator("#empty code").count() == 0


def test_empty_state_names_existing_namespaces(node, page):
    listed = "".join(
        f'smaps_exporter_namespace_containers{{namespace="{name}"}} 2\n' for name in ("shop", "kube-system")
    )
    altered(page, lambda text: without_processes(text) + listed)
    page.open(node)
    assert page.state() == "No container matches the filter"
    assert page.tab.locator("#empty code").all_inner_texts() == [
        "*/*/*/*",
        "batch",
        "default",
        "kube-system",
        "shop",
    ]


def test_node_name_is_in_header_and_title(node, page):
    altered(
        page,
        lambda text: (
            text
            + 'smaps_exporter_node_info{node="worker-7<b>"} 1\n'
            + 'cgroup_memory_current_bytes{namespace="a",pod="b",container="c"} 5\n'
        ),
    )
    page.open(node)
    assert (
        page.text("#host").startswith("worker-7<b> · 127.0.0.1:")
        and page.tab.title() == "Memory map · worker-7<b>"
    )
    assert page.text("#filters") == "filter */*/*/*" and page.tab.is_hidden("#note")


def test_stuck_processes_are_noted(node, page):
    altered(page, own("smaps_exporter_stuck_processes", 3))
    page.open(node)
    assert "Left out: 3 processes" in page.text("#note")


def test_old_data_is_noted(node, page):
    altered(page, own("smaps_exporter_last_scrape_timestamp_seconds", time.time() - 600))
    page.open(node)
    assert "last scraped at" in page.text("#note") and page.text("#state").startswith("Old: ")
    assert "scraped 10 min ago" in page.text("#footer")
    altered(page, own("smaps_exporter_oldest_data_seconds", 300))
    until(
        "a newer scrape",
        lambda: page.text("#state") == "Live" and "over a minute older than the rest" in page.text("#note"),
        30,
    )
    altered(page, lambda text: text)
    until("no notes", lambda: page.tab.is_hidden("#note"), 30)


def altered(page, change):
    """From now on, `change(text)` changes each exposition before the page gets it."""

    def answer(route):
        response = route.fetch()
        route.fulfill(response=response, body=page.change(response.text()))

    if not hasattr(page, "change"):
        page.tab.route("**/metrics?*", answer)
    page.change = change


def own(name, value):
    """Returns a function that sets one sample of the exporter's own metrics in an exposition."""

    def change(text):
        return (
            "\n".join(line for line in text.split("\n") if not line.startswith(name + " "))
            + f"{name} {value}\n"
        )

    return change


def without_processes(text):
    return "\n".join(line for line in text.split("\n") if "process_smaps_" not in line)


def test_containerd_down_has_an_empty_state(node, page):
    down = own("smaps_exporter_containerd_up", 0)
    altered(page, lambda text: down(without_processes(text)))
    page.open(node)
    assert page.state() == "containerd does not answer"
    assert page.text("#containerd") == "containerd does not answer"


def test_containerd_down_with_known_containers_is_noted(node, page):
    altered(page, own("smaps_exporter_containerd_up", 0))
    page.open(node)
    assert page.state() == "" and "only known containers are read" in page.text("#note")
    altered(page, own("smaps_exporter_containerd_up", 1))
    until(
        "containerd's return",
        lambda: page.text("#containerd") == "containerd answers" and page.tab.is_hidden("#note"),
    )


def test_denied_reads_have_an_empty_state(node, page):
    denied = iter(range(3, 1000, 3))
    altered(
        page,
        lambda text: own('smaps_exporter_read_errors_total{reason="denied"}', next(denied))(
            without_processes(text)
        ),
    )
    page.open(node)

    def n_denied():
        found = re.search(r"(\d+) reads", page.text("#empty"))
        return int(found[1]) if found and page.state() == "The kernel denies the reads" else 0

    # Each refresh adds 3 to the count. The page may refresh several times before the test reads the count
    # again.
    n_shown = 0
    for _ in range(2):
        until("the count", lambda: n_denied() > n_shown)
        n_shown = n_denied()
        assert n_shown % 3 == 0


def test_page_recovers_after_a_restart_of_the_exporter(exporter, tmp_path, page):
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
        # The page does not compare values of the new exporter with values of the old exporter.
        until("the new exporter", lambda: "Another exporter answers now (started at" in page.text("#note"))
        assert page.text("#state") == "Live" and page.value("#delta") == 0
    finally:
        again.stop()


# ---- Large nodes


def measured(page):
    """Returns how many ms the page took to draw the last response."""
    return page.tab.evaluate("performance.getEntriesByName('response to drawn').at(-1).duration")


def first_draw(page):
    """Returns how many ms the page takes to draw the first response, as the shortest of three measurements.

    The time includes building the whole tree.
    """
    times = [measured(page)]
    for _ in range(2):
        page.tab.reload()
        page.drawn()
        times.append(measured(page))
    return min(times)


def report(what, page, first, frame):
    refreshed = measured(page)
    print(
        f"{what}: response to drawn {first:.0f} ms, refreshed {refreshed:.0f} ms; "
        f"longest frame while hovering {frame:.0f} ms"
    )
    # The goals are 500 ms for drawing the first response, and 200 ms for a refresh. A busy machine may be
    # much slower, so the bound of 20 s only detects that the page hangs.
    assert first < 20_000 and refreshed < 20_000


def smoothness(page, seconds=3):
    """Moves the pointer over the map. Returns the longest time between two frames in ms."""
    page.tab.evaluate("""() => {
        let last = performance.now();
        window.longest = 0;
        const frame = now => {
            longest = Math.max(longest, now - last);
            last = now;
            requestAnimationFrame(frame);
        };
        requestAnimationFrame(frame);
    }""")
    box, end, step = page.tab.locator("#canvas").bounding_box(), time.monotonic() + seconds, 0
    while time.monotonic() < end:
        step += 37
        page.tab.mouse.move(box["x"] + step % box["width"], box["y"] + step * 3 % box["height"])
    return page.tab.evaluate("longest")


def test_100_000_samples_of_all_fields_are_drawn(exporter, tmp_path, page):
    containers = [
        Container(
            "load",
            f"pod-{pod:03}",
            "app",
            [
                Process(
                    b"server",
                    [
                        Mapping(b"/opt/app/lib/part-%03d.so" % k, 40 + (k * 7919 + pod) % 4000)
                        for k in range(100)
                    ],
                )
            ],
        )
        for pod in range(45)
    ]
    one = exporter(
        write(tmp_path / "node", containers), "--filter", "*/*/*/*", "--max-samples", "0", "--cpu-budget", "0"
    )
    exposition = one.exposition()
    samples = sum(len(exposition.families[name]) for name in exposition.metrics().values())
    assert samples > 100_000
    page.open(one)
    first = first_draw(page)
    assert page.value("#total") == exposition.total("pss") and len(page.names()) == 45
    page.screenshot("100000-samples")
    report(f"{samples} samples of 4,500 series", page, first, smoothness(page))


def test_100_000_samples_of_two_families_are_drawn(node, page):
    def series(k):
        place = f'namespace="load",pod="pod-{k % 100:03}",container="app",comm="server-{k % 300:03}"'
        return f'{place},path="/var/lib/app/{k:06}/segment.dat"'

    lines = ["# TYPE process_smaps_pss_bytes gauge"] + [
        f"process_smaps_pss_bytes{{{series(k)}}} {4096 * (1 + k * 7919 % 5000)}" for k in range(50_000)
    ]
    lines += [f"process_smaps_mappings{{{series(k)}}} 1" for k in range(50_000)]
    body = "\n".join(lines) + "\n"
    altered(page, lambda text: body + without_processes(text))
    page.open(node)
    first = first_draw(page)
    assert page.value("#total") == sum(4096 * (1 + k * 7919 % 5000) for k in range(50_000))
    page.screenshot("50000-series")
    report("100,000 samples of 50,000 series", page, first, smoothness(page))


def test_long_tables_are_shown_in_parts(node, page):
    lines = [
        f'process_smaps_pss_bytes{{namespace="n",pod="p",container="c",comm="d",path="/{k}"}} {k}'
        for k in range(1, 1001)
    ]
    altered(page, lambda text: "\n".join(lines) + "\n" + without_processes(text))
    page.open(node, "#/n/p/c/d?sort=-pss")
    assert page.column("pss") == list(range(1000, 800, -1))
    page.tab.click("#more")
    assert page.column("pss") == list(range(1000, 300, -1))


def test_ended_processes_are_dropped_from_memory(node, page):
    rounds = iter(range(10_000))
    last = []

    def churn(text):
        k = next(rounds)
        pids = [1, *range(1000 * k + 1000, 1000 * k + 2500)]
        last[:] = pids
        series = [f'namespace="n",pod="p",container="c",comm="d",pid="{pid}",path="/x"' for pid in pids]
        lines = [
            f"process_smaps_pss_bytes{{{s}}} {(1 + k if pid == 1 else 1) * 4096}"
            for s, pid in zip(series, pids)
        ]
        lines += [f"process_smaps_mappings{{{s}}} 1" for s in series]
        return "\n".join(lines) + "\n" + without_processes(text)

    altered(page, churn)
    page.open(node, "#/n/p/c/d/1")
    started = page.value("#total")
    # The total is the PSS of process 1, which grows by 4 KiB in each scrape. In each scrape, 1,000 of the
    # 1,500 other processes are replaced by new ones. The page must remove the ended processes from its tree,
    # which has two nodes for each process. Six scrapes are enough for several removals.
    until("six scrapes", lambda: page.value("#total") >= started + 6 * 4096, 40)
    assert page.tab.evaluate("nodes.length") < 3 * 2 * 1500 + 2500
    assert float(page.tab.locator("#delta").get_attribute("data-value")) == page.value("#total") - started


def test_3600_refreshes_do_not_grow_the_heap(node, browse):
    """Document and heap do not grow in 3,600 scrapes of 12 pods, one of which always has a new name."""
    page = browse(width=500, height=700)
    page.open(node)
    page.tab.evaluate("""() => {
        clearTimeout(timer);
        busy = true; // stops the page's own polling
        let t = latest.t;
        window.scrape = () => {
            t++;
            const lines = [];
            for (const field of ['pss_bytes', 'rss_bytes', 'mappings']) {
                for (let pod = 0; pod < 12; pod++) {
                    const name = pod ? `pod-${pod}` : `pod-${t}`;
                    for (const path of ['[heap]', '[anon]', '/usr/lib/libc.so.6']) {
                        const place = `namespace="n-${pod % 4}",pod="${name}",container="app",comm="java"`;
                        const value = 4096 * (1000 + pod * 31 + t % 50 * pod);
                        lines.push(`process_smaps_${field}{${place},path="${path}"} ${value}`);
                    }
                }
            }
            lines.push(`smaps_exporter_last_scrape_timestamp_seconds ${t}`);
            return new Response(lines.join('\\n') + '\\n', { headers: { date: new Date().toUTCString() } });
        };
        window.fetch = async () => scrape();
    }""")
    devtools = page.tab.context.new_cdp_session(page.tab)

    def run(times):
        page.tab.evaluate("async times => { for (let k = 0; k < times; k++) await refresh(); }", times)
        devtools.send("HeapProfiler.collectGarbage")
        return devtools.send("Runtime.getHeapUsage")["usedSize"], page.tab.evaluate(
            "[document.querySelectorAll('*').length, nodes.length]"
        )

    page.go("#/?by=path")
    run(600)
    page.go("#/?q=heap")
    heap, (elements, _) = run(600)
    page.go("#/")
    run(600)
    started = time.monotonic()
    run(1200)
    print(f"a refresh of 108 samples takes {(time.monotonic() - started) / 1.2:.1f} ms")
    page.go("#/?q=heap")
    later, (elements_later, nodes) = run(600)
    print(f"heap {heap / 1e6:.1f} MB after 1,200 refreshes, {later / 1e6:.1f} MB after 3,600")
    assert later < heap * 1.3 + 2e6 and abs(elements_later - elements) < 20 and nodes < 3000
