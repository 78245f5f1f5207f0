//! The hand-over of expositions from the scrape thread to the HTTP threads.
//!
//! An [`Exposition`] never changes once it is published: whoever answers a request holds an `Arc` of it. The scrape thread
//! renders into a buffer that nobody else holds and swaps it in, so a steady exporter owns two buffers, the published one
//! and the spare one, and allocates nothing.
//!
//! A client that stops reading keeps its exposition from being the next spare. Such readers may hold [`MAX_OUTDATED_BYTES`] (or
//! one exposition, when that is larger) of outdated text; beyond that the oldest are cut, and the server closes the
//! connections that they are written to.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Instant;

use flate2::write::DeflateEncoder;
use flate2::{Compression, Crc};

/// What outdated expositions may hold because of clients that are still reading them.
const MAX_OUTDATED_BYTES: usize = 12 << 20;

/// The level with the best ratio for its time: 10 MB become 16 times smaller in 30 ms; level 6 takes 38 ms for the same.
const GZIP_LEVEL: Compression = Compression::new(5);

/// A buffer that is this many times larger than what was needed lately is given back.
const SLACK: usize = 4;

/// The header of a gzip file that says nothing about what is in it (RFC 1952).
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// One scrape's rendered text.
#[derive(Default)]
pub struct Exposition {
    text: Vec<u8>,
    /// What is behind the text.
    age: Option<Age>,
    /// Made when the first client asks for it, by that client's thread.
    gzip: OnceLock<Gzip>,
    is_cut: AtomicBool,
}

/// A sample whose value grows until it is served.
#[derive(Clone, Copy, Debug)]
pub struct Age {
    /// The text before the value.
    pub family: &'static str,
    /// Since when the value grows, in seconds.
    pub since: Instant,
}

/// The beginning of a gzip file: more may follow.
struct Gzip {
    bytes: Vec<u8>,
    crc: Crc,
}

impl Exposition {
    /// The text, as it was rendered.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// What comes behind it if it is served now.
    pub fn tail(&self, now: Instant) -> Vec<u8> {
        let tail = self.age.map(|Age { family, since }| {
            // Always of one width, for clients compare the lengths of answers: as many digits as there is room for.
            let seconds = format!("{:.9}", now.saturating_duration_since(since).as_secs_f64());
            format!("{family}{}\n", &seconds[..9])
        });
        tail.unwrap_or_default().into_bytes()
    }

    /// The text as the beginning of a gzip file: at most once an exposition, everybody after the first shares the result.
    pub fn gzip(&self) -> &[u8] {
        &self.gzipped().bytes
    }

    /// Its end, with what comes behind the text.
    pub fn gzip_tail(&self, now: Instant) -> Vec<u8> {
        let tail = self.tail(now);
        let mut encoder = DeflateEncoder::new(Vec::with_capacity(tail.len() + 64), GZIP_LEVEL);
        encoder.write_all(&tail).expect("a Vec takes every write");
        let mut bytes = encoder.finish().expect("a Vec takes every write");
        let mut crc = Crc::new();
        crc.combine(&self.gzipped().crc);
        crc.update(&tail);
        bytes.extend_from_slice(&crc.sum().to_le_bytes());
        bytes.extend_from_slice(&crc.amount().to_le_bytes());
        bytes
    }

    fn gzipped(&self) -> &Gzip {
        self.gzip.get_or_init(|| {
            let mut bytes = Vec::with_capacity(self.text.len() / 12);
            bytes.extend_from_slice(&GZIP_HEADER);
            let mut encoder = DeflateEncoder::new(bytes, GZIP_LEVEL);
            // Flushed, the stream goes on at a whole byte, and refers to nothing before it.
            encoder.write_all(&self.text).expect("a Vec takes every write");
            encoder.flush().expect("a Vec takes every write");
            let bytes = std::mem::take(encoder.get_mut());
            let mut crc = Crc::new();
            crc.update(&self.text);
            Gzip { bytes, crc }
        })
    }

    /// Whether it is outdated and its readers hold too much memory: their connections are to be closed.
    pub fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Relaxed)
    }

    /// Gives the text's memory back to the kernel. Freeing it is not enough: glibc would raise its threshold for mappings, take
    /// the next buffers of that size from its heap and keep them. Freeing a mapping of one page does not raise it.
    fn give_back(&mut self) {
        self.text.clear();
        self.text.shrink_to(1);
    }

    fn n_bytes(&self) -> usize {
        self.text.len() + self.gzip.get().map_or(0, |gzip| gzip.bytes.len())
    }
}

