"""Tests the search and the view by path on a busy node, with the pointer and with the keyboard.

Also tests that the page is accessible, and that it fits into windows of each width.
"""

from urllib.parse import quote

import pytest

from conftest import AXE, until
from exposition import fragment
from recording import LIBRARIES, busy_node, write

CRYPTO = LIBRARIES[1].decode()


@pytest.fixture(scope="module")
def busy(tmp_path_factory, serve):
    return serve(write(tmp_path_factory.mktemp("busy"), busy_node()), "--filter", "*/*/*/*")


def test_search_finds_all_places_below(busy, page):
    page.open(busy)
    exposition = busy.exposition()
    everything, shared = page.names(), exposition.by_pod("pss", CRYPTO)
    corner = "() => [...canvas.getContext('2d').getImageData(60, 80, 1, 1).data].join()"
    before = page.tab.evaluate(corner)
    page.tab.keyboard.press("/")
    page.tab.keyboard.type("LibCrypto")
    # The table has one row for the path, with the sum over all processes that map it. In the map, the other
    # tiles are dimmed.
    assert page.names() == [CRYPTO] and page.column("pss") == [sum(shared.values())]
    assert f"in {len(shared)} pods" in page.text("#rows th")
    assert page.tab.evaluate(corner) != before
    page.tab.keyboard.press("Escape")
    assert (
        page.names() == everything
        and page.tab.input_value("#q") == ""
        and page.tab.evaluate(corner) == before
    )
    page.tab.fill("#q", "libcrypto")
    page.tab.keyboard.press("Enter")
    until("the path's place", lambda: page.hash() == "#/" + quote(CRYPTO, safe="") + "?by=path")
    assert dict(zip(page.names(), page.column("pss"))) == {
        f"{namespace}/{pod}": value for (namespace, pod), value in shared.items()
    }
    page.go("#/")
    page.tab.fill("#q", "orders-db-1")
    assert "data/orders-db-1" in page.names() and page.tab.locator("#rows a").first.get_attribute(
        "href"
    ).startswith("#/data/orders-db-1")
    page.tab.fill("#q", "no such name")
    assert page.names() == [] and "no such name" in page.text("#none")


def test_search_keeps_leading_and_trailing_blanks(busy, page):
    page.open(busy)
    page.tab.fill("#q", "zero ")
    assert page.names() == ["/dev/zero (deleted)"]
    page.tab.fill("#q", " (deleted")
    assert sorted(page.names()) == ["/dev/shm/ngx_cache (deleted)", "/dev/zero (deleted)"]
    page.tab.reload()
    page.drawn()
    assert page.tab.input_value("#q") == " (deleted" and len(page.names()) == 2


def test_keys_of_input_methods_and_of_the_browser_are_ignored(busy, page):
    page.open(busy, "#/data?q=redis")
    rows, address = page.names(), page.hash()

    def press(selector, key, **more):
        """Presses a key. Returns whether the page prevents the browser's default action for the key."""
        event = {"key": key, "bubbles": True, "cancelable": True, **more}
        return page.tab.eval_on_selector(
            selector, "(element, event) => !element.dispatchEvent(new KeyboardEvent('keydown', event))", event
        )

    for key in ("Enter", "Escape"):
        press("#q", key, isComposing=True)
        assert page.hash() == address and page.names() == rows and page.tab.input_value("#q") == "redis", key
    assert not press("#map", "/", ctrlKey=True) and page.tab.evaluate("document.activeElement.id") != "q"
    assert press("#map", "/") and page.tab.evaluate("document.activeElement.id") == "q"
    press("#q", "Enter")
    until("a step in", lambda: page.hash() != address)


