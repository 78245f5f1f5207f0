//! Passes expositions from the scrape thread to the HTTP thread.
//!
//! The scrape thread renders into a buffer that nothing else refers to, and then publishes the buffer. Each
//! connection refers to the buffer that it sends, which contains the text of an exposition or its gzipped
//! bytes. Usually there are two buffers for texts. They are used alternately, so the scrape thread allocates
//! nothing.
//!
//! All buffers together have a memory limit. To stay within the limit, the next scrape takes the buffers of
//! outdated expositions away from slow connections. The HTTP thread does the same when it adds gzipped bytes.
//! A connection without its buffer closes. Texts are taken away before gzipped bytes, and older buffers
//! before newer ones.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// How many bytes of outdated expositions, as text or gzipped, may be kept for slow connections. The latest
/// exposition is kept in addition, as text and gzipped.
const EXTRA_BYTES: usize = 2 << 20;
/// The gzipped bytes of a text may take the size of the text divided by this number, and 256 KiB in addition.
/// Usually the text becomes 16 times smaller.
const GZIP_SHARE: usize = 12;

/// Returns the maximum size of the gzipped bytes of a text with this many bytes.
pub fn max_gzip_bytes(n_text_bytes: usize) -> usize {
    n_text_bytes / GZIP_SHARE + (256 << 10)
}

/// The bytes of a response, which connections send. To free memory, the buffer may be emptied before all
/// bytes are sent.
#[derive(Default)]
pub struct Buffer {
    n_bytes: usize,
    bytes: Mutex<Vec<u8>>,
}

impl Buffer {
    /// Returns a buffer with these bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { n_bytes: bytes.len(), bytes: Mutex::new(bytes) }
    }

    /// Returns the length of the complete content in bytes. The length stays the same when the buffer is
    /// emptied to free memory.
    pub fn n_bytes(&self) -> usize {
        self.n_bytes
    }

    /// Returns the bytes, or `None` if the buffer was emptied. Release the guard soon, because the scrape
    /// thread may wait for the lock.
    pub fn bytes(&self) -> Option<MutexGuard<'_, Vec<u8>>> {
        Some(lock(&self.bytes)).filter(|bytes| bytes.len() == self.n_bytes)
    }

    /// Empties the buffer and returns its memory to the kernel. The buffer is shrunk to one byte instead of
    /// being freed. After `free()` of a large buffer, glibc would allocate further buffers of that size from
    /// its heap, and would not return their memory to the kernel (M_MMAP_THRESHOLD in mallopt(3)).
    pub fn take(&self) {
        let mut bytes = lock(&self.bytes);
        bytes.clear();
        bytes.shrink_to(1);
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.take();
    }
}

/// The exposition of one scrape.
#[derive(Clone)]
pub struct Exposition {
    /// The text of the exposition without its last sample, which is in `age`.
    pub text: Arc<Buffer>,
    /// The last sample of the exposition. The sample is not in `text`, because its value is computed when the
    /// exposition is served.
    pub age: Option<Age>,
    /// The number of the exposition. Expositions are numbered in the order in which they are published.
    pub number: u64,
}

/// A sample with the age of an exposition's data. The age is computed when the exposition is served.
#[derive(Clone, Copy, Debug)]
pub struct Age {
    /// The text before the sample's value: the HELP and TYPE lines and the metric's name.
    pub family: &'static str,
    /// The time at which the data was read. The sample's value is the time that has passed since then.
    pub since: Instant,
}

impl Age {
    /// Returns the sample with its value at the time `now`. A larger value has fewer decimals, so that the
    /// sample always has the same length. Some clients compare the lengths of responses, and must not find a
    /// difference if the same exposition is served twice.
    pub fn sample(self, now: Instant) -> Vec<u8> {
        let seconds = format!("{:.9}", now.saturating_duration_since(self.since).as_secs_f64());
        format!("{}{}\n", self.family, &seconds[..9]).into_bytes()
    }
}

/// What the HTTP thread reads: the latest exposition, and all buffers that connections may send.
#[derive(Clone, Default)]
pub struct Published(Arc<Mutex<Buffers>>);

#[derive(Default)]
struct Buffers {
    latest: Option<Exposition>,
    /// The texts of earlier expositions, the oldest first.
    outdated: Vec<Arc<Buffer>>,
    /// The gzipped bytes of expositions, the oldest first.
    gzipped: Vec<Arc<Buffer>>,
    /// The expected length of the next text, for which buffers are allocated. If the last text was longer
    /// than expected, this is its length. If the last text was shorter, the expected length decreases to the
    /// length of that text, but by at most an eighth per scrape.
    usual_len: usize,
}

impl Published {
    /// Returns the latest exposition, or `None` before the first scrape has ended.
    pub fn latest(&self) -> Option<Exposition> {
        lock(&self.0).latest.clone()
    }

