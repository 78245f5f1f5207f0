//! Remembers the lines of the previous mapping. Most lines are the same in the next mapping, and comparing a
//! line is faster than parsing it.

use super::field_line::{KEY_LEN, LINE_LEN, field_of, is_not_exported, key, kib_of};
use super::fields::{FIELDS, Values};
use super::lines::line_end;

/// One remembered field line.
#[derive(Debug)]
struct LearnedLine {
    /// The text of the line, as it was in the previous mapping.
    text: [u8; LINE_LEN],
    /// The position of the field that the line names, in [`FIELDS`].
    field: usize,
}

/// The result of [`Learned::take`], which compares a mapping with the learned lines. The learned lines are
/// the field lines that are remembered from the previous mapping.
pub enum Run {
    /// The mapping has the keys of the learned lines, in the same order. The compared lines take this many
    /// bytes.
    Taken(usize),
    /// The mapping has other keys than the learned lines, or the same keys in another order. The lines of
    /// this mapping must be remembered instead.
    Unlike,
    /// This mapping cannot be compared with the learned lines, because a value is too wide, or because some
    /// bytes are not read yet. The learned lines stay as they are.
    Unfit,
}

/// The field lines of the previous mapping and their values.
#[derive(Debug, Default)]
pub struct Learned {
    run: Vec<LearnedLine>,
    /// The values of the field lines.
    pub values: Values,
    /// The text after the field lines up to the line VmFlags. It is not exported, and is the same in nearly
    /// every mapping.
    tail: Vec<u8>,
}

impl Learned {
    /// Returns the length of the remembered field lines in bytes.
    #[inline]
    pub fn run_len(&self) -> usize {
        self.run.len() * LINE_LEN
    }

    /// Compares the lines at the beginning of `bytes` with the field lines of the previous mapping. If a
    /// value has changed, stores the new value in [`values`](Self::values).
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

    /// Remembers the lines at the beginning of `bytes`, so that [`take`](Self::take) can compare the next
    /// mapping with them. `bytes` is the text of one mapping after its header. The lines of fields in
    /// [`FIELDS`] come first, with 28 bytes each. The lines after them are remembered as one text, because
    /// they are the same in nearly every mapping.
    pub fn learn(&mut self, bytes: &[u8]) {
        self.run.clear();
        self.values = Values::default();
        let Values { present, bytes: values } = &mut self.values;
        let known = |line: &[u8; LINE_LEN]| {
            let kib = kib_of(line)?;
            // If a mapping has two lines for one field, the last line must decide the value. So the
            // remembered lines end before a field occurs for the second time. Otherwise `take` might store a
            // new value from the first line, and skip the last line because the last line has not changed.
            let (field, _) = field_of(line).filter(|(field, _)| *present & 1 << field == 0)?;
            // `bytes` is cut into pieces of 28 bytes, the usual length of a line. `kib_of` parses the eight
            // bytes before the unit. All bytes between the key and these eight bytes must be spaces.
            // Otherwise the value has more than eight digits, or the piece is not exactly one line.
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
        // VmFlags is the last line. It differs between mappings, so it is not remembered.
        while let Some(end) = line_end(rest, 0)
            && is_not_exported(rest)
            && !rest.starts_with(b"VmFlags:")
        {
            self.tail.extend_from_slice(&rest[..end]);
            rest = &rest[end..];
        }
    }
}
