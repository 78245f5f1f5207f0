//! Hands expositions over from the scrape thread to the HTTP thread.
//!
//! The scrape thread renders into a buffer that nothing else refers to, and then publishes the buffer. Each
//! connection refers to the buffer that it sends: the text of an exposition, or its gzipped bytes. Usually
//! there are two buffers for texts, which are used in turn, so the scrape thread allocates nothing.
//!
//! All buffers together have a memory limit. To stay within the limit, the next scrape takes buffers of
//! outdated expositions away from slow connections. These connections then close. Texts are taken away before
//! gzipped bytes, and older ones before newer ones.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// How much memory gzipped bytes and outdated texts may take, in addition to the latest text and the next
/// one.
const EXTRA_BYTES: usize = 2 << 20;
/// Gzipped bytes may take a twelfth of their text's size, and 256 KiB more. Usually they take a sixteenth.
const GZIP_SHARE: usize = 12;

/// Returns the maximum size of the gzipped bytes of a text.
pub fn max_gzip_bytes(n_text_bytes: usize) -> usize {
    n_text_bytes / GZIP_SHARE + (256 << 10)
}

/// Bytes that connections send. The scrape thread may take them away before they are sent.
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

    /// Returns the number of bytes, even after they were taken away.
    pub fn n_bytes(&self) -> usize {
        self.n_bytes
    }

    /// Returns the bytes, or `None` if they were taken away. Release the guard soon, because the scrape
    /// thread may wait for it.
    pub fn bytes(&self) -> Option<MutexGuard<'_, Vec<u8>>> {
        Some(lock(&self.bytes)).filter(|bytes| bytes.len() == self.n_bytes)
    }

    /// Empties the buffer and returns its memory to the kernel. Freeing a large buffer as a whole is not
    /// enough: glibc would then take the next buffers of that size from its heap, and keep them. So the
    /// buffer is shrunk to one byte first.
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

/// The text that one scrape rendered.
#[derive(Clone)]
pub struct Exposition {
    /// The text, except its last sample.
    pub text: Arc<Buffer>,
    /// The last sample. It is rendered when the exposition is served.
    pub age: Option<Age>,
    /// The number of the exposition, in the order of publication.
    pub number: u64,
}

/// A sample whose value, an age, grows until the exposition is served.
#[derive(Clone, Copy, Debug)]
pub struct Age {
    /// The sample's name, which precedes its value.
    pub family: &'static str,
    /// When the value was 0.
    pub since: Instant,
}

impl Age {
    /// Returns the sample as it is at `now`. Its length is constant, because clients compare the lengths of
    /// responses: a larger value has fewer decimals.
    pub fn sample(self, now: Instant) -> Vec<u8> {
        let seconds = format!("{:.9}", now.saturating_duration_since(self.since).as_secs_f64());
        format!("{}{}\n", self.family, &seconds[..9]).into_bytes()
    }
}

/// The HTTP thread's part: the latest exposition, and all buffers that connections may send.
#[derive(Clone, Default)]
pub struct Published(Arc<Mutex<Buffers>>);

#[derive(Default)]
struct Buffers {
    latest: Option<Exposition>,
    /// The texts of earlier expositions, oldest first.
    outdated: Vec<Arc<Buffer>>,
    /// Gzipped bytes, oldest first.
    gzipped: Vec<Arc<Buffer>>,
    /// The length for which buffers are made: that of the last text. If an earlier text was longer, it is the
    /// length of that text instead, less an eighth for each scrape since.
    usual_len: usize,
}

impl Published {
    /// Returns the latest exposition; `None` before the first scrape is complete.
    pub fn latest(&self) -> Option<Exposition> {
        lock(&self.0).latest.clone()
    }

    /// Adds gzipped bytes to the buffers that count against the limit.
    pub fn add_gzipped(&self, gzipped: Arc<Buffer>) {
        let mut buffers = lock(&self.0);
        buffers.gzipped.push(gzipped);
        buffers.make_room();
    }
}

impl Buffers {
    /// Returns a buffer for the next text: an outdated one that no connection sends any more, or else a new
    /// one.
    fn next_text(&mut self) -> Arc<Buffer> {
        let is_free = |buffer: &Arc<Buffer>| Arc::strong_count(buffer) == 1;
        let spare = self.outdated.iter().position(is_free).map(|i| self.outdated.remove(i));
        self.outdated.retain(|buffer| !is_free(buffer));
        self.make_room();
        spare.unwrap_or_default()
    }

    /// Takes buffers away from connections until the remaining ones stay within the limit.
    fn make_room(&mut self) {
        let is_held = |buffer: &Arc<Buffer>| Arc::strong_count(buffer) > 1;
        self.gzipped.retain(is_held);
        let n_latest = self.latest.as_ref().map_or(0, |latest| latest.text.n_bytes);
        let mut n_left = self.usual_len - n_latest + self.usual_len / GZIP_SHARE + EXTRA_BYTES;
        // An outdated text that no connection sends is not counted, because the next text will use its
        // buffer.
        let held = self.outdated.iter().chain(&self.gzipped).filter(|buffer| is_held(buffer));
        for buffer in held.rev() {
            let n_bytes = buffer.bytes().map_or(0, |bytes| bytes.len());
            if n_bytes > n_left {
                buffer.take();
            }
            // Once a buffer did not fit, all older ones are taken away, too.
            n_left = n_left.saturating_sub(n_bytes);
        }
    }
}

/// The scrape thread's part.
pub struct Publisher {
    published: Published,
    /// The buffer to render into. Nothing else refers to it.
    next: Option<Arc<Buffer>>,
    n_published: u64,
}

/// Returns the two connected parts: one for the scrape thread, one for the HTTP thread.
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
        // The capacity is set here, because a buffer that grows by itself doubles its capacity. A buffer that
        // has grown for a peak is made smaller.
        let usual = buffers.usual_len.max(1 << 16);
        if text.capacity() < usual || text.capacity() > usual + usual / 4 {
            text.shrink_to(usual);
            text.reserve_exact(usual + usual / 8);
        }
        text
    }

    /// Publishes the text that was written to [`buffer`](Self::buffer) since the last call. `age` becomes the
    /// last sample.
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

/// A short text that is replaced from time to time; `None` before the first one.
#[derive(Clone, Debug, Default)]
pub struct Document(Arc<Mutex<Option<String>>>);

impl Document {
    /// Serves this text from now on.
    pub fn replace(&self, text: String) {
        *lock(&self.0) = Some(text);
    }

    /// Returns the text that is served now.
    pub fn text(&self) -> Option<String> {
        lock(&self.0).clone()
    }
}

/// Locks a value, even after a panic in another thread: the value is never left half changed.
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

    /// Returns how many bytes a buffer still holds.
    fn n_held(buffer: &Buffer) -> usize {
        buffer.bytes().map_or(0, |bytes| bytes.len())
    }

    /// Publishes a text of this length. Returns its buffer, as a connection would hold it while sending.
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

    /// While the texts are large, the next rendering takes an outdated text away from its connection. A small
    /// outdated text is kept for a while.
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
