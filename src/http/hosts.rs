//! Which `Host` a request from this machine may name.
//!
//! A web page can point its own name at 127.0.0.1 and then read, from its visitor's browser, what listens
//! there: the exporter, through the visitor's `kubectl port-forward`, which ends at the pod's own loopback. The
//! browser still sends the page's name as `Host`, which shows the attack (DNS rebinding). A page cannot point
//! an address or this machine's name at itself.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The names that requests from this machine may use.
#[derive(Clone, Debug)]
pub struct Hosts {
    /// The machine's own name.
    node_name: String,
    /// The names from the command line.
    allowed: Vec<String>,
}

impl Hosts {
    /// Allows addresses, `localhost`, the machine's own name, and the names in `allowed`.
    pub fn new(node_name: String, allowed: Vec<String>) -> Self {
        Hosts { node_name, allowed }
    }

    /// Whether a request may name this host. Requests from elsewhere may name any; browsers always name one.
    pub fn allow(&self, is_local: bool, host: Option<&[u8]>) -> bool {
        let Some(host) = host.filter(|host| !host.is_empty()) else { return true };
        !is_local || str::from_utf8(host).is_ok_and(|host| self.is_ours(name_of(host)))
    }

    fn is_ours(&self, name: &str) -> bool {
        let is_name = |ours: &str| name.eq_ignore_ascii_case(ours);
        let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        name.parse::<Ipv4Addr>().is_ok()
            || address.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok())
            || is_name("localhost")
            || is_name(&self.node_name)
            || self.allowed.iter().any(|allowed| is_name(allowed))
    }
}

/// Returns a host without its port and final dot: `node` for `node:8080` and `node.`, `[::1]` for
/// `[::1]:8080`.
fn name_of(host: &str) -> &str {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name)
}

/// Whether this is a valid argument of `--allowed-host`: a name without a port.
pub fn is_host_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
}

/// Returns the text that refuses this host, with the option that would allow it, if there is one.
pub fn misdirected(host: Option<&[u8]>) -> String {
    let host = host.unwrap_or_default();
    let name = name_of(str::from_utf8(host).unwrap_or_default());
    let hint = match is_host_name(name) {
        true => format!("the option --allowed-host {name} allows it"),
        false => "it is no host name".to_owned(),
    };
    format!("requests from this machine may not use the Host \"{}\": {hint}\n", host.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each host that is refused, with the option that would allow it. tests/http.rs tests that the command
    /// line accepts the option.
    #[test]
    fn hosts_are_allowed_or_refused_with_advice() {
        let hosts = |allowed: &str| Hosts::new("node-1".to_owned(), vec![allowed.to_owned()]);
        for host in ["127.0.0.1", "127.0.0.1:8080", "10.0.0.7:80", "[::1]", "[fd00::7]:8080", "localhost"]
            .into_iter()
            .chain(["LocalHost:31337", "localhost.:80", "node-1:8080", "metrics.example.org:8080", ""])
        {
            assert!(hosts("Metrics.example.org").allow(true, Some(host.as_bytes())), "{host}");
        }
        for (host, advised) in [
            ("evil.example", Some("evil.example")),
            ("Evil.Example:8080", Some("Evil.Example")),
            ("evil.example.:80", Some("evil.example")),
            ("evil.example:", Some("evil.example")),
            ("localhost.evil.example", Some("localhost.evil.example")),
            ("evil.localhost", Some("evil.localhost")),
            ("node-1.evil.example", Some("node-1.evil.example")),
            ("example.org", Some("example.org")),
            ("under_score", Some("under_score")),
            ("127.1", Some("127.1")),
            ("2130706433", Some("2130706433")),
            ("--once", Some("--once")),
            ("evil.example:80:80", None),
            ("localhost:x", None),
            ("x@localhost", None),
            ("[::1", None),
            ("::1", None),
            ("[::1]x", None),
            ("[fe80::1%eth0]:80", None),
            (":8080", None),
            (".", None),
            ("a b", None),
            ("caf\u{e9}.example", None),
        ] {
            let bytes = Some(host.as_bytes());
            assert!(!hosts("metrics.example.org").allow(true, bytes), "{host}");
            assert!(hosts("metrics.example.org").allow(false, bytes), "{host} from elsewhere");
            let text = misdirected(bytes);
            let found = text.split_once("the option --allowed-host ").map(|(_, rest)| rest);
            assert_eq!(found.map(|rest| rest.strip_suffix(" allows it\n").unwrap()), advised, "{text}");
            assert!(advised.is_none_or(|advised| hosts(advised).allow(true, bytes)), "{host}");
        }
        assert!(hosts("a").allow(true, None) && !hosts("a").allow(true, Some(b"\xff")));
        let text = misdirected(Some(b"a\"\xff\x1b"));
        let start = "requests from this machine may not use the Host ";
        assert_eq!(text, format!("{start}\"a\\\"\\xff\\x1b\": it is no host name\n"));
    }
}
