//! Compares what the rules for anonymous memory find with the truth. The snapshots of programs state what
//! each mapping was really used for.
//!
//! `fixtures/anonymous` has 30 snapshots. The environment variable `ANONYMOUS_SNAPSHOTS` names another
//! directory of snapshots. `tests/record/anonymous.py` makes snapshots.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use smaps_container_exporter::anonymous::parts::Parts;
use smaps_container_exporter::procfs::scan::{CHUNK, Limits, scan};
use smaps_container_exporter::smaps::fields::FIELDS;
use smaps_container_exporter::smaps::scanner::{Mapping, Scanner};
use smaps_container_exporter::totals::anon_part::AnonPart;

/// The uses of memory in the snapshots, such as `stack`, and the correct answer for each use. The answer
/// `None` means that the rules should assign the memory to no part.
const USES: [(&str, Option<AnonPart>); 20] = [
    ("stack", Some(AnonPart::ThreadStacks)),
    ("arena", Some(AnonPart::MallocArenas)),
    ("jheap", Some(AnonPart::JavaHeap)),
    ("jmeta", Some(AnonPart::JavaClasses)),
    ("jcode", Some(AnonPart::JitCode)),
    ("jit", Some(AnonPart::JitCode)),
    ("go", Some(AnonPart::GoHeap)),
    ("node", Some(AnonPart::V8Heap)),
    ("allocator", Some(AnonPart::Allocator)),
    ("bigmalloc", None),
    ("mainheap", None),
    ("python", None),
    ("beam", None),
    ("jgc", None),
    ("php", None),
    ("musl", None),
    ("ruby", None),
    ("chromium", None),
    ("bss", None),
    ("other", None),
];

/// Amounts of memory in KiB. Each row is the memory that the rules assign to one part. The last row is the
/// memory that they assign to no part. Each column is one of the [`USES`], so it says what the memory was
/// really used for.
type Claims = [[u64; USES.len()]; AnonPart::ALL.len() + 1];

/// One mapping of a snapshot.
#[derive(Clone)]
struct Line {
    addresses: String,
    permissions: String,
    flags: Vec<String>,
    uses: Vec<(String, u64)>,
    path: String,
}

impl Line {
    /// Adds `by` to addresses that the kernel has chosen. Addresses below 0x7e00_0000_0000 were chosen by the
    /// program, and stay the same.
    fn lift(&mut self, by: u64) {
        let lifted = |address: &str| match u64::from_str_radix(address, 16).unwrap() {
            address @ ..0x7e00_0000_0000 => format!("{address:08x}"),
            address => format!("{:08x}", address.saturating_add(by)),
        };
        let (begin, end) = self.addresses.split_once('-').unwrap();
        self.addresses = format!("{}-{}", lifted(begin), lifted(end));
    }
}

/// Returns the snapshots by name.
fn snapshots() -> BTreeMap<String, Vec<Line>> {
    let directory =
        std::env::var_os("ANONYMOUS_SNAPSHOTS").map_or("fixtures/anonymous".into(), PathBuf::from);
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#')).map(line);
        (path.file_stem().unwrap().to_str().unwrap().to_owned(), lines.collect())
    };
    fs::read_dir(directory).unwrap().map(|entry| read(entry.unwrap().path())).collect()
}

fn line(text: &str) -> Line {
    let [addresses, permissions, flags, uses, path] = *text.split('\t').collect::<Vec<_>>() else {
        panic!("not five columns: {text}");
    };
    let uses = uses.split_whitespace().map(|each| {
        let (name, kib) = each.split_once('=').unwrap();
        (name.to_owned(), kib.parse().unwrap())
    });
    Line {
        addresses: addresses.into(),
        permissions: permissions.into(),
        flags: flags.split(',').map(str::to_owned).collect(),
        uses: uses.collect(),
        path: path.into(),
    }
}

/// Returns the mappings of a snapshot in the format of the kernel's smaps. The fields, such as `Rss`, do not
/// have their usual meaning. The value of the n-th field is how many KiB of the mapping have the n-th use in
/// [`USES`]. [`Parts`] sums each field, so its sums show what the memory of each part was really used for.
fn smaps(lines: &[Line]) -> String {
    let mut text = String::new();
    for Line { addresses, permissions, flags, uses, path } in lines {
        let header = format!("{addresses} {permissions} 00000000 00:00 0 ");
        writeln!(text, "{header:<73}{path}").unwrap();
        for ((use_, _), field) in USES.iter().zip(&FIELDS) {
            let kib: u64 = uses.iter().filter(|(name, _)| name == use_).map(|(_, kib)| kib).sum();
            writeln!(text, "{:<16}{kib:>8} kB", format!("{}:", field.key)).unwrap();
        }
        writeln!(text, "THPeligible:           0\nVmFlags: rd wr mr mw me {} sd ", flags.join(" ")).unwrap();
    }
    text
}

