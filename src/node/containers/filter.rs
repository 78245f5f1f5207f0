//! Filters select the processes to read. A filter has the form `<namespace>/<pod>/<container>/<command>`.
//! Each of the four parts may contain `*` anywhere. A `*` stands for any run of characters, even for none.
//!
//! The four parts of a filter are compared with the labels `namespace`, `pod`, `container` and `comm` of a
//! process.

use std::fmt;

/// The expected form of a filter, for error messages.
pub const EXPECTED: &str =
    "\"<namespace>/<pod>/<container>/<command>\", where \"*\" stands for any run of characters";

/// A filter. If there are several filters, a process is selected if any of them matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    namespace: String,
    pod: String,
    container: String,
    comm: String,
}

/// The error for a filter with fewer than four segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    text: String,
}

impl Filter {
    /// Splits `text` at its first three slashes. The rest is the command, because a command name may contain
    /// slashes.
    pub fn parse(text: &str) -> Result<Filter, ParseError> {
        let mut segments = text.splitn(4, '/').map(String::from);
        let mut next = || segments.next().ok_or_else(|| ParseError { text: text.into() });
        Ok(Filter { namespace: next()?, pod: next()?, container: next()?, comm: next()? })
    }

    /// Whether a process with these labels is selected.
    pub fn matches(&self, namespace: &str, pod: &str, container: &str, comm: &str) -> bool {
        self.matches_container(namespace, pod, container) && glob(&self.comm, comm)
    }

    /// Whether this filter can select a process in a container with these labels. If no filter can, the
    /// command names of the processes in the container need not be read.
    pub fn matches_container(&self, namespace: &str, pod: &str, container: &str) -> bool {
        glob(&self.namespace, namespace) && glob(&self.pod, pod) && glob(&self.container, container)
    }
}

/// Whether `pattern` matches the whole of `text`.
///
/// Each piece between two stars is matched at its leftmost place. That leaves the most room for the later
/// pieces, so no match is ever undone, and the time is linear for every pattern.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((first, pattern)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let (middle, last) = pattern.rsplit_once('*').unwrap_or(("", pattern));
    for piece in middle.split('*') {
        match rest.split_once(piece) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.namespace, self.pod, self.container, self.comm)
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid filter {:?}: expected {EXPECTED}", self.text)
    }
}

