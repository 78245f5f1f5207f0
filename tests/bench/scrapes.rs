//! Runs whole scrapes in this process, like the scrape thread of the exporter.

use std::path::Path;
use std::time::Instant;

use smaps_container_exporter::cli::args::{self, Command};
use smaps_container_exporter::exposition::self_metrics::OLDEST_DATA;
use smaps_container_exporter::http::publish::{self, Age, Published, Publisher};
use smaps_container_exporter::node::reads::reader::Reader;
use smaps_container_exporter::scrape::Scraper;
use smaps_container_exporter::start;

/// Does the work of the scrape thread, without a thread.
pub struct Scrapes {
    scraper: Scraper,
    reader: Reader,
    publisher: Publisher,
    pub published: Published,
}

impl Scrapes {
    /// Creates a scraper of a recording. `options` are added to the usual options.
    pub fn new(fixture: &Path, options: &[&str]) -> Self {
        let fixture = fixture.to_str().expect("a temporary path is text");
        let given = ["--fixture", fixture].into_iter().chain(options.iter().copied()).map(Into::into);
        let Ok(Command::Run(options)) = args::parse(given) else { panic!("{options:?} are invalid") };
        let scraper = start::scraper(&options).expect("the recording is there");
        let (publisher, published) = publish::publisher();
        let reader = scraper.reader();
        Self { scraper, reader, publisher, published }
    }

    /// Makes each scrape read all processes, even processes that seem unchanged.
    pub fn always_reading(mut self) -> Self {
        self.scraper.always_read();
        self
    }

    /// Runs one scrape: discovers, reads, scans, sums, renders and publishes.
    pub fn run(&mut self) {
        self.scraper.scrape(&mut self.reader).expect("proc can be listed");
        self.scraper.render(self.publisher.buffer());
        let age = |since| Age { family: OLDEST_DATA, since };
        self.publisher.publish(self.scraper.oldest_data().map(age));
    }

    /// Returns the size of the exposition in bytes, and the number of its `process_smaps_*` samples.
    pub fn size(&self) -> (f64, f64) {
        let exposition = self.published.latest().expect("a scrape has run");
        let text = exposition.text.bytes().expect("the latest stays");
        let text = str::from_utf8(&text).expect("an exposition is UTF-8");
        let n_samples = text.lines().filter(|line| line.starts_with("process_smaps_")).count();
        (text.len() as f64, n_samples as f64)
    }

    /// Returns the value of a family that has no labels, as a client would get it now. This includes the
    /// family for the age of the oldest values, which the server adds to each response.
    pub fn value(&self, family: &str) -> f64 {
        let exposition = self.published.latest().expect("a scrape has run");
        let age = exposition.age.map(|age| age.sample(Instant::now())).unwrap_or_default();
        let served = [exposition.text.bytes().expect("the latest stays").clone(), age].concat();
        let text = str::from_utf8(&served).expect("an exposition is UTF-8");
        let sample = text.lines().find_map(|line| line.strip_prefix(family)?.strip_prefix(' '));
        sample.and_then(|value| value.parse().ok()).expect("the family is there")
    }
}
