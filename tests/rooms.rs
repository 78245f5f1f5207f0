//! Tests the rooms, which are the folders of src: the length of their files, and which room may import which
//! other rooms.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Modules of the standard library that do I/O. The exceptions are in [`NO_IO`].
const IO: [&str; 7] =
    ["std::env", "std::fs", "std::io", "std::net", "std::os", "std::process", "std::thread"];
/// Items of the modules in [`IO`] that pure folders may use, because they use these items only to write into
/// memory.
const NO_IO: [&str; 3] = ["std::io::Write", "std::io::self", "std::io"];

/// A room is a folder of src. Each row has a room, the rooms or modules that the room must not mention, and
/// whether the room is pure. A pure room does no I/O.
const ROOMS: [(&str, &[&str], bool); 13] = [
    ("smaps", PURE, true),
    ("totals", PURE, true),
    ("exposition", TEXT, true),
    ("procfs", LINUX, false),
    ("cgroupfs", LINUX, false),
    ("node", &["cli", "http"], false),
    ("node::containers", &["node::processes", "node::reads", "node::cgroups"], false),
    ("node::processes", &["node::reads", "node::cgroups"], false),
    ("node::reads", &["node::cgroups"], false),
    ("node::cgroups", &["node::reads"], false),
    ("sources", &["cli", "http", "node", "scrape"], false),
    ("scrape", &["cli", "http", "sandbox", "start"], false),
    ("sandbox", &["cli", "http", "node", "scrape", "sources", "start"], false),
];
const PURE: &[&str] = &["cli", "procfs", "cgroupfs", "node", "sources", "http", "sandbox", "scrape"];
/// The folders and modules that files in `src/exposition` must not mention. `cgroupfs::fields` is allowed,
/// because the exposition needs the table of cgroup fields in that module.
const TEXT: &[&str] = &[
    "cli",
    "procfs",
    "cgroupfs::files",
    "cgroupfs::namespace",
    "node",
    "sources",
    "http",
    "sandbox",
    "scrape",
];
const LINUX: &[&str] = &["node", "sources", "cli", "http", "totals", "exposition"];

const MAX_LINES: usize = 400;