/// The reading half: what the HTTP threads share.
#[derive(Clone, Default)]
pub struct Published(Arc<Mutex<Option<Arc<Exposition>>>>);

impl Published {
    /// The newest exposition; none before the first scrape is complete.
    pub fn latest(&self) -> Option<Arc<Exposition>> {
        lock(&self.0).clone()
    }
}

/// A short text that is replaced now and then; none before the first.
#[derive(Clone, Debug, Default)]
pub struct Document(Arc<Mutex<Option<String>>>);

impl Document {
    /// Serves this text from now on.
    pub fn replace(&self, text: String) {
        *lock(&self.0) = Some(text);
    }

    /// The text that is served now.
    pub fn text(&self) -> Option<String> {
        lock(&self.0).clone()
    }
}

/// The writing half: what the scrape thread owns.
pub struct Publisher {
    published: Published,
    /// The buffer to render into. It is in no other thread's hands: `Arc::get_mut` works.
    spare: Option<Arc<Exposition>>,
    /// What was published before the latest and was not reused yet, oldest first.
    outdated: Vec<Arc<Exposition>>,
    /// How long an exposition has been lately: the last one, or a longer one before it that fades out.
    usual_len: usize,
}

/// Two ends of one hand-over.
pub fn publisher() -> (Publisher, Published) {
    let published = Published::default();
    (Publisher { published: published.clone(), spare: None, outdated: Vec::new(), usual_len: 0 }, published)
}

impl Publisher {
    /// The empty buffer for the next exposition; [`publish`](Self::publish) shows it to everybody.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        let spare = match self.spare.take() {
            Some(spare) => spare,
            None => self.reclaim(),
        };
        let exposition = Arc::get_mut(self.spare.insert(spare)).expect("only this thread holds the spare");
        exposition.gzip.take();
        *exposition.is_cut.get_mut() = false;
        exposition.text.clear();
        if exposition.text.capacity() > SLACK * self.usual_len.max(1 << 16) {
            exposition.text.shrink_to(self.usual_len);
        }
        &mut exposition.text
    }

    /// Publishes what was written to the buffer since [`buffer`](Self::buffer) was called, and behind it a sample whose value grows.
    pub fn publish(&mut self, age: Option<Age>) {
        let Some(mut exposition) = self.spare.take() else { return };
        Arc::get_mut(&mut exposition).expect("only this thread holds the spare").age = age;
        let len = exposition.text.len();
        self.usual_len = len.max(self.usual_len - self.usual_len / 8);
        let before = lock(&self.published.0).replace(exposition);
        self.outdated.extend(before);
        // The newest of them is always within the bound, so a client that reads while the next is published is not cut.
        let newest = self.outdated.last().map_or(0, |newest| newest.n_bytes());
        self.cut_slow_readers(MAX_OUTDATED_BYTES.max(newest));
    }

    /// An outdated exposition that nobody reads any more, or a new one. What else nobody reads is freed.
    fn reclaim(&mut self) -> Arc<Exposition> {
        let free = self.outdated.iter_mut().position(|outdated| Arc::get_mut(outdated).is_some());
        let spare = free.map(|i| self.outdated.remove(i));
        self.outdated.retain_mut(|outdated| Arc::get_mut(outdated).map(Exposition::give_back).is_none());
        spare.unwrap_or_else(|| {
            let text = Vec::with_capacity(self.usual_len + self.usual_len / 8);
            Arc::new(Exposition { text, ..Exposition::default() })
        })
    }

    /// Cuts the readers of the oldest expositions until those that are left hold at most `max_bytes`.
    fn cut_slow_readers(&self, max_bytes: usize) {
        let read = self.outdated.iter().filter(|outdated| Arc::strong_count(outdated) > 1);
        let mut outdated_bytes: usize = read.clone().map(|outdated| outdated.n_bytes()).sum();
        for outdated in read {
            if outdated_bytes <= max_bytes {
                break;
            }
            outdated_bytes -= outdated.n_bytes();
            outdated.is_cut.store(true, Ordering::Relaxed);
        }
    }
}

