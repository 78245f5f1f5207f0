"""Tests the bars of use against the limit, the treemap of charged memory, and the records of OOM kills."""

import re
import time
from urllib.parse import quote

import pytest

from charges import MIB, Charge, charged, charges_of, containers, record, without_cgroups
from conftest import AXE, get, until
from exposition import Exposition
from recording import busy_node, write

CHARGED = "?field=charged_memory"


@pytest.fixture(scope="module")
def busy(tmp_path_factory, serve):
    return serve(write(tmp_path_factory.mktemp("charged"), busy_node()), "--filter", "*/*/*/*")


def expected(busy):
    """Returns the PSS and the charges of each container of the node."""
    exposition = Exposition(without_cgroups(get(busy.url + "metrics")))
    return containers(exposition), charges_of(exposition)


def bars(page):
    """Returns [name, text, label of the bar] for each row.

    If a row has no bar, its text and label are empty.
    """
    return page.tab.eval_on_selector_all(
        "#rows tr",
        """all => all.map(tr => {
        const bar = tr.querySelector('.use:not([hidden])'), used = tr.querySelector('.used');
        return [tr.querySelector('a').title, bar ? used.textContent : '', bar ? bar.ariaLabel : ''];
    })""",
    )


def name(key):
    """Returns the name of a container in the list."""
    return f"{key[0]}/{key[1]} › {key[2]}"


# ---- Bars


def test_containers_have_bars_and_the_closest_to_its_limit_is_first(busy, page):
    charged(page, charges_of)
    page.open(busy)
    mapped, charges = expected(busy)
    assert page.tab.is_hidden("#sort-limit")
    page.tab.click("#rows-containers")
    assert (
        page.hash() == "#/?rows=containers"
        and page.tab.get_attribute("#rows-containers", "aria-pressed") == "true"
    )
    shown = bars(page)
    assert sorted(row[0] for row in shown) == sorted(map(name, mapped))
    used = {key: charge.current / charge.limit for key, charge in charges.items() if charge.limit}
    limited = sorted(used, key=used.get, reverse=True)
    assert [row[0] for row in shown][: len(limited)] == list(map(name, limited))
    texts = {row[0]: row[1:] for row in shown}
    for key in mapped:
        text, label = texts[name(key)]
        charge = charges.get(key)
        if not charge:
            assert (text, label) == ("", "")
        elif charge.limit:
            assert re.fullmatch(r"[\d.]+ \wiB of [\d.]+ \wiB [\d.]+\u2009%", text), text
            assert text.endswith(f" {100 * used[key]:.0f}\u2009%"), text
        else:
            assert text.endswith("iB, no limit") and "no limit: " in label
        for part, words in (("anon", "anonymous"), ("slab", "slab"), ("sockets", "sockets")):
            assert not charge or (f"{words} " in label) == (charge.parts[part] != 0), label
    # If the sort order is reversed, the containers without a limit are still last.
    page.sort("limit")
    used = {name(key): share for key, share in used.items()}
    order = [used.get(row[0]) for row in bars(page)]
    assert page.hash() == "#/?sort=limit&rows=containers" and order[: len(used)] == sorted(used.values())
    assert set(order[len(used) :]) == {None}
    assert page.tab.locator("th:has(#sort-limit)").get_attribute("aria-sort") == "ascending"
    # A reload keeps the list of containers, because the URL says that the rows are containers.
    page.tab.reload()
    page.drawn()
    page.sort("share")
    assert page.column("value") == sorted(mapped.values(), reverse=True)
    page.tab.fill("#q", "kafka-1")
    assert [row[0] for row in bars(page)] == ["data/kafka-1 › kafka"]
    page.tab.keyboard.press("Enter")
    until("the place inside", lambda: page.crumbs() == ["Node", "data", "kafka-1", "kafka"])
    assert page.tab.is_hidden("#which")
    assert re.search(r"of [\d.]+ \wiB|no limit", page.text("#use"))


