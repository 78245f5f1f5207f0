"""Tests that each part of anonymous memory has its own shade, and that the legend says how to reduce it."""

import colorsys

import pytest

from recording import Container, Mapping, Process, write

# For each kind: its name and its advice in the legend, and mappings that the exporter recognizes as this
# kind.
PARTS = {
    "anon_java_heap": ("Java heap", "-Xmx", ["c0000000-fed00000 rw-p ac"]),
    "anon_go_heap": (
        "Go heap",
        "GOMEMLIMIT",
        ["c000000000-c000400000 rw-p ac", "c000400000-c004000000 ---p"],
    ),
    "anon_v8_heap": ("V8 heap", "--max-old-space-size", ["122001c0000-12200200000 rw-p dc nr"]),
    "anon_allocator": ("jemalloc and mimalloc", "dirty_decay_ms", ["445f4000000-445f6100000 rw-p nr"]),
    "anon_java_classes": (
        "Java classes",
        "MaxMetaspaceSize",
        [
            "7f0000000000-7f0000010000 rw-p ac",
            "7f0000010000-7f0000400000 ---p nr",
            "7f0000400000-7f0000410000 rw-p ac",
            "7f0000410000-7f0004000000 ---p nr",
        ],
    ),
    "anon_jit_code": ("JIT code", "ReservedCodeCacheSize", ["7f0100100000-7f0100121000 rwxp"]),
    "anon_thread_stack": (
        "Thread stacks",
        "-Xss",
        ["7f1000000000-7f1000001000 ---p nh", "7f1000001000-7f1000801000 rw-p nh"],
    ),
    "anon_malloc_arena": (
        "Malloc arenas",
        "MALLOC_ARENA_MAX",
        ["7f2000000000-7f2000021000 rw-p nr", "7f2000021000-7f2004000000 ---p nr"],
    ),
    "anon": ("Anonymous", "direct buffers", ["7f5000000000-7f5000100000 rw-p ac"]),
}
LIBJVM = b"/usr/lib/jvm/lib/server/libjvm.so"
# For each tile, returns the colour of its lower left corner, where no text is drawn, and the colour that it
# should have.
COLOURS = """() => {
    const css = getComputedStyle(document.body), probe = new OffscreenCanvas(1, 1).getContext('2d');
    const expected = kind => {
        probe.fillStyle = css.getPropertyValue('--' + kind);
        probe.fillRect(0, 0, 1, 1);
        return [...probe.getImageData(0, 0, 1, 1).data];
    };
    const colour = n => [...ctx.getImageData(n.x + 4, n.y + n.h - 4, 1, 1).data];
    return tiles.map(n => [n.kind, colour(n), expected(n.kind)]);
}"""


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """A recording of a process that has all parts of anonymous memory."""

    def mapping(text: str) -> Mapping:
        addresses, permissions, *flags = text.encode().split()
        return Mapping(
            b"",
            0 if permissions == b"---p" else 4000,
            place=addresses + b" " + permissions,
            flags=b" ".join(flags),
        )

    mappings = [mapping(text) for _, _, places in PARTS.values() for text in places]
    mappings.append(Mapping(LIBJVM, 4000, place=b"7f6000000000-7f6000800000 r-xp"))
    return write(
        tmp_path_factory.mktemp("parts"),
        [Container("shop", "checkout-0", "app", [Process(b"java", mappings)])],
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("group_by", ["path", "kind"])
def test_each_part_has_its_own_shade_and_advice(recording, exporter, browse, group_by, scheme):
    page = browse(scheme=scheme)
    page.open(exporter(recording, "--filter", "*/*/*/*", "--group-by", group_by))
    found = {
        kind: (tuple(seen[:3]), tuple(expected[:3]))
        for kind, seen, expected in page.tab.evaluate(COLOURS)
        if kind != "file"
    }
    assert found.keys() == PARTS.keys()
    assert all(seen == expected for seen, expected in found.values()), found
    assert len({seen for seen, _ in found.values()}) == len(PARTS), "two parts have the same shade"

    def hue(kind: str) -> float:
        red, green, blue = found[kind][0]
        return 360 * colorsys.rgb_to_hsv(red, green, blue)[0]

    assert all(abs(hue(kind) - hue("anon")) <= 15 for kind in PARTS), (
        "a part is not a shade of the same colour"
    )
    for name, advice, _ in PARTS.values():
        page.tab.hover(f"#legend li:has-text('{name}') button")
        assert page.text("#tip").startswith(name) and advice in page.text("#tip")
    page.screenshot(f"parts-{group_by}-{scheme}")
