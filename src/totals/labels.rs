//! Label text: what stands between the braces of a sample.
//!
//! Values are escaped as the text format asks (Prometheus, "Exposition formats"): `\`, `"` and newline. Names that workloads
//! choose may be any bytes; what is not UTF-8 becomes U+FFFD.

use std::fmt::Write as _;

/// The beginning of the label text of everything in a container: `{namespace="..",pod="..",container=".."`.
pub fn container(namespace: &str, pod: &str, container: &str) -> String {
    let mut text = String::new();
    push(&mut text, "{namespace=\"", namespace);
    push(&mut text, ",pod=\"", pod);
    push(&mut text, ",container=\"", container);
    text
}

/// Appends what names a command: the container's text, then the command name, then the pid if there is one.
pub fn command(text: &mut String, container: &str, comm: &str, pid: Option<u32>) {
    text.push_str(container);
    push(text, ",comm=\"", comm);
    if let Some(pid) = pid {
        let _ = write!(text, ",pid=\"{pid}\""); // writing to a String cannot fail
    }
}

/// Appends a label: `begin` is the comma, the name and all up to the value.
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

/// `bytes` as text, through `scratch` when they are not UTF-8.
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
    fn label_text() {
        let mut text = String::new();
        command(&mut text, &container("ns", "", "c"), "a\\b\"c\nd/é", None);
        assert_eq!(text, r#"{namespace="ns",pod="",container="c",comm="a\\b\"c\nd/é""#);
        text.clear();
        command(&mut text, "{", "x", Some(42));
        assert_eq!(text, r#"{,comm="x",pid="42""#);
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
        let mut scratch = String::from("left over");
        for (bytes, text) in cases {
            assert_eq!(lossy(bytes, &mut scratch), *text);
            assert_eq!(lossy(bytes, &mut scratch), String::from_utf8_lossy(bytes), "as std does it");
        }
    }
}
