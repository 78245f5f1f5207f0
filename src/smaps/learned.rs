//! Remembers the lines of the previous mapping. Most lines are the same in the next mapping. Comparing them
//! is faster than parsing them.

use super::field_line::{KEY_LEN, LINE_LEN, field_of, is_not_exported, key, kib_of};
use super::fields::{FIELDS, Values};
use super::lines::line_end;

/// One remembered field line.
#[derive(Debug)]
struct LearnedLine {
    /// The text of the line in the previous mapping.
    text: [u8; LINE_LEN],
    /// The position of the field that the line names.
    field: usize,
}

/// The result of [`Learned::take`].
pub enum Run {
    /// The mapping begins with the learned lines, which take this many bytes.
    Taken(usize),
    /// The mapping has other keys, or another order, so its lines must be learned.
    Unlike,
    /// The keys are the same, but a value is too wide, or some bytes are not read yet.
    Unfit,
}

/// The field lines of the previous mapping and their values.
#[derive(Debug, Default)]
pub struct Learned {
    run: Vec<LearnedLine>,
    /// The values of the field lines.
    pub values: Values,
    /// The lines after the field lines. They are not exported, and are the same in nearly every mapping.
    tail: Vec<u8>,
}

impl Learned {
    /// Returns the length of the learned field lines in bytes.
    #[inline]
    pub fn run_len(&self) -> usize {
        self.run.len() * LINE_LEN
    }

    /// Parses the learned lines at the beginning of `bytes` into `values`, if all of them are there.
    #[inline]
    pub fn take(&mut self, bytes: &[u8]) -> Run {
        let (lines, _) = bytes.as_chunks::<LINE_LEN>();
        if self.run.is_empty() {
            return Run::Unlike;
        }
        if lines.len() < self.run.len() {
            return Run::Unfit;
        }
        for (line, learned) in lines.iter().zip(&mut self.run) {
            if *line == learned.text {
                continue;
            }
            if key(line) != key(&learned.text) {
                return Run::Unlike;
            }
            let Some(kib) = kib_of(line) else { return Run::Unfit };
            self.values.bytes[learned.field] = kib << 10; // below 10^8 kB: no overflow
            learned.text[KEY_LEN..].copy_from_slice(&line[KEY_LEN..]);
        }
        let n_bytes = self.run_len();
        let has_tail = bytes[n_bytes..].starts_with(&self.tail);
        Run::Taken(n_bytes + if has_tail { self.tail.len() } else { 0 })
    }

    /// Learns the lines at the beginning of `bytes`, which is one mapping: first the lines of known fields,
    /// 28 bytes each, then the lines after them.
    pub fn learn(&mut self, bytes: &[u8]) {
        self.run.clear();
        self.values = Values::default();
        let Values { present, bytes: values } = &mut self.values;
        let known = |line: &[u8; LINE_LEN]| {
            let kib = kib_of(line)?;
            // If a field occurred twice, the last line should count. But `take` stores only lines that have
            // changed, so this run ends before the second line.
            let (field, _) = field_of(line).filter(|(field, _)| *present & 1 << field == 0)?;
            // Only spaces may precede the eight digits. This rules out a ninth digit, and the end of another
            // line.
            let padding = &key(line)[FIELDS[field].key.len() + 1..];
            if padding.iter().any(|&b| b != b' ') {
                return None;
            }
            *present |= 1 << field;
            values[field] = kib << 10;
            Some(LearnedLine { text: *line, field })
        };
        self.run.extend(bytes.as_chunks::<LINE_LEN>().0.iter().map_while(known));
        self.tail.clear();
        let mut rest = &bytes[self.run_len()..];
        // The line VmFlags is the last one, and differs between mappings, so it is not learned.
        while let Some(end) = line_end(rest, 0)
            && is_not_exported(rest)
            && !rest.starts_with(b"VmFlags:")
        {
            self.tail.extend_from_slice(&rest[..end]);
            rest = &rest[end..];
        }
    }
}