def test_bars_and_swatches_are_visible_with_forced_colours(busy, page):
    page.tab.emulate_media(forced_colors="active")
    page.open(busy)
    assert page.tab.evaluate("matchMedia('(forced-colors: active)').matches")
    colours = "all => [...new Set(all.map(e => getComputedStyle(e).backgroundColor))]"
    (ground,) = page.tab.eval_on_selector_all("body", colours)
    kinds = page.tab.locator("#legend li").count()
    swatches, (bar,) = (
        page.tab.eval_on_selector_all("#legend i", colours),
        page.tab.eval_on_selector_all("#rows .bar", colours),
    )
    assert kinds > 3 and len(swatches) == kinds and ground not in (*swatches, bar)
    # The selected button of a pair is also underlined, because colours alone may not be visible.
    assert "underline" in page.tab.eval_on_selector("#by-pod", "e => getComputedStyle(e).textDecorationLine")


def test_search_is_limited_to_the_place(busy, page):
    exposition = busy.exposition()
    place = {"namespace": "data", "pod": "kafka-1", "container": "kafka", "comm": "java"}
    page.open(busy, fragment(place) + "?q=.index")
    rows = [
        (labels["path"], value)
        for labels, value in exposition.children("pss", **place)
        if ".index" in labels["path"]
    ]
    assert sorted(zip(page.names(), page.column("pss"))) == sorted(rows) and len(rows) == 6
    page.tab.focus("#q")
    page.tab.keyboard.press("Enter")
    until("a step in", lambda: page.hash() == fragment({**place, "path": page.crumbs()[-1]}))


def test_by_path_shows_the_sharers_of_each_path(busy, page):
    page.open(busy)
    exposition = busy.exposition()
    paths = {labels["path"] for labels, _ in exposition.families["process_smaps_pss_bytes"]}
    page.tab.click("#by-path")
    until("the pivot", lambda: page.hash() == "#/?by=path")
    assert dict(zip(page.names(), page.column("pss"))) == {
        path: exposition.total("pss", path=path) for path in paths
    }
    assert page.tab.get_attribute("#by-path", "aria-pressed") == "true"
    page.screenshot("by-path")
    page.tab.click("#rows tr:has-text('/dev/zero (deleted)')")
    until("the sharers", lambda: sorted(page.names()) == [f"data/orders-db-{k}" for k in range(3)])
    assert page.value("#total") == exposition.total("pss", path="/dev/zero (deleted)")
    page.tab.click("#rows tr")
    until(
        "the commands",
        lambda: (
            sorted(page.names()) == ["background writ", "checkpointer", "postgres", "postmaster", "walwriter"]
        ),
    )
    page.select("shared_clean")
    assert "only PSS adds up" in page.text("#help")
    # While the page shows one path of one command, a click on "by path" leads to all pods that map the path.
    page.go(
        fragment(
            {
                "namespace": "data",
                "pod": "orders-db-0",
                "container": "postgres",
                "comm": "postgres",
                "path": CRYPTO,
            }
        )
    )
    until("the path", lambda: page.crumbs()[-1] == CRYPTO)
    page.tab.click("#by-path")
    until("its sharers", lambda: page.hash().startswith("#/" + quote(CRYPTO, safe="") + "?by=path"))


def test_click_enters_a_namespace_or_a_pod(busy, page):
    page.open(busy)
    boxes = page.tab.evaluate("groups.map(g => [g.n.level, g.n.name, g.n.x, g.n.y, g.n.w, g.n.h])")
    outer = [box for box in boxes if box[0] == "namespace"]
    assert {name for _, name, *_ in outer} >= {"shop", "data", "monitoring", "kube-system"}
    box = page.tab.locator("#canvas").bounding_box()
    _, name, x, y, *_ = next(box for box in outer if box[1] == "shop")
    page.tab.mouse.click(box["x"] + x + 20, box["y"] + y + 6)
    until("the namespace", lambda: page.crumbs() == ["Node", "shop"])
    assert all(row.startswith("shop/") for row in page.names())
    page.go("#/")
    until("the node", lambda: page.crumbs() == ["Node"])
    _, name, x, y, w, h = next(box for box in boxes if box[0] == "pod" and box[1] == "kafka-0")
    page.tab.mouse.click(box["x"] + x + w / 2, box["y"] + y + h / 2)
    # Entering a pod that has only one container leads to the container. Leaving the container leads to the
    # namespace.
    until("the pod", lambda: page.crumbs() == ["Node", "data", "kafka-0", "kafka"])
    page.tab.keyboard.press("Escape")
    until("the namespace", lambda: page.crumbs() == ["Node", "data"])