/// Applies the rules to a snapshot. Returns which memory they assign to which part.
fn claims(lines: &[Line]) -> Claims {
    let mut parts = Parts::default();
    let text = smaps(lines);
    let each = &mut |mapping: Mapping<'_>| assert_eq!(parts.add(&mapping), mapping.path.is_empty());
    scan(text.as_bytes(), &mut vec![0; CHUNK], Limits::NONE, &mut Scanner::default(), each).unwrap();
    let mut claims = Claims::default();
    parts.finish(|path, totals| {
        let part = AnonPart::ALL.iter().position(|part| part.path() == path);
        let claimed = &mut claims[part.unwrap_or(AnonPart::ALL.len())];
        claimed.iter_mut().zip(&totals.values.bytes).for_each(|(kib, bytes)| *kib += bytes >> 10);
    });
    claims
}

/// Returns three numbers of KiB. The first is the memory that the rules assign to `part`. The second is how
/// much of this memory is correctly assigned. The third is the memory that a perfect rule would assign to
/// `part`.
fn judge(claims: &Claims, part: AnonPart) -> [u64; 3] {
    let is_right = |i: &usize| USES[*i].1 == Some(part);
    let claimed = &claims[part as usize];
    let right = (0..USES.len()).filter(is_right).map(|i| claimed[i]).sum();
    let all =
        (0..USES.len()).filter(is_right).map(|i| claims.iter().map(|claim| claim[i]).sum::<u64>()).sum();
    [claimed.iter().sum(), right, all]
}

fn share(part: u64, of: u64) -> f64 {
    if of == 0 { f64::NAN } else { part as f64 / of as f64 }
}

/// Changes each line of each snapshot with `change`, applies the rules to the snapshots, prints a table, and
/// returns the sums over all snapshots.
fn all_claims(what: &str, change: impl Fn(&mut Line)) -> Claims {
    let mut all = Claims::default();
    println!("{what}");
    for (name, mut lines) in snapshots() {
        lines.iter_mut().for_each(&change);
        let claims = claims(&lines);
        for (all, one) in all.iter_mut().flatten().zip(claims.iter().flatten()) {
            *all += one;
        }
        for part in AnonPart::ALL {
            let [claimed, right, of] = judge(&claims, part);
            if claimed != right || of != right {
                println!("  {name}: {}: claims {claimed} KiB, {right} rightly, of {of}", part.path());
            }
        }
    }
    for part in AnonPart::ALL {
        let [claimed, right, of] = judge(&all, part);
        let (precision, recall) = (share(right, claimed), share(right, of));
        println!("{}: precision {:.2}%, recall {:.2}%", part.path(), 100.0 * precision, 100.0 * recall);
    }
    all
}

/// A variant of the snapshots: its name, a function that changes each line of the snapshots, and the minimum
/// recall of each part. The recall is the share of the part's memory that the rules assign to the part.
type Variant<'a> = (&'a str, &'a dyn Fn(&mut Line), [f64; AnonPart::ALL.len()]);

/// Tests that at least 99% of the bytes that the rules assign to a part really belong to the part. The
/// minimum recalls are a little below the measured recalls. Some recalls are low, because the rules recognize
/// little memory of JDK 8 and 11 and of JVMs without compressed pointers.
#[test]
fn rules_are_right_about_99_percent_of_bytes() {
    let without = |flags: &'static [&'static str]| {
        move |line: &mut Line| line.flags.retain(|flag| !flags.contains(&flag.as_str()))
    };
    let all = [0.99, 0.99, 0.78, 0.57, 0.96, 0.97, 0.99, 0.99];
    let variants: [Variant<'_>; 4] = [
        ("as recorded", &|_| {}, all),
        (
            "without the flags of new kernels",
            &without(&["nh", "gu"]),
            [0.98, 0.99, 0.78, 0.57, 0.96, 0.97, 0.99, 0.99],
        ),
        ("arm64", &|line| line.lift(0x8000_0000_0000), all),
        ("with vm.overcommit_memory=2", &without(&["nr"]), [0.99, 0.7, 0.78, 0.0, 0.96, 0.97, 0.99, 0.0]),
    ];
    for (what, change, least_recall) in variants {
        let claims = all_claims(what, change);
        for (part, least_recall) in AnonPart::ALL.into_iter().zip(least_recall) {
            let [claimed, right, of] = judge(&claims, part);
            assert!(of > 1000, "{what}: {} is in the snapshots", part.path());
            assert!(right as f64 >= 0.99 * claimed as f64, "{what}: precision of {}", part.path());
            assert!(right as f64 >= least_recall * of as f64, "{what}: recall of {}", part.path());
        }
    }
}

#[test]
fn unknown_flags_and_addresses_are_not_claimed() {
    let claimed = |claims: &Claims| AnonPart::ALL.map(|part| judge(claims, part)[0]);
    let claims = claimed(&all_claims("without flags", |line| line.flags.clear()));
    assert_eq!(claims[AnonPart::V8Heap as usize..], [0, 0], "V8 and allocators are recognized by flags");
    assert_eq!(claims[AnonPart::JavaHeap as usize], 0, "the Java heap is accounted");
    let claims = claimed(&all_claims("at addresses of no known kernel", |line| line.lift(0x1000_0000_0000)));
    assert_eq!(claims[AnonPart::MallocArenas as usize], 0, "arenas are in the mmap area");
}