impl std::error::Error for ParseError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn star_matches_any_run_of_characters() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            ("", &[""], &["a"]),
            ("a", &["a"], &["", "b", "aa", "A"]),
            ("*", &["", "a", "a/b", "*", "\n", "\u{fffd}"], &[]),
            ("**", &["", "a"], &[]),
            ("a*", &["a", "ab", "a*"], &["", "ba"]),
            ("*a", &["a", "ba", "aa"], &["", "ab"]),
            ("*a*", &["a", "bab"], &["", "b"]),
            ("a*a", &["aa", "aba"], &["a", "ab"]),
            ("ab*ba", &["abba", "ab-ba"], &["aba"]),
            ("*ab*ab*", &["abab", "xabxabx"], &["ab", "aab", "abb"]),
            ("a*b*c", &["abc", "abbcc", "a-b-c"], &["acb", "ab", "abcd"]),
            ("*b*b", &["bb", "bab"], &["b", "ba"]),
            ("kube-*", &["kube-", "kube-system"], &["kube", "xkube-"]),
            ("é*", &["é", "éa"], &["e"]),
            ("[a-z]?.", &["[a-z]?."], &["a", "aa."]),
        ];
        for (pattern, taken, refused) in cases {
            for text in *taken {
                assert!(glob(pattern, text), "{pattern:?} takes {text:?}");
            }
            for text in *refused {
                assert!(!glob(pattern, text), "{pattern:?} refuses {text:?}");
            }
        }
    }

    /// Matches every pattern of up to five letters with every text of up to five letters. The result must be
    /// what the definition of `*` says.
    #[test]
    fn matching_equals_the_definition_of_star() {
        fn by_definition(pattern: &[u8], text: &[u8]) -> bool {
            match pattern {
                [] => text.is_empty(),
                [b'*', rest @ ..] => (0..=text.len()).any(|taken| by_definition(rest, &text[taken..])),
                [letter, rest @ ..] => text.first() == Some(letter) && by_definition(rest, &text[1..]),
            }
        }
        fn words(letters: &str) -> Vec<String> {
            let mut words = vec![String::new()];
            let mut from = 0;
            for _ in 0..5 {
                let to = words.len();
                for i in from..to {
                    words.extend(
                        letters.chars().map(|letter| format!("{}{letter}", words[i])).collect::<Vec<_>>(),
                    );
                }
                from = to;
            }
            words
        }
        let texts = words("ab");
        for pattern in words("ab*") {
            for text in &texts {
                let expected = by_definition(pattern.as_bytes(), text.as_bytes());
                assert_eq!(glob(&pattern, text), expected, "{pattern:?} on {text:?}");
            }
        }
    }

    #[test]
    fn long_patterns_take_linear_time() {
        let text = "a".repeat(1 << 16);
        assert!(!glob(&format!("{}b", "*a".repeat(1 << 12)), &text));
        assert!(glob(&"*a".repeat(1 << 12), &text));
    }

    #[test]
    fn each_segment_is_matched_with_its_label() {
        let cases: &[(&str, [&str; 4], bool)] = &[
            ("*/*/*/*", ["default", "web-0", "app", "nginx"], true),
            ("*/*/*/*", ["moby", "", "", ""], true),
            ("default/*/*/*", ["default", "web-0", "app", "nginx"], true),
            ("default/*/*/*", ["default2", "web-0", "app", "nginx"], false),
            ("default/web-*/app/nginx", ["default", "web-0", "app", "nginx"], true),
            ("default/web-*/app/nginx", ["default", "db-0", "app", "nginx"], false),
            ("default/web-*/app/nginx", ["default", "web-0", "sidecar", "nginx"], false),
            ("default/web-*/app/nginx", ["default", "web-0", "app", "sh"], false),
            ("*/*/*/kworker/0:1", ["a", "b", "c", "kworker/0:1"], true),
            ("*/*/*/kworker/0:1", ["a", "b", "c", "kworker"], false),
            ("moby//db/*", ["moby", "", "db", "postgres"], true),
            ("moby//db/*", ["moby", "x", "db", "postgres"], false),
            // The first star matches `/b`, because a namespace may contain a slash.
            ("a*/*/*/*", ["a/b", "c", "d", "e"], true),
            ("///", ["", "", "", ""], true),
        ];
        for (text, [namespace, pod, container, comm], expected) in cases {
            let filter = Filter::parse(text).expect("four segments");
            assert_eq!(filter.matches(namespace, pod, container, comm), *expected, "{text}");
        }
    }

    #[test]
    fn container_can_be_matched_without_a_command() {
        let filter = Filter::parse("default/web-*/app/nginx").expect("four segments");
        assert!(filter.matches_container("default", "web-0", "app"));
        assert!(!filter.matches_container("kube-system", "web-0", "app"));
        assert!(!filter.matches_container("default", "db-0", "app"));
        assert!(!filter.matches_container("default", "web-0", "sidecar"));
    }

    #[test]
    fn displays_the_original() {
        for text in ["*/*/*/*", "default/web-*/app/a/b/", "///", "é/ /\"/\n"] {
            assert_eq!(Filter::parse(text).expect("four segments").to_string(), text);
        }
    }

    #[test]
    fn filters_with_fewer_segments_are_refused() {
        for (text, quoted) in
            [("", r#""""#), ("*", r#""*""#), ("a/b/c", r#""a/b/c""#), ("\"/\n", r#""\"/\n""#)]
        {
            assert_eq!(
                Filter::parse(text).expect_err("fewer than four segments").to_string(),
                format!(
                    "invalid filter {quoted}: expected \"<namespace>/<pod>/<container>/<command>\", where \
                     \"*\" stands for any run of characters"
                )
            );
        }
    }
}