@pytest.mark.parametrize("width", [1600, 1100, 380])
def test_cut_names_of_replicas_stay_distinct(busy, browse, width):
    page = browse(width=width, height=900)
    page.open(busy)
    # If the table shortens a name, the end of the name stays visible.
    ends = page.tab.eval_on_selector_all(
        "#rows .tail",
        """all => all.map(e => [
            e.closest('tr').textContent,
            e.textContent,
            e.getBoundingClientRect().width >= e.scrollWidth - 1,
            e.parentNode.getBoundingClientRect().right >= e.getBoundingClientRect().right - 1,
        ])""",
    )
    cut = [(end, is_whole and is_inside) for _, end, is_whole, is_inside in ends if end]
    assert len(cut) > 30 and all(is_seen for _, is_seen in cut)
    names = [name for name in page.names() if "/checkout-" in name]
    assert len(names) == 8 and len({name[-9:] for name in names}) == 8
    # A row shows the namespace and the rest of the name as two texts. On the screen, neither text covers the
    # other.
    overlaps = page.tab.eval_on_selector_all(
        "#rows tr",
        """all => all.filter(tr => {
        const [dir, cut] = ['.dir', '.cut'].map(name => tr.querySelector(name).getBoundingClientRect());
        return dir.width && dir.right > cut.left + 1 && dir.bottom > cut.top + 1 && cut.width;
    }).length""",
    )
    assert overlaps == 0
    # Collects the labels that the page draws on the map.
    labels = page.tab.evaluate("""() => {
        const drawn = [], fillText = ctx.fillText;
        ctx.fillText = (text, ...rest) => { drawn.push(text); fillText.call(ctx, text, ...rest); };
        drawMap();
        delete ctx.fillText;
        return drawn;
    }""")
    pods = [label for label in labels if label.startswith(("checkout", "check")) and "…" in label]
    assert len(pods) == len(set(pods))


def test_files_with_equal_names_have_distinct_labels(busy, page):
    page.open(busy, "#/monitoring/prometheus-main-0/prometheus/prometheus")
    labels = page.tab.evaluate("tiles.filter(n => n.text === '000001').map(labelOf)")
    assert sorted(labels) == [
        "01JCX3M8Q0/chunks/000001",
        "01JCXATZY4/chunks/000001",
        "01JCXHPQ68/chunks/000001",
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1600, 1100, 380])
def test_page_fits_and_is_accessible(busy, browse, width, scheme):
    page = browse(width=width, height=900, scheme=scheme)
    page.open(busy)
    page.screenshot(f"busy-{width}-{scheme}")
    if width == 380:
        assert page.tab.locator("#map").bounding_box()["y"] <= 200
    change = page.tab.locator("#sort-change").bounding_box()
    assert change["x"] >= 0 and change["x"] + change["width"] <= width
    # The page's security policy does not apply to a script that the devtools protocol runs.
    page.tab.evaluate(AXE.read_text() + "; 0")
    # The page must fit the window at each of these addresses. At the width 1600, axe also checks each
    # address. At the other widths, axe only checks the first two, because the others look the same at each
    # width.
    addresses = (
        "#/",
        "#/?q=libcrypto",
        "#/?by=path",
        "#/data/kafka-0/kafka/java",
        "#/data/kafka-0/kafka/java/%5Banon%5D",
        "#/not/there",
    )
    for address in addresses:
        page.go(address)
        until("the place", lambda: page.hash() == address and page.tab.evaluate("$.crumbs.key") is not None)
        assert page.tab.evaluate("document.documentElement.scrollWidth") == width, address
        if width != 1600 and address not in addresses[:2]:
            continue
        found = page.tab.evaluate(
            "axe.run().then(r => "
            "r.violations.map(v => [v.id, v.nodes.slice(0, 3).map(n => n.html.slice(0, 150))]))"
        )
        assert found == [], address


