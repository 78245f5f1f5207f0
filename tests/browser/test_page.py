"""Tests that the memory map shows the values of the exposition, and that its links open what they name."""

import gzip
import re
import urllib.error
import urllib.request

import pytest

from conftest import RECORDED_NODE, until
from exposition import PLACE, fragment

DERIVED = {"uss"}
CHARGED = "charged_memory"
PLACE_BY_PATH = [key for key in PLACE if key not in ("pid", "kind")]
# These fields count shared memory in full for each process.
IN_FULL = {
    "size",
    "rss",
    "referenced",
    "anonymous",
    "ksm",
    "lazyfree",
    "anon_hugepages",
    "shmem_pmdmapped",
    "file_pmdmapped",
    "swap",
}


def below(page, place):
    """Opens the pod, container or path that has the labels in `place`, by changing the page's address."""
    page.tab.evaluate("hash => { location.hash = hash }", fragment(place))


def largest(exposition, depth, field="pss"):
    """Returns the labels of the largest pod, of its largest container, and so on, for `depth` levels."""
    place = {}
    for _ in range(depth):
        place = exposition.children(field, **place)[0][0]
    return place


def name_of(row):
    """Returns the name that the page gives to a row.

    For a pod, the name includes the namespace. Otherwise, the name is the last label.
    """
    *_, last = row
    return f"{row['namespace']}/{row['pod']}" if last == "pod" else row[last]


def test_page_is_three_small_files_with_a_strict_policy(node):
    total = 0
    for address, kind in (("", "text/html"), ("page.css", "text/css"), ("page.js", "text/javascript")):
        request = urllib.request.Request(node.url + address, headers={"Accept": "text/html"})
        with urllib.request.urlopen(request) as answer:
            served, headers = answer.read(), answer.headers
        total += len(served)
        assert (
            headers["Content-Type"] == f"{kind}; charset=utf-8"
            and headers["X-Content-Type-Options"] == "nosniff"
        )
        assert (
            "default-src 'none'" in headers["Content-Security-Policy"]
            and "unsafe" not in headers["Content-Security-Policy"]
        )
        assert not re.search(rb"https?://", served)
        request.add_header("Accept-Encoding", "gzip")
        with urllib.request.urlopen(request) as answer:
            assert gzip.decompress(answer.read()) == served
        request.add_header("If-None-Match", headers["ETag"])
        with pytest.raises(urllib.error.HTTPError, match="304"):
            urllib.request.urlopen(request)
    assert total <= 103 * 1024
    print(f"the page is {total} bytes")


def test_page_works_below_a_path_prefix(node, page):
    """A proxy may serve the exporter below a path such as /node-7/exporter/."""
    page.origin = node.url

    def inner(route):
        name = route.request.url.removeprefix(node.url + "node-7/exporter/")
        route.fulfill(response=route.fetch(url=node.url + name))

    page.tab.route("**/node-7/exporter/**", inner)
    page.tab.goto(node.url + "node-7/exporter/", wait_until="domcontentloaded")
    page.drawn()
    assert page.names()
    requested = {url.removeprefix(node.url) for url in page.requests if not url.startswith("data:")}
    # The page requests /ooms only if the exporter has cgroup accounts.
    assert requested - {"node-7/exporter/ooms"} == {
        f"node-7/exporter/{name}" for name in ("", "page.css", "page.js", "metrics?group-by=path&fields=all")
    }


