"""Tests names that workloads choose: the page shows them as text, and quotes them correctly in PromQL."""

import subprocess
from urllib.parse import quote

import pytest

from conftest import RECORDED_NODE, copied, until
from exposition import fragment
from recording import Container, Mapping, Process, write

MARKUP = "<img src=x onerror=document.title='injected'>"
COMMANDS = [
    b"<b>bold</b>",
    b"new\nline",
    b'"quoted\\',
    b'a/b {c="d"} 1',
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
    b'/tmp/a"} 5',
    b"[anon:javascript:alert(1)]",
    b"[anon_shmem:</canvas>]",
    b"$.*+(?x)[^|]{2}\\",
]


@pytest.fixture
def hostile(exporter, tmp_path):
    def mappings(offset):
        return [Mapping(path, 1000 + 10 * k + offset) for k, path in enumerate(PATHS)]

    containers = [
        Container(
            MARKUP, "'\"`;--", "${7*7}", [Process(comm, mappings(k)) for k, comm in enumerate(COMMANDS)]
        ),
        Container(
            "..", "", "%2F", [Process(b"__proto__", mappings(0)), Process(b"constructor", mappings(3))]
        ),
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
            # The tooltip also shows names.
            page.tab.mouse.move(box["x"] + 60, box["y"] + 60)
            page.tab.mouse.move(box["x"] + 200, box["y"] + 200)
    page.screenshot("hostile")
    assert "injected" not in page.tab.title()
    assert page.tab.locator("img, b:not(#total):not(#tip b), main script").count() == 0


BREAKERS = [
    "/memfd:a\u2028b (deleted)".encode(),
    "/memfd:a\u2029b (deleted)".encode(),
    b"/tmp/a,b=",
    b"/tmp/a,b=,c=",
    b"/tmp/a,b=,path=",
    b'/tmp/",path="/x',
    b"/",
    "/tmp/ \u00a0\u200b\u3164 ".encode(),
]


def test_unusual_file_names_do_not_break_the_page(exporter, tmp_path, page):
    """Every file is shown whatever its name is, and no name stops the page from refreshing."""
    home = tmp_path / "node"
    write(
        home,
        [
            Container(
                "n",
                "p",
                "c",
                [
                    Process(b"d", [Mapping(path, 100 + k) for k, path in enumerate(BREAKERS)]),
                    Process(b"e", [Mapping(b"", 1)]),
                ],
            )
        ],
    )
    one = exporter(home, "--filter", "*/*/*/*")
    place = {"namespace": "n", "pod": "p", "container": "c", "comm": "d"}
    page.open(one, fragment(place))
    exposition = one.exposition()
    assert sorted(page.column("pss")) == sorted(value for _, value in exposition.children("pss", **place))
    assert len(page.names()) == len(BREAKERS)
    assert (
        any("a⟨U+2028⟩b" in name for name in page.names())
        and "/tmp/ ⟨U+00A0⟩⟨U+200B⟩⟨U+3164⟩␠" in page.names()
    )
    for labels, value in exposition.children("pss", **place):
        page.go(fragment(labels))
        until("the place", lambda: page.value("#total") == value and page.hash() == fragment(labels))
    shown = page.tab.evaluate("latest.t")
    until("two more scrapes", lambda: page.tab.evaluate("latest.t") > shown + 2)
    assert page.text("#state") == "Live" and page.tab.is_hidden("#note")


def test_polling_continues_after_an_exception(node, page):
    page.open(node)
    page.tab.evaluate("() => { rank = () => { throw new Error('made up'); }; }")
    until("the note", lambda: "made up" in page.text("#note") and page.text("#state").startswith("Old: "))
    page.tab.evaluate("() => { rank = list => { order = list; list.forEach((n, k) => { n.rank = k; }); }; }")
    until("recovery", lambda: page.text("#state") == "Live" and page.tab.is_hidden("#note"))


def test_hostile_links_are_parsed_fast(node, page):
    page.open(node)
    for hash in (
        "#" + "/" * 20_000,
        "#" + "/x" * 10_000,
        "#/" + "x" * 20_000,
        "#/?q=" + "x" * 20_000,
        "#/" + "%41" * 7_000,
    ):
        took = page.tab.evaluate(
            """hash => {
                const start = performance.now();
                location.hash = hash;
                fromHash();
                draw();
                return performance.now() - start;
            }""",
            hash,
        )
        assert took < 1000, hash[:10]
        assert page.tab.locator("#crumbs a").count() < 12
    page.go("#/")
    until("the node", lambda: page.state() == "" and page.names())


def test_invalid_lines_are_counted(node, page):
    page.tab.route(
        "**/metrics?*",
        lambda route: route.fulfill(
            response=(answer := route.fetch()),
            body=answer.text()
            + 'process_smaps_pss_bytes{path="x} 1\nprocess_smaps_new_thing{a=1} 1\nunknown{x="\n',
        ),
    )
    page.open(node)
    assert "2 lines of the answer are invalid" in page.text("#note")
    assert page.value("#total") == node.exposition().total("pss")


def test_invisible_characters_are_shown(hostile, page):
    exposition = hostile.exposition()
    page.open(hostile, fragment(exposition.children("pss", **exposition.children("pss")[0][0])[0][0]))
    names = page.names()
    # The page shows a newline as a symbol, and no name is cut.
    assert "new␊line" in names and "\ufffd\ufffd broken" in names
    page.tab.evaluate(
        "hash => { location.hash = hash }",
        fragment(dict(exposition.families["process_smaps_pss_bytes"][0][0], path="/tmp/" + "x" * 4000)),
    )
    until("the long path", lambda: page.crumbs()[-1] == "/tmp/" + "x" * 4000)
    assert page.tab.evaluate("document.documentElement.scrollWidth") == 1600


def promtool(directory, exposition, questions):
    """Checks with promtool that queries on an exposition return the expected samples.

    `questions` is [(query, [(name, labels, value)])]. The second item of each pair is the list of expected
    samples.
    """

    def quoted(text):
        return (
            '"'
            + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\ufffd", "\\ufffd")
            + '"'
        )

    def series(name, labels):
        return name + "{" + ",".join(f"{key}={quoted(value)}" for key, value in labels.items() if value) + "}"

    def scalar(text):
        return "'" + text.replace("'", "''") + "'"

    queried = {
        name
        for name in exposition.metrics().values()
        if name.startswith("process_smaps_private_") or any(name in query for query, _ in questions)
    }
    lines = ["tests:", "  - interval: 1m", "    input_series:"]
    for name in exposition.metrics().values():
        if name not in queried:
            continue
        for labels, value in exposition.families[name]:
            lines += [f"      - series: {scalar(series(name, labels))}", f"        values: '{value:.0f}'"]
    lines.append("    promql_expr_test:")
    for query, answers in questions:
        lines += [f"      - expr: {scalar(query)}", "        eval_time: 0m", "        exp_samples:"]
        for name, labels, value in answers:
            lines += [
                f"          - labels: {scalar(series(name, labels))}",
                f"            value: {value:.0f}",
            ]
    (directory / "queries.yml").write_text("\n".join(lines) + "\n")
    done = subprocess.run(
        ["promtool", "test", "rules", directory / "queries.yml"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr


@pytest.fixture
def without_zeros(exporter):
    return exporter(RECORDED_NODE, "--filter", "*/*/*/*", "--omit-zero")


@pytest.mark.parametrize("recorded", ["node", "hostile", "without_zeros"])
def test_copied_queries_give_the_displayed_values(request, tmp_path, page, recorded):
    one = request.getfixturevalue(recorded)
    page.tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.open(one)
    exposition, questions = one.exposition(), []
    for field in ("pss", "uss"):
        place = {}
        while True:
            page.go(fragment(place) + f"?field={field}")
            until(
                "the place",
                lambda: (
                    (page.value("#total") or 0) == exposition.total(field, **place)
                    and page.hash() == fragment(place) + f"?field={field}"
                ),
            )
            query = copied(page)
            if "path" in place:
                break
            rows = [labels for labels, _ in exposition.children("mappings", **place)]
            what = ("namespace", "pod") if not place else (list(rows[0])[-1],)
            # With --omit-zero, samples with the value 0 are not exported. A row without samples is not in the
            # result of the query, so it is left out here too.
            answers = [
                ({key: labels[key] for key in what}, labels)
                for labels in rows
                if exposition.has(field, **labels)
            ]
            questions.append(
                (query, [("", shown, exposition.total(field, **labels)) for shown, labels in answers])
            )
            place = exposition.children(field if field in exposition.metrics() else "private_dirty", **place)[
                -1
            ][0]
        # The query for one path returns one series with all its labels. For USS, the series has no metric
        # name, because PromQL drops the names when a query adds two metrics.
        metric = "" if field == "uss" else exposition.metrics()[field]
        questions.append((query, [(metric, place, exposition.total(field, **place))]))
    # The page now shows the paths of the processes with one name (`comm`), filtered by a search text. The
    # PromQL query that the page copies must return only the paths that contain the search text.
    command = {k: v for k, v in place.items() if k != "path"}
    word = "TMP" if recorded == "hostile" else "LIB"
    page.go(fragment(command) + f"?field=uss&q={word}")
    until(
        "the rows",
        lambda: (
            page.tab.input_value("#q") == word
            and page.names()
            and all(word.lower() in name.lower() for name in page.names())
        ),
    )
    rows = [
        labels
        for labels, _ in exposition.children("mappings", **command)
        if word.lower() in labels["path"].lower() and exposition.has("uss", **labels)
    ]
    questions.append(
        (copied(page), [("", {"path": labels["path"]}, exposition.total("uss", **labels)) for labels in rows])
    )
    # The page can also show the pods that map a path. Then the copied query returns these pods. This is not
    # tested with hostile names.
    if recorded != "hostile":
        page.go("#/" + quote(place["path"], safe="") + "?by=path")
        sharers = exposition.by_pod("pss", place["path"])
        until("the sharers", lambda: sorted(page.column("pss")) == sorted(sharers.values()))
        questions.append(
            (
                copied(page),
                [
                    ("", {"namespace": namespace, "pod": pod}, value)
                    for (namespace, pod), value in sharers.items()
                ],
            )
        )
    promtool(tmp_path, exposition, questions)


def test_query_of_a_pod_sums_by_container(node, page):
    page.tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    exposition = node.exposition()
    place = exposition.children("pss")[0][0]
    page.open(node, fragment(place))
    assert (
        copied(page) == f'sum by (container) (process_smaps_pss_bytes{{namespace="{place["namespace"]}",'
        f'pod="{place["pod"]}"}})'
    )


def test_query_is_displayed_if_there_is_no_clipboard(node, page):
    page.tab.add_init_script("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    shown = []
    page.tab.on("dialog", lambda dialog: (shown.append(dialog.default_value), dialog.accept()))
    page.open(node)
    page.tab.click("#copy")
    assert shown == ["sum by (namespace, pod) (process_smaps_pss_bytes)"]