def test_the_width_of_a_bar_is_the_limit(busy, page):
    mapped, _ = expected(busy)
    first, second, third, *_ = sorted(mapped)
    parts = {"anon": 30 * MIB, "page_cache": 10 * MIB, "slab": 10 * MIB, "remainder": 0}
    large = {**parts, "anon": 150 * MIB, "remainder": -1}
    charges = {
        first: Charge(50 * MIB, 100 * MIB, parts),
        second: Charge(50 * MIB, None, parts),
        third: Charge(200 * MIB, None, large),
    }
    charged(page, charges)
    page.open(busy, "#/?rows=containers")
    shapes = page.tab.eval_on_selector_all(
        "#rows .use:not([hidden])",
        """all => all.map(bar => {
        const box = bar.getBoundingClientRect();
        const parts = [...bar.children].map(e => e.getBoundingClientRect());
        const end = (parts.at(-1).right - box.left) / box.width;
        const mark = getComputedStyle(bar).borderRightWidth;
        return [bar.className, end, parts[0].width / box.width, mark];
    })""",
    )
    # Each bar shows the memory use of a container. If the container has a limit, the whole bar stands for the
    # limit and has a mark at its end. The bars of containers without a limit are drawn in proportion to the
    # largest use among these containers, so the bar with the largest use is full.
    by_class = {}
    for name, end, first_part, mark in shapes:
        by_class.setdefault(name, []).append((end, first_part, mark))
    ((end, first_part, mark),) = by_class["use limited"]
    assert abs(end - 0.5) < 0.03 and abs(first_part - 0.3) < 0.03 and mark != "0px"
    assert sorted(round(end, 2) for end, _, _ in by_class["use"]) == [0.25, 1.0]
    assert {mark for *_, mark in by_class["use"]} == {"0px"}
    # The legend above the bars explains their colours.
    legend = page.text("#parts").split("\n")
    assert legend == ["anonymous 210 MiB", "page cache 30.0 MiB", "slab 30.0 MiB", "remainder −1 B"]


def test_without_cgroups_there_are_no_bars_and_records(busy, page):
    charged(page, {})
    page.open(busy, "#/?rows=containers" + CHARGED.replace("?", "&"))
    for hidden in ("#which", "#sort-limit", "#ooms", "#charged"):
        assert page.tab.is_hidden(hidden), hidden
    assert page.text("#total").endswith(" PSS")
    assert page.tab.locator("#field option[value=charged_memory]").count() == 0
    shown = page.tab.evaluate("latest.t")
    until("another scrape", lambda: page.tab.evaluate("latest.t") > shown)
    # An exporter without cgroup metrics has no OOM records, so the page does not request /ooms.
    assert page.asked == []


def test_containers_with_only_their_use_have_bars_and_no_treemap(busy, page):
    charged(
        page,
        lambda exposition: {key: Charge(v + MIB, 2 * v + MIB) for key, v in containers(exposition).items()},
    )
    page.open(busy, "#/?rows=containers")
    assert all(re.match(r"[\d.]+ \wiB of ", text) and "in use, " in label for _, text, label in bars(page))
    assert page.tab.locator("#field option[value=charged_memory]").count() == 0
    assert page.text("#parts") == ""


# ---- The treemap of charged memory


def test_the_tiles_of_a_container_add_up_to_its_use(busy, page):
    charged(page, charges_of)
    page.open(busy)
    mapped, charges = expected(busy)
    page.select("charged_memory")
    assert page.hash() == "#/" + CHARGED
    tiles = page.tab.evaluate("""() => {
        const sums = {};
        const walk = n => {
            if (n.level !== 'container') return n.kids.forEach(walk);
            const kids = n.kids.filter(isArea).map(k => [k.level + ' ' + k.name, k.v]);
            sums[JSON.stringify(namesOf(n))] = [n.v, Object.fromEntries(kids)];
        };
        walk(root);
        return Object.entries(sums).map(([names, sum]) => [JSON.parse(names), ...sum]);
    }""")
    assert sorted(tuple(names) for names, *_ in tiles) == sorted(mapped)
    over = {}
    for names, whole, kids in tiles:
        key, paths = tuple(names), sum(v for name, v in kids.items() if name.startswith("comm "))
        charge = charges.get(key)
        if not charge:
            assert whole != whole and kids == {}
            continue
        assert paths == mapped[key] and whole == charge.current and all(v > 0 for v in kids.values())
        parts = {name.removeprefix("part "): v for name, v in kids.items() if name.startswith("part ")}
        assert parts == charge.tiles(mapped[key])
        if sum(kids.values()) != whole:
            over[key] = sum(kids.values()) - whole
    # In four containers, the tiles add up to 9 MiB more than the container's memory use. The page mentions
    # this excess, but does not add it to the total.
    assert len(over) == 4 and set(over.values()) == {9 * MIB}
    assert page.value("#total") == sum(charge.current for charge in charges.values())
    for text in (
        "Excess: the tiles of 4 containers are 36.0 MiB more than their use",
        "6 containers have no account and are left out",
        "charged to the container that touched it first",
    ):
        assert text in page.text("#charged")
    namespace, pod, container = next(iter(over))
    page.go(f"#/{namespace}/{pod}/{container}{CHARGED}")
    excess = f"Excess: the tiles of {namespace}/{pod} › {container} are 9.00 MiB more than its use"
    until("the place", lambda: excess in page.text("#charged"))
    # This container has no split into mapped and unmapped memory, so it has no tiles of unmapped memory.
    key = next(key for key, charge in charges.items() if not charge.unmapped)
    page.go("#/" + "/".join(key) + CHARGED)
    until("the rows", lambda: "rest of the use" in page.names())
    assert not any(name.startswith("unmapped p") for name in page.names())


