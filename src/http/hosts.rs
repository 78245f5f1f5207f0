//! Checks the `Host` header of requests that come from the machine itself. The check prevents DNS rebinding.
//!
//! In this attack, a web page makes its own host name resolve to 127.0.0.1. Then the page's script can read
//! from every server that the visitor's browser reaches at 127.0.0.1. After `kubectl port-forward`, the
//! exporter is such a server. To the exporter, the requests seem to come from its own machine, because
//! forwarded connections end at the pod's loopback. But the browser still sends the host name of the page as
//! `Host`, so the exporter can refuse the request. IP addresses and the name of this machine are allowed as
//! `Host`. They cannot be used for the attack, because an address is not resolved, and an attacker does not
//! control what the machine's name resolves to.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The host names that requests from this machine may use. Addresses and `localhost` are always allowed.
#[derive(Clone, Debug, Default)]
pub struct Hosts(Vec<String>);

impl Hosts {
    /// Allows the machine's own name, and the names in `allowed`.
    pub fn new(node_name: String, mut allowed: Vec<String>) -> Self {
        allowed.push(node_name);
        Hosts(allowed)
    }

    /// Whether a request may have this `Host` header. Requests from other machines may name any host. An
    /// empty host is allowed, because the check is against attacks from browsers, and browsers always name a
    /// host.
    pub fn allow(&self, is_local: bool, host: &[u8]) -> bool {
        !is_local || host.is_empty() || str::from_utf8(host).is_ok_and(|host| self.is_ours(name_of(host)))
    }

    fn is_ours(&self, name: &str) -> bool {
        let is_name = |ours: &str| name.eq_ignore_ascii_case(ours);
        let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        name.parse::<Ipv4Addr>().is_ok()
            || address.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok())
            || is_name("localhost")
            || self.0.iter().any(|allowed| is_name(allowed))
    }
}

/// Returns a host name without its port and without a dot at its end. `node:8080` and `node.` become `node`,
/// and `[::1]:8080` becomes `[::1]`.
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

/// Returns the response's text for a request that is refused because of this host. If `--allowed-host` could
/// allow the host, the text names that option.
pub fn misdirected(host: &[u8]) -> String {
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

    fn hosts(allowed: &str) -> Hosts {
        Hosts::new("node-1".to_owned(), vec![allowed.to_owned()])
    }

    #[test]
    fn addresses_and_own_names_are_allowed() {
        for host in ["127.0.0.1", "127.0.0.1:8080", "10.0.0.7:80", "[::1]", "[fd00::7]:8080", "localhost"]
            .into_iter()
            .chain(["LocalHost:31337", "localhost.:80", "node-1:8080", "metrics.example.org:8080", ""])
        {
            assert!(hosts("Metrics.example.org").allow(true, host.as_bytes()), "{host}");
        }
        assert!(!hosts("a").allow(true, b"\xff"));
    }

    #[test]
    fn other_hosts_are_refused_with_advice() {
        let refuse = |host: &str, advised: Option<&str>| {
            let bytes = host.as_bytes();
            assert!(!hosts("metrics.example.org").allow(true, bytes), "{host}");
            assert!(hosts("metrics.example.org").allow(false, bytes), "{host} from elsewhere");
            let text = misdirected(bytes);
            let found = text.split_once("the option --allowed-host ").map(|(_, rest)| rest);
            assert_eq!(found.map(|rest| rest.strip_suffix(" allows it\n").unwrap()), advised, "{text}");
            assert!(advised.is_none_or(|advised| hosts(advised).allow(true, bytes)), "{host}");
        };
        refuse("Evil.Example:8080", Some("Evil.Example"));
        refuse("evil.example.:80", Some("evil.example"));
        refuse("evil.example:", Some("evil.example"));
        let names = "evil.example localhost.evil.example evil.localhost node-1.evil.example example.org";
        let odd_names = "under_score 127.1 2130706433 --once";
        names.split(' ').chain(odd_names.split(' ')).for_each(|host| refuse(host, Some(host)));
        let no_names = "evil.example:80:80 localhost:x x@localhost [::1 ::1 [::1]x [fe80::1%eth0]:80 :8080 .";
        no_names.split(' ').chain(["a b", "caf\u{e9}.example"]).for_each(|host| refuse(host, None));
        let text = misdirected(b"a\"\xff\x1b");
        let start = "requests from this machine may not use the Host ";
        assert_eq!(text, format!("{start}\"a\\\"\\xff\\x1b\": it is no host name\n"));
    }
}
