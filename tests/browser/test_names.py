"""Names that workloads choose are text, wherever they show; and PromQL that says them again."""

import subprocess

import pytest

from conftest import until
from exposition import PLACE, fragment
from recording import Container, Mapping, Process, write

MARKUP = "<img src=x onerror=document.title='injected'>"
COMMANDS = [
    b"<b>bold</b>",
    b"new\nline",
    b'"quoted\\',
    b"a/b {c=\"d\"} 1",
    "‮txt.exe".encode(),
    b"\xff\xfe broken",
    b"</script><script>",
    b"100% & +?#/",
]
PATHS = [
    f"/tmp/{MARKUP}".encode(),
    b"/tmp/\" onmouseover=\"document.title='injected'",
    "/tmp/שלום عالم".encode(),
    b"/tmp/" + b"x" * 4000,
    b"/" + b"d/" * 2000,
    b"/tmp/broken \xff\xfe\x80",
    b"/tmp/new\\012line (deleted)",
    b"/tmp/trailing spaces   ",
    b"/tmp/tab\there",
    b"/tmp/a\"} 5",
    b"[anon:javascript:alert(1)]",
    b"[anon_shmem:</canvas>]",
    b"$.*+(?x)[^|]{2}\\",
]


@pytest.fixture
def hostile(exporter, tmp_path):
    def mappings(offset):
        return [Mapping(path, 1000 + 10 * k + offset) for k, path in enumerate(PATHS)]

    containers = [
        Container(MARKUP, "'\"`;--", "${7*7}", [Process(comm, mappings(k)) for k, comm in enumerate(COMMANDS)]),
        Container("..", "", "%2F", [Process(b"__proto__", mappings(0)), Process(b"constructor", mappings(3))]),
    ]
    return exporter(write(tmp_path / "hostile", containers), "--filter", "*/*/*/*")


