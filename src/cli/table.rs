//! The table of options. It is used by the parser, for the defaults, and for `--help`.

use super::build_info;
use super::print;
use super::spec::{Spec, UNSET, add_once, put};
use super::values;
use crate::node::containers::filter::{self, Filter};

pub(super) const OPTIONS: &[Spec] = &[
    Spec {
        name: "addr",
        value: "ADDR",
        default: ":8080",
        help: "listen on :PORT (every interface), HOST:PORT or [IPv6]:PORT",
        expected: "\":PORT\", \"HOST:PORT\" or \"[IPv6]:PORT\"",
        set: |options, value| put(values::addr(value), &mut options.addr),
        ..UNSET
    },
    Spec {
        name: "proc-path",
        value: "DIR",
        default: "/proc",
        help: "where the node's proc is mounted",
        expected: "a directory",
        set: |options, value| put(values::path(value), &mut options.proc_path),
        ..UNSET
    },
    Spec {
        name: "cgroup-path",
        value: "DIR",
        help: "where the node's cgroup file system is mounted [/sys/fs/cgroup]",
        expected: "a directory",
        set: |options, value| put(values::path(value).map(Some), &mut options.cgroup_path),
        ..UNSET
    },
    Spec {
        name: "cgroup-metrics",
        value: "LIST",
        default: "memory,pod,node",
        help: "export cgroup metrics: memory,pod,node,cpu,pids; or none",
        // `Spec::expected` appends the list of the groups of metrics, such as `memory`, to this text.
        expected: "\"none\" or a comma-separated list, each name once, of ",
        set: |options, value| put(values::cgroup_metrics(value), &mut options.cgroup_metrics),
        ..UNSET
    },
    Spec {
        name: "scrape-interval",
        value: "TIME",
        default: "1s",
        help: "reuse a scrape for this long; also the shortest time between scrapes",
        expected: "a duration from \"10ms\" to \"24h\", such as \"500ms\", \"1s\" or \"1m30s\"",
        is_too_large: |value| {
            values::duration(value).is_some_and(|duration| duration > values::LONGEST_INTERVAL)
        },
        set: |options, value| put(values::scrape_interval(value), &mut options.scrape_interval),
        ..UNSET
    },
    Spec {
        name: "log-level",
        value: "LEVEL",
        default: "info",
        help: "debug, info, warn, error or none",
        expected: "\"debug\", \"info\", \"warn\", \"error\" or \"none\"",
        set: |options, value| put(values::log_level(value), &mut options.log_level),
        ..UNSET
    },
    Spec {
        name: "node",
        value: "NAME",
        help: "the node's name, for the log, the page and smaps_exporter_node_info",
        expected: "a name of at most 253 bytes, without control characters",
        set: |options, value| put(values::node(value).map(Some), &mut options.node),
        ..UNSET
    },
    Spec {
        name: "containerd-sock",
        value: "PATH",
        help: "list containers by containerd's API",
        expected: "the path of a socket",
        set: |options, value| put(values::socket(value).map(Some), &mut options.containerd_sock),
        ..UNSET
    },
    Spec {
        name: "containerd-namespace",
        value: "NAME",
        default: "k8s.io",
        help: "containerd namespace to list: moby, default, ...; repeatable",
        expected: "a containerd namespace such as \"k8s.io\", \"moby\" or \"default\"",
        is_repeatable: true,
        set: |options, value| {
            add_once(values::containerd_namespace(value)?, &mut options.containerd_namespaces)
        },
        ..UNSET
    },
    Spec {
        name: "cri-sock",
        value: "PATH",
        help: "list containers by CRI: CRI-O, cri-dockerd or containerd",
        expected: "the path of a socket",
        set: |options, value| put(values::socket(value).map(Some), &mut options.cri_sock),
        ..UNSET
    },
    Spec {
        name: "container-logs",
        value: "DIR",
        help: "list containers by the kubelet's links in DIR: /var/log/containers",
        expected: "a directory",
        set: |options, value| put(values::path(value).map(Some), &mut options.container_logs),
        ..UNSET
    },
    Spec {
        name: "filter",
        value: "PATTERN",
        default: "default/*/*/*",
        help: "NAMESPACE/POD/CONTAINER/COMMAND, * matches anything; repeatable",
        expected: filter::EXPECTED,
        is_repeatable: true,
        set: |options, value| add_once(Filter::parse(value.to_str()?).ok()?, &mut options.filters),
        ..UNSET
    },
    Spec {
        name: "fixture",
        value: "DIR",
        help: "read a recorded node instead of a runtime and the live proc",
        expected: "a directory",
        set: |options, value| put(values::path(value).map(Some), &mut options.fixture),
        ..UNSET
    },
    Spec {
        name: "record",
        value: "DIR",
        help: "record the selected processes into the new directory DIR and exit",
        expected: "a directory that does not exist",
        set: |options, value| put(values::path(value).map(Some), &mut options.record),
        ..UNSET
    },
    Spec {
        name: "once",
        help: "scrape once, print the exposition and exit",
        set: |options, _| put(Some(true), &mut options.once),
        ..UNSET
    },
    Spec {
        name: "fields",
        value: "LIST",
        default: "all",
        help: "the fields to export: rss,pss,private_dirty,...",
        // `Spec::expected` appends the names of the fields.
        expected: "\"all\" or a comma-separated list, each name once, of ",
        set: |options, value| put(values::field_mask(value), &mut options.fields),
        ..UNSET
    },
    Spec {
        name: "group-by",
        value: "WHAT",
        default: "path",
        help: "path, kind or process: what one series of a command stands for",
        expected: "\"path\", \"kind\" or \"process\"",
        set: |options, value| put(values::group_by(value), &mut options.group_by),
        ..UNSET
    },
    Spec {
        name: "pid",
        help: "one series per process, with the label pid",
        set: |options, _| put(Some(true), &mut options.pid),
        ..UNSET
    },
    Spec {
        name: "omit-zero",
        help: "omit samples with value 0",
        set: |options, _| put(Some(true), &mut options.omit_zero),
        ..UNSET
    },
    Spec {
        name: "max-samples",
        value: "N",
        default: "100000",
        help: "fold the smallest paths to stay within N samples; 0: no limit",
        expected: "a whole number of samples, 0 for no limit",
        set: |options, value| put(values::max_samples(value), &mut options.max_samples),
        ..UNSET
    },
    Spec {
        name: "max-label-bytes",
        value: "N",
        default: "1024",
        help: "cut paths after N bytes; long-term stores refuse longer labels",
        expected: "a number of bytes from 64 to 4096",
        set: |options, value| put(values::max_label_bytes(value), &mut options.max_label_bytes),
        ..UNSET
    },
    Spec {
        name: "cpu-budget",
        value: "F",
        default: "0.25",
        help: "use at most this fraction of a core for scrapes; 0: no limit",
        expected: "a fraction of one core from 0 to 1024, 0 for no limit",
        set: |options, value| put(values::cpu_budget(value), &mut options.cpu_budget),
        ..UNSET
    },
    Spec {
        name: "allowed-host",
        value: "NAME",
        help: "a host name that a proxy on this machine may use; repeatable",
        expected: "a host name without a port",
        is_repeatable: true,
        set: |options, value| values::host_name(value).map(|name| options.allowed_hosts.push(name)),
        ..UNSET
    },
    Spec {
        name: "anon-parts",
        value: "on|off",
        default: "on",
        help: "split anonymous memory by use: stacks, arenas, Java, Go, V8",
        expected: "\"on\" or \"off\"",
        set: |options, value| put(values::switch(value), &mut options.anon_parts),
        ..UNSET
    },
    Spec {
        name: "sandbox",
        value: "on|off",
        default: "on",
        help: "drop the rights and system calls that are not needed",
        expected: "\"on\" or \"off\"",
        set: |options, value| put(values::switch(value), &mut options.sandbox),
        ..UNSET
    },
    Spec {
        name: "print",
        value: "WHAT",
        help: "manifest[-without-socket], podmonitor, prometheusrule, rules or dashboard; exit",
        expected: print::EXPECTED,
        set: |options, value| put(print::file(value).map(Some), &mut options.print),
        ..UNSET
    },
    Spec {
        name: "image",
        value: "NAME",
        default: build_info::IMAGE,
        help: "the image in what --print prints",
        expected: "an image such as \"registry.example/smaps-container-exporter:1.0\"",
        set: |options, value| put(values::image(value), &mut options.image),
        ..UNSET
    },
];

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    use super::super::args::parse;
    use super::*;

    fn refused(args: &[&str]) -> String {
        parse(args.iter().map(OsString::from)).expect_err(&args.join(" ")).to_string()
    }

    #[test]
    fn invalid_values_are_refused() {
        let names = "size,rss,pss,pss_dirty,shared_clean,shared_dirty,private_clean,private_dirty,referenced,\
            anonymous,ksm,lazyfree,anon_hugepages,shmem_pmdmapped,file_pmdmapped,shared_hugetlb,\
            private_hugetlb,swap,swap_pss,locked,kernel_page_size,mmu_page_size";
        let fields = format!(r#""all" or a comma-separated list, each name once, of {names}"#);
        let fraction = "a fraction of one core from 0 to 1024, 0 for no limit";
        let expected = [
            ("addr", r#"":PORT", "HOST:PORT" or "[IPv6]:PORT""#, vec!["", "8080", "::1:80"]),
            ("proc-path", "a directory", vec![""]),
            ("cgroup-path", "a directory", vec![""]),
            (
                "cgroup-metrics",
                r#""none" or a comma-separated list, each name once, of memory,pod,node,cpu,pids"#,
                vec!["", "all", "memory,", "memory,memory", "Memory", "none,cpu", "memory, cpu"],
            ),
            (
                "scrape-interval",
                r#"a duration from "10ms" to "24h", such as "500ms", "1s" or "1m30s""#,
                vec!["", "abc", "0s", "-1s", "1", "1ns", "9.99ms"],
            ),
            ("log-level", r#""debug", "info", "warn", "error" or "none""#, vec!["", "trace", "off"]),
            ("node", "a name of at most 253 bytes, without control characters", vec!["", "a\nb"]),
            ("containerd-sock", "the path of a socket", vec!["", "unix://", "tcp://localhost:1"]),
            ("cri-sock", "the path of a socket", vec!["", "unix://", "npipe:////./pipe/x"]),
            ("container-logs", "a directory", vec![""]),
            (
                "containerd-namespace",
                r#"a containerd namespace such as "k8s.io", "moby" or "default""#,
                vec!["", "a b", "a/b", "\n", "\u{e9}"],
            ),
            (
                "filter",
                r#""<namespace>/<pod>/<container>/<command>", where "*" stands for any run of characters"#,
                vec!["", "*", "a/b/c"],
            ),
            ("fixture", "a directory", vec![""]),
            ("record", "a directory that does not exist", vec![""]),
            ("fields", &fields, vec!["", "rss,", "Rss", "rss,rss", "rss, pss", "all,rss", "mappings"]),
            ("group-by", r#""path", "kind" or "process""#, vec!["", "pod"]),
            (
                "max-samples",
                "a whole number of samples, 0 for no limit",
                vec!["", "-1", "1.5", "1e5", "99999999999999999999"],
            ),
            ("max-label-bytes", "a number of bytes from 64 to 4096", vec!["", "0", "63", "4097", "1KiB"]),
            ("cpu-budget", fraction, vec!["", "-1", "1025", "nan"]),
            ("allowed-host", "a host name without a port", vec!["", "a:80", "a/b", "*"]),
            ("anon-parts", r#""on" or "off""#, vec!["", "On"]),
            ("sandbox", r#""on" or "off""#, vec!["", "On", "1"]),
            ("print", print::EXPECTED, vec!["", "Manifest", "alerts"]),
            (
                "image",
                r#"an image such as "registry.example/smaps-container-exporter:1.0""#,
                vec!["", "-x", "a b", "a\"b", "a\nb", "a\u{e9}"],
            ),
        ];
        for (name, expected, values) in &expected {
            for value in values {
                let message = format!("invalid value {value:?} for --{name}: expected {expected}");
                assert_eq!(refused(&[&format!("-{name}={value}")]), message);
                assert_eq!(refused(&[&format!("--{name}"), value]), message);
                assert_eq!(message.lines().count(), 1);
            }
            assert_eq!(
                refused(&[&format!("-{name}")]),
                format!("missing value for --{name}: expected {expected}")
            );
        }
        for value in ["24h1ns", "8760h", "9999999h"] {
            let (_, expected, _) = expected.iter().find(|(name, ..)| *name == "scrape-interval").unwrap();
            assert_eq!(
                refused(&["--scrape-interval", value]),
                format!("value {value:?} for --scrape-interval is too large: expected {expected}")
            );
        }
        let text = [b"--filter=*/*/*/".to_vec(), vec![0xff]].concat();
        assert_eq!(
            parse([OsString::from_vec(text)]).expect_err("not UTF-8").to_string(),
            "invalid value \"*/*/*/\\xFF\" for --filter: expected \
             \"<namespace>/<pod>/<container>/<command>\", where \"*\" stands for any run of characters"
        );
    }
}