def test_tip_describes_the_tile_without_covering_it(busy, page):
    page.open(busy)
    exposition = busy.exposition()
    canvas = page.tab.locator("#canvas").bounding_box()
    for name in ("kafka-0", "redis-node-0", "alertmanager-main-0", "fluent-bit-zz6tp", "orders-db-1"):
        x, y, w, h = page.tab.evaluate(
            """name => {
                const isIn = n => n && (n.name === name || isIn(n.up));
                const n = tiles.filter(isIn).sort((a, b) => b.v - a.v)[0];
                return [n.x, n.y, n.w, n.h];
            }""",
            name,
        )
        page.tab.mouse.move(canvas["x"] + x + w / 2, canvas["y"] + y + h / 2)
        tip = page.tab.locator("#tip").bounding_box()
        left, top = canvas["x"] + x, canvas["y"] + y
        assert (
            tip["x"] >= left + w
            or tip["x"] + tip["width"] <= left
            or tip["y"] >= top + h
            or tip["y"] + tip["height"] <= top
        ), name
        assert tip["x"] >= 0 and tip["x"] + tip["width"] <= 1600
        values = page.tab.eval_on_selector_all("#tip dd", "all => all.map(e => e.textContent)")
        assert values and "0" not in values and "–" not in values and len(values) < len(exposition.metrics())
    sizes = page.tab.evaluate(
        """(() => {
            const n = hitIn(place, pointer.x, pointer.y, drawing).n;
            const fieldOf = e => [...fields.values()].find(f => title(f.name) === e.textContent);
            const shown = [...document.querySelectorAll('#tip dt')].map(fieldOf);
            return shown.filter(f => f.bytes).map(f => at(f, n));
        })()"""
    )
    assert sizes == sorted(sizes, reverse=True) and len(sizes) > 3


def test_legend_explains_each_kind(busy, page):
    page.open(busy)
    page.tab.hover("#legend li:has-text('Shared memory') button")
    assert "/dev/zero (deleted)" in page.text("#tip") and "PostgreSQL" in page.text("#tip")
    page.tab.mouse.move(5, 5)
    assert page.tab.is_hidden("#tip")
    page.tab.focus("#legend button")
    assert page.text("#tip").startswith("Anonymous")


def test_click_anywhere_in_a_row_enters_it(busy, page):
    page.open(busy)
    first = page.names()[0]
    page.tab.click("#rows tr:first-child td[data-key=mappings]")
    until("a step in", lambda: "/".join(page.crumbs()[1:3]) == first)


def test_all_controls_work_by_keyboard(busy, page):
    page.open(busy)
    reached = []
    for _ in range(40):
        page.tab.keyboard.press("Tab")
        reached.append(
            page.tab.evaluate(
                "document.activeElement.id || document.activeElement.className || "
                "document.activeElement.closest('[id]')?.id"
            )
        )
    wanted = [
        "pause",
        "q",
        "by-pod",
        "by-path",
        "field",
        "copy",
        "kind",
        "mark",
        "scroll",
        "sort-name",
        "sort-change",
        "rows",
    ]
    assert [name for name in wanted if name not in reached] == []
    page.tab.focus("#by-path")
    page.tab.keyboard.press("Enter")
    until("by path", lambda: page.hash() == "#/?by=path")
    page.tab.focus("#mark")
    page.tab.keyboard.press("Space")
    assert page.tab.is_visible("#unmark")