def test_a_part_is_a_place_with_a_legend_and_a_tip(busy, page):
    charged(page, charges_of)
    page.open(busy, "#/data/kafka-0/kafka" + CHARGED)
    mapped, charges = expected(busy)
    charge = charges["data", "kafka-0", "kafka"]
    assert set(page.names()) >= {
        "java",
        "unmapped page cache",
        "slab",
        "page tables",
        "kernel stacks",
        "per-CPU",
        "other kernel memory",
        "rest of the use",
    }
    assert sum(page.column("value")) == charge.current == page.value("#total")
    assert page.tab.locator("#rows .new:visible").count() == 0
    page.tab.hover("#legend li:has-text('Unmapped page cache') button")
    assert "no process maps" in page.text("#tip")
    x, y = page.tab.evaluate("""() => {
        const n = tiles.find(n => n.name === 'cgroup_memory_unmapped_page_cache');
        return [n.x + n.w / 2, n.y + n.h / 2];
    }""")
    box = page.tab.locator("#canvas").bounding_box()
    page.tab.mouse.move(box["x"] + x, box["y"] + y)
    assert page.text("#tip").startswith("unmapped page cache") and "no process maps" in page.text("#tip")
    page.tab.mouse.click(box["x"] + x, box["y"] + y)
    until("the part", lambda: page.value("#total") == charge.unmapped["page_cache"])
    assert page.tab.is_visible("#chart") and page.tab.is_hidden("#list")
    # In the treemap by path, slab memory has one tile, with the sum over all containers.
    page.go("#/cgroup_memory_slab?by=path&field=charged_memory")
    until("the slab", lambda: page.value("#total") == sum(c.parts["slab"] for c in charges.values()))
    page.go("#/?by=path&field=charged_memory")
    until("the paths", lambda: "slab" in page.names() and "[heap]" in page.names())
    page.select("pss")
    assert "slab" not in page.names() and "[heap]" in page.names()
    page.go("#/" + CHARGED)
    page.tab.fill("#q", "unmapped ")
    assert sorted(page.names()) == ["unmapped anonymous", "unmapped page cache", "unmapped tmpfs"]


def test_promql_of_charged_memory(busy, page):
    page.tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    charged(page, charges_of)
    page.open(busy)
    where = 'namespace="data",pod="kafka-0",container="kafka"'
    for address, query in (
        ("#/" + CHARGED, "sum by (namespace, pod) (cgroup_memory_current_bytes)"),
        (
            "#/" + CHARGED + "&rows=containers",
            "sum by (namespace, pod, container) (cgroup_memory_current_bytes)",
        ),
        ("#/data?rows=containers", 'sum by (pod, container) (process_smaps_pss_bytes{namespace="data"})'),
        (
            "#/data/kafka-0/kafka/java" + CHARGED,
            f'sum by (path) (process_smaps_pss_bytes{{{where},comm="java"}})',
        ),
        (
            "#/data/kafka-0/kafka/cgroup_memory_slab" + CHARGED,
            f'cgroup_memory_account_bytes{{{where},part="slab"}}',
        ),
        (
            "#/data/kafka-0/kafka/cgroup_memory_unmapped_page_cache" + CHARGED,
            f'cgroup_memory_unmapped_bytes{{{where},part="page_cache"}}',
        ),
        ("#/?by=path", "sum by (path) (process_smaps_pss_bytes)"),
    ):
        page.go(address)
        until(address, lambda: page.hash() == address and page.tab.evaluate("promql()") == query, 5)