def test_each_exported_field_can_be_selected_and_has_the_right_total(node, page):
    page.open(node)
    exposition = node.exposition()
    metrics = exposition.metrics()
    offered = page.tab.eval_on_selector_all("#field option", "all => all.map(o => [o.value, o.title])")
    # The page offers each exported field, with two exceptions. A sum of page sizes has no meaning, and the
    # number of processes cannot be split between mappings. The page also offers fields that it computes
    # (`DERIVED`). It offers charged memory if the exposition has cgroup metrics.
    charged = {CHARGED} if "cgroup_memory_account_bytes" in exposition.families else set()
    assert {name for name, _ in offered} == {name for name in metrics if not name.endswith("page_size")} - {
        "processes"
    } | DERIVED | charged
    assert [name for name, _ in offered][:4] == ["pss", "uss", "rss", "swap"]
    for name, help in offered:
        # Charged memory is skipped here, because test_account.py tests it.
        if name == CHARGED:
            continue
        if name not in DERIVED:
            assert help == exposition.help[metrics[name]]
        page.select(name)
        assert page.value("#total") == exposition.total(name), name
        assert page.text("#help").startswith(help)
        assert ("only PSS adds up" in page.text("#help")) == (
            name.startswith("shared_") or name in IN_FULL
        ), name
    for name in ("pss", "rss", "uss", "swap"):
        assert page.value(f"#node-{name}") == exposition.total(name)
    for name in ("containers", "processes"):
        assert page.value(f"#node-{name}") == exposition.value(f"smaps_exporter_{name}")


def test_rows_equal_the_sums_of_the_exposition(node, page):
    page.open(node)
    exposition = node.exposition()
    for depth in range(4):
        place = largest(exposition, depth)
        below(page, place)
        rows = exposition.children("pss", **place)
        until("the rows", lambda: sorted(page.names()) == sorted(name_of(labels) for labels, _ in rows))
        by_name = {name_of(labels): labels for labels, _ in rows}
        for field in ("pss", "rss", "uss", "swap", "mappings"):
            shown = dict(zip(page.names(), page.column(field)))
            assert shown == {name: exposition.total(field, **labels) for name, labels in by_name.items()}, (
                field
            )
        shown = dict(zip(page.names(), page.column("processes")))
        assert shown == {
            name: None if "path" in labels else exposition.total("processes", **labels)
            for name, labels in by_name.items()
        }


def test_clicks_enter_places_and_escape_and_crumbs_leave_them(node, page):
    page.open(node)
    exposition = node.exposition()
    box = page.tab.locator("#canvas").bounding_box()
    depths = []
    while page.tab.is_visible("#canvas"):
        # The pointer is in the first tile, and the tooltip shows what the tile is.
        page.tab.mouse.move(box["x"] + 40, box["y"] + 60)
        page.tab.locator("#tip dl").wait_for()
        page.tab.mouse.click(box["x"] + 40, box["y"] + 60)
        until("a step in", lambda: len(page.crumbs()) > (depths or [1])[-1])
        depths.append(len(page.crumbs()))
        place = dict(zip(PLACE_BY_PATH, page.crumbs()[1:]))
        assert page.hash() == fragment(place)
        assert page.value("#total") == exposition.total("pss", **place)
        assert page.tab.is_hidden("#tip")
    # There is no level below a path. So instead of a map and a list, the page shows the fields of the path.
    assert (
        "path" in place
        and page.tab.is_visible("#all dl")
        and page.tab.is_hidden("#list")
        and page.tab.is_hidden("#map")
    )
    page.screenshot("path")
    while len(page.crumbs()) > 1:
        before = len(page.crumbs())
        page.tab.keyboard.press("Escape")
        until("a step out", lambda: len(page.crumbs()) < before)
    assert page.value("#total") == exposition.total("pss")
    page.tab.go_back()
    until("a step back", lambda: len(page.crumbs()) == 2)
    page.tab.click("#crumbs a:first-child")
    until("the node", lambda: page.crumbs() == ["Node"])


def test_enter_key_enters_a_place(node, page):
    page.open(node)
    first = page.names()[0]
    page.tab.focus("#rows a")
    page.tab.keyboard.press("Enter")
    until("a step in", lambda: "/".join(page.crumbs()[1:3]) == first)
    # The focus moves to the new rows, and screen readers announce what the page shows now.
    assert page.tab.evaluate("document.activeElement === document.querySelector('#rows a')")
    assert page.text("#said").startswith((page.crumbs()[-1] if len(page.crumbs()) > 3 else first) + ": ")
    page.tab.keyboard.press("/")
    assert page.tab.evaluate("document.activeElement.id") == "q"


