//! The README's tables, which follow from the program: `BLESS=1` writes them anew.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use smaps_container_exporter::cli::help::help;
use smaps_container_exporter::exposition::self_metrics::{Report, SelfMetrics};
use smaps_container_exporter::smaps::fields::{Combine, FIELDS};

use crate::support::{fixture, once};

/// Holds what stands in the README between `<!-- name -->` and `<!-- end -->` against `block`.
#[track_caller]
fn assert_block(name: &str, block: &str) {
    // Several tests may bless at once.
    static README: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _alone = README.lock();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(&path).unwrap();
    let begin = format!("<!-- {name} -->\n");
    let start = readme.find(&begin).unwrap_or_else(|| panic!("README.md has no {begin}")) + begin.len();
    let end = start + readme[start..].find("<!-- end -->").unwrap_or_else(|| panic!("{begin} has no end"));
    if std::env::var_os("BLESS").is_some() {
        return fs::write(&path, [&readme[..start], block, &readme[end..]].concat()).unwrap();
    }
    assert_eq!(&readme[start..end], block, "BLESS=1 writes it anew");
}

#[test]
fn options() {
    assert_block("options", &format!("```text\n{}```\n", help()));
}

#[test]
fn fields() {
    let mut table =
        String::from("| metric | smaps field | combined by | meaning |\n| --- | --- | --- | --- |\n");
    for field in &FIELDS {
        let combine = match field.combine {
            Combine::Sum => "sum",
            Combine::Largest => "largest",
        };
        writeln!(
            table,
            "| `process_smaps_{}_bytes` | {} | {combine} | {} |",
            field.name, field.key, field.help
        )
        .unwrap();
    }
    assert_block("metrics", &table);
}

#[test]
fn own_metrics() {
    let known = Some(1);
    let report = Report {
        containerd_up: Some(true),
        virtual_bytes: known,
        resident_bytes: known,
        n_open_files: known,
        max_open_files: known,
        ..Report::default()
    };
    let mut text = Vec::new();
    let filters = ["*/*/*/*".to_owned()].into_iter();
    SelfMetrics::new(["", "", ""], filters, Some("worker-1"), SystemTime::now()).render(
        &mut text,
        &report,
        &[(r#"{namespace="shop"}"#.to_owned(), 1)],
    );
    let text = String::from_utf8(text).unwrap();
    let mut table = String::from("| metric | type | meaning |\n| --- | --- | --- |\n");
    let mut conventional = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|line| line.split_once(' ')) else {
            continue;
        };
        if name.starts_with("process_") {
            conventional.push(format!("`{name}`"));
            continue;
        }
        let (_, kind) = lines.next().unwrap().rsplit_once(' ').unwrap();
        let sample = text.lines().find(|sample| sample.starts_with(name)).unwrap();
        let labels = sample.split_once('{').map_or(String::new(), |(_, labels)| {
            let names =
                labels.split("=\"").filter_map(|part| part.rsplit([',', '"']).next()).collect::<Vec<_>>();
            format!(
                "{{{}}}",
                names[..names.len() - 1].iter().map(|name| name.trim()).collect::<Vec<_>>().join(",")
            )
        });
        writeln!(table, "| `{name}{labels}` | {kind} | {help} |").unwrap();
    }
    writeln!(table, "| {} | | As every exporter has them. |", conventional.join(", ")).unwrap();
    assert_block("own", &table);
}

#[test]
fn counts() {
    let mut table = String::from("| options | samples | bytes |\n| --- | ---: | ---: |\n");
    for args in [
        "",
        "--omit-zero",
        "--group-by kind --fields rss,pss,private_dirty,private_clean,swap",
        "--group-by process --fields rss,pss,private_dirty,private_clean,swap",
    ] {
        let text = once(&fixture("node"), &args.split_terminator(' ').collect::<Vec<_>>());
        let n_samples = text.lines().filter(|line| !line.starts_with('#')).count();
        let name = if args.is_empty() { "(the defaults)".to_owned() } else { format!("`{args}`") };
        writeln!(table, "| {name} | {n_samples} | {} |", text.len()).unwrap();
    }
    assert_block("counts", &table);
}