def test_hostile_names_are_text(hostile, page):
    page.open(hostile)
    exposition = hostile.exposition()
    places = [{}]
    for depth in range(4):
        places = [child for place in places for child, _ in exposition.children("pss", **place)]
        if depth < 3:
            continue
        assert len(places) == 10 * len(PATHS)
    pods = {labels["pod"]: labels for labels, _ in exposition.children("pss")}
    box = page.tab.locator("#canvas").bounding_box()
    for place in (pods["'\"`;--"], pods[""], *places[:: len(PATHS) // 2]):
        walk = [dict(list(place.items())[:size]) for size in range(2, len(place) + 1)]
        for step in walk:
            page.tab.evaluate("hash => { location.hash = hash }", fragment(step))
            until("the place", lambda: page.value("#total") == exposition.total("pss", **step))
            if "path" not in step:
                rows = exposition.children("pss", **step)
                assert sorted(page.column("pss")) == sorted(value for _, value in rows)
            # The tip shows names too.
            page.tab.mouse.move(box["x"] + 60, box["y"] + 60)
            page.tab.mouse.move(box["x"] + 200, box["y"] + 200)
    page.screenshot("hostile")
    assert "injected" not in page.tab.title()
    assert page.tab.locator("img, b:not(#total):not(#tip b), main script").count() == 0


def test_what_cannot_be_seen_is_shown(hostile, page):
    exposition = hostile.exposition()
    page.open(hostile, fragment(exposition.children("pss", **exposition.children("pss")[0][0])[0][0]))
    names = page.names()
    # A newline has its picture, and every name is there in full.
    assert "new␊line" in names and "\ufffd\ufffd broken" in names
    page.tab.evaluate("hash => { location.hash = hash }", fragment(dict(exposition.families["process_smaps_pss_bytes"][0][0], path="/tmp/" + "x" * 4000)))
    until("the long path", lambda: page.crumbs()[-1] == "/tmp/" + "x" * 4000)
    assert page.tab.evaluate("document.documentElement.scrollWidth") == 1600


def promtool(directory, exposition, questions):
    """Has promtool load the exposition and answer: questions is [(query, [(labels, value)])]."""

    def quoted(text):
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\ufffd", "\\ufffd") + '"'

    def series(name, labels):
        return name + "{" + ",".join(f"{key}={quoted(value)}" for key, value in labels.items() if value) + "}"

    def scalar(text):
        return "'" + text.replace("'", "''") + "'"

    lines = ["tests:", "  - interval: 1m", "    input_series:"]
    for name in exposition.metrics().values():
        for labels, value in exposition.families[name]:
            lines += [f"      - series: {scalar(series(name, labels))}", f"        values: '{value:.0f}'"]
    lines.append("    promql_expr_test:")
    for query, answers in questions:
        lines += [f"      - expr: {scalar(query)}", "        eval_time: 0m", "        exp_samples:"]
        for name, labels, value in answers:
            lines += [f"          - labels: {scalar(series(name, labels))}", f"            value: {value:.0f}"]
    (directory / "queries.yml").write_text("\n".join(lines) + "\n")
    done = subprocess.run(["promtool", "test", "rules", directory / "queries.yml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr


def copied(page):
    page.tab.evaluate("navigator.clipboard.writeText('nothing')")
    page.tab.click("#copy")
    until("a copy", lambda: page.tab.evaluate("navigator.clipboard.readText()") != "nothing")
    return page.tab.evaluate("navigator.clipboard.readText()")


@pytest.mark.parametrize("recorded", ["node", "hostile"])
def test_promql_answers_what_the_page_shows(request, tmp_path, page, recorded):
    one = request.getfixturevalue(recorded)
    page.tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.open(one)
    exposition, questions, place = one.exposition(), [], {}
    for field in ("pss", "mmu_page_size"):
        page.select(field)
        place = {}
        while True:
            page.tab.evaluate("hash => { location.hash = hash }", fragment(place) + f"?field={field}")
            until("the place", lambda: page.value("#total") == exposition.total(field, **place))
            query = copied(page)
            rows = [labels for labels, _ in exposition.children(field, **place)]
            if "path" in place:
                break
            what = [key for key in PLACE if key in rows[0]][2 if place and len(place) > 1 else 0 :][-1 if place else 0 :]
            questions.append((query, [("", {key: labels[key] for key in what}, exposition.total(field, **labels)) for labels in rows]))
            place = rows[-1]
        # A path is one series, told by all its labels.
        metric = exposition.metrics()[field]
        questions.append((query, [(metric, place, exposition.total(field, **place))]))
    # The filter goes into the query, and USS into a sum.
    page.tab.evaluate("hash => { location.hash = hash }", fragment({k: v for k, v in place.items() if k != "path"}) + "?field=uss&q=a")
    until("the rows", lambda: page.hash().endswith("q=a") and page.names() and all("a" in name.lower() for name in page.names()))
    rows = [labels for labels, _ in exposition.children("pss", **{k: v for k, v in place.items() if k != "path"})]
    rows = [labels for labels in rows if "a" in labels["path"].lower()]
    questions.append((copied(page), [("", {"path": labels["path"]}, exposition.total("uss", **labels)) for labels in rows]))
    promtool(tmp_path, exposition, questions)


def test_the_issue_s_example_of_a_query(node, page):
    page.tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    exposition = node.exposition()
    place = exposition.children("pss")[0][0]
    page.open(node, fragment(place))
    assert copied(page) == f'sum by (container) (process_smaps_pss_bytes{{namespace="{place["namespace"]}",pod="{place["pod"]}"}})'


def test_without_a_clipboard_the_query_is_shown(node, page):
    page.tab.add_init_script("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    shown = []
    page.tab.on("dialog", lambda dialog: (shown.append(dialog.default_value), dialog.accept()))
    page.open(node)
    page.tab.click("#copy")
    assert shown == ["sum by (namespace, pod) (process_smaps_pss_bytes)"]
