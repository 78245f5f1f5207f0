//! Tests the documents and the files in `src/kubernetes`: the YAML can be parsed, its parts fit together, the
//! commands and requests are valid, and every link has a target.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use smaps_container_exporter::cli::args::{Command, parse};
use smaps_container_exporter::cli::options::Options;
use smaps_container_exporter::cli::parameters;
use yaml_rust2::{Yaml, YamlLoader};

const MANIFEST: &str = include_str!("../src/kubernetes/daemonset.yaml");
const MONITOR: &str = include_str!("../src/kubernetes/podmonitor.yaml");
const RULES: &str = include_str!("../src/kubernetes/rules.yaml");
const OPERATOR_RULES: &str = include_str!("../src/kubernetes/prometheusrule.yaml");

/// Returns the text of every Markdown page, by its path in the repository.
fn pages() -> BTreeMap<PathBuf, String> {
    fn walk(root: &Path, directory: &Path, found: &mut BTreeMap<PathBuf, String>) {
        for entry in fs::read_dir(root.join(directory)).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            let path = directory.join(&name);
            let is_skipped = name == "target" || (name.starts_with('.') && name != ".github");
            if entry.file_type().unwrap().is_dir() && !is_skipped {
                walk(root, &path, found);
            } else if name.ends_with(".md") {
                found.insert(path, fs::read_to_string(entry.path()).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(Path::new(env!("CARGO_MANIFEST_DIR")), Path::new(""), &mut found);
    assert!(found.len() >= 10, "{:?}", found.keys());
    found
}

/// Returns the lines of a page, each with a flag that says whether it is code. A line is code if it is in a
/// fenced block or in an indented paragraph.
fn lines(text: &str) -> impl Iterator<Item = (bool, &str)> {
    let (mut is_fenced, mut is_after_blank) = (false, true);
    text.lines().map(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_fenced ^= is_fence;
        let is_code = is_fence || is_fenced || (line.starts_with("    ") && is_after_blank);
        is_after_blank = line.is_empty() || (is_code && is_after_blank);
        (is_code, line)
    })
}

/// Returns the YAML documents of the manifests, and of every fenced YAML block in the pages.
fn documents() -> Vec<Yaml> {
    let pages = pages();
    let blocks = pages.values().flat_map(|text| text.split("```yaml\n").skip(1));
    let blocks = blocks.map(|block| block.split_once("```").expect("the block ends").0);
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

/// Returns the arguments of the program, if this line of code runs the program.
fn arguments_in(line: &str) -> Option<&str> {
    let (_, arguments) = line.split_once("smaps-container-exporter ").or_else(|| {
        line.split_once(concat!("localhost/smaps-container-exporter:", env!("CARGO_PKG_VERSION"), " "))
    })?;
    arguments.starts_with('-').then_some(arguments)
}

/// Checks each command in the documents that runs the program, directly or in its container image. One
/// command in MIGRATING.md has options with single dashes, like those of the older exporter in Go. The
/// program must accept these options, too.
#[test]
fn every_command_line_is_valid() {
    let joined: Vec<String> = pages().values().map(|text| text.replace("\\\n", " ")).collect();
    let code = joined.iter().flat_map(|text| lines(text)).filter(|(is_code, _)| *is_code);
    let found: Vec<&str> = code.filter_map(|(_, line)| arguments_in(line)).collect();
    assert!(found.len() >= 8, "{found:?}");
    for beginning in ["-addr ", "--record ", "--once ", "--proc-path="] {
        assert!(found.iter().any(|line| line.starts_with(beginning)), "{beginning} in {found:?}");
    }
    for line in found {
        let line = line.replace('\'', "");
        options(line.split_whitespace());
    }
}

#[test]
fn every_request_is_valid() {
    let pages = pages();
    let urls = pages.values().flat_map(|text| text.split("localhost:8080/metrics?").skip(1));
    let queries: BTreeSet<&str> =
        urls.map(|rest| rest.split(['\'', ' ', '\n', '`']).next().unwrap()).collect();
    assert!(queries.len() >= 5, "{queries:?}");
    for query in queries {
        if let Err(error) = parameters::parse(query.as_bytes(), &options([])) {
            panic!("{query}: {error}");
        }
    }
}

/// Returns the anchors that GitHub gives to the headings of a page.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (_, line) in lines(text).filter(|(is_code, line)| !is_code && line.starts_with('#')) {
        let heading = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        let anchor: String =
            heading.chars().filter(|c| c.is_alphanumeric() || ['-', '_'].contains(c)).collect();
        assert!(found.insert(anchor), "two headings have the anchor of {line:?}");
    }
    found
}

/// Returns the targets of a page's links and pictures.
fn links(text: &str) -> Vec<String> {
    let prose = lines(text).filter(|(is_code, _)| !is_code).map(|(_, line)| format!("{line}\n"));
    let prose: String = prose.collect();
    // Backquotes begin and end code. So between them, text and code alternate. Only the text is kept.
    let prose: String = prose.split('`').step_by(2).collect();
    let targets = prose.split("](").skip(1).map(|rest| rest.split_once(')').expect("the link ends").0);
    targets.map(str::to_owned).collect()
}

/// Files and headings that are link targets must exist. Of a URL, only the syntax is checked.
fn assert_link(page: &Path, target: &str, pages: &BTreeMap<PathBuf, String>) {
    if let Some(url) = target.strip_prefix("https://").or_else(|| target.strip_prefix("http://")) {
        let host = url.split('/').next().unwrap();
        let is_valid = |c: char| c.is_ascii_alphanumeric() || ".-:".contains(c);
        assert!(!host.is_empty() && host.chars().all(is_valid), "{page:?}: {target:?} is no URL");
        assert!(!url.contains(char::is_whitespace), "{page:?}: {target:?} is no URL");
        return;
    }
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let mut path = page.parent().unwrap().to_path_buf();
    for part in file.split('/').filter(|part| !part.is_empty()) {
        match part {
            ".." => assert!(path.pop(), "{page:?}: {target:?} leaves the repository"),
            part => path.push(part),
        }
    }
    let path = if file.is_empty() { page.to_path_buf() } else { path };
    assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(&path).exists(), "{page:?}: {target:?} is missing");
    if !anchor.is_empty() {
        let text = pages.get(&path).unwrap_or_else(|| panic!("{page:?}: {target:?} is no page"));
        assert!(anchors(text).contains(anchor), "{page:?}: {target:?} is no heading");
    }
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let pages = pages();
    let mut n_links = 0;
    for (page, text) in &pages {
        for target in links(text) {
            assert_link(page, &target, &pages);
            n_links += 1;
        }
    }
    assert!(n_links >= 100, "{n_links} links");
}

