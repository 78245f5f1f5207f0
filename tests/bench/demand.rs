//! Measures the CPU time of the exporter when a client requests /metrics every 3 s or every second. For quiet
//! processes, also measures it without requests.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::table::Target::{self, AtMost};
use crate::table::{cpu_time, full_or_short, heading, median, ratio, single, time};
use crate::workload::{N_MAPPINGS, Workload};

const N_PROCESSES: usize = 50;
/// The number of scrapes before the measurement. From its third scrape on, the exporter skips a process if
/// the memory of the process has not changed.
const N_WARM_UP: u32 = 4;

/// A running exporter that reads the processes of a workload.
struct Exporter {
    process: Child,
    addr: String,
}

/// A response to a request for /metrics.
struct Answer {
    took: Duration,
    /// The value of `smaps_exporter_scrapes_total`.
    n_scrapes: f64,
}

/// What was measured in periods of equal length. Times are in seconds.
#[derive(Default)]
struct Periods {
    /// The CPU time of the exporter in each period.
    spent: Vec<f64>,
    /// The CPU time that the bench itself needed to read the smaps of every process once, in each period.
    floor: Vec<f64>,
    answers: Vec<Answer>,
}

impl Exporter {
    fn start(workload: &Workload) -> io::Result<Self> {
        let mut process = Command::new(env!("CARGO_BIN_EXE_smaps-container-exporter"))
            .args(["--addr", "127.0.0.1:0", "--filter", &workload.filter(), "--fixture"])
            .arg(workload.fixture())
            .stderr(Stdio::piped())
            .spawn()?;
        let log = BufReader::new(process.stderr.take().expect("it is piped"));
        let mut lines = log.lines();
        let addr = loop {
            let line = lines.next().expect("it says where it listens")?;
            if let Some((_, addr)) = line.split_once("listening on http://") {
                break addr.trim_end_matches('/').to_owned();
            }
        };
        thread::spawn(move || lines.for_each(drop));
        Ok(Self { process, addr })
    }

    fn request(&self) -> io::Result<Answer> {
        let began = Instant::now();
        let mut stream = TcpStream::connect(&self.addr)?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let took = began.elapsed();
        let value = |family: &str| {
            let sample = text.lines().find_map(|line| line.strip_prefix(family)?.strip_prefix(' '));
            sample.and_then(|value| value.parse::<f64>().ok()).expect("the family is there")
        };
        assert_eq!(value("smaps_exporter_processes"), N_PROCESSES as f64);
        Ok(Answer { took, n_scrapes: value("smaps_exporter_scrapes_total") })
    }

    /// Returns the CPU seconds that all threads of the exporter have used.
    fn cpu_time(&self) -> io::Result<f64> {
        let mut seconds = 0.0;
        for task in fs::read_dir(format!("/proc/{}/task", self.process.id()))? {
            let text = fs::read_to_string(task?.path().join("schedstat"))?;
            let nanoseconds: f64 = text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or_default();
            seconds += nanoseconds / 1e9;
        }
        Ok(seconds)
    }

    /// Sends one request in each period. Halfway between two requests, measures how much CPU time it takes
    /// just to read the smaps of every process. The exporter and this measurement both start after a pause,
    /// so that the caches of the CPU are equally cold.
    fn periods(&self, workload: &Workload, period: Duration, n_periods: u32) -> io::Result<Periods> {
        let began = Instant::now();
        let sleep_until = |at: Instant| thread::sleep(at.saturating_duration_since(Instant::now()));
        let mut periods = Periods::default();
        let mut before = 0.0;
        for i in 1..=N_WARM_UP + n_periods {
            sleep_until(began + i * period);
            let answer = self.request()?;
            let now = self.cpu_time()?;
            sleep_until(began + i * period + period / 2);
            let floor = workload.read_floor();
            if i > N_WARM_UP {
                periods.spent.push(now - before);
                periods.floor.push(floor);
                periods.answers.push(answer);
            }
            before = now;
        }
        Ok(periods)
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Measures the CPU time with requests every 3 s and with requests every second. Does this once for processes
/// that touch new pages all the time, and once for processes that only wait. For processes that only wait,
/// also measures the CPU time without requests.
pub fn demand() -> io::Result<()> {
    let seconds = |full, short| Duration::from_secs_f64(full_or_short(full, short));
    let (period, n_periods) = (seconds(3.0, 0.1), full_or_short(10, 2));
    let busy: fn(usize) -> io::Result<Workload> = Workload::busy;
    for (name, start, bound) in [("busy", busy, 1.1), ("quiet", Workload::few_series, 0.45)] {
        let workload = start(N_PROCESSES)?;
        heading(&format!("one request every 3 s: {N_PROCESSES} {name} processes of {N_MAPPINGS} mappings"));
        let exporter = Exporter::start(&workload)?;
        let Periods { spent, floor, answers } = exporter.periods(&workload, period, n_periods)?;
        let fresh: Vec<f64> =
            (0..n_periods).map(|_| Ok(exporter.request()?.took.as_secs_f64())).collect::<io::Result<_>>()?;
        time("CPU per period", &spent, 1e3, "ms", Target::None);
        time("read floor of one full read", &floor, 1e3, "ms", Target::None);
        ratio("CPU per period over read floor", &spent, &floor, AtMost(bound));
        let took: Vec<f64> = answers.iter().map(|answer| answer.took.as_secs_f64()).collect();
        time("answer that waits for its scrape", &took, 1e3, "ms", Target::None);
        time("answer from a fresh result", &fresh, 1e3, "ms", Target::None);
        let n_scrapes = answers.last().map_or(0.0, |last| last.n_scrapes) - answers[0].n_scrapes;
        single("scrapes for ten requests", n_scrapes + 1.0, "", AtMost(10.0));
        if name == "quiet" {
            let before = exporter.cpu_time()?;
            thread::sleep(seconds(30.0, 0.1));
            single("CPU in 30 s without requests", (exporter.cpu_time()? - before) * 1e3, "ms", AtMost(5.0));
        }
        let each_second = exporter.periods(&workload, seconds(1.0, 0.1), n_periods)?;
        let old = median(&each_second.spent) * period.as_secs_f64();
        single("one request per second: CPU in 3 s", old * 1e3, "ms", Target::None);
        single("times the CPU of one request every 3 s", old / median(&spent), "times", Target::None);
    }
    Ok(())
}

impl Workload {
    /// Reads the smaps of every process once, and returns how many seconds of CPU time the reads took. A
    /// scrape that reads all processes needs at least this time.
    fn read_floor(&self) -> f64 {
        let paths: Vec<String> = self.pids().map(|pid| format!("/proc/{pid}/smaps")).collect();
        let mut buffer = vec![0; 64 * 1024];
        let before = cpu_time();
        paths.iter().for_each(|path| crate::read_to_end(path, &mut buffer));
        (cpu_time() - before).as_secs_f64()
    }
}
