//! Checks the two files of alert rules, their runbooks and their promtool tests. Some rules compare a value
//! with a limit that the exporter exports, such as `vm.max_map_count`. The tests also check that these limits
//! are exported.

use std::fs;

use yaml_rust2::{Yaml, YamlLoader};

use crate::support::{Directory, Serving, exporter};

const RULES: &str = "src/kubernetes/rules.yaml";
const PROMETHEUS_RULE: &str = "src/kubernetes/prometheusrule.yaml";
const RUNBOOKS: &str = ".github/RUNBOOKS.md";
/// Situations in which promtool must test each alert.
const SITUATIONS: [&str; 5] = ["fires", "does not fire", "after restarts", "two replicas", "missing series"];

fn parse(path: &str) -> Yaml {
    let text = fs::read_to_string(path).unwrap();
    let [document] = &YamlLoader::load_from_str(&text).unwrap()[..] else { panic!("{path}: one document") };
    document.clone()
}

/// Returns all alerts.
fn alerts() -> Vec<Yaml> {
    let rules = parse(RULES);
    let groups = rules["groups"].as_vec().expect("groups").iter();
    groups.flat_map(|group| group["rules"].as_vec().expect("rules").clone()).collect()
}

fn name_of(alert: &Yaml) -> &str {
    alert["alert"].as_str().expect("an alert has a name")
}

/// With `BLESS=1`, the test first copies the rules from rules.yaml into prometheusrule.yaml.
#[test]
fn both_rule_files_have_the_same_rules() {
    let text = fs::read_to_string(PROMETHEUS_RULE).unwrap();
    if std::env::var_os("BLESS").is_some() {
        let (head, _) = text.split_once("spec:\n").expect("a spec");
        let rules = fs::read_to_string(RULES).unwrap();
        let (_, groups) = rules.split_once("groups:\n").expect("groups");
        let indented: String = groups.lines().map(|line| format!("  {line}\n")).collect();
        fs::write(PROMETHEUS_RULE, format!("{head}spec:\n  groups:\n{indented}")).unwrap();
    }
    let resource = parse(PROMETHEUS_RULE);
    assert_eq!(resource["kind"].as_str(), Some("PrometheusRule"));
    assert_eq!(resource["spec"], parse(RULES), "BLESS=1 cargo test --test tests alerts");
    for path in [RULES, PROMETHEUS_RULE] {
        for line in fs::read_to_string(path).unwrap().lines() {
            assert!(line.len() <= 110 || line.contains("https://"), "{path}: {line}");
        }
    }
}

#[test]
fn each_alert_has_a_runbook_that_begins_with_a_command() {
    let text = fs::read_to_string(RUNBOOKS).unwrap();
    let sections: Vec<(&str, &str)> =
        text.split("\n## ").skip(1).map(|section| section.split_once('\n').expect("a section")).collect();
    let alerts = alerts();
    for alert in &alerts {
        let (name, annotations) = (name_of(alert), &alert["annotations"]);
        let (_, section) = sections
            .iter()
            .find(|(heading, _)| *heading == name)
            .unwrap_or_else(|| panic!("{RUNBOOKS} has no heading {name}"));
        assert!(section.trim_start_matches('\n').starts_with("```sh\n"), "{name} begins with a command");
        let url = annotations["runbook_url"].as_str().expect("a runbook_url");
        let anchor = format!("{}/blob/main/{RUNBOOKS}#{}", env!("CARGO_PKG_REPOSITORY"), name.to_lowercase());
        assert_eq!(url, anchor);
        for text in ["summary", "description"] {
            assert!(annotations[text].as_str().is_some_and(|text| !text.is_empty()), "{name} has a {text}");
        }
        let severity = alert["labels"]["severity"].as_str();
        assert!(severity.is_some_and(|severity| ["warning", "info"].contains(&severity)), "{name}");
    }
    for (heading, _) in sections {
        assert!(alerts.iter().any(|alert| name_of(alert) == heading), "{heading} is no alert");
    }
}

#[test]
fn promtool_tries_each_alert_in_each_situation() {
    let mut tried = Vec::new();
    for file in fs::read_dir("tests/e2e/alerts").unwrap() {
        let path = file.unwrap().path();
        for test in parse(path.to_str().unwrap())["tests"].as_vec().expect("tests") {
            tried.push(test["name"].as_str().expect("a test has a name").to_owned());
        }
    }
    for alert in alerts() {
        for situation in SITUATIONS {
            let name = format!("{}: {situation}", name_of(&alert));
            assert!(tried.iter().any(|tried| tried.starts_with(&name)), "no test named {name}");
        }
    }
}

/// Pods of different clusters may have the same address, so their series have the same `instance`.
#[test]
fn series_of_two_clusters_are_never_matched() {
    for path in [RULES, "src/http/dashboard.json"] {
        let text = fs::read_to_string(path).unwrap();
        let matches: Vec<&str> = text.split(" on (").skip(1).collect();
        assert!(matches.len() >= 4, "{path} has {} matches", matches.len());
        for labels in matches {
            let (labels, _) = labels.split_once(')').expect("a list of labels");
            assert!(labels.starts_with("cluster, "), "{path}: on ({labels})");
        }
    }
}

/// Returns a recording of one container with one process.
fn recording() -> Directory {
    let recording = Directory::new();
    recording.one_container();
    recording.process(1, "app", "");
    recording
}

fn serve(recording: &Directory, arguments: &[&str]) -> Serving {
    let path = recording.path().to_str().unwrap();
    Serving::start(exporter(&[&["--addr", "127.0.0.1:0", "--fixture", path], arguments].concat()))
}

#[test]
fn max_map_count_is_exported_where_the_node_shows_it() {
    let recording = recording();
    recording.write("proc/sys/vm/max_map_count", "262144\n");
    assert_eq!(serve(&recording, &[]).value("smaps_exporter_max_map_count"), "262144");
    for text in [None, Some(""), Some("-1\n")] {
        match text {
            Some(text) => recording.write("proc/sys/vm/max_map_count", text),
            None => fs::remove_file(recording.path().join("proc/sys/vm/max_map_count")).unwrap(),
        }
        let exporter = serve(&recording, &[]);
        assert_eq!(exporter.value("smaps_exporter_containers"), "1");
        assert!(!exporter.get("/metrics").contains("smaps_exporter_max_map_count"), "{text:?}");
    }
}

#[test]
fn cpu_budget_is_exported_unless_there_is_no_limit() {
    let recording = recording();
    assert_eq!(serve(&recording, &["--cpu-budget", "0.5"]).value("smaps_exporter_cpu_budget_cores"), "0.5");
    let unlimited = serve(&recording, &["--cpu-budget", "0"]);
    assert_eq!(unlimited.value("smaps_exporter_containers"), "1");
    assert!(!unlimited.get("/metrics").contains("smaps_exporter_cpu_budget_cores"));
}
