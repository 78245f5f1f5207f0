//! Compresses the latest exposition in pieces, so that other connections are served between the pieces.

use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use flate2::write::DeflateEncoder;
use flate2::{Compression, Crc};

use super::publish::{Age, Buffer, Exposition, Published, max_gzip_bytes};

/// The compression level. Level 5 makes 10 MB 16 times smaller in 30 ms. Level 6 needs 38 ms for the same
/// size.
const LEVEL: Compression = Compression::new(5);
/// How many bytes of text are compressed before other connections are served. This takes 0.25 ms.
const PIECE_BYTES: usize = 64 << 10;
/// The header of a gzip file that has no name and no time (RFC 1952).
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// The last compressed exposition, and the compression in progress. All requests share them.
#[derive(Default)]
pub struct Compressor {
    last: Option<Gzipped>,
    running: Option<Running>,
}

/// The compressed form of one exposition.
pub struct Gzipped {
    /// The exposition's number.
    number: u64,
    /// The gzip file without its tail. `None` if the gzip file would be too long, or if the scrape thread
    /// freed the text to save memory before all of it was compressed. In both cases, requests are answered
    /// with the latest text, uncompressed.
    pub bytes: Option<Arc<Buffer>>,
    age: Option<Age>,
    crc: Crc,
}

struct Running {
    exposition: Exposition,
    encoder: DeflateEncoder<Vec<u8>>,
    crc: Crc,
    n_done: usize,
}

impl Compressor {
    /// Compresses the next piece of the exposition that is being compressed. If there is none, begins with
    /// the latest exposition. Does nothing if the exposition with the number `number`, or a later one, is
    /// already compressed. Returns the compressed exposition. Returns `None` if more calls are needed, or if
    /// there is no exposition yet.
    pub fn advance(&mut self, published: &Published, number: u64) -> Option<&Gzipped> {
        if self.last.as_ref().is_none_or(|last| last.number < number) {
            let mut running = self.running.take().or_else(|| published.latest().map(Running::new))?;
            if !running.compress_piece() {
                self.running = Some(running);
                return None;
            }
            // The previous bytes are freed before the new ones are made, unless a connection still sends the
            // previous bytes.
            self.last = None;
            let last = self.last.insert(running.finish());
            last.bytes.iter().for_each(|bytes| published.add_gzipped(bytes.clone()));
        }
        self.last.as_ref().filter(|last| last.number >= number)
    }
}

impl Running {
    fn new(exposition: Exposition) -> Self {
        let mut bytes = Vec::with_capacity(exposition.text.n_bytes() / 16);
        bytes.extend_from_slice(&HEADER);
        Self { exposition, encoder: DeflateEncoder::new(bytes, LEVEL), crc: Crc::new(), n_done: 0 }
    }

    /// Compresses one piece. Returns whether it was the last one.
    fn compress_piece(&mut self) -> bool {
        let Some(text) = self.exposition.text.bytes() else { return true };
        let piece = &text[self.n_done..];
        let piece = &piece[..piece.len().min(PIECE_BYTES)];
        self.encoder.write_all(piece).expect("a Vec takes every write");
        self.crc.update(piece);
        self.n_done += piece.len();
        self.n_done == text.len() || self.is_too_long()
    }

    fn is_too_long(&self) -> bool {
        self.encoder.get_ref().len() > max_gzip_bytes(self.exposition.text.n_bytes())
    }

    fn finish(mut self) -> Gzipped {
        // After a flush, the compressed text ends with a full byte. So the compressed last sample can be
        // appended when the exposition is served.
        self.encoder.flush().expect("a Vec takes every write");
        let is_whole = self.n_done == self.exposition.text.n_bytes() && !self.is_too_long();
        let mut bytes = std::mem::take(self.encoder.get_mut());
        bytes.shrink_to_fit();
        Gzipped {
            number: self.exposition.number,
            bytes: is_whole.then(|| Arc::new(Buffer::new(bytes))),
            age: self.exposition.age,
            crc: self.crc,
        }
    }
}

impl Gzipped {
    /// Returns the end of the gzip file, which has the checksum and the last sample. That sample is rendered
    /// when the exposition is served.
    pub fn tail(&self, now: Instant) -> Vec<u8> {
        let tail = self.age.map(|age| age.sample(now)).unwrap_or_default();
        let mut encoder = DeflateEncoder::new(Vec::with_capacity(tail.len() + 64), LEVEL);
        encoder.write_all(&tail).expect("a Vec takes every write");
        let mut bytes = encoder.finish().expect("a Vec takes every write");
        let mut crc = Crc::new();
        crc.combine(&self.crc);
        crc.update(&tail);
        bytes.extend_from_slice(&crc.sum().to_le_bytes());
        bytes.extend_from_slice(&crc.amount().to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::super::publish::{publish, publisher};
    use super::*;
    use std::io::Read;

    /// Compresses the whole latest exposition, and unpacks it again as a client does. Returns the unpacked
    /// text, or `None` if the exposition is served uncompressed.
    fn gunzip(compressor: &mut Compressor, published: &Published) -> Option<Vec<u8>> {
        let number = published.latest().unwrap().number;
        while compressor.advance(published, number).is_none() {}
        let gzipped = compressor.advance(published, number).unwrap();
        let bytes = gzipped.bytes.as_ref()?.bytes()?.clone();
        let mut text = Vec::new();
        let file = [bytes, gzipped.tail(Instant::now())].concat();
        flate2::read::GzDecoder::new(&file[..]).read_to_end(&mut text).unwrap();
        Some(text)
    }

    #[test]
    fn compressed_texts_of_any_length_are_restored() {
        let (mut publisher, published) = publisher();
        let mut compressor = Compressor::default();
        for len in [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 10 * PIECE_BYTES + 7] {
            let text: Vec<u8> = (0..len).map(|i| b'a' + (i / 100 % 7) as u8).collect();
            publish(&mut publisher, &text);
            assert_eq!(gunzip(&mut compressor, &published), Some(text), "{len} bytes");
        }
    }

    #[test]
    fn text_that_hardly_shrinks_is_served_uncompressed() {
        let (mut publisher, published) = publisher();
        let mut random = 1u64;
        let text = std::iter::repeat_with(|| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            b' ' + (random >> 58) as u8
        });
        publish(&mut publisher, &text.take(1 << 20).collect::<Vec<_>>());
        assert_eq!(gunzip(&mut Compressor::default(), &published), None);
    }

    /// The scrape thread may free a text before all of it is compressed. Then the waiting request gets the
    /// latest text, uncompressed.
    #[test]
    fn compression_ends_when_its_text_is_taken_away() {
        let (mut publisher, published) = publisher();
        let mut compressor = Compressor::default();
        let text = b"x 1\n".repeat(2 << 20);
        publish(&mut publisher, &text);
        assert!(compressor.advance(&published, 1).is_none());
        for _ in 0..2 {
            publish(&mut publisher, &text);
        }
        assert!(compressor.advance(&published, 1).unwrap().bytes.is_none());
        assert_eq!(gunzip(&mut compressor, &published), Some(text));
        assert!(compressor.advance(&published, 1).unwrap().bytes.is_some());
    }
}
