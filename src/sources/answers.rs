//! Of containerd's answers the few fields that are asked for, decoded by hand.
//!
//! A general decoder makes a structure of 200 bytes of every task, also of one that took two bytes to send: 60 MiB of those became 6.8 GB.
//! Here what is not wanted is passed over where it lies, and what is kept has a limit.

use crate::sources::protobuf::{Fields, Value, text};

/// The most tasks taken of an answer, whatever their status. A node has some hundreds.
pub const MAX_TASKS: usize = 100_000;
/// Where a label's value is cut. containerd takes no label of more than 4,096 bytes, its key included.
const MAX_LABEL: usize = 4096;

/// `containerd.v1.types.Process`, as far as it is of use.
#[derive(Debug, Default, PartialEq)]
pub struct Task {
    pub id: String,
    pub pid: u32,
    /// `containerd.v1.types.Status`.
    pub status: i32,
}

/// The labels that tell which container this is.
#[derive(Debug, Default, PartialEq)]
pub struct Labels {
    pub kind: Option<String>,
    pub pod_namespace: Option<String>,
    pub pod: Option<String>,
    pub container: Option<String>,
    pub nerdctl_name: Option<String>,
    /// Values that were cut.
    pub n_cut: u64,
}

/// Decodes a `ListTasksResponse`: the tasks that `is_wanted` takes by status and pid.
///
/// Fails with the reason when the bytes are none, or there are more than [`MAX_TASKS`] in all.
pub fn tasks(message: &[u8], is_wanted: fn(i32, u32) -> bool) -> Result<Vec<Task>, String> {
    let mut tasks = Vec::new();
    let mut n_tasks = 0;
    for field in Fields(message) {
        let (1, Value::Bytes(process)) = field? else { continue };
        n_tasks += 1;
        if n_tasks > MAX_TASKS {
            return Err(format!("over {MAX_TASKS} tasks"));
        }
        let (mut id, mut pid, mut status) = (&[][..], 0, 0);
        for field in Fields(process) {
            match field? {
                (2, Value::Bytes(bytes)) => id = bytes,
                (3, Value::Number(number)) => pid = number as u32,
                (4, Value::Number(number)) => status = number as i32,
                _ => {}
            }
        }
        if is_wanted(status, pid) {
            tasks.push(Task { id: text("a task's id", id)?, pid, status });
        }
    }
    Ok(tasks)
}

/// Decodes a `GetContainerResponse`: the labels of its container, `None` if it holds none.
///
/// Fails with the reason when the bytes are none.
pub fn labels(message: &[u8]) -> Result<Option<Labels>, String> {
    let mut labels = None;
    for field in Fields(message) {
        let (1, Value::Bytes(container)) = field? else { continue };
        let labels = labels.get_or_insert_with(Labels::default);
        for field in Fields(container) {
            let (2, Value::Bytes(label)) = field? else { continue };
            let (mut key, mut value) = (&[][..], &[][..]);
            for field in Fields(label) {
                match field? {
                    (1, Value::Bytes(bytes)) => key = bytes,
                    (2, Value::Bytes(bytes)) => value = bytes,
                    _ => {}
                }
            }
            labels.set(key, value);
        }
    }
    Ok(labels)
}

impl Labels {
    fn set(&mut self, key: &[u8], value: &[u8]) {
        let slot = match key {
            b"io.cri-containerd.kind" => &mut self.kind,
            b"io.kubernetes.pod.namespace" => &mut self.pod_namespace,
            b"io.kubernetes.pod.name" => &mut self.pod,
            b"io.kubernetes.container.name" => &mut self.container,
            b"nerdctl/name" => &mut self.nerdctl_name,
            _ => return,
        };
        self.n_cut += u64::from(value.len() > MAX_LABEL);
        let value = &value[..value.len().min(MAX_LABEL)];
        // A character that the cut went through is left out; other bytes that are not UTF-8 show as such.
        let whole = value.utf8_chunks().last().map_or(0, |last| match last.invalid() {
            cut if cut.len() < 4 && value.len() == MAX_LABEL => cut.len(),
            _ => 0,
        });
        *slot = Some(String::from_utf8_lossy(&value[..value.len() - whole]).into_owned());
    }
}