def test_table_has_accessible_markup(node, page):
    page.open(node)
    assert page.tab.locator("table caption").text_content().startswith("What is in Node, sorted by share")
    assert page.tab.locator("thead th[scope=col]").count() == 12
    rows = page.tab.locator("tbody tr").count()
    assert rows > 1 and page.tab.locator("tbody th[scope=row] a[href^='#/']").count() == rows
    assert page.tab.locator("#canvas").get_attribute("aria-label").startswith("Treemap of Node by PSS")


@pytest.mark.parametrize("column", ["value", "rss", "uss", "swap", "mappings", "processes"])
def test_columns_sort_in_both_directions(node, page, column):
    page.open(node)
    page.sort(column)
    down = page.column(column)
    assert down == sorted(down, reverse=True)
    assert page.tab.locator(f"th:has(#sort-{column})").get_attribute("aria-sort") == "descending"
    page.sort(column)
    assert page.column(column) == sorted(down)
    assert page.hash() == f"#/?sort={column}"


def test_names_sort_in_both_directions(node, page):
    page.open(node)
    by_share = page.names()
    page.sort("name")
    assert page.names() == sorted(by_share)
    page.sort("name")
    assert page.names() == sorted(by_share, reverse=True)
    page.sort("share")
    assert page.names() == by_share


def test_selected_field_fills_the_value_column(node, page):
    page.open(node)
    exposition = node.exposition()
    assert page.text("#sort-value") == "PSS" and page.tab.is_hidden("#sort-pss")
    page.select("referenced")
    assert page.text("#sort-value") == "Referenced" and page.tab.is_visible("#sort-pss")
    assert page.column("value") == [value for _, value in exposition.children("referenced")]
    assert page.hash() == "#/?field=referenced"


def test_reloads_and_shared_links_keep_the_place(node, page, browse):
    place = largest(node.exposition(), 3)
    page.open(node)
    below(page, place)
    page.select("rss")
    page.sort("name")
    page.tab.fill("#q", "a")
    # The test reads the address from the page itself, because the browser driver reports a new address only
    # some time later.
    address, shown = page.tab.evaluate("location.href"), (page.crumbs(), page.names(), page.text("#total"))
    page.tab.reload()
    page.drawn()
    assert (page.crumbs(), page.names(), page.text("#total")) == shown
    assert page.tab.input_value("#q") == "a" and page.tab.input_value("#field") == "rss"
    other = browse()
    other.open(node, address.removeprefix(node.url))
    assert (other.crumbs(), other.names(), other.text("#total")) == shown


def test_missing_places_show_an_empty_state(node, page):
    page.open(node, "#/no/such-pod/x")
    assert page.state() == "Nothing here now"
    page.tab.click("#empty a")
    until("the node", lambda: page.state() == "")
    page.go("#/default/no-such-pod")
    until("another missing place", lambda: page.state() == "Nothing here now")
    page.tab.keyboard.press("Escape")
    until("the enclosing namespace", lambda: page.crumbs() == ["Node", "default"] and page.state() == "")
    for address in ("#/%", "#", "#/?field=nonsense&sort=-nonsense", "#/?by=nonsense"):
        page.tab.evaluate("hash => { location.hash = hash }", address)
        assert page.crumbs() == ["Node"] and page.state() == "" and page.names()