# ---- OOM kills


def kills(page):
    return page.tab.locator("#kills summary").all_inner_texts()


def test_a_record_shows_the_memory_of_the_container(busy, page):
    when = time.time() - 300
    old = record(when - 200_000, "data", "kafka-0", "kafka", limit_bytes=None, account={}, paths=())
    charged(page, charges_of, [record(when, pod="checkout-1", kills=2), old])
    page.open(busy)
    until("the records", lambda: len(kills(page)) == 2)
    first, second = kills(page)
    assert "shop/checkout-1 › app java" in first and "5 min ago" in first
    assert "99.9 MiB of 100 MiB 100\u2009%" in first
    assert time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when)) in first
    assert "data/kafka-0 › kafka" in second and "2 days ago" in second and "no limit" in second
    assert page.text("#ooms h2") == "OOM kills 2"
    page.tab.click("#kills summary >> nth=0")
    page.tab.wait_for_selector("#kills details >> nth=0 >> .reading")
    text = page.text("#kills details >> nth=0")
    assert "2 processes were killed" in text and "0.8 s before the kill" in text and "mapped 94.4 MiB" in text
    assert re.search(r"83\.9 MiB\s+\[heap\] java", text) and "/opt/java/lib/server/libjvm.so" in text
    assert re.search(r"anonymous\s+85\.8 MiB", text) and re.search(r"slab\s+2\.86 MiB", text)
    assert "sockets" not in text
    page.tab.click("#kills summary >> nth=1")
    page.tab.wait_for_selector("#kills details >> nth=1 >> .reading")
    text = page.text("#kills details >> nth=1")
    assert "No path is known" in text and "What was charged is not known" in text
    # A new record comes first. Records that the user has opened stay open.
    page.ooms.insert(0, record(when + 200, pod="checkout-2"))
    until("the third", lambda: len(kills(page)) == 3 and "checkout-2" in kills(page)[0])
    assert page.tab.eval_on_selector_all("#kills details", "all => all.map(e => e.open)") == [
        False,
        True,
        True,
    ]
    # While the page shows one namespace, it lists only the records of containers in this namespace.
    page.go("#/data")
    until("its record", lambda: len(kills(page)) == 1 and page.text("#ooms h2") == "OOM kills 1 here")
    page.tab.click("#kills a")
    until("the container", lambda: page.crumbs() == ["Node", "data", "kafka-0", "kafka"])
    page.go("#/monitoring")
    until("none", lambda: page.tab.is_hidden("#ooms"))


def test_records_are_requested_once_per_scrape_and_failures_are_harmless(busy, page):
    page.expected.append("Failed to load resource")
    charged(page, charges_of, (404, "not found"))
    page.open(busy)

    def scrapes():
        """Returns how many new scrapes the page has seen."""
        return page.tab.evaluate("changes")

    start = scrapes()
    until("five scrapes", lambda: scrapes() >= start + 5)
    assert page.tab.is_hidden("#ooms") and page.text("#state") == "Live" and page.tab.is_hidden("#note")
    # The page makes a pause after a failed request. The pause becomes longer with each failure in a row, so
    # in five scrapes there are at most three requests.
    assert 1 <= len(page.asked) <= 3
    for odd in ((503, ""), (200, "<html>"), (200, "{}"), (200, '{"records":[null,{"time":"x","paths":7}]}')):
        page.ooms = odd
        page.tab.evaluate("() => { pauseOoms = 0; failedOoms = 0; }")
        asked = len(page.asked)
        until("another request", lambda: scrapes() and len(page.asked) > asked)
    until("a record without anything", lambda: len(kills(page)) == 1)
    assert "at an unknown time" in kills(page)[0]
    # The page keeps its records while requests fail.
    page.ooms = (503, "")
    asked = len(page.asked)
    until("another request", lambda: scrapes() and len(page.asked) > asked)
    assert len(kills(page)) == 1
    page.ooms = []
    page.tab.evaluate("() => { pauseOoms = 0; failedOoms = 0; }")
    until("none", lambda: page.tab.is_hidden("#ooms"))
    start, asked = scrapes(), len(page.asked)
    until("four scrapes", lambda: scrapes() >= start + 4)
    # There is one request for each new scrape. The request for the scrape before the first of them may have
    # come late.
    requests = len(page.asked) - asked
    assert 2 <= requests <= scrapes() - start + 1
    assert page.text("#state") == "Live"


