//! The program exports how much memory containers use, and for what. It sums `/proc/<pid>/smaps` by
//! container, command and mapped path, and serves the sums as Prometheus text.
//!
//! Data flows one way through these modules:
//!
//! ```text
//! cli (options) -> start (parts) -> scrape
//!   -> sources (which containers run)
//!   -> node (containers, processes, reads, cgroups) -> procfs, cgroupfs (the kernel's files)
//!   -> smaps (bytes become mappings) -> totals (sums by series) -> exposition (text) -> http
//! ```
//!
//! Only requests for scrapes go in the opposite direction: http -> demand -> scrape.
//!
//! Each module owns certain things. A module must not depend on what it does not know. A module that is
//! called pure does no input or output.
//! - [`cli`] owns the options, their table and their help. It does not know what the options do.
//! - [`scrape`] owns one scrape from beginning to end, the checks between scrapes, the threads that run
//!   scrapes and checks, and the records of OOM kills. It knows nothing of HTTP or options.
//! - [`demand`] owns the requests for scrapes, from which it decides when the next scrape begins. It also
//!   wakes waiting threads. It does not know what a scrape is.
//! - [`sources`] owns the listings of containers, which come from containerd, CRI, the kubelet's links to log
//!   files, or a recording. It knows nothing of processes.
//! - [`node`] owns the containers, their cgroups, and the decision when to list containers. It owns the
//!   processes, and decides which container each process is in. It decides which process to read next within
//!   the CPU budget, and what to do with the result. It also owns the memory use of cgroups, and OOM kills.
//!   It knows nothing of options.
//! - [`procfs`] (Linux) owns the files of a process and their errors. It also notices when an address space
//!   ends. It knows nothing of containers.
//! - [`cgroupfs`] (Linux) owns the table of cgroup fields. From these fields it splits the memory of a cgroup
//!   into parts, without I/O. It owns the files of a cgroup, and finds a cgroup in the hierarchy. It knows
//!   nothing of containers.
//! - [`smaps`] (pure) owns the table of fields and the scanner. It knows nothing else.
//! - [`totals`] (pure) owns the memory that each process maps, the sums over processes, and label text. It
//!   also decides which series are kept, and which are folded (summed into `[other]`) to limit the number of
//!   series. This decision gives each container its share of the series. It knows only `smaps`.
//! - [`exposition`] (pure) owns the text of a snapshot, of cgroups, of OOM kills and of the exporter's own
//!   metrics. It knows only `smaps`, `totals` and the table of cgroup fields.
//! - [`http`] owns connections, requests and the web page. It also passes the text from the scrape thread to
//!   the HTTP thread. It knows nothing of how the text is made.
//! - `logging` owns the queue of log lines and the thread that writes them. It knows nothing else.
//! - `signals` owns SIGTERM and SIGINT. It knows nothing else.
//! - `sandbox` owns the list of rights that the program keeps, and drops all others before the first scrape.
//!   It knows nothing else.
//! - [`start`] makes the parts of the program from the options, and chooses the source of containers. It
//!   knows nothing of what the parts do.
//!
//! Invariants:
//! - Only true values are exported. The values of an incomplete read are dropped, and so are the values of a
//!   process that has ended. A field that the kernel does not print is absent. Folding changes no sum.
//! - A process is identified by its pid and start time together, never by its pid or its name alone. While a
//!   process is read, the descriptor of its directory is kept open. So another process that gets the same pid
//!   during the read cannot be mistaken for it.
//! - No process, container runtime or client can delay the others: every wait has a time limit, can be
//!   cancelled, or is left to a thread that nothing else waits for.
//! - While nothing changes, a scrape allocates no memory.
//! - Workloads and clients cannot make the program use unlimited memory. Everything that grows because of
//!   them has a maximum size.
#![forbid(unsafe_code)]

pub mod anonymous;
pub mod cgroupfs;
pub mod cli;
mod credit;
pub mod demand;
mod errors;
pub mod exposition;
pub mod http;
mod logging;
pub mod node;
pub mod procfs;
#[cfg_attr(not(target_os = "linux"), path = "sandbox/unsupported.rs")]
mod sandbox;
pub mod scrape;
mod signals;
pub mod smaps;
pub mod sources;
pub mod start;
pub mod totals;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::panic::PanicHookInfo;
use std::path::Path;
use std::process::{self, ExitCode};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use log::{info, warn};

use crate::cli::args::Command;
use crate::cli::options::Options;
use crate::cli::usage_error::UsageError;
use crate::demand::Demand;
use crate::errors::plain;
use crate::exposition::self_metrics::OLDEST_DATA;
use crate::http::Server;
use crate::http::publish::{self, Age, Document, Publisher};
use crate::http::views::Views;
use crate::procfs::this_process::raise_open_file_limit;
use crate::scrape::threads::{self, AfterPass, Next};
use crate::scrape::{Pass, Scraper};
use crate::signals::{Received, Signals};
use crate::sources::recording::Writer;

