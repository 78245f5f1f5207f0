//! Writes a view of the readings as Prometheus text (Prometheus, "Exposition formats", version 0.0.4).
//!
//! The samples of a family stand together, after the family's HELP and TYPE, in the order of the view.
//! Writing a sample is cheap: the name and the label text are copied, and only the digits of the value are
//! computed.

use std::fmt::Display;
use std::io::Write as _;
use std::ops::Range;

use crate::smaps::fields::FIELDS;
use crate::totals::rows::Summed;
use crate::totals::view::View;

/// Appends the `process_smaps_*` families of a view to `text`. Returns the number of samples.
pub fn render(text: &mut Vec<u8>, view: &View, summed: Summed<'_>) -> u64 {
    let shape = view.shape();
    let mut n_samples = 0;
    for (i, field) in FIELDS.iter().enumerate().filter(|(i, _)| shape.fields & 1 << i != 0) {
        let mut family = Family::new(text, "process_smaps_", field.name, "_bytes", Kind::Gauge, field.help);
        for (labels, value) in view.samples(summed, i) {
            family.sample(&labels, value);
        }
        n_samples += family.n_samples;
    }
    let help = "Mappings behind the series.";
    let mut mappings = Family::new(text, "process_smaps_", "mappings", "", Kind::Gauge, help);
    for series in view.series(summed) {
        mappings.sample(&series.labels, series.n_mappings());
    }
    n_samples += mappings.n_samples;
    let help = "Processes of the command.";
    let mut processes = Family::new(text, "process_smaps_", "processes", "", Kind::Gauge, help);
    for ([name, rest], n_processes) in view.processes(summed) {
        processes.sample(&[name, rest, "}"], n_processes);
    }
    n_samples + processes.n_samples
}

/// Whether a family is a gauge or a counter (Prometheus, "Metric types").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The value can go up and down.
    Gauge,
    /// The value only goes up, until what it counts begins again.
    Counter,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
        }
    }
}

/// Writes the samples of one family. The call that writes the first sample writes HELP and TYPE before it, so
/// nothing is written for a family without samples.
#[derive(Debug)]
pub struct Family<'a> {
    text: &'a mut Vec<u8>,
    /// The prefix, the middle and the suffix of the family's name.
    name: [&'static str; 3],
    kind: Kind,
    help: &'static str,
    /// The range in `text` where the line `# TYPE` has the complete name of the family. Each sample copies
    /// the name from there, because that is faster than joining the three strings in `name`.
    written_name: Range<usize>,
    n_samples: u64,
}

impl<'a> Family<'a> {
    pub(super) fn new(
        text: &'a mut Vec<u8>,
        prefix: &'static str,
        name: &'static str,
        suffix: &'static str,
        kind: Kind,
        help: &'static str,
    ) -> Self {
        Self { text, name: [prefix, name, suffix], kind, help, written_name: 0..0, n_samples: 0 }
    }

    /// Writes HELP and TYPE, which precede the first sample.
    #[cold]
    fn head(&mut self) {
        let [prefix, name, suffix] = self.name;
        let (kind, help) = (self.kind, self.help);
        // Writing to a Vec cannot fail.
        let _ = write!(self.text, "# HELP {prefix}{name}{suffix} {help}\n# TYPE ");
        let start = self.text.len();
        let _ = write!(self.text, "{prefix}{name}{suffix}");
        self.written_name = start..self.text.len();
        let _ = writeln!(self.text, " {}", kind.name());
    }

    /// Writes a sample with a whole number. The pieces in `labels`, one after the other, are the label text,
    /// including the braces.
    pub(super) fn sample(&mut self, labels: &[&str], value: u64) {
        self.begin_sample(labels);
        push_value(self.text, value);
    }

    /// Writes a sample with a whole number that may be negative.
    pub(super) fn signed_sample(&mut self, labels: &[&str], value: i64) {
        self.begin_sample(labels);
        let _ = writeln!(self.text, " {value}"); // writing to a Vec cannot fail
    }

    /// Writes one sample for each value in `parts` that is not `None`. The label text of a sample is
    /// `labels`, followed by the text that has the same position in `ends` as the value has in `parts`.
    pub(super) fn parts<const N: usize>(&mut self, labels: &str, ends: &[&str; N], parts: [Option<i64>; N]) {
        for (end, bytes) in ends.iter().zip(parts) {
            if let Some(bytes) = bytes {
                self.signed_sample(&[labels, end], bytes);
            }
        }
    }

    /// Writes a sample with a time in seconds. The time is passed in nanoseconds.
    pub(super) fn sample_of_time(&mut self, labels: &[&str], nanoseconds: u64) {
        self.begin_sample(labels);
        let _ = writeln!(self.text, " {}", nanoseconds as f64 / 1e9); // writing to a Vec cannot fail
    }

    fn begin_sample(&mut self, labels: &[&str]) {
        if self.n_samples == 0 {
            self.head();
        }
        self.n_samples += 1;
        self.text.extend_from_within(self.written_name.clone());
        for piece in labels.iter().filter(|piece| !piece.is_empty()) {
            self.text.extend_from_slice(piece.as_bytes());
        }
    }
}

