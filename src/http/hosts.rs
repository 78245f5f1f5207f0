//! Which `Host` a request from this machine may name.
//!
//! A web page can point its own name at 127.0.0.1 and then read, from its visitor's browser, what listens there: the exporter,
//! through the visitor's `kubectl port-forward`, which ends at the pod's own loopback. The browser still sends the page's
//! name as `Host`, and that gives it away (DNS rebinding). Nobody can point a name of ours, or an address, at himself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The names that requests from loopback may use.
#[derive(Clone, Debug)]
pub struct Hosts {
    /// The machine's own.
    node_name: String,
    allowed: Vec<String>,
}

impl Hosts {
    /// `localhost`, the machine's own name, and those that are `allowed`.
    pub fn new(node_name: String, allowed: Vec<String>) -> Self {
        Hosts { node_name, allowed }
    }

    /// Whether a request of `peer` may name this host; none is what only programs send.
    pub fn allow(&self, peer: IpAddr, host: Option<&[u8]>) -> bool {
        let Some(host) = host.filter(|host| !host.is_empty()) else { return true };
        !peer.is_loopback() || str::from_utf8(host).is_ok_and(|host| self.is_ours(name_of(host)))
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

/// `node` of `node:8080` and of `node.`; `[::1]` of `[::1]:8080`.
fn name_of(host: &str) -> &str {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name)
}

/// Whether `--allowed-host` takes this: a name without a port.
pub fn is_host_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
}

/// What tells the client which option is missing, if one would help.
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

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn hosts() {
        let hosts = Hosts::new("node-1".to_owned(), vec!["Metrics.example.org".to_owned()]);
        for (host, is_allowed) in [
            ("127.0.0.1", true),
            ("127.0.0.1:8080", true),
            ("10.0.0.7:80", true),
            ("[::1]", true),
            ("[fd00::7]:8080", true),
            ("localhost", true),
            ("LocalHost:31337", true),
            ("localhost.:80", true),
            ("node-1:8080", true),
            ("metrics.example.org:8080", true),
            ("", true),
            ("evil.example", false),
            ("evil.example:8080", false),
            ("localhost.evil.example", false),
            ("evil.localhost", false),
            ("127.0.0.1.evil.example", false),
            ("127.1", false),
            ("2130706433", false),
            ("node-1.evil.example", false),
            ("example.org", false),
            ("x@localhost", false),
            ("[::1", false),
            ("::1", false),
            ("localhost:80:80", false),
            ("localhost:x", false),
            (":8080", false),
        ] {
            assert_eq!(hosts.allow(HERE, Some(host.as_bytes())), is_allowed, "{host}");
            assert!(hosts.allow("10.0.0.7".parse().unwrap(), Some(host.as_bytes())), "{host} from elsewhere");
        }
        assert!(hosts.allow(HERE, None));
        assert!(!hosts.allow(HERE, Some(b"\xff")));
        assert!(!hosts.allow("::1".parse().unwrap(), Some(b"evil.example")));
    }

    #[test]
    fn what_is_missing_is_told() {
        let text = misdirected(Some(b"evil.example:8080"));
        assert_eq!(
            text,
            "requests from this machine may not use the Host \"evil.example:8080\": the option --allowed-host evil.example allows it\n"
        );
        assert!(misdirected(Some(b"a\"\xff\x1b")).contains("\"a\\\"\\xff\\x1b\": it is no host name"));
    }

    /// Whoever follows the advice gets in; where none would help, none is given. That the command line takes it: tests/http.rs.
    #[test]
    fn what_is_advised_works() {
        for (host, advised) in [
            ("evil.example", Some("evil.example")),
            ("Evil.Example:8080", Some("Evil.Example")),
            ("evil.example.", Some("evil.example")),
            ("evil.example.:80", Some("evil.example")),
            ("evil.example:", Some("evil.example")),
            ("under_score", Some("under_score")),
            ("127.1", Some("127.1")),
            ("evil.example:80:80", None),
            ("evil.example:x", None),
            ("x@localhost", None),
            ("[::1", None),
            ("::1", None),
            ("[::1]x", None),
            ("[fe80::1%eth0]:80", None),
            (":8080", None),
            (".", None),
            ("a b", None),
            ("--once", Some("--once")),
            ("caf\u{e9}.example", None),
        ] {
            let text = misdirected(Some(host.as_bytes()));
            let found = text.split_once("the option --allowed-host ").map(|(_, rest)| rest);
            assert_eq!(found.map(|rest| rest.strip_suffix(" allows it\n").unwrap()), advised, "{text}");
            let Some(name) = advised else { continue };
            assert!(
                Hosts::new("node-1".to_owned(), vec![name.to_owned()]).allow(HERE, Some(host.as_bytes())),
                "{host}"
            );
        }
    }
}
