//! Tests what the README and `src/kubernetes` tell users to apply: the YAML parses, its parts fit together,
//! and the arguments are valid.

use std::path::Path;

use smaps_container_exporter::cli::args::{Command, parse};
use smaps_container_exporter::cli::options::Options;
use yaml_rust2::{Yaml, YamlLoader};

const README: &str = include_str!("../README.md");

const MANIFEST: &str = include_str!("../src/kubernetes/daemonset.yaml");
const MONITOR: &str = include_str!("../src/kubernetes/podmonitor.yaml");
const RULES: &str = include_str!("../src/kubernetes/rules.yaml");
const OPERATOR_RULES: &str = include_str!("../src/kubernetes/prometheusrule.yaml");

/// Returns the YAML documents of the manifests, and of every fenced YAML block in the README.
fn documents() -> Vec<Yaml> {
    let blocks = README.split("\n```yaml\n").skip(1);
    let blocks = blocks.map(|block| block.split_once("\n```").expect("the block ends").0);
    let mut documents = Vec::new();
    for text in blocks.chain([MANIFEST, MONITOR, RULES, OPERATOR_RULES]) {
        match YamlLoader::load_from_str(text) {
            Ok(more) => documents.extend(more),
            Err(error) => panic!("{error} in\n{text}"),
        }
    }
    documents
}

/// Returns the document of this kind.
fn document(kind: &str) -> Yaml {
    documents().into_iter().find(|document| document["kind"].as_str() == Some(kind)).expect(kind)
}

/// Finds every value of `key`, at any depth.
fn values<'a>(yaml: &'a Yaml, key: &str, found: &mut Vec<&'a Yaml>) {
    match yaml {
        Yaml::Hash(hash) => {
            for (name, value) in hash {
                if name.as_str() == Some(key) {
                    found.push(value);
                }
                values(value, key, found);
            }
        }
        Yaml::Array(array) => array.iter().for_each(|value| values(value, key, found)),
        _ => {}
    }
}

fn options<'a>(args: impl IntoIterator<Item = &'a str>) -> Options {
    let args: Vec<_> = args.into_iter().collect();
    match parse(args.iter().map(Into::into)) {
        Ok(Command::Run(options)) => options,
        other => panic!("{args:?}: {other:?}"),
    }
}

fn args(list: &Yaml) -> Options {
    options(list.as_vec().expect("a list").iter().map(|arg| arg.as_str().expect("a string")))
}

#[test]
fn every_args_list_is_valid() {
    let documents = documents();
    let mut lists = Vec::new();
    documents.iter().for_each(|document| values(document, "args", &mut lists));
    assert!(lists.len() >= 2, "DaemonSet, sidecar: {lists:?}");
    for list in lists {
        args(list);
    }
}

