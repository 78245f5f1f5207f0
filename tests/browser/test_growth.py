"""Tests that the ranking of growth counts only memory that a container itself gains on one node.

If a process that shared pages ends, the other processes do not grow. If the exporter of another node answers,
the difference between the two nodes is not growth.
"""

import re

from charges import MIB, Charge, charged
from conftest import until
from recording import Container, Mapping, Process, smaps, write

LIBRARY = b"/usr/bin/node"


def record(home, sharers, heap=20_000):
    """Records three pods with a library that `sharers` processes share.

    The third pod has a heap of `heap` KiB.
    """
    web = [Mapping(LIBRARY, 40_000, sharers), Mapping(b"[heap]", 20_000)]
    own = [Mapping(LIBRARY, 40_000, sharers), Mapping(b"[heap]", heap)]
    return [
        Container("shop", f"web-{k}", "app", [Process(b"node", own if k == 2 else web)]) for k in range(3)
    ]


def rewrite(home, containers):
    """Replaces the mappings of the recorded processes."""
    for pid, container in enumerate(containers, 100):
        (home / f"proc/{pid}/smaps").write_bytes(smaps(container.processes[0].mappings))


def after(page, scrapes):
    """Waits until the page has shown `scrapes` further scrapes."""
    last = page.tab.evaluate("latest.t")
    for _ in range(scrapes):
        until("a scrape", lambda: page.tab.evaluate("latest.t") > last)
        last = page.tab.evaluate("latest.t")


def test_end_of_a_sharer_is_not_growth_of_the_others(exporter, tmp_path, page):
    home = tmp_path / "node"
    one = exporter(write(home, record(home, 3)), "--filter", "*/*/*/*")
    page.open(one, "#/?sort=-change")
    lines = (home / "containers.tsv").read_text().splitlines(keepends=True)
    # One of the three processes that share pages ends, and then a second one. Afterwards the pages are
    # private to the third process.
    for remaining in (2, 1):
        before = page.tab.evaluate("at(fields.get('pss'), root)")
        rewrite(home, record(home, remaining))
        (home / "containers.tsv").write_text("".join([lines[0], *lines[-remaining:]]))
        until("the end of a sharer", lambda: len(page.names()) == remaining)
        after(page, 4)
        assert page.changes() == [0] * remaining and page.text("#node-grows_fastest") == "nothing grows", (
            before
        )
    assert "neighbour" in page.text("#since")
    page.select("rss")
    assert "neighbour" not in page.text("#since")
    page.select("pss")
    # Now the heap of the remaining process grows, and the page counts this as growth.
    for heap in (23_000, 26_000, 29_000):
        rewrite(home, [*record(home, 1)[:2], record(home, 1, heap)[2]])
        after(page, 1)
    until("the growth", lambda: page.changes() == [9_000 * 1024])
    until(
        "the grower",
        lambda: "node" in page.text("#node-grows_fastest") and "web-2" in page.text("#node-grows_fastest"),
    )


def test_growth_in_tmpfs_is_named(exporter, tmp_path, page):
    home = tmp_path / "node"
    one = exporter(write(home, record(home, 3)), "--filter", "*/*/*/*")
    written = iter(range(1, 10_000))

    def charges(_):
        tmpfs = {pod: (next(written) if pod == "web-1" else 5) * MIB for pod in ("web-0", "web-1", "web-2")}
        return {
            ("shop", pod, "app"): Charge(
                90 * MIB + v, None, {"anon": 20 * MIB, "shmem": v}, {"page_cache": 0, "shmem": v}
            )
            for pod, v in tmpfs.items()
        }

    charged(page, charges)
    page.open(one, "#/?sort=-change")
    until(
        "the grower",
        lambda: (
            "node: unmapped tmpfs" in page.text("#node-grows_fastest")
            and "web-1" in page.text("#node-grows_fastest")
        ),
    )
    assert page.names()[0] == "shop/web-1" and page.changes()[0] > 0 == page.changes()[1]
    # The header of the page names the memory that grows fastest. This name is a link to the unmapped tmpfs of
    # the container.
    page.tab.click("#node-grows_fastest a")
    until("the part", lambda: page.crumbs()[-2:] == ["app", "unmapped tmpfs"])
    assert "MiB/min" in page.text("#slope")


def test_another_exporter_at_the_same_address_restarts_the_history(exporter, tmp_path, page):
    """If a forwarded port leads to another exporter, the page must not show the difference as growth.

    The nodes of the two exporters have a pod with the same name. The pod on the second node has 1 GiB more.
    """

    def node(name, heap):
        return exporter(
            write(
                tmp_path / name,
                [Container("shop", "web-0", "app", [Process(b"node", [Mapping(b"[heap]", heap)])])],
            ),
            "--filter",
            "*/*/*/*",
            "--node",
            name,
        )

    first, second = node("worker-1", 20_000), node("worker-2", 1_068_576)
    served = [first]

    def metrics(route):
        route.fulfill(response=route.fetch(url=route.request.url.replace(first.url, served[0].url)))

    page.tab.route("**/metrics*", metrics)
    page.open(first)
    after(page, 2)
    assert "opening" in page.text("#since") and page.tab.is_hidden("#note")
    served[0] = second
    until("the other node", lambda: "worker-2" in page.text("#host"))
    assert (
        page.changes() == [0]
        and page.value("#delta") == 0
        and page.text("#node-grows_fastest") in ("–", "nothing grows")
    )
    assert re.search(
        r"Another exporter answers now \(worker-2, started at \d\d:\d\d:\d\d\): the history begins again",
        page.text("#note"),
    )
    assert "opening" not in page.text("#since") + page.text("#delta")
    # The page has the history of worker-2, but now worker-1 answers. So the first reload begins a new
    # history. The second reload keeps the history, because the same exporter still answers.
    served[0] = first
    page.tab.reload()
    page.drawn()
    assert page.changes() == [0] and "worker-1" in page.text("#note")
    since = page.text("#since")
    page.tab.reload()
    page.drawn()
    assert page.text("#since").split(",")[0][-8:] == since.split(",")[0][-8:]