/// How long the first scrape waits for a listing of containers. If there is none by then, the first scrape
/// continues without containers, and later scrapes try again.
const FIRST_LISTING: Duration = Duration::from_secs(5);
/// How long `--once` and `--record` wait for a listing of containers. This is longer than [`FIRST_LISTING`],
/// because there is no later scrape that could try again.
const ONLY_LISTING: Duration = Duration::from_secs(30);
/// How long `--once` and `--record` wait for slow reads to end. During this time they repeat the scrape, at
/// most once per [`ONLY_PAUSE`].
const ONLY_READS: Duration = Duration::from_secs(30);
const ONLY_PAUSE: Duration = Duration::from_millis(100);
/// The least number of files that the program must be allowed to open. With a lower limit, it does not start,
/// because its scrapes would be incomplete. Without containers, 20 to 30 files are open at once. Each stuck
/// read keeps up to three more files open.
const MIN_OPEN_FILES: u64 = 64;
/// `/healthz` fails if a scrape has been due or running for this number of scrape intervals, and for at least
/// [`HEALTHY_AGE`].
const HEALTHY_INTERVALS: u32 = 10;
const HEALTHY_AGE: Duration = Duration::from_secs(30);

/// The reason why the program failed. It is printed as one line.
#[derive(Debug)]
pub enum Failure {
    /// The command line is invalid.
    Usage(UsageError),
    /// The options are valid, but the program cannot work with them on this system. For example, proc or the
    /// socket is missing, or the address is in use.
    Start(String),
    /// A signal interrupted a command that would end by itself, such as `--help`.
    Signal(Received),
}

impl Failure {
    /// Writes the last line of the log, which says why the program failed. Returns the exit code.
    pub fn report(self) -> ExitCode {
        let (error, code) = match self {
            Self::Usage(error) => (error.to_string(), 2),
            Self::Start(error) => (error, 1),
            Self::Signal(received) => (format!("ended by {}", received.name), received.exit_code),
        };
        logging::end_with(format!("smaps-container-exporter: {error}"));
        ExitCode::from(code)
    }
}

/// Runs the program with the arguments that follow its name. Returns when its work is done or a signal has
/// ended it.
pub fn run(args: impl IntoIterator<Item = OsString>) -> Result<(), Failure> {
    if let Some(limit) = raise_open_file_limit().filter(|limit| *limit < MIN_OPEN_FILES) {
        return Err(Failure::Start(format!(
            "cannot run with at most {limit} open files (ulimit -n): expected at least {MIN_OPEN_FILES}"
        )));
    }
    let signals = Signals::install().map_err(Failure::Start)?;
    let options = match cli::args::parse(args).map_err(Failure::Usage)? {
        Command::Help => return finish(signals.wait_for(|| print(cli::help::help().as_bytes()))),
        Command::Version => return finish(signals.wait_for(|| print(cli::help::version().as_bytes()))),
        Command::Print(text) => return finish(signals.wait_for(move || print(text.as_bytes()))),
        Command::Run(options) => options,
    };
    logging::init(options.log_level);
    match &options.record {
        Some(directory) => record(&options, signals, directory),
        None if options.once => once(&options, signals),
        None => serve(&options, signals).map_err(Failure::Start),
    }?;
    logging::flush();
    Ok(())
}

fn finish<T>(result: Result<Result<T, String>, Received>) -> Result<T, Failure> {
    result.map_err(Failure::Signal)?.map_err(Failure::Start)
}

/// Runs `--once`: scrapes, and writes the result to stdout. The metrics about the exporter itself are left
/// out, because they change with every run, and two runs on an unchanged node should give the same bytes.
fn once(options: &Options, signals: Signals) -> Result<(), Failure> {
    scrape_once(options, signals, |scraper| {
        let mut text = Vec::new();
        scraper.render_processes(&mut text);
        scraper.render_accounts(&mut text);
        print(&text)
    })
}

/// Runs `--record`: writes one recording to a new directory. Fails if there is nothing to record.
fn record(options: &Options, signals: Signals, directory: &Path) -> Result<(), Failure> {
    let mut writer = Writer::new(directory).map_err(Failure::Start)?;
    let n_processes = scrape_once(options, signals, move |scraper| scraper.record(&mut writer))?;
    info!("recorded {n_processes} processes into {directory:?}");
    Ok(())
}

/// Scrapes on another thread, and repeats the scrape until all processes that can be read were read, or until
/// [`ONLY_READS`] has passed. Stuck reads are skipped. If the last scrape succeeded, calls `then` with the
/// scraper, for example to print the sums, and returns the result of this call. SIGTERM or SIGINT ends the
/// function early.
fn scrape_once<T: Send + 'static>(
    options: &Options,
    signals: Signals,
    mut then: impl FnMut(&mut Scraper) -> Result<T, String> + Send + 'static,
) -> Result<T, Failure> {
    let mut scraper = start::scraper(options).map_err(Failure::Start)?;
    start::enter_sandbox(options);
    logging::start().map_err(|error| Failure::Start(no_thread(&error)))?;
    let work = move || {
        scraper.list_first(ONLY_LISTING)?;
        let (sender, receiver) = mpsc::channel();
        let deadline = Instant::now() + ONLY_READS;
        let after: AfterPass = Box::new(move |scraper, pass, result| {
            if pass == Pass::Check {
                return Next::OnRequest;
            }
            if result.is_ok() && !scraper.is_complete() && Instant::now() < deadline {
                return Next::Soon;
            }
            let _ = sender.send(result.and_then(|()| then(scraper))); // the receiver waits for this
            Next::Never
        });
        let demand = Arc::new(Demand::new(ONLY_PAUSE, Instant::now()).map_err(no_demand)?);
        thread::Builder::new()
            .name("scrape".into())
            .spawn(move || threads::run(scraper, demand, after))
            .map_err(|error| no_thread(&error))?;
        receiver.recv().map_err(|_| "the scrape has ended without a result".to_owned())?
    };
    finish(signals.wait_for(work))
}

