#!/usr/bin/env python3
"""seeds.py FIXTURES CORPUS: makes the seeds of each fuzz target from the fixtures."""

import sys
from pathlib import Path

ARGUMENTS = [
    "--addr=127.0.0.1:0 --once --fixture fixtures/node --filter */*/*/*",
    "-addr :8080 -filter=a/b/c/d -scrape-interval 1m30.5s -log-level WARNING",
    "--containerd-sock /s --containerd-namespace k8s.io --containerd-namespace moby --record out",
    "--fields rss,pss,swap --group-by kind --pid --omit-zero --max-samples 0 --cpu-budget 0.5",
    "--addr [::1]:9 -h",
    "-V",
]
FILTERS = [
    ("*/*/*/*", "default", "web-0", "app", "nginx"),
    ("default/web-*/a*p/*b*b", "default", "web-0", "aap", "abab"),
    ("moby//db/kworker/0:1", "moby", "", "db", "kworker/0:1"),
    ("é*/**/*é/\ufffd", "éa", "x", "é", "\ufffd"),
]
HEADS = [
    "GET /metrics HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip;q=0.5, identity, *;q=0\r\n"
    "Connection: keep-alive\r\n\r\n",
    "HEAD http://a/?x HTTP/1.0\nAccept: text/html,*/*;q=0.8\n\n",
    "\r\nPOST / HTTP/1.1\r\nContent-Length: 99999999999999\r\nTransfer-Encoding: chunked\r\n\r\nbody",
]
CGROUPS = [
    "0::/kubepods/pod1/c1\n",
    "4:memory:/kubepods/c1\n1:name=systemd:/other\n0::/\n",
    "5:cpu,cpuacct:/cpu\n4:hugetlb,memory:/mem\n0::/../pod2/c2\n",
]


def main(fixtures: Path, corpus: Path):
    smaps = [*fixtures.glob("smaps/*.smaps"), *fixtures.glob("node/proc/*/smaps")]
    cgroups = [path.read_text() for path in fixtures.glob("node/proc/*/cgroup")] + CGROUPS
    paths = [line.split(":", 2)[2] for text in cgroups for line in text.splitlines()]
    claims = "\n".join(sorted({path for path in paths} | {"/", "/..", "/kubepods"}))
    seeds = {
        # The first byte says where the text is split. The text is the first 4 KiB of a file, with only a few
        # mappings.
        "scanner": [bytes([i * 37 % 256]) + path.read_bytes()[:4096] for i, path in enumerate(smaps)],
        "cgroup": [f"{text}\0{claims}".encode() for text in cgroups],
        "cgroup_fields": [
            path.read_bytes() for path in fixtures.glob("cgroups/*/cgroup/**/*.*") if path.is_file()
        ],
        "containers_tsv": [path.read_bytes() for path in fixtures.glob("*/containers.tsv")],
        "arguments": [line.replace(" ", "\0").encode() for line in ARGUMENTS],
        "filter": ["\0".join(case).encode() for case in FILTERS],
        "http_head": [head.encode() for head in HEADS],
    }
    for target, inputs in seeds.items():
        assert inputs, f"no seeds for {target}"
        directory = corpus / target
        directory.mkdir(parents=True, exist_ok=True)
        for i, content in enumerate(inputs):
            (directory / f"seed-{i}").write_bytes(content)


main(*map(Path, sys.argv[1:]))
