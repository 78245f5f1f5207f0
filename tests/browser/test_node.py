"""Tests the node's memory by part: the bar, the treemap, and pods with memory outside their containers."""

import re
import time

import pytest

from charges import MIB, charged, charges_of, ledger_of, record, without_cgroups
from conftest import AXE, REPOSITORY, get, until
from exposition import Exposition
from recording import busy_node, write

NODE = "#/?field=node_memory"
POD = ("data", "kafka-1")


@pytest.fixture(scope="module")
def busy(tmp_path_factory, serve):
    return serve(write(tmp_path_factory.mktemp("node"), busy_node()), "--filter", "*/*/*/*")


def expected(busy, **more):
    """Returns the parts of the node's memory that the page should show.

    They are computed from the same invented cgroup metrics that the page gets. `more` has further arguments
    of `ledger_of`.
    """
    return ledger_of(charges_of(Exposition(without_cgroups(get(busy.url + "metrics")))), **more)


def tiles(page):
    """Returns the sum of the tiles in each namespace and each part of the node.

    The tiles are the leaves of the tree.
    """
    return page.tab.evaluate("""() => {
        const leaves = n => withArea(n).length ? withArea(n).flatMap(leaves) : [n.v];
        const sum = n => leaves(n).reduce((sum, v) => sum + v, 0);
        return Object.fromEntries(withArea(root).map(n => [n.name, sum(n)]));
    }""")


def test_the_page_opens_with_the_node(busy, page):
    charged(page, charges_of, ledger=ledger_of)
    page.open(busy)
    ledger = expected(busy)
    total = sum(ledger.parts.values())
    label = page.tab.get_attribute("#node-bar", "aria-label")
    assert (
        label.startswith("MemTotal ")
        and "/system.slice 410 MiB, /user.slice 38.0 MiB" in label
        and label.endswith("free 1.76 GiB")
    )
    # The bar has a segment for each part that is not 0. One call finds and measures all segments,
    # because the page may replace the segments between two calls.
    widths = page.tab.evaluate(
        "() => [...document.querySelectorAll('#node-bar i')].map(e => e.getBoundingClientRect().width)"
    )
    assert len(widths) == sum(v > 0 for v in ledger.parts.values())
    assert (
        abs(widths[0] / sum(widths) - ledger.parts["pods"] / total) < 0.01
        and abs(widths[-1] / sum(widths) - 1800 * MIB / total) < 0.01
    )
    listed = page.text("#node-parts")
    assert (
        "ended pods 210 MiB" in listed
        and "huge page pool 128 MiB" in listed
        and "mqueue" not in listed
        and "zram" not in listed
    )
    assert page.tab.locator("#map").bounding_box()["y"] <= 260
    page.tab.click("#node-memory")
    until("the treemap", lambda: page.hash() == NODE and page.value("#total") == total)


def test_the_tiles_add_up_to_memtotal(busy, page):
    charged(page, charges_of, ledger=lambda charges: ledger_of(charges, unlisted=70 * MIB))
    page.open(busy, NODE)
    ledger = expected(busy, unlisted=70 * MIB)
    total, shown = sum(ledger.parts.values()), tiles(page)
    assert page.value("#total") == total
    others = {part: v for part, v in ledger.parts.items() if part != "pods" and v} | {"other_pods": 70 * MIB}
    assert {
        name.removeprefix("cgroup_memory_node_"): v for name, v in shown.items() if "_node_" in name
    } == others
    # In each of four containers, the sum of the tiles is 9 MiB larger than the use of the container's cgroup.
    # This can happen because a process may map memory that is charged to another container.
    assert sum(
        shown.values()
    ) == total + 36 * MIB and "the tiles of 4 places are 36.0 MiB more than their use" in page.text(
        "#charged"
    )
    assert "6 containers are in no pod's cgroup" in page.text("#charged")
    assert sum(v for v in page.column("value") if v) == total
    # The memory of a pod is the memory of its containers and the parts outside containers.
    page.go("#/" + "/".join(POD) + "?field=node_memory")
    until("the pod", lambda: page.value("#total") == ledger.pods[POD][0])
    assert set(page.names()) >= {
        "kafka",
        "outside containers: tmpfs and shared memory",
        "outside containers: page cache",
    }
    assert sum(page.column("value")) == ledger.pods[POD][0]
    part = page.tab.locator("#rows a", has_text="outside").first
    part.click()
    until("the part", lambda: page.crumbs() == ["Node", *POD, "outside containers: tmpfs and shared memory"])
    assert page.value("#total") == ledger.pods[POD][2]["shmem"]
    page.go(NODE)
    page.tab.hover("#legend li:has-text('Outside containers') button")
    assert "none of its running containers" in page.text("#tip")


def test_a_recorded_node_with_its_cgroups(serve, page):
    """The exporter serves a recording that has cgroup files."""
    one = serve(REPOSITORY / "fixtures/cgroups/v2", "--filter", "*/*/*/*")
    page.open(one, NODE)
    families = one.exposition().families
    parts = {labels["part"]: v for labels, v in families["cgroup_node_memory_bytes"]}
    pods = {labels["pod"]: v for labels, v in families["cgroup_pod_memory_current_bytes"]}
    outside = [v for _, v in families["cgroup_pod_memory_outside_containers_bytes"]]
    assert page.value("#total") == sum(parts.values()) and len(pods) == 1 and sum(outside) > 0
    excess = page.tab.evaluate("excesses().reduce((sum, a) => sum + a.over, 0)")
    assert sum(tiles(page).values()) == sum(parts.values()) + excess
    row = "#rows tr:has(a[title='shop/web-0'])"
    assert page.value(f"{row} [data-key=value]") == pods["web-0"]
    assert "outside containers" in page.tab.get_attribute(f"{row} .use", "aria-label")