/// Encodes a `GetContainerRequest`.
pub fn get_container_request(id: &str) -> Vec<u8> {
    let mut message = vec![1 << 3 | 2];
    let mut length = id.len();
    while length >= 0x80 {
        message.push(length as u8 | 0x80);
        length >>= 7;
    }
    message.push(length as u8);
    message.extend_from_slice(id.as_bytes());
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::protobuf::tests::bytes;

    fn task(id: &[u8], pid: u8, status: u8) -> Vec<u8> {
        let extras =
            [bytes(5, b"/run/fifo"), vec![8 << 3, 1], vec![10 << 3 | 1, 0, 0, 0, 0, 0, 0, 0, 0]].concat();
        bytes(1, &[bytes(1, b""), bytes(2, id), extras, vec![3 << 3, pid, 4 << 3, status]].concat())
    }

    fn running(message: &[u8]) -> Result<Vec<Task>, String> {
        tasks(message, |status, _| status == 2)
    }

    fn container(labels: &[(&[u8], &[u8])]) -> Vec<u8> {
        let labels = labels.iter().map(|(key, value)| bytes(2, &[bytes(1, key), bytes(2, value)].concat()));
        bytes(1, &[bytes(1, b"id"), labels.collect::<Vec<_>>().concat(), bytes(5, &[0; 20_000])].concat())
    }

    #[test]
    fn of_tasks_the_wanted_ones() {
        let message = [task(b"a", 5, 2), task(&[b'x'; 5000], 6, 3), task(b"b", 7, 2)].concat();
        let named = |id: &str, pid| Task { id: id.into(), pid, status: 2 };
        assert_eq!(running(&message), Ok(vec![named("a", 5), named("b", 7)]));
        assert_eq!(running(b""), Ok(vec![]));
    }

    #[test]
    fn what_is_refused() {
        let two_bytes = |n: usize| [1 << 3 | 2, 0].repeat(n);
        assert_eq!(running(&two_bytes(MAX_TASKS)), Ok(vec![]));
        for (message, why) in [
            (two_bytes(MAX_TASKS + 1), "over 100000 tasks"),
            (task(&[b'x'; 5000], 6, 2), "a task's id of 5000 bytes"),
            (task(b"\xff", 6, 2), "a task's id that is not UTF-8"),
            (vec![1 << 3 | 2, 200, 1], "no protobuf message"),
            (vec![1 << 3 | 3], "no protobuf message"),
            (vec![0xff; 11], "no protobuf message"),
        ] {
            assert_eq!(running(&message), Err(why.into()));
        }
    }

    #[test]
    fn of_labels_the_wanted_ones() {
        let labels_of = |given: &[(&[u8], &[u8])]| labels(&container(given)).unwrap().unwrap();
        let pod = Some("web-1".into());
        let given: &[(&[u8], &[u8])] = &[(b"app", b"web"), (b"io.kubernetes.pod.name", b"web-1")];
        assert_eq!(labels_of(given), Labels { pod, ..Labels::default() });
        assert_eq!(labels_of(&[]), Labels::default());
        assert_eq!(labels(b""), Ok(None));
        assert_eq!(labels_of(&[(b"nerdctl/name", b"a\xffb")]).nerdctl_name.as_deref(), Some("a\u{fffd}b"));
    }

    #[test]
    fn a_long_label_is_cut_between_characters() {
        for (value, kept, n_cut) in [
            ("x".repeat(4096), 4096, 0),
            ("x".repeat(1 << 20), 4096, 1),
            ("ö".repeat(4096), 4096, 1),
            (format!("x{}", "ö".repeat(4096)), 4095, 1),
        ] {
            let labels = labels(&container(&[(b"nerdctl/name", value.as_bytes())])).unwrap().unwrap();
            assert_eq!(labels.nerdctl_name.as_deref(), Some(&value[..kept]));
            assert_eq!(labels.n_cut, n_cut);
        }
    }

    #[test]
    fn every_prefix_is_an_answer_or_refused() {
        let message = [task(b"abc", 5, 2), task(b"d", 100, 2)].concat();
        for n in 0..message.len() {
            if let Ok(tasks) = running(&message[..n]) {
                assert!(tasks.len() < 2, "cut after {n}");
            }
        }
        let message = container(&[(b"nerdctl/name", b"web")]);
        for n in 1..message.len() {
            assert!(labels(&message[..n]).is_err(), "cut after {n}");
        }
    }

    #[test]
    fn a_request_is_what_protobuf_says() {
        assert_eq!(get_container_request("abc"), b"\x0a\x03abc");
        let long = get_container_request(&"x".repeat(300));
        assert_eq!(long[..4], *b"\x0a\xac\x02x");
        assert_eq!(long.len(), 303);
    }
}
