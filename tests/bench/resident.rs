//! Measures the resident memory of a process that only scrapes. This process is a second process of the bench
//! program.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use crate::scrapes::Scrapes;

/// The first argument of a process that only runs scrapes and prints its resident memory.
pub const ROLE: &str = "scrapes";

/// Starts a process that only scrapes. For each number in `n_scrapes`, returns the resident bytes of the
/// process after that number of scrapes.
pub fn bytes_after<const N: usize>(
    fixture: &Path,
    options: &[&str],
    n_scrapes: [usize; N],
) -> io::Result<[f64; N]> {
    let mut process = Command::new(std::env::current_exe()?);
    process.arg(ROLE).arg(n_scrapes.map(|n| n.to_string()).join(",")).arg(fixture).args(options);
    let output = process.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut resident = text.lines().map(|line| line.parse().expect("it prints numbers"));
    Ok(n_scrapes.map(|_| resident.next().unwrap_or_else(|| panic!("{process:?} has failed: {output:?}"))))
}

/// Runs in the process that [`bytes_after`] starts. Prints the resident bytes of the process after each of
/// the given numbers of scrapes. `args` has these numbers, separated by commas, then the path of the
/// recording, and then options of the exporter.
pub fn play(args: &[&str]) -> io::Result<()> {
    let [n_scrapes, fixture, options @ ..] = args else {
        panic!("{args:?}: expected scrapes and a recording")
    };
    let mut scrape = Scrapes::new(Path::new(fixture), options).always_reading();
    let mut n_done = 0;
    for n in n_scrapes.split(',') {
        let n: usize = n.parse().expect("a number of scrapes");
        (n_done..n).for_each(|_| scrape.run());
        n_done = n;
        let statm = fs::read_to_string("/proc/self/statm")?;
        let pages: usize = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("proc(5)");
        println!("{}", pages * rustix::param::page_size());
    }
    Ok(())
}
