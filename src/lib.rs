//! Where the memory of containerized processes really is: the totals of `/proc/<pid>/smaps` by container, command and
//! mapped path, as Prometheus text.
//!
//! Data flows one way, through rooms that are folders:
//!
//! ```text
//! cli (options) -> start (parts) -> scrape
//!   -> sources (which containers run)
//!   -> node (containers, processes, reads, cgroups) -> procfs, cgroupfs (the kernel's files)
//!   -> smaps (bytes become mappings) -> totals (sums a series) -> exposition (text) -> http
//! ```
//!
//! Only requests for scrapes go the other way: http -> demand -> scrape.
//!
//! | room | owns | knows nothing of |
//! | --- | --- | --- |
//! | [`cli`] | the options, their table, help | what is done with them |
//! | [`scrape`] | one scrape from beginning to end, and the checks between scrapes; the threads that take turns at it; the records of OOM kills | HTTP, options |
//! | [`demand`] | requests for scrapes, and so when the next one begins; waking the threads that wait | what a scrape is |
//! | [`sources`] | the listings of containers: containerd, CRI, the kubelet's links, a recording | processes |
//! | [`node`] | the containers and their cgroups, and when to list them; the processes and their attribution; what to read next, within which budget, and what the result means; the memory that cgroups use, and OOM kills | options |
//! | [`procfs`] | Linux: the files of a process, their errors, the end of an address space | containers |
//! | [`cgroupfs`] | Linux: the table of a cgroup's fields and the account that they add up to (pure), its files, where it is among the others | containers |
//! | [`smaps`] | pure: the table of fields, the scanner | everything else |
//! | [`totals`] | pure: what one process maps, the sums, what is kept and what folds so that all containers have their share, label text | everything but `smaps` |
//! | [`exposition`] | pure: the text of a snapshot, of cgroups and of OOM kills, the exporter's own metrics | everything but `smaps`, `totals` and the table of cgroup fields |
//! | [`http`] | connections, requests, the hand-over of the text, the page | how it came about |
//! | `sandbox` | what the process gives up before its first scrape | everything else |
//! | [`start`] | from the options to the parts of the program; which source the options name | what the parts do |
//!
//! What must never break:
//! - Nothing is exported that is not true: a read that was cut short counts for nothing, a process that is gone is gone, a field that the
//!   kernel does not print is absent, and folding changes no sum.
//! - A process is its pid and start time, held by a descriptor of its directory while it is read; never by its name or its number.
//! - No process, no container runtime and no client can hold up the others: whatever may wait can be left behind.
//! - A scrape allocates nothing while nothing changes, and everything that strangers choose has a bound.
#![forbid(unsafe_code)]

pub mod cgroupfs;
pub mod cli;
pub mod demand;
mod errors;
pub mod exposition;
pub mod http;
pub mod node;
pub mod procfs;
#[cfg_attr(not(target_os = "linux"), path = "sandbox/absent.rs")]
mod sandbox;
pub mod scrape;
pub mod smaps;
pub mod sources;
pub mod start;
pub mod totals;

use std::ffi::OsString;
use std::future::poll_fn;
use std::io::{self, Write as _};
use std::panic::PanicHookInfo;
use std::path::Path;
use std::process;
use std::sync::{Arc, mpsc};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use log::{info, warn};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::args::Command;
use crate::cli::options::Options;
use crate::cli::usage_error::UsageError;
use crate::demand::Demand;
use crate::errors::plain;
use crate::exposition::self_metrics::OLDEST_DATA;
use crate::http::Server;
use crate::http::publish::{self, Age, Document, Publisher};
use crate::scrape::threads::{self, AfterPass, Next};
use crate::scrape::{Pass, Scraper};
use crate::sources::recording::Writer;