MARKUP = "<img src=x onerror=document.title='injected'>"
NAMES = [
    MARKUP,
    "'\"`;--</details>",
    "\u202etxt.exe",
    "new\nline\x00\x1b[31m\x7f",
    "x" * 20_000,
    "שלום עالم",
    "__proto__",
    "",
    "\ud83d\udc0f" * 3000,
]


def test_64_records_with_hostile_names(busy, browse):
    page = browse(width=390, height=844)
    names = [NAMES[k % len(NAMES)] for k in range(72)]
    paths = [(name, "/" + name, 10_000 - k) for k, name in enumerate(NAMES)] * 2
    times = [1e300 if k == 3 else time.time() - k for k in range(72)]
    pods = [NAMES[k // 9 % len(NAMES)] for k in range(72)]
    records = [record(at, name, pod, name, name, paths) for at, name, pod in zip(times, names, pods)]
    charge = Charge(90 * MIB, 100 * MIB, {"anon": 90 * MIB}, {"page_cache": 5 * MIB})
    charged(page, {}, records)
    page.charges = {(name,) * 3: charge for name in NAMES if "\x00" not in name and "\ud83d" not in name}
    page.open(busy, "#/?rows=containers" + CHARGED.replace("?", "&"))
    until("the first", lambda: len(kills(page)) == 3)
    page.tab.click("#older")
    assert len(kills(page)) == 64 and "the exporter keeps the last 64" in page.text("#ooms h2")
    page.tab.evaluate("document.querySelectorAll('.kill').forEach(e => { e.open = true; })")
    until("all open", lambda: page.tab.locator(".reading").count() == 64)
    assert page.tab.locator(".reading li").count() == 640
    assert page.tab.evaluate("document.documentElement.scrollWidth") == 390
    assert page.tab.locator("img, main script, b:not(#total):not(#tip b)").count() == 0
    assert "injected" not in page.tab.title()
    text = page.text("#kills")
    assert MARKUP in text and "⟨U+202E⟩txt.exe" in text and "new␊line␀␛[31m␡" in text
    assert "\u202e" not in text
    # The page shortens long names in all texts and tooltips.
    longest = page.tab.evaluate("""() => {
        const own = e => e.children.length ? 0 : e.textContent.length;
        const all = [...document.querySelectorAll('#kills *')];
        return Math.max(...all.map(e => Math.max(e.title?.length || 0, own(e))));
    }""")
    assert longest <= 1000
    page.screenshot("hostile-records")
    # The page also has a row for a container that has cgroup metrics but no process.
    assert {row[0] for row in bars(page)} >= {f"{MARKUP}/{MARKUP} › {MARKUP}"}
    page.go("#/" + "/".join([quote(MARKUP, safe="")] * 3) + CHARGED)
    until("the place", lambda: page.value("#total") == 90 * MIB)
    assert sorted(page.names()) == ["rest of the use", "unmapped page cache"]


# ---- Layout and accessibility


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_and_axe_finds_nothing(busy, browse, width, scheme):
    page = browse(width=width, height=900, scheme=scheme)
    charged(page, charges_of, [record(time.time() - 60 * k * k, pod=f"web-{k}") for k in range(5)])
    page.open(busy, "#/?rows=containers" + CHARGED.replace("?", "&"))
    until("the records", lambda: len(kills(page)) == 3)
    page.tab.click("#kills summary >> nth=0")
    page.screenshot(f"charged-{width}-{scheme}")
    page.tab.evaluate(AXE.read_text() + "; 0")
    for address in (
        "#/?rows=containers",
        "#/" + CHARGED,
        "#/data/kafka-0/kafka" + CHARGED,
        "#/?by=path&field=charged_memory",
    ):
        page.go(address)
        until("the place", lambda: page.hash() == address)
        assert page.tab.evaluate("document.documentElement.scrollWidth") == width, address
        found = page.tab.evaluate("""axe.run().then(r => r.violations.map(v => {
            return [v.id, v.nodes.slice(0, 3).map(n => n.html.slice(0, 150))];
        }))""")
        assert found == [], address
    page.tab.keyboard.press("Escape")
    # A note that appears or disappears does not move the treemap.
    page.go("#/" + CHARGED)
    until("the map", lambda: page.hash() == "#/" + CHARGED)
    assert page.tab.locator("#map").bounding_box()["y"] <= 210