    /// Adds the gzipped bytes of an exposition. They count towards the memory limit of all buffers, so the
    /// buffers of outdated expositions may be emptied.
    pub fn add_gzipped(&self, gzipped: Arc<Buffer>) {
        let mut buffers = lock(&self.0);
        buffers.gzipped.push(gzipped);
        buffers.make_room();
    }
}

impl Buffers {
    /// Returns a buffer for the next text: an outdated buffer that no connection sends any more, or else a
    /// new buffer.
    fn next_text(&mut self) -> Arc<Buffer> {
        let is_free = |buffer: &Arc<Buffer>| Arc::strong_count(buffer) == 1;
        let spare = self.outdated.iter().position(is_free).map(|i| self.outdated.remove(i));
        self.outdated.retain(|buffer| !is_free(buffer));
        self.make_room();
        spare.unwrap_or_default()
    }

    /// If all buffers together exceed the memory limit, empties some of the buffers that connections still
    /// send. Texts are emptied before gzipped bytes. Among buffers of the same kind, older buffers are
    /// emptied before newer ones.
    fn make_room(&mut self) {
        let is_held = |buffer: &Arc<Buffer>| Arc::strong_count(buffer) > 1;
        self.gzipped.retain(is_held);
        let n_latest = self.latest.as_ref().map_or(0, |latest| latest.text.n_bytes);
        let mut n_left = self.usual_len - n_latest + self.usual_len / GZIP_SHARE + EXTRA_BYTES;
        // Only buffers that a connection still sends count towards the limit. A free buffer does not count,
        // because the next text is written into it.
        let held = self.outdated.iter().chain(&self.gzipped).filter(|buffer| is_held(buffer));
        for buffer in held.rev() {
            let n_bytes = buffer.bytes().map_or(0, |bytes| bytes.len());
            if n_bytes > n_left {
                buffer.take();
            }
            // `n_left` is the rest of the limit. It becomes 0 at the first buffer that does not fit, so all
            // buffers after that one are emptied, too.
            n_left = n_left.saturating_sub(n_bytes);
        }
    }
}

/// The scrape thread's access to the buffers, with which it renders and publishes expositions.
pub struct Publisher {
    published: Published,
    /// The buffer for the next text. Nothing else refers to it.
    next: Option<Arc<Buffer>>,
    n_published: u64,
}

/// Returns a [`Publisher`] for the scrape thread, and a [`Published`] with which the HTTP thread gets what
/// the scrape thread publishes.
pub fn publisher() -> (Publisher, Published) {
    let published = Published::default();
    (Publisher { published: published.clone(), next: None, n_published: 0 }, published)
}

impl Publisher {
    /// Returns an empty buffer for the next exposition. [`publish`](Self::publish) publishes it.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        let mut buffers = lock(&self.published.0);
        let next = self.next.get_or_insert_with(|| buffers.next_text());
        let text = Arc::get_mut(next).expect("nothing else refers to it").bytes.get_mut();
        let text = text.unwrap_or_else(PoisonError::into_inner);
        text.clear();
        // A vector doubles its capacity whenever it must grow. To avoid this, the capacity for a usual text
        // is reserved here. A buffer that is much larger than a usual text is made smaller again.
        let usual = buffers.usual_len.max(1 << 16);
        if text.capacity() < usual || text.capacity() > usual + usual / 4 {
            text.shrink_to(usual);
            text.reserve_exact(usual + usual / 8);
        }
        text
    }

    /// Publishes the text that was written to [`buffer`](Self::buffer) since the last call. `age` becomes the
    /// last sample of the exposition.
    pub fn publish(&mut self, age: Option<Age>) {
        let Some(mut text) = self.next.take() else { return };
        let len = lock(&text.bytes).len();
        Arc::get_mut(&mut text).expect("nothing else refers to it").n_bytes = len;
        self.n_published += 1;
        let mut buffers = lock(&self.published.0);
        buffers.usual_len = len.max(buffers.usual_len - buffers.usual_len / 8);
        let exposition = Exposition { text, age, number: self.n_published };
        let before = buffers.latest.replace(exposition);
        buffers.outdated.extend(before.map(|before| before.text));
    }
}

/// A short text that is served, and replaced from time to time; `None` before there is a text.
#[derive(Clone, Debug, Default)]
pub struct Document(Arc<Mutex<Option<String>>>);

impl Document {
    /// Replaces the text that is served.
    pub fn replace(&self, text: String) {
        *lock(&self.0) = Some(text);
    }

    /// Returns the text that is served now.
    pub fn text(&self) -> Option<String> {
        lock(&self.0).clone()
    }
}