/// How long the first scrape waits for containerd; after that it goes on without containers, and asks again.
const FIRST_LISTING: Duration = Duration::from_secs(5);
/// How long `--once` and `--record` wait, which have no second chance.
const ONLY_LISTING: Duration = Duration::from_secs(30);
/// How long they wait for reads that take long, and how soon they look again.
const ONLY_READS: Duration = Duration::from_secs(30);
const ONLY_PAUSE: Duration = Duration::from_millis(100);
/// `/healthz` is well unless a scrape has been due for the longer of these.
const HEALTHY_INTERVALS: u32 = 10;
const HEALTHY_AGE: Duration = Duration::from_secs(30);

/// Why the program ends without success: one line.
#[derive(Debug)]
pub enum Failure {
    /// The command line makes no sense.
    Usage(UsageError),
    /// It makes sense, but not here: no proc, no socket, the address in use.
    Start(String),
}

/// Runs the program with the arguments that follow its name, until it is done or told to end.
pub fn run(args: impl IntoIterator<Item = OsString>) -> Result<(), Failure> {
    let options = match cli::args::parse(args).map_err(Failure::Usage)? {
        Command::Help => return print(cli::help::help().as_bytes()).map_err(Failure::Start),
        Command::Version => return print(cli::help::version().as_bytes()).map_err(Failure::Start),
        Command::Run(options) => options,
    };
    env_logger::Builder::new().filter_level(options.log_level).format_target(false).init();
    let result = match &options.record {
        Some(directory) => record(&options, directory),
        None if options.once => once(&options),
        None => serve(&options),
    };
    result.map_err(Failure::Start)
}

/// `--once`: one scrape to stdout, without the metrics of the exporter itself, so that the same node gives the same bytes.
fn once(options: &Options) -> Result<(), String> {
    let text = scrape_once(options, |scraper| {
        let mut text = Vec::new();
        scraper.render_processes(&mut text);
        scraper.render_accounts(&mut text);
        text
    })?;
    print(&text)
}

/// `--record`: one recording to a new directory. That there is nothing to record is a failure.
fn record(options: &Options, directory: &Path) -> Result<(), String> {
    let mut writer = Writer::new(directory)?;
    let n_processes = scrape_once(options, move |scraper| scraper.record(&mut writer))??;
    info!("recorded {n_processes} processes into {directory:?}");
    Ok(())
}

/// One scrape, on threads of its own: a process whose read does not return is left out. Gives what `then` makes of it.
fn scrape_once<T: Send + 'static>(
    options: &Options,
    mut then: impl FnMut(&mut Scraper) -> T + Send + 'static,
) -> Result<T, String> {
    let mut scraper = start::scraper(options)?;
    start::enter_sandbox(options);
    scraper.list_first(ONLY_LISTING)?;
    let (sender, receiver) = mpsc::channel();
    let deadline = Instant::now() + ONLY_READS;
    let after: AfterPass = Box::new(move |scraper, _, result| {
        if result.is_ok() && !scraper.is_complete() && Instant::now() < deadline {
            return Next::Soon;
        }
        let _ = sender.send(result.map(|()| then(scraper))); // who waits for it has not gone
        Next::Never
    });
    let demand = Arc::new(Demand::new(ONLY_PAUSE, Instant::now()).map_err(no_demand)?);
    thread::Builder::new()
        .name("scrape".into())
        .spawn(move || threads::run(scraper, demand, after))
        .map_err(|error| format!("cannot start a thread: {}", plain(&error)))?;
    receiver.recv().map_err(|_| "the scrape has ended without a result".to_owned())?
}

