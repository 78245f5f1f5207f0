//! Remembers the lines of the previous mapping. Most lines are the same in the next mapping, and comparing a
//! line is faster than parsing it.

use super::field_line::{KEY_LEN, LINE_LEN, field_of, is_not_exported, key, kib_of};
use super::fields::{FIELDS, Values};
use super::lines::line_end;

/// One remembered field line.
#[derive(Debug)]
struct LearnedLine {
    /// The text of the line in the previous mapping.
    text: [u8; LINE_LEN],
    /// The position of the field that the line names, in [`FIELDS`].
    field: usize,
}

/// The result of [`Learned::take`], which compares the field lines of the current mapping with those of the
/// previous mapping.
pub enum Run {
    /// The current mapping has the same fields in the same order. This many bytes need not be parsed any
    /// more.
    Taken(usize),
    /// The current mapping has other fields, or has them in another order. Its lines must be parsed. They are
    /// then compared with the next mapping.
    Unlike,
    /// The current mapping cannot be compared, because a value has more than eight digits, or because some
    /// bytes are not read yet. The remembered lines can still be used for the next mapping.
    Unfit,
}

/// The field lines of the previous mapping and their values.
#[derive(Debug, Default)]
pub struct Learned {
    run: Vec<LearnedLine>,
    /// The values of the field lines.
    pub values: Values,
    /// The lines after the field lines and before `VmFlags`. They are not exported, and are the same in
    /// nearly every mapping.
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
            // If a field occurs twice in a mapping, the value in its last line counts. But `take` stores only
            // the values of lines that have changed. If both lines were remembered and only the first one
            // changed, `take` would store the wrong value. So the lines from the second occurrence on are not
            // remembered. They are parsed in every mapping.
            let (field, _) = field_of(line).filter(|(field, _)| *present & 1 << field == 0)?;
            // `kib_of` parses the eight bytes before the unit. All bytes between the key and these eight
            // bytes must be spaces. Any other byte means that the value has more than eight digits, or that
            // `line` is not exactly one line.
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
