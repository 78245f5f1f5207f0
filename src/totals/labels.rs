//! Makes label text: the text between the name and the value of a sample.
//!
//! The text format requires that `\`, `"` and newline in values are escaped (Prometheus, "Exposition
//! formats"). Workloads choose some of the names, so these names may have any bytes. Bytes that are not UTF-8
//! become U+FFFD.

use std::fmt::Write as _;

/// Returns the beginning of the label text of a container: `{namespace="..",pod="..",container=".."`.
pub fn container(namespace: &str, pod: &str, container: &str) -> String {
    let mut text = String::new();
    push(&mut text, "{namespace=\"", namespace);
    push(&mut text, ",pod=\"", pod);
    push(&mut text, ",container=\"", container);
    text
}

/// Returns the beginning of the label text of a pod: `{namespace="..",pod=".."`.
pub fn pod(namespace: &str, pod: &str) -> String {
    let mut text = String::new();
    push(&mut text, "{namespace=\"", namespace);
    push(&mut text, ",pod=\"", pod);
    text
}

/// Appends the beginning of the label text of a command: the container's text and the command name.
pub fn command(text: &mut String, container: &str, comm: &str) {
    text.push_str(container);
    push(text, ",comm=\"", comm);
}

/// Appends the label `pid`.
pub fn push_pid(text: &mut String, pid: u32) {
    let _ = write!(text, ",pid=\"{pid}\""); // writing to a String cannot fail
}

/// Appends a label. `begin` is everything before the label's value: the comma or brace, the name and `="`.
pub fn push(text: &mut String, begin: &str, value: &str) {
    text.push_str(begin);
    let mut rest = value;
    while let Some(at) = rest.find(['\\', '"', '\n']) {
        text.push_str(&rest[..at]);
        text.push_str(match rest.as_bytes()[at] {
            b'\\' => "\\\\",
            b'"' => "\\\"",
            _ => "\\n",
        });
        rest = &rest[at + 1..];
    }
    text.push_str(rest);
    text.push('"');
}

/// Appends a value without the escapes that [`push`] has added. A value longer than `max_len` bytes is cut,
/// and ends with an ellipsis.
pub fn push_unescaped(text: &mut String, escaped: &str, max_len: usize) {
    let end = text.len() + max_len;
    let mut chars = escaped.chars();
    while let Some(char) = chars.next() {
        if text.len() >= end {
            return text.push('…');
        }
        text.push(match char {
            '\\' => chars.next().map_or(char, |next| if next == 'n' { '\n' } else { next }),
            char => char,
        });
    }
}

/// Returns the namespace, pod and container from a text that [`container`] has made.
pub fn values_of_container(text: &str) -> [String; 3] {
    let mut rest = text;
    [(); 3].map(|()| {
        let mut value = String::new();
        let Some((_, begin)) = rest.split_once("=\"") else { return value };
        let mut is_escaped = false;
        let is_end = |byte: &u8| {
            let is_end = *byte == b'"' && !is_escaped;
            is_escaped = *byte == b'\\' && !is_escaped;
            is_end
        };
        let end = begin.as_bytes().iter().position(is_end).unwrap_or(begin.len());
        push_unescaped(&mut value, &begin[..end], usize::MAX / 2);
        rest = &begin[end..];
        value
    })
}

/// Returns `bytes` as text. If some bytes are not UTF-8, the text is built in `scratch`, with U+FFFD in the
/// place of these bytes.
pub fn lossy<'a>(bytes: &'a [u8], scratch: &'a mut String) -> &'a str {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return text;
    }
    scratch.clear();
    for chunk in bytes.utf8_chunks() {
        scratch.push_str(chunk.valid());
        if !chunk.invalid().is_empty() {
            scratch.push(char::REPLACEMENT_CHARACTER);
        }
    }
    scratch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_have_label_text() {
        let mut text = String::new();
        command(&mut text, &container("ns", "", "c"), "a\\b\"c\nd/é");
        assert_eq!(text, r#"{namespace="ns",pod="",container="c",comm="a\\b\"c\nd/é""#);
        text.clear();
        command(&mut text, "{", "x");
        push_pid(&mut text, 42);
        assert_eq!(text, r#"{,comm="x",pid="42""#);
    }

    #[test]
    fn values_of_container_labels_are_parsed() {
        for values in [["ns", "", "c"], ["a\\", "b\"=\"", "\n"], ["\\\"", "\\\\", "é"]] {
            assert_eq!(values_of_container(&container(values[0], values[1], values[2])), values);
        }
        assert_eq!(values_of_container("{c=\"0\""), ["0", "", ""]);
    }

    #[test]
    fn unescaping_reverts_escaping() {
        for value in ["", "plain", "a\\b\"c\nd", "\\n", "é\\", "\\\\\""] {
            let mut escaped = String::new();
            push(&mut escaped, "x=\"", value);
            let mut text = String::from(">");
            push_unescaped(&mut text, &escaped[3..escaped.len() - 1], 100);
            assert_eq!(text, format!(">{value}"));
        }
        for (escaped, expected) in [("abc", "abc"), ("abcd", "abc…"), ("é€", "é…"), ("a\\\\", "a\\")]
        {
            let mut text = String::new();
            push_unescaped(&mut text, escaped, if escaped.starts_with('é') { 2 } else { 3 });
            assert_eq!(text, expected);
        }
    }

    #[test]
    fn bytes_that_are_not_utf8_are_replaced() {
        let cases: &[(&[u8], &str)] = &[
            (b"plain", "plain"),
            (b"", ""),
            (b"a\xffb\xc3", "a\u{fffd}b\u{fffd}"),
            (b"\xe2\x82", "\u{fffd}"),
            ("\u{fffd}é".as_bytes(), "\u{fffd}é"),
        ];
        let mut scratch = String::from("old");
        for (bytes, text) in cases {
            assert_eq!(lossy(bytes, &mut scratch), *text);
            assert_eq!(lossy(bytes, &mut scratch), String::from_utf8_lossy(bytes), "the same as std");
        }
    }
}