/// Checks all commands, including the one for the Go exporter with single dashes.
#[test]
fn every_command_line_is_valid() {
    let commands = README.lines().filter_map(|line| line.strip_prefix("    smaps-container-exporter "));
    let docker = README
        .lines()
        .filter_map(|line| line.trim().strip_prefix("localhost/smaps-container-exporter:0.2.0 "));
    let inline = README.split('`').filter_map(|code| {
        code.strip_prefix("target/release/").unwrap_or(code).strip_prefix("smaps-container-exporter ")
    });
    let lines: Vec<&str> = commands.chain(docker).chain(inline).collect();
    assert!(lines.len() >= 6, "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("-addr ")), "{lines:?}");
    for line in lines {
        options(line.split_whitespace().map(|arg| arg.trim_matches('\'')));
    }
}

/// The parts of the manifest fit together.
#[test]
fn parts_of_the_manifest_match() {
    let daemon_set = document("DaemonSet");
    let pod = &daemon_set["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let options = args(&container["args"]);

    let image = container["image"].as_str().expect("an image");
    assert!(image.ends_with(concat!(":", env!("CARGO_PKG_VERSION"))), "{image}");

    // Each path that the program opens is in a mount. The mount is read-only, and its volume is the same
    // directory on the node.
    let mounts = container["volumeMounts"].as_vec().expect("mounts");
    let mount_of = |path: &Path| {
        let is_below = |mount: &&Yaml| mount["mountPath"].as_str().is_some_and(|at| path.starts_with(at));
        mounts.iter().find(is_below).unwrap_or_else(|| panic!("{path:?} is in no mount"))
    };
    let host_path = |mount: &Yaml| {
        let has_name = |volume: &&Yaml| volume["name"] == mount["name"];
        let volume =
            pod["volumes"].as_vec().expect("volumes").iter().find(has_name).expect("a volume of that name");
        assert_eq!(volume["hostPath"]["type"].as_str(), Some("Directory"));
        volume["hostPath"]["path"].as_str().expect("a path")
    };
    let proc = mount_of(&options.proc_path);
    let containerd = options.containerd_sock.as_deref().expect("a path");
    let socket = mount_of(containerd);
    assert_eq!(host_path(proc), "/proc");
    assert_eq!(host_path(mount_of(options.cgroup_path.as_ref().expect("a path"))), "/sys/fs/cgroup");
    assert_eq!(Some(host_path(socket)), containerd.parent().and_then(Path::to_str));
    assert_eq!(host_path(socket), socket["mountPath"].as_str().expect("a path"));
    assert_eq!(socket["mountPropagation"].as_str(), Some("HostToContainer"));
    assert!(mounts.iter().all(|mount| mount["readOnly"].as_bool() == Some(true)));

    // The probes, the monitor and the policy use the port on which the program listens.
    let port = &container["ports"][0];
    assert!(options.addr.ends_with(&format!(":{}", port["containerPort"].as_i64().expect("a number"))));
    for (probe, path) in [("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")] {
        assert_eq!(container[probe]["httpGet"]["path"].as_str(), Some(path));
        assert_eq!(container[probe]["httpGet"]["port"], port["name"]);
    }
    let (monitor, policy) = (document("PodMonitor"), document("NetworkPolicy"));
    assert_eq!(monitor["spec"]["podMetricsEndpoints"][0]["port"], port["name"]);
    assert_eq!(policy["spec"]["ingress"][0]["ports"][0]["port"], port["name"]);

    // All selectors match the pods of the DaemonSet. All documents are in the namespace that the manifest
    // creates.
    let selected = &daemon_set["spec"]["selector"]["matchLabels"];
    let labels = &daemon_set["spec"]["template"]["metadata"]["labels"];
    assert_eq!(selected["app.kubernetes.io/name"], labels["app.kubernetes.io/name"]);
    assert_eq!(
        selected.as_hash().map(|labels| labels.len()),
        Some(1),
        "a label that changes is not selected by"
    );
    assert_eq!(&monitor["spec"]["selector"]["matchLabels"], selected);
    assert_eq!(&policy["spec"]["podSelector"]["matchLabels"], selected);
    for labels in [labels, &daemon_set["metadata"]["labels"]] {
        assert_eq!(labels["app.kubernetes.io/version"].as_str(), Some(env!("CARGO_PKG_VERSION")));
        assert_eq!(labels["app.kubernetes.io/part-of"].as_str(), Some("smaps-container-exporter"));
    }
    let namespace = document("Namespace");
    for document in [&daemon_set, &monitor, &policy, &document("PrometheusRule")] {
        assert_eq!(document["metadata"]["namespace"], namespace["metadata"]["name"]);
    }
}

/// `--print manifest --image` replaces the image, so there must be only one. Prometheus must accept as many
/// samples per scrape as the exporter serves.
#[test]
fn the_manifest_has_one_image_and_the_monitor_a_sufficient_limit() {
    assert_eq!(MANIFEST.matches("image:").count(), 1);
    assert_eq!(
        MANIFEST.matches(concat!("localhost/smaps-container-exporter:", env!("CARGO_PKG_VERSION"))).count(),
        1
    );
    let limit = document("PodMonitor")["spec"]["sampleLimit"].as_i64().expect("a number");
    let max_samples = args(&Yaml::Array(Vec::new())).max_samples as i64;
    assert!(
        limit >= max_samples + 500 * (86 + 15) + 1000,
        "--max-samples, 500 containers' cgroups, its own: {limit}"
    );
}

/// The table of rights has the same text in all three documents.
#[test]
fn the_tables_of_rights_are_equal() {
    let table = |text: &'static str| {
        let (_, rest) = text.split_once("<!-- rights -->\n").expect("a table begins");
        rest.split_once("<!-- end -->\n").expect("the table ends").0
    };
    let rights = table(README);
    assert_eq!(rights.lines().filter(|line| line.starts_with('|')).count(), 6, "a header and four rows");
    assert_eq!(table(include_str!("../.github/SECURITY.md")), rights);
    assert_eq!(table(include_str!("../src/kubernetes/README.md")), rights);
}

/// The manifest requests exactly the documented capabilities, and allows nothing else.
#[test]
fn manifest_requests_only_the_documented_capabilities() {
    let pod = &document("DaemonSet")["spec"]["template"]["spec"];
    let context = &pod["containers"][0]["securityContext"];
    let capabilities = |which: &str| YamlLoader::load_from_str(which).expect("a list").remove(0);
    assert_eq!(context["capabilities"]["drop"], capabilities("[ALL]"));
    assert_eq!(context["capabilities"]["add"], capabilities("[SYS_PTRACE]"));
    assert_eq!(context["readOnlyRootFilesystem"].as_bool(), Some(true));
    assert_eq!(context["allowPrivilegeEscalation"].as_bool(), Some(false));
    assert_eq!(pod["automountServiceAccountToken"].as_bool(), Some(false));
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"].as_str(), Some("RuntimeDefault"));
    for key in ["hostPID", "hostNetwork", "hostIPC"] {
        assert!(pod[key].is_badvalue(), "{key}");
    }
}