def test_a_negative_remainder_is_text_and_no_tile(busy, page):
    charged(page, charges_of, ledger=lambda charges: ledger_of(charges, remainder=-5 * MIB))
    page.open(busy, NODE)
    total = sum(expected(busy, remainder=-5 * MIB).parts.values())
    assert page.value("#total") == total and not any("remainder" in name for name in tiles(page))
    assert "The parts are 5.00 MiB more than MemTotal" in page.text(
        "#charged"
    ) and "the remainder is −5.00 MiB" in page.text("#charged")
    assert "remainder −5.00 MiB" in page.text(
        "#node-parts"
    ) and "remainder −5.00 MiB" in page.tab.get_attribute("#node-bar", "aria-label")


def test_pods_show_the_use_of_their_limits(busy, page):
    charged(page, charges_of, ledger=ledger_of)
    page.open(busy, "#/?sort=-limit")
    current, limit, outside = expected(busy).pods[POD]
    rows = page.tab.eval_on_selector_all(
        "#rows tr",
        """all => all.map(tr => {
            const [link, used, bar] = ['a', '.used', '.use'].map(selector => tr.querySelector(selector));
            return [link.title, used.textContent, bar.ariaLabel];
        })""",
    )
    name, used, label = rows[0]
    assert name == "/".join(POD) and used.endswith(f" {100 * current / limit:.0f}\u2009%")
    assert re.search(rf"outside containers {sum(outside.values()) / 2**30:.2f} GiB", label)
    # The parts outside containers have a colour of their own.
    colours = page.tab.eval_on_selector_all(
        "#rows tr:first-child .use i", "all => all.map(e => e.style.background)"
    )
    assert "var(--outside)" in colours and "outside containers" in page.text("#parts")
    page.tab.click("#rows tr:first-child a")
    until("the pod's container", lambda: page.crumbs() == ["Node", *POD, "kafka"])
    page.go("#/" + "/".join(POD))
    until("the pod's use", lambda: page.text("#use").endswith(used))


def test_a_record_shows_what_was_outside_containers(busy, page):
    limit = {"limit": "pod", "hit_limit_bytes": 200 * MIB, "hit_use_bytes": 200 * MIB}
    records = [
        record(time.time() - 9, *POD, "kafka", **limit, outside_containers_bytes=81 * MIB),
        record(time.time() - 90, "data", "kafka-0", "kafka", outside_containers_bytes=None),
    ]
    charged(page, charges_of, records, ledger=ledger_of)
    page.open(busy)
    until("the records", lambda: page.tab.locator("#kills summary").count() == 2)
    first, second = page.tab.evaluate(
        """() => [...document.querySelectorAll('#kills .use')].map(bar => {
            const colours = [...bar.children].map(part => part.style.background);
            return [bar.ariaLabel, colours.includes('var(--outside)')];
        })"""
    )
    label, has_colour = first
    assert label.startswith("200 MiB in use, 100\u2009% of the limit of 200 MiB: anonymous ")
    assert "outside containers 81.0 MiB" in label and has_colour
    assert "outside" not in second[0] and not second[1]
    page.tab.click("#kills summary >> nth=0")
    page.tab.wait_for_selector("#kills details >> nth=0 >> .reading")
    text = page.text("#kills details >> nth=0")
    assert "Outside the pod's running containers: 81.0 MiB." in text
    assert re.search(r"outside containers\s+81\.0 MiB", text)
    assert re.search(r"rest of the pod\s+19\.1 MiB", text)


def test_without_the_families_there_is_no_bar(busy, page):
    charged(page, charges_of)
    page.open(busy, NODE)
    assert (
        page.tab.is_hidden("#node")
        and page.tab.is_hidden("#sort-limit")
        and page.text("#total").endswith(" PSS")
    )
    assert page.tab.locator("#field option[value=node_memory]").count() == 0
    # The page shows the bar and the treemap of the node only while the exposition has the metrics of the
    # node. Setting `page.ledger` adds these metrics to the exposition, and None removes them.
    page.ledger = ledger_of
    until("the bar", lambda: page.tab.is_visible("#node") and page.text("#total").endswith(" Node memory"))
    page.ledger = None
    until("no bar", lambda: page.tab.is_hidden("#node") and page.text("#total").endswith(" PSS"))


@pytest.mark.parametrize("width, scheme", [(1280, "light"), (1280, "dark"), (390, "dark")])
def test_it_fits_and_axe_finds_nothing(busy, browse, width, scheme):
    page = browse(width=width, height=900, scheme=scheme)
    charged(page, charges_of, ledger=ledger_of)
    page.open(busy, NODE)
    page.screenshot(f"node-{width}-{scheme}")
    page.tab.evaluate(AXE.read_text() + "; 0")
    for address in (
        NODE,
        "#/?sort=-limit",
        "#/data/kafka-1?field=node_memory",
        "#/?by=path&field=node_memory",
    ):
        page.go(address)
        until("the place", lambda: page.hash() == address)
        assert page.tab.evaluate("document.documentElement.scrollWidth") == width, address
        assert (
            page.tab.evaluate(
                """axe.run().then(r => r.violations.map(v => {
                    const nodes = v.nodes.slice(0, 3).map(n => n.html.slice(0, 150));
                    return [v.id, nodes];
                }))"""
            )
            == []
        ), address