CONTRAST = """() => {
    const probe = document.createElement('canvas').getContext('2d'), css = getComputedStyle(document.body);
    const luminance = name => {
        probe.fillStyle = css.getPropertyValue('--' + name);
        probe.fillRect(0, 0, 1, 1);
        const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
        const [r, g, b] = [...probe.getImageData(0, 0, 1, 1).data].map(v => linear(v / 255));
        return .2126 * r + .7152 * g + .0722 * b;
    };
    const ratio = pair => {
        const [x, y] = pair.map(luminance).sort();
        return (y + .05) / (x + .05);
    };
    const kinds = [...Object.keys(KINDS), 'bg', 'panel', 'deep', 'warn'];
    const pairs = kinds.map(kind => ['ink', kind]);
    pairs.push(...['muted', 'accent', 'up', 'down'].map(ink => [ink, 'bg']));
    pairs.push(['muted', 'panel'], ['muted', 'deep']);
    return pairs.map(pair => [pair.join(' on '), ratio(pair)]);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_schemes_have_enough_contrast(node, browse, scheme):
    page = browse(scheme=scheme)
    page.open(node)
    page.screenshot(scheme)
    # WCAG 2.2, section 1.4.3, requires a contrast of at least 4.5 for text.
    for pair, ratio in page.tab.evaluate(CONTRAST):
        assert ratio >= 4.5, f"{pair}: {ratio:.2f}"
    dark = page.tab.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g)[0] < 128")
    assert dark == (scheme == "dark")


def test_scheme_follows_the_system_while_open(node, page):
    page.open(node)
    corner = (
        "() => [...document.querySelector('#canvas').getContext('2d').getImageData(60, 60, 1, 1).data].join()"
    )
    light = page.tab.evaluate(corner)
    page.tab.emulate_media(color_scheme="dark")
    until("another colour", lambda: page.tab.evaluate(corner) != light)


@pytest.mark.parametrize("width", [380, 1600])
def test_page_fits_both_widths(node, browse, width):
    page = browse(width=width, height=900)
    page.open(node)
    for place in ({}, largest(node.exposition(), 3), largest(node.exposition(), 4)):
        below(page, place)
        until("the place", lambda: page.hash() == fragment(place))
        assert page.tab.evaluate("document.documentElement.scrollWidth") == width
    below(page, {})
    for selector in ("#canvas", "#field", "#copy", "#q", "#mark", "#rows tr:first-child"):
        box = page.tab.locator(selector).bounding_box()
        assert box["x"] >= 0 and box["width"] > 0, selector
        if selector != "#rows tr:first-child":
            assert box["x"] + box["width"] <= width, selector
    page.screenshot(f"width-{width}")


@pytest.mark.parametrize(
    "arguments, levels",
    [
        (["--group-by", "kind", "--fields", "rss"], ["container", "comm", "path"]),
        (["--group-by", "process"], ["container", "comm", "path"]),
        (["--pid"], ["container", "comm", "pid", "path"]),
        (["--pid", "--group-by", "process", "--omit-zero"], ["container", "comm", "pid", "path"]),
        (["--max-samples", "500"], ["container", "comm", "path"]),
    ],
    ids=" ".join,
)
def test_page_uses_the_available_labels(exporter, node, page, arguments, levels):
    one = exporter(RECORDED_NODE, "--filter", "*/*/*/*", *arguments)
    page.open(one)
    exposition, place = one.exposition(), {}
    for level in levels:
        place = exposition.children("pss", **place)[0][0]
        below(page, place)
        until("the place", lambda: page.value("#total") == exposition.total("pss", **place))
        rows = exposition.children("pss", **place)
        # With --omit-zero, some rows have no value.
        until(
            "the rows",
            lambda: sorted(v for v in page.column("pss") if v is not None) == sorted(v for _, v in rows),
        )
        assert level in rows[0][0]
    assert page.value("#node-pss") == node.exposition().total("pss")


def test_missing_fields_are_dashes(exporter, page):
    def answer(route):
        route.fulfill(
            response=route.fetch(url=route.request.url.replace("fields=all", "fields=rss,private_dirty"))
        )

    one = exporter(RECORDED_NODE, "--filter", "*/*/*/*")
    page.tab.route("**/metrics?*", answer)
    page.open(one)
    offered = page.tab.eval_on_selector_all("#field option", "all => all.map(o => o.value)")
    assert offered == ["rss", "private_dirty", "mappings"]
    assert page.text("#total").endswith("RSS")
    for column in ("pss", "uss", "swap"):
        assert set(page.column(column)) == {None}
    assert page.text("#node-pss") == "–" and page.text("#node-uss") == "–"
    assert page.column("rss") == [value for _, value in one.exposition().children("rss")]