/// Runs the exporter: scrapes and serves until SIGTERM or SIGINT.
fn serve(options: &Options, signals: Signals) -> Result<(), String> {
    std::panic::set_hook(Box::new(end_on_panic));
    let server = Server::bind(&options.addr)?;
    let addr = server.local_addr();
    let mut scraper = start::scraper(options)?;
    // The version and the source are logged after start::scraper(), so that a program that cannot start
    // prints only the reason.
    let node = options.node.as_ref().map(|node| format!(", node {node}")).unwrap_or_default();
    info!("{}{node}", cli::help::version().trim_end());
    info!("{}", scraper.describe_source());
    // The program enters the sandbox before it starts any thread. Capabilities belong to a thread, and new
    // threads inherit them.
    start::enter_sandbox(options);
    logging::start().map_err(|error| no_thread(&error))?;
    let (publisher, published) = publish::publisher();
    let ooms = Document::default();
    let records = ooms.clone();
    let views = Arc::new(start::views(options));
    let queue = views.clone();
    let interval = options.scrape_interval;
    let demand = Arc::new(Demand::new(interval, Instant::now()).map_err(no_demand)?);
    let requests = demand.clone();
    if start::has_checks(options) {
        scraper.watch_ooms(demand.clone()).map_err(|error| no_thread(&error))?;
    }
    thread::Builder::new()
        .name("scrape".into())
        .spawn(move || {
            if let Err(error) = scraper.list_first(FIRST_LISTING) {
                warn!("{error}");
            }
            let publish = publish_each(publisher, records, queue, demand.clone());
            threads::run(scraper, demand, publish);
        })
        .map_err(|error| no_thread(&error))?;
    let hosts = options.allowed_hosts.iter().chain(&options.node).cloned().collect();
    server
        .start(published, ooms, views, requests, HEALTHY_AGE.max(HEALTHY_INTERVALS * interval), hosts)
        .map_err(|error| no_thread(&error))?;
    info!("listening on http://{addr}/");
    info!("received {}, shutting down", signals.wait().name);
    Ok(())
}

fn no_demand(error: io::Error) -> String {
    format!("cannot make a pair of sockets: {}", plain(&error))
}

/// Returns the function that the scrape thread calls after each scrape and after each check of memory use.
/// The scrape thread also calls the function while it waits for the next scrape or check. Every call
/// publishes new OOM records. A call after a successful scrape also publishes the exposition. A call after a
/// check, or during the wait, renders the requested views, which are expositions for requests with
/// parameters.
fn publish_each(
    mut publisher: Publisher,
    ooms: Document,
    views: Arc<Views>,
    demand: Arc<Demand>,
) -> AfterPass {
    let mut last_error = None;
    Box::new(move |scraper, pass, result| {
        if let Some(records) = scraper.take_new_oom_records() {
            ooms.replace(records);
        }
        match result {
            Ok(()) if pass == Pass::Check => views.render_due(&demand, |query, text, max_bytes| {
                let fits = scraper.render_query(query, text, max_bytes);
                let age = scraper.oldest_data().map(|since| Age { family: OLDEST_DATA, since });
                text.extend(age.map(|age| age.sample(Instant::now())).unwrap_or_default());
                fits
            }),
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

/// Ends the process after a panic in any thread. If the process continued without the thread, the exporter
/// would not work, and Kubernetes would not restart it.
fn end_on_panic(panic: &PanicHookInfo<'_>) {
    let cause = panic.payload_as_str().unwrap_or("unknown").escape_debug();
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    logging::end_with(format!("smaps-container-exporter: this is a bug: {cause} at {place}"));
    process::exit(1);
}

fn no_thread(error: &io::Error) -> String {
    format!("cannot start a thread: {}", plain(error))
}

/// Writes to stdout. It is not an error if the reader closes the pipe before everything is written.
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

    /// A panic ends the process, so this test starts its own binary as a second process. An environment
    /// variable makes a thread of the second process panic.
    #[test]
    fn a_panic_in_a_thread_ends_the_process_with_one_line() {
        if std::env::var_os("SMAPS_TEST_PANIC").is_some() {
            std::panic::set_hook(Box::new(end_on_panic));
            let _ = thread::spawn(|| panic!("two\nlines")).join();
            process::exit(0); // the panic did not end the process
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