/// Appends a family with one sample that has no labels. Appends nothing if there is no value.
pub fn single(text: &mut Vec<u8>, name: &'static str, kind: Kind, help: &'static str, value: Option<f64>) {
    if let Some(value) = value {
        labelled(text, name, kind, help, [("", value)]);
    }
}

/// Appends a family with these samples, each with its label text and its value. The label text includes the
/// braces. It is empty if the sample has no labels.
pub fn labelled<V: Display>(
    text: &mut Vec<u8>,
    name: &'static str,
    kind: Kind,
    help: &'static str,
    samples: impl IntoIterator<Item = (impl Display, V)>,
) {
    Family::new(text, "", name, "", kind, help).head();
    for (labels, value) in samples {
        let _ = writeln!(text, "{name}{labels} {value}"); // writing to a Vec cannot fail
    }
}

/// Appends the end of a sample: a space, the decimal digits of `value`, and a newline.
fn push_value(text: &mut Vec<u8>, mut value: u64) {
    let mut end = *b"                     \n"; // u64::MAX has 20 digits
    let mut at = end.len() - 1;
    loop {
        at -= 1;
        end[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    text.extend_from_slice(&end[at - 1..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smaps::fields::{ALL_FIELDS, N_FIELDS, Values};
    use crate::smaps::place::PlaceText;
    use crate::smaps::scanner::Mapping;
    use crate::totals::process_sums::ProcessSums;
    use crate::totals::shape::Shape;
    use crate::totals::snapshot::{Process, Snapshot};
    use crate::totals::table::ContainerKey;

    fn rendered(shape: Shape, mappings: &[(&[u8], Values)]) -> (String, u64) {
        let mut snapshot = Snapshot::new(usize::MAX, 0);
        let mut process_sums = ProcessSums::new(usize::MAX);
        for (path, values) in mappings {
            process_sums.add(&Mapping { path, values, place: PlaceText::default(), count: 1 });
        }
        let mut id = None;
        snapshot.register(ContainerKey(7), "{pod=\"p\"");
        let process = Process { container: ContainerKey(7), comm: b"c", pid: 1 };
        snapshot.record(process, &process_sums, &mut id);
        snapshot.sum(id.iter().map(|id| (id, true)));
        let (mut text, mut view) = (Vec::new(), View::new(shape));
        view.update(snapshot.summed(), |_, _| true);
        let n_samples = render(&mut text, &view, snapshot.summed());
        assert_eq!(n_samples as usize, view.n_samples(snapshot.summed()));
        (String::from_utf8(text).unwrap(), n_samples)
    }

    #[test]
    fn absent_fields_have_no_samples_and_families_are_contiguous() {
        let values = |present, bytes| Values { present, bytes: [bytes; N_FIELDS] };
        let mappings: [(&[u8], Values); 2] = [(b"/b", values(0b10, 7)), (b"/a", values(0b11, 0))];
        let (text, n_samples) = rendered(Shape { fields: ALL_FIELDS, ..Shape::default() }, &mappings);
        let expected = r#"# HELP process_smaps_size_bytes Address space of the mappings, resident or not.
# TYPE process_smaps_size_bytes gauge
process_smaps_size_bytes{pod="p",comm="c",path="/a"} 0
# HELP process_smaps_rss_bytes Resident memory.
# TYPE process_smaps_rss_bytes gauge
process_smaps_rss_bytes{pod="p",comm="c",path="/a"} 0
process_smaps_rss_bytes{pod="p",comm="c",path="/b"} 7
# HELP process_smaps_mappings Mappings behind the series.
# TYPE process_smaps_mappings gauge
process_smaps_mappings{pod="p",comm="c",path="/a"} 1
process_smaps_mappings{pod="p",comm="c",path="/b"} 1
# HELP process_smaps_processes Processes of the command.
# TYPE process_smaps_processes gauge
process_smaps_processes{pod="p",comm="c"} 1
"#;
        assert_eq!((text.as_str(), n_samples), (expected, 6));
        let shape = Shape { fields: 0b10, omit_zero: true, ..Shape::default() };
        let (text, n_samples) = rendered(shape, &mappings);
        assert!(
            !text.contains("_size_") && !text.contains(r#"_rss_bytes{pod="p",comm="c",path="/a"}"#),
            "{text}"
        );
        assert_eq!(n_samples, 4);
    }

    #[test]
    fn values_are_decimal_numbers() {
        for number in [0, 1, 9, 10, 1024, 99_999, u64::MAX] {
            let mut text = b"x".to_vec();
            push_value(&mut text, number);
            assert_eq!(text, format!("x {number}\n").into_bytes());
        }
    }

    #[test]
    fn empty_families_are_not_written() {
        let mut text = Vec::new();
        single(&mut text, "a_total", Kind::Counter, "Help.", Some(1.5));
        single(&mut text, "c", Kind::Gauge, "Absent.", None);
        labelled(&mut text, "b", Kind::Gauge, "More.", [("{x=\"1\"}", 1), ("{x=\"2\"}", 2)]);
        let expected = "# HELP a_total Help.\n# TYPE a_total counter\na_total 1.5\n\
                        # HELP b More.\n# TYPE b gauge\nb{x=\"1\"} 1\nb{x=\"2\"} 2\n";
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }
}