#[test]
fn the_front_page_is_short_and_links_to_every_page() {
    let pages = pages();
    let front = &pages[Path::new("README.md")];
    assert!(front.lines().count() <= 220, "{} lines", front.lines().count());
    let widest = front.lines().map(|line| line.chars().count()).max();
    assert!(widest <= Some(110), "{widest:?} columns");
    let targets = links(front);
    for page in pages.keys().filter(|page| *page != Path::new("README.md")) {
        let is_linked = |target: &String| Path::new(target.split('#').next().unwrap()) == page;
        assert!(targets.iter().any(is_linked), "{page:?} is not linked");
    }
}

/// Each reference from one part of the manifest to another part is valid.
#[test]
fn parts_of_the_manifest_match() {
    let daemon_set = document("DaemonSet");
    let pod = &daemon_set["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let options = args(&container["args"]);

    let image = container["image"].as_str().expect("an image");
    assert!(image.ends_with(concat!(":", env!("CARGO_PKG_VERSION"))), "{image}");

    // Each path that the program opens is below a read-only mount. The mounts contain /proc, /sys/fs/cgroup
    // and the directory of containerd's socket from the node.
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

    // The probes, the PodMonitor and the NetworkPolicy use the port on which the program listens.
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

/// `--print manifest --image` replaces the image, so the manifest must contain only one image. The PodMonitor
/// must let Prometheus accept as many samples per scrape as the exporter serves.
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

/// Two files have a table of the rights that the exporter needs: SECURITY.md, and the page about Kubernetes
/// (src/kubernetes/README.md). The two tables must be equal.
#[test]
fn the_tables_of_rights_are_equal() {
    let table = |text: &'static str| {
        let (_, rest) = text.split_once("<!-- rights -->\n").expect("a table begins");
        rest.split_once("<!-- end -->\n").expect("the table ends").0
    };
    let rights = table(include_str!("../src/kubernetes/README.md"));
    assert_eq!(rights.lines().filter(|line| line.starts_with('|')).count(), 6, "a header and four rows");
    assert_eq!(table(include_str!("../.github/SECURITY.md")), rights);
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