/// Locks; a panic elsewhere cannot have left these values half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn publish(publisher: &mut Publisher, text: &[u8]) {
        publisher.buffer().extend_from_slice(text);
        publisher.publish(None);
    }

    #[test]
    fn what_is_published_is_what_is_read() {
        let (mut publisher, published) = publisher();
        assert!(published.latest().is_none());
        publish(&mut publisher, b"one\n");
        let one = published.latest().unwrap();
        publisher.buffer().extend_from_slice(b"half of tw");
        assert_eq!(published.latest().unwrap().text(), b"one\n");
        publish(&mut publisher, b"two\n");
        assert_eq!((one.text(), published.latest().unwrap().text()), (&b"one\n"[..], &b"two\n"[..]));
    }

    #[test]
    fn an_age_is_of_one_width() {
        let (mut publisher, published) = publisher();
        let since = Instant::now();
        publisher.buffer().extend_from_slice(b"x 1\n");
        publisher.publish(Some(Age { family: "age ", since }));
        let exposition = published.latest().unwrap();
        for (seconds, expected) in
            [(0.0, "0.0000000"), (0.25, "0.2500000"), (12.5, "12.500000"), (1_234_567.9, "1234567.9")]
        {
            let now = since + std::time::Duration::from_secs_f64(seconds);
            assert_eq!(String::from_utf8(exposition.tail(now)).unwrap(), format!("age {expected}\n"));
        }
    }

    #[test]
    fn publishing_without_a_buffer_changes_nothing() {
        let (mut publisher, published) = publisher();
        publisher.publish(None);
        assert!(published.latest().is_none());
        publish(&mut publisher, b"one\n");
        publisher.publish(None);
        assert_eq!(published.latest().unwrap().text(), b"one\n");
    }

    #[test]
    fn a_steady_publisher_uses_two_buffers() {
        let (mut publisher, published) = publisher();
        let mut seen = Vec::new();
        for _ in 0..10 {
            publish(&mut publisher, &[b'x'; 10_000]);
            seen.push(published.latest().unwrap().text().as_ptr());
        }
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 2);
    }

    #[test]
    fn a_reused_buffer_forgets_its_gzip() {
        let (mut publisher, published) = publisher();
        let mut bodies = Vec::new();
        for text in [b"one\n", b"two\n", b"ten\n"] {
            publish(&mut publisher, text);
            let mut body = String::new();
            let exposition = published.latest().unwrap();
            let tail = exposition.gzip_tail(Instant::now());
            let gzip = exposition.gzip().chain(&tail[..]);
            flate2::read::GzDecoder::new(gzip).read_to_string(&mut body).unwrap();
            assert_eq!(exposition.gzip().as_ptr(), exposition.gzip().as_ptr());
            bodies.push(body);
        }
        assert_eq!(bodies, ["one\n", "two\n", "ten\n"]);
    }

    #[test]
    fn a_peak_is_given_back() {
        let (mut publisher, _published) = publisher();
        for _ in 0..3 {
            publish(&mut publisher, &[b'x'; 4 << 20]);
        }
        for _ in 0..40 {
            publish(&mut publisher, &[b'x'; 1000]);
        }
        for _ in 0..2 {
            assert!(publisher.buffer().capacity() < 1 << 20, "{}", publisher.buffer().capacity());
            publish(&mut publisher, b"");
        }
    }

    #[test]
    fn expositions_held_by_nobody_are_freed() {
        let (mut publisher, published) = publisher();
        let mut held = Vec::new();
        for _ in 0..5 {
            publish(&mut publisher, b"held\n");
            held.push(published.latest().unwrap());
        }
        publisher.buffer();
        assert_eq!(publisher.outdated.len(), 4);
        held.clear();
        publish(&mut publisher, b"free\n");
        publisher.buffer();
        assert_eq!(publisher.outdated.len(), 0);
    }

    #[test]
    fn the_oldest_readers_make_room_for_the_newest() {
        let (mut publisher, published) = publisher();
        let text = vec![b'x'; MAX_OUTDATED_BYTES / 2 + 1];
        let mut held = Vec::new();
        for _ in 0..3 {
            publish(&mut publisher, &text);
            held.push(published.latest().unwrap());
        }
        let cut = |held: &[Arc<Exposition>]| held.iter().map(|held| held.is_cut()).collect::<Vec<_>>();
        assert_eq!(cut(&held), [true, false, false], "two outdated ones are more than may be held");
        publish(&mut publisher, b"now the second is one too many\n");
        assert_eq!(cut(&held), [true, true, false]);
    }

    #[test]
    fn a_reused_buffer_is_not_cut() {
        let (mut publisher, published) = publisher();
        let text = vec![b'x'; MAX_OUTDATED_BYTES + 1];
        let mut held = Vec::new();
        for _ in 0..3 {
            publish(&mut publisher, &text);
            held.push(published.latest().unwrap());
        }
        assert!(held[0].is_cut());
        let address = held[0].text().as_ptr();
        held.clear();
        publish(&mut publisher, &text);
        let reused = published.latest().unwrap();
        assert_eq!(reused.text().as_ptr(), address);
        assert!(!reused.is_cut());
    }
}