#[test]
fn rooms_import_only_allowed_rooms() {
    let mut faults = Vec::new();
    let mut n_pure = 0;
    for (file, module) in sources() {
        let module_path = module.join("::");
        for (_, forbidden, is_pure) in ROOMS.iter().filter(|(room, ..)| is_below(&module_path, room)) {
            n_pure += usize::from(*is_pure);
            for path in mentions(&module, &fs::read_to_string(&file).unwrap()) {
                if is_fault(&path, forbidden, *is_pure) {
                    faults.push(format!("{} mentions {path}", file.display()));
                }
            }
        }
    }
    assert!(n_pure >= 6, "only {n_pure} files are in pure rooms");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn rooms_import_each_other_in_one_direction() {
    let mut needs: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (file, module) in sources() {
        let needed = needs.entry(module[0].clone()).or_default();
        for path in mentions(&module, &fs::read_to_string(&file).unwrap()) {
            needed.extend(path.strip_prefix("crate::").map(|path| first(path).to_owned()));
        }
        needed.remove(&module[0]);
    }
    let circle = circle(needs);
    assert!(circle.is_empty(), "these rooms import each other in a circle: {circle:?}");
}

/// A room is a folder of src. Unit tests are not checked, so they may import any file of their folder.
#[test]
fn files_of_a_room_import_each_other_in_one_direction() {
    let mut files = Files::default();
    for (file, module) in sources().into_iter().filter(|(_, module)| module.last().unwrap() != "tests") {
        let text = fs::read_to_string(&file).unwrap();
        files.insert(&module, without_tests(&text));
    }
    let mut rooms: BTreeMap<&str, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for (file, needs) in files.imports() {
        rooms.entry(first(file)).or_default().insert(file.to_owned(), needs);
    }
    assert!(rooms["scrape"]["scrape::threads"].contains("scrape"), "imports are found");
    for needs in rooms.into_values() {
        let circle = circle(needs);
        assert!(circle.is_empty(), "these files import each other in a circle: {circle:?}");
    }
}

#[test]
fn files_have_at_most_400_lines() {
    let mut faults = Vec::new();
    // Markdown pages are left out, because they contain generated tables, which grow with the metrics.
    let is_page = |file: &Path| file.extension().is_some_and(|extension| extension == "md");
    for file in files(Path::new("src")).into_iter().filter(|file| !is_page(file)) {
        let n_lines = fs::read_to_string(&file).unwrap().lines().count();
        if n_lines > MAX_LINES {
            faults.push(format!("{} has {n_lines} lines", file.display()));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Returns the items that import each other in a circle, and the items that import from such a circle. Each
/// turn of the loop removes an item that imports none of the remaining items.
fn circle(mut needs: BTreeMap<String, BTreeSet<String>>) -> BTreeMap<String, BTreeSet<String>> {
    let mut left: BTreeSet<String> = needs.keys().cloned().collect();
    while let Some(free) = left.iter().find(|each| needs[*each].is_disjoint(&left)).cloned() {
        left.remove(&free);
    }
    needs.retain(|each, _| left.contains(each));
    needs.values_mut().for_each(|needed| needed.retain(|each| left.contains(each)));
    needs
}

/// Returns the text of a file without its unit tests.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text)
}

/// The files by module path. Each file has the Rust paths that it mentions, and the names that its `use`
/// declarations import. Each imported name has the Rust path that it stands for.
#[derive(Default)]
struct Files(BTreeMap<String, (BTreeSet<String>, BTreeMap<String, String>)>);

impl Files {
    fn insert(&mut self, module: &[String], text: &str) {
        self.0.insert(module.join("::"), paths(module, text));
    }

    /// Returns each file with the other files that it mentions.
    fn imports(&self) -> impl Iterator<Item = (&str, BTreeSet<String>)> {
        self.0.iter().map(|(file, (mentions, _))| {
            let mut needs: BTreeSet<String> = mentions.iter().filter_map(|path| self.file_of(path)).collect();
            needs.remove(file);
            (file.as_str(), needs)
        })
    }

    /// Returns the file that defines the item at a path. The path may lead through a file that only
    /// re-exports the item.
    fn file_of(&self, path: &str) -> Option<String> {
        let inside = path.strip_prefix("crate::")?;
        let ends = inside.match_indices("::").map(|(end, _)| end).chain([inside.len()]);
        let file = ends.map(|end| &inside[..end]).filter(|module| self.0.contains_key(*module)).last()?;
        let rest = inside[file.len()..].trim_start_matches("::");
        match self.0[file].1.get(first(rest)) {
            Some(original) if original != path => {
                let rest = &rest[first(rest).len()..];
                self.file_of(&format!("{original}{rest}"))
            }
            _ => Some(file.to_owned()),
        }
    }
}

fn is_fault(path: &str, forbidden: &[&str], is_pure: bool) -> bool {
    match path.strip_prefix("crate::") {
        // A glob import could import anything, so it is always a fault.
        Some(inside) => first(inside) == "*" || forbidden.iter().any(|room| is_below(inside, room)),
        None => is_pure && !NO_IO.contains(&path) && IO.iter().any(|io| is_below(path, io)),
    }
}

fn is_below(path: &str, parent: &str) -> bool {
    path.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn first(path: &str) -> &str {
    path.split("::").next().unwrap_or(path)
}

/// Returns every Rust file below src, with its module path. The module path of the crate's root is `lib`.
fn sources() -> Vec<(PathBuf, Vec<String>)> {
    let src = Path::new("src"); // tests run in the root directory of the package
    let mut sources = Vec::new();
    for file in files(src) {
        if file.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let inside = file.strip_prefix(src).unwrap().with_extension("");
        let mut module: Vec<String> = inside.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        module.pop_if(|last| last == "mod");
        sources.push((file, module));
    }
    sources
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files_found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_found.extend(files(&path));
        } else {
            files_found.push(path);
        }
    }
    files_found.sort();
    files_found
}

/// Returns the absolute paths that the text of a module mentions, in `use` declarations or directly. Unit
/// tests in the text are included.
fn mentions(module: &[String], text: &str) -> BTreeSet<String> {
    paths(module, text).0
}

/// Returns two results. The first is what [`mentions`] returns. The second has the names that `use`
/// declarations import anywhere in the file, each with the path that it stands for.
fn paths(module: &[String], text: &str) -> (BTreeSet<String>, BTreeMap<String, String>) {
    let tokens = tokens(text);
    let children: BTreeSet<&str> = tokens
        .windows(3)
        .filter(|three| three[0] == "mod" && three[2] == ";")
        .map(|three| three[1])
        .collect();
    let absolute = |inside: &[String], path: &[&str]| {
        let is_child = inside == module && path.len() > 1 && children.contains(path[0]);
        match is_child {
            true => absolute(inside, &[&["self"], path].concat()),
            false => absolute(inside, path),
        }
    };
    let mut found = BTreeSet::new();
    let mut names = BTreeMap::new();
    let mut relative = Vec::new();
    let mut inside = vec![(0, module.to_vec())];
    let mut depth = 0;
    let mut at = 0;
    while at < tokens.len() {
        let token = tokens[at];
        let before = at.checked_sub(1).map_or("", |before| tokens[before]);
        let module = &inside.last().expect("the file's own module").1;
        match token {
            "{" => depth += 1,
            "}" => {
                depth -= 1;
                inside.pop_if(|(outside, _)| *outside > depth);
            }
            "mod" if tokens.get(at + 2) == Some(&"{") => {
                let mut module = module.clone();
                module.push(tokens[at + 1].to_owned());
                inside.push((depth + 1, module));
                at += 1;
            }
            "use" => {
                let mut leaves = Vec::new();
                at += 1;
                while tokens[at] != ";" {
                    at = tree(&tokens, at, &[], &mut leaves);
                }
                for (path, name) in leaves {
                    let path = absolute(module, &path);
                    names.insert(name, path.strip_suffix("::self").unwrap_or(&path).to_owned());
                    found.insert(path);
                }
            }
            _ if is_name(token) && before != "." && !is_continued(&tokens, at) => {
                let mut path = vec![token];
                while tokens.get(at + 1) == Some(&"::")
                    && tokens.get(at + 2).is_some_and(|next| is_name(next))
                {
                    path.push(tokens[at + 2]);
                    at += 2;
                }
                if tokens.get(at + 1) == Some(&"!") && path.len() == 1 {
                    path.push("!");
                }
                if path != ["self"] && path != ["super"] {
                    relative.push((module.clone(), path));
                }
            }
            _ => {}
        }
        at += 1;
    }
    for (module, path) in relative {
        let path = match names.get(path[0]) {
            Some(whole) => {
                [whole.as_str()].into_iter().chain(path[1..].iter().copied()).collect::<Vec<_>>().join("::")
            }
            None => absolute(&module, &path),
        };
        let is_print =
            ["print::!", "println::!", "eprint::!", "eprintln::!", "dbg::!"].contains(&path.as_str());
        if is_print {
            found.insert("std::io::stdout".into());
        } else if path.starts_with("crate::") || path.starts_with("std::") {
            found.insert(path);
        }
    }
    (found, names)
}

/// Parses one tree of a `use` declaration that begins at `at`. Adds the leaves of the tree, each with the
/// name that it imports. Returns the position at which the tree ends.
fn tree<'a>(
    tokens: &[&'a str],
    mut at: usize,
    prefix: &[&'a str],
    leaves: &mut Vec<(Vec<&'a str>, String)>,
) -> usize {
    let mut path = prefix.to_vec();
    loop {
        match tokens[at] {
            "::" => at += 1,
            "{" => {
                at += 1;
                while tokens[at] != "}" {
                    at = if tokens[at] == "," { at + 1 } else { tree(tokens, at, &path, leaves) };
                }
                return at + 1;
            }
            name => {
                path.push(name);
                at += 1;
                if tokens[at] != "::" {
                    break;
                }
            }
        }
    }
    let mut name =
        path.iter().rev().find(|part| **part != "self").map_or(String::new(), |part| part.to_string());
    if tokens[at] == "as" {
        name = tokens[at + 1].to_owned();
        at += 2;
    }
    leaves.push((path, name));
    at
}

/// Returns the absolute path for a path that is written in `module`. The absolute path begins with `crate::`,
/// `std::` or the name of another crate.
fn absolute(module: &[String], path: &[&str]) -> String {
    let mut base: Vec<&str> = Vec::new();
    let mut rest = path;
    if matches!(rest[0], "self" | "super") {
        base = ["crate"].into_iter().chain(module.iter().map(String::as_str)).collect();
        while let Some((step @ ("self" | "super"), after)) =
            rest.split_first().map(|(step, after)| (*step, after))
        {
            if step == "super" {
                base.pop();
            }
            rest = after;
        }
    } else if rest[0] == "smaps_container_exporter" {
        base.push("crate");
        rest = &rest[1..];
    }
    base.into_iter().chain(rest.iter().copied()).collect::<Vec<_>>().join("::")
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Returns whether the `::` before `at` continues a Rust path, as in `a::b` and `<A>::b`. In `-> ::a`, the
/// `::` begins a path.
fn is_continued(tokens: &[&str], at: usize) -> bool {
    let token = |back: usize| at.checked_sub(back).map_or("", |at| tokens[at]);
    token(1) == "::" && (is_name(token(2)) || token(2) == ">" && token(3) != "-")
}

/// Returns the tokens of Rust code that are needed to find Rust paths such as `std::fs`. Comments, string
/// literals and character literals are left out.
fn tokens(text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let n_bytes = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(n_bytes) = literal(rest) {
            n_bytes
        } else {
            let n_bytes = match c {
                _ if c.is_alphanumeric() || c == '_' => {
                    rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
                }
                _ if rest.starts_with("::") => 2,
                _ => c.len_utf8(),
            };
            if !c.is_whitespace() {
                tokens.push(&rest[..n_bytes]);
            }
            n_bytes
        };
        rest = &rest[n_bytes..];
    }
    tokens
}

/// Returns the length of the string or character literal at the beginning of `text`. Returns `None` if there
/// is none; a lifetime is not a literal.
fn literal(text: &str) -> Option<usize> {
    let prefix = ["br", "cr", "b", "c", "r", ""]
        .into_iter()
        .find(|prefix| text.strip_prefix(prefix).is_some_and(|text| text.starts_with(['"', '\'', '#'])))?;
    let body = &text[prefix.len()..];
    let end = if prefix.ends_with('r') {
        let n_hashes = body.find('"').filter(|n| body[..*n].bytes().all(|byte| byte == b'#'))?;
        let end = format!("\"{}", "#".repeat(n_hashes));
        n_hashes + 1 + body[n_hashes + 1..].find(&end)? + end.len()
    } else {
        let quote = body.chars().next().filter(|quote| *quote != '#')?;
        let mut is_escaped = false;
        let inside = |c: char| {
            let is_end = c == quote && !is_escaped;
            is_escaped = c == '\\' && !is_escaped;
            is_end
        };
        let end = 1 + body[1..].find(inside)?;
        if quote == '\'' && !body.starts_with("'\\") && body[1..end].chars().count() != 1 {
            return None;
        }
        end + 1
    };
    Some(prefix.len() + end)
}

/// Tests the checker itself. A checker that recognized no paths would find no faults.
#[test]
fn paths_in_code_are_mentions() {
    let cases: [(&str, &[&str]); 14] = [
        ("use crate::node::filter::Filter;", &["crate::node::filter::Filter"]),
        (
            "use crate::{node::{self, filter}, smaps};",
            &["crate::node::self", "crate::node::filter", "crate::smaps"],
        ),
        ("pub(crate) use super::super::http as door;", &["crate::http"]),
        (
            "mod tests { use super::super::super::cli; } use super::labels;",
            &["crate::cli", "crate::totals::labels"],
        ),
        ("fn f(x: &crate::http::Server) {}", &["crate::http::Server"]),
        (
            "use std::io::{self, Write as _}; fn f() { io::stdin(); }",
            &["std::io::self", "std::io::Write", "std::io::stdin"],
        ),
        ("fn f() -> ::std::fs::File { todo() }", &["std::fs::File"]),
        ("fn f() { x::<std::net::TcpStream>(); }", &["std::net::TcpStream"]),
        ("use smaps_container_exporter::cli;", &["crate::cli"]),
        ("use crate::*;", &["crate::*"]),
        ("fn f() { println!(\"x\") }", &["std::io::stdout"]),
        (
            "/// [`crate::cli`]\n// crate::cli\n/* crate::cli */ fn f<'a>(c: &'a str) { \"crate::cli \\\" \
             crate::cli\"; }",
            &[],
        ),
        (
            "const A: [char; 3] = ['\"', '\\'', 'x']; const B: &str = r#\"\" crate::cli\"#; use std::fs;",
            &["std::fs"],
        ),
        ("fn f() { self.crate_.cli(); Self::cli(); fs::read(); }", &[]),
    ];
    let module = ["totals".to_owned(), "snapshot".to_owned()];
    for (text, expected) in cases {
        let expected: BTreeSet<String> = expected.iter().map(|path| (*path).to_owned()).collect();
        assert_eq!(mentions(&module, text), expected, "{text}");
    }
}

#[test]
fn forbidden_paths_are_faults() {
    for (path, is_bad) in [
        ("crate::smaps::fields", false),
        ("crate::cli", true),
        ("crate::clinic", false),
        ("crate::*", true),
        ("std::fs::File", true),
        ("std::io::Read", true),
        ("std::io::stdout", true),
        ("std::io::Write", false),
        ("std::io::self", false),
        ("std::iter::once", false),
        ("std::fmt::Write", false),
        ("std::os::fd::AsFd", true),
    ] {
        assert_eq!(is_fault(path, PURE, true), is_bad, "{path}");
    }
    assert!(!is_fault("crate::cgroupfs::fields::FIELDS", TEXT, true));
    assert!(is_fault("crate::cgroupfs::files::CgroupFs", TEXT, true));
    assert!(!is_fault("std::fs::File", LINUX, false));
    assert!(is_fault("crate::totals", LINUX, false));
}

#[test]
fn imports_between_files_are_found() {
    let cases: [(&str, &str, &str, &[&str]); 6] = [
        ("mod one; pub use one::One;", "struct One;", "use super::One;", &["a::one"]),
        ("pub mod one; pub struct A;", "use crate::a::A;", "use super::one::One;", &["a::one"]),
        ("mod one; struct A { one: one::One }", "", "use super::{A, one};", &["a", "a::one"]),
        ("mod one; use self::one::One as A;", "", "fn f() { crate::a::A::new() }", &["a::one"]),
        ("mod one;", "", "use crate::b::One; use std::fs;", &[]),
        ("mod one;", "", "use super::two::Two; use self::Two as X; pub(super) fn f() {}", &[]),
    ];
    for (parent, one, two, expected) in cases {
        let mut files = Files::default();
        let module = |path: &str| path.split("::").map(str::to_owned).collect::<Vec<_>>();
        for (path, text) in [("a", parent), ("a::one", one), ("a::two", two)] {
            files.insert(&module(path), text);
        }
        let (_, needs) = files.imports().find(|(file, _)| *file == "a::two").unwrap();
        assert_eq!(needs, expected.iter().map(|file| file.to_string()).collect(), "{two}");
    }
}

#[test]
fn circles_are_found() {
    for (arrows, expected) in [
        (&[("a", "b"), ("b", "c"), ("a", "c")][..], &[][..]),
        (&[("a", "b"), ("b", "a"), ("c", "d")], &["a", "b"]),
        (&[("a", "b"), ("b", "c"), ("c", "a")], &["a", "b", "c"]),
    ] {
        let mut needs: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (from, to) in arrows {
            needs.entry(to.to_string()).or_default();
            needs.entry(from.to_string()).or_default().insert(to.to_string());
        }
        assert!(circle(needs).keys().eq(expected), "{arrows:?}");
    }
    assert_eq!(without_tests("a\n#[cfg(test)]\nmod tests {\nb"), "a\n");
}