/// Locks a value, even if another thread has panicked with the lock. This is safe, because no thread leaves
/// the value half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Publishes a text.
#[cfg(test)]
pub fn publish(publisher: &mut Publisher, text: &[u8]) {
    publisher.buffer().extend_from_slice(text);
    publisher.publish(None);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// Returns how many bytes the buffer still contains.
    fn n_held(buffer: &Buffer) -> usize {
        buffer.bytes().map_or(0, |bytes| bytes.len())
    }

    /// Publishes a text of this length. Returns its buffer. The caller holds the buffer, as a connection does
    /// while it sends the text.
    fn publish_held(publisher: &mut Publisher, published: &Published, len: usize) -> Arc<Buffer> {
        publish(publisher, &vec![b'x'; len]);
        published.latest().unwrap().text
    }

    #[test]
    fn published_text_does_not_change() {
        let (mut publisher, published) = publisher();
        publisher.publish(None);
        assert!(published.latest().is_none(), "nothing was rendered");
        publish(&mut publisher, b"one\n");
        let one = published.latest().unwrap();
        publisher.buffer().extend_from_slice(b"half of tw");
        assert_eq!(*published.latest().unwrap().text.bytes().unwrap(), b"one\n");
        publish(&mut publisher, b"two\n");
        assert_eq!(*one.text.bytes().unwrap(), b"one\n");
        assert_eq!(*published.latest().unwrap().text.bytes().unwrap(), b"two\n");
    }

    #[test]
    fn age_sample_has_constant_length() {
        let since = Instant::now();
        for (seconds, expected) in
            [(0.0, "0.0000000"), (0.25, "0.2500000"), (12.5, "12.500000"), (1_234_567.9, "1234567.9")]
        {
            let now = since + std::time::Duration::from_secs_f64(seconds);
            let sample = Age { family: "age ", since }.sample(now);
            assert_eq!(String::from_utf8(sample).unwrap(), format!("age {expected}\n"));
        }
    }

    #[test]
    fn steady_publisher_uses_two_buffers() {
        let (mut publisher, published) = publisher();
        let mut seen = HashSet::new();
        for _ in 0..10 {
            publish(&mut publisher, &[b'x'; 10_000]);
            seen.insert(published.latest().unwrap().text.bytes().unwrap().as_ptr());
        }
        assert_eq!(seen.len(), 2);
    }

    #[test]
    fn memory_of_a_peak_is_freed() {
        let (mut publisher, _published) = publisher();
        (0..3).for_each(|_| publish(&mut publisher, &[b'x'; 4 << 20]));
        (0..40).for_each(|_| publish(&mut publisher, &[b'x'; 1000]));
        for _ in 0..2 {
            assert!(publisher.buffer().capacity() < 1 << 17, "{}", publisher.buffer().capacity());
            publish(&mut publisher, b"");
        }
    }

    /// Slow connections may still send outdated texts. To stay within the memory limit, the buffers of these
    /// texts are emptied, the oldest first. This happens when a buffer for the next text is requested. The
    /// limit leaves room for two outdated texts of 1 MiB, but for none of 8 MiB.
    #[test]
    fn outdated_texts_are_taken_from_connections_oldest_first() {
        let (mut publisher, published) = publisher();
        let lens = |held: &[Arc<Buffer>]| held.iter().map(|held| n_held(held) >> 20).collect::<Vec<_>>();
        let mut held: Vec<_> = (0..3).map(|_| publish_held(&mut publisher, &published, 8 << 20)).collect();
        assert_eq!(lens(&held), [0, 8, 8]);
        publisher.buffer();
        assert_eq!(lens(&held), [0, 0, 8], "the latest stays");
        held.clear();
        (0..40).for_each(|_| publish(&mut publisher, b""));
        let held: Vec<_> = (0..6).map(|_| publish_held(&mut publisher, &published, 1 << 20)).collect();
        publisher.buffer();
        assert_eq!(lens(&held), [0, 0, 0, 1, 1, 1]);
    }

    #[test]
    fn texts_are_taken_before_gzipped_bytes() {
        let (mut publisher, published) = publisher();
        let text = publish_held(&mut publisher, &published, 8 << 20);
        let gzipped: Vec<_> = (0..2).map(|_| Arc::new(Buffer::new(vec![0; 1 << 20]))).collect();
        gzipped.iter().for_each(|gzipped| published.add_gzipped(gzipped.clone()));
        publish(&mut publisher, &vec![b'x'; 8 << 20]);
        publisher.buffer();
        assert_eq!(n_held(&text), 0);
        assert!(gzipped.iter().all(|gzipped| n_held(gzipped) == 1 << 20));
        let another = Arc::new(Buffer::new(vec![0; 1 << 20]));
        published.add_gzipped(another.clone());
        assert_eq!((n_held(&gzipped[0]), n_held(&gzipped[1]), n_held(&another)), (0, 1 << 20, 1 << 20));
    }
}