/// Scrapes and serves until SIGTERM or SIGINT.
fn serve(options: &Options) -> Result<(), String> {
    std::panic::set_hook(Box::new(end_on_panic));
    // Before anything that takes time: as PID 1, a signal without a handler is lost.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let signals = runtime.and_then(|runtime| {
        let _inside = runtime.enter();
        let signals = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok((signals, runtime))
    });
    let ((mut terminate, mut interrupt), runtime) =
        signals.map_err(|error| format!("cannot handle signals: {}", plain(&error)))?;

    let server = Server::bind(&options.addr).map_err(|error| error.to_string())?;
    let addr = server.local_addr();
    let mut scraper = start::scraper(options)?;
    // Only now: what cannot start says why in one line, and nothing else.
    let node = options.node.as_ref().map(|node| format!(", node {node}")).unwrap_or_default();
    info!("{}{node}", cli::help::version().trim_end());
    info!("{}", scraper.describe_source());
    // Before any other thread: capabilities are a thread's own, and those that it starts inherit them.
    start::enter_sandbox(options);
    let (publisher, published) = publish::publisher();
    let ooms = Document::default();
    let records = ooms.clone();
    let interval = options.scrape_interval;
    let demand = Arc::new(Demand::new(interval, Instant::now()).map_err(no_demand)?);
    let requests = demand.clone();
    thread::Builder::new()
        .name("scrape".into())
        .spawn(move || {
            if let Err(error) = scraper.list_first(FIRST_LISTING) {
                warn!("{error}");
            }
            threads::run(scraper, demand, publish_each(publisher, records));
        })
        .map_err(|error| format!("cannot start a thread: {}", plain(&error)))?;
    let hosts = options.allowed_hosts.iter().chain(&options.node).cloned().collect();
    server
        .start(published, ooms, requests, HEALTHY_AGE.max(HEALTHY_INTERVALS * interval), hosts)
        .map_err(|error| format!("cannot start a thread: {}", plain(&error)))?;
    info!("listening on http://{addr}/");
    let name = runtime.block_on(poll_fn(|context| {
        if terminate.poll_recv(context).is_ready() {
            Poll::Ready("SIGTERM")
        } else {
            interrupt.poll_recv(context).map(|_| "SIGINT")
        }
    }));
    info!("{name}: leaving");
    Ok(())
}

fn no_demand(error: io::Error) -> String {
    format!("cannot make a pair of sockets: {}", plain(&error))
}

/// Publishes each scrape, and the records of OOM kills whenever there are new ones.
fn publish_each(mut publisher: Publisher, ooms: Document) -> AfterPass {
    let mut last_error = None;
    Box::new(move |scraper, pass, result| {
        if let Some(records) = scraper.news_of_ooms() {
            ooms.replace(records);
        }
        match result {
            Ok(()) if pass == Pass::Check => {}
            Ok(()) => {
                if last_error.take().is_some() {
                    info!("scrapes succeed again");
                }
                scraper.render(publisher.buffer());
                let age = |since| Age { family: OLDEST_DATA, since };
                publisher.publish(scraper.oldest_data().map(age));
            }
            Err(error) => {
                if last_error.is_none() {
                    warn!("{error}");
                }
                last_error = Some(error);
            }
        }
        Next::OnRequest
    })
}

/// Ends the process: without one of its threads it would be half dead, and nobody would restart it.
fn end_on_panic(panic: &PanicHookInfo<'_>) {
    let cause = panic.payload_as_str().unwrap_or("unknown").escape_debug();
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    // not eprintln!, which panics in turn where standard error takes nothing
    let _ = writeln!(io::stderr(), "smaps-container-exporter: this is a bug: {cause} at {place}");
    process::exit(1);
}

/// Writes to stdout. A reader who has seen enough is no error.
fn print(text: &[u8]) -> Result<(), String> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("cannot write to standard output: {}", plain(&error)))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// In a process of its own, because it ends it: this test again, told by its environment to panic in a thread.
    #[test]
    fn a_panic_in_a_thread_ends_the_process_with_one_line() {
        if std::env::var_os("SMAPS_TEST_PANIC").is_some() {
            std::panic::set_hook(Box::new(end_on_panic));
            let _ = thread::spawn(|| panic!("two\nlines")).join();
            process::exit(0); // half dead
        }
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tests::a_panic_in_a_thread_ends_the_process_with_one_line", "--nocapture"])
            .env("SMAPS_TEST_PANIC", "1")
            .output()
            .unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{told}");
        let [line] = told.lines().collect::<Vec<_>>()[..] else { panic!("{told:?}") };
        assert!(
            line.starts_with(r"smaps-container-exporter: this is a bug: two\nlines at src/lib.rs:"),
            "{line}"
        );
    }
}
