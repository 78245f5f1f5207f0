//! The open connections: how many there may be, which one makes room for another, and whose turn it is.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::connection::{Connection, State};
use super::limits::Limits;

/// How long what a client has cost is remembered.
const CHARGE_PERIOD: Duration = Duration::from_secs(1);

/// The open connections.
pub struct Connections {
    pub open: Vec<Connection>,
    limits: Limits,
    /// What each address has cost in this period. There are no more of them than a period's CPU time can accept.
    charges: HashMap<IpAddr, Duration>,
    charged_since: Instant,
}

impl Connections {
    /// None yet.
    pub fn new(limits: Limits) -> Self {
        Connections { open: Vec::new(), limits, charges: HashMap::new(), charged_since: Instant::now() }
    }

    /// Takes a connection in, closing another one for it if need be. Says whether there was a place for it.
    pub fn admit(&mut self, mut connection: Connection, now: Instant) -> bool {
        let has_place = self.n_active() < self.limits.n_connections || self.evict(now);
        if !has_place {
            connection.refuse(now);
        }
        self.open.push(connection);
        has_place
    }

    /// Closes the connection that can best be done without: one between requests, else one in a head, else one whose
    /// response makes no progress; of these the one that has waited the longest.
    pub fn evict(&mut self, now: Instant) -> bool {
        self.remove_ended();
        let mut order: Vec<_> = (0..self.open.len()).filter(|&i| !self.open[i].is_closing()).collect();
        order.sort_by_key(|&i| {
            let connection = &self.open[i];
            let rank = match connection.state {
                State::Idle => 0,
                State::ReadingHead => 1,
                _ => 2,
            };
            (rank, connection.since)
        });
        let evicted = order.into_iter().find(|&i| self.open[i].can_be_evicted(now, &self.limits));
        evicted.map(|i| self.open.swap_remove(i)).is_some()
    }

    /// Those that wait for a scrape do not count: they cost nothing, and a probe must get in beside them.
    fn n_active(&self) -> usize {
        let active = self.open.iter().filter(|connection| !connection.is_closing());
        active.filter(|connection| !matches!(connection.state, State::Waiting(_))).count()
    }

    fn remove_ended(&mut self) {
        self.open.retain(|connection| !matches!(connection.state, State::Ended));
    }

    /// Removes the connections that are over, and the oldest of too many that are closing: the kernel has their responses.
    pub fn expire(&mut self, now: Instant) {
        self.open.retain(|connection| !connection.is_over(now, &self.limits));
        let mut closing: Vec<_> = self.open.iter().filter(|c| c.is_closing()).map(|c| c.since).collect();
        if let Some(n_more @ 1..) = closing.len().checked_sub(self.limits.n_closing) {
            closing.sort();
            let newest_to_go = closing[n_more - 1];
            self.open.retain(|connection| !connection.is_closing() || connection.since > newest_to_go);
        }
        if now.duration_since(self.charged_since) >= CHARGE_PERIOD {
            self.charges.clear();
            self.charged_since = now;
        }
    }

    /// Remembers what a turn of this connection has cost.
    pub fn charge(&mut self, i: usize, cost: Duration) {
        *self.charges.entry(self.open[i].peer).or_default() += cost;
    }

    /// Sorts connections by whose turn it is: those of the clients that have cost the least lately, then the longest wait.
    pub fn sort_by_turn(&self, ready: &mut [usize]) {
        ready.sort_by_key(|&i| {
            let connection = &self.open[i];
            (self.charges.get(&connection.peer).copied().unwrap_or_default(), connection.since)
        });
    }

    /// Whether a response is being written.
    pub fn is_writing(&self) -> bool {
        self.open.iter().any(|connection| matches!(connection.state, State::Writing { .. }))
    }

    /// When the next connection is over if nothing happens.
    pub fn deadline(&self) -> Option<Instant> {
        self.open.iter().map(|connection| connection.deadline(&self.limits)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::super::limits::LIMITS;
    use super::super::site::Site;
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    const MINUTE: Duration = Duration::from_secs(60);
    const REQUEST: &[u8] = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    const LAST_REQUEST: &[u8] = b"GET /readyz HTTP/1.0\r\n\r\n";

    /// A new connection and its client.
    fn connect(now: Instant) -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(MINUTE / 2)).unwrap();
        let (stream, peer) = listener.accept().unwrap();
        (Connection::new(stream, peer.ip(), now).unwrap(), client)
    }

    /// A client sends `bytes`, and they arrive: loopback delivers before it returns.
    fn connect_and_send(now: Instant, bytes: &[u8]) -> (Connection, TcpStream) {
        let (connection, mut client) = connect(now);
        client.write_all(bytes).unwrap();
        (connection, client)
    }

    fn limited(n_connections: usize, n_closing: usize) -> Connections {
        Connections::new(Limits { n_connections, n_closing, ..LIMITS })
    }

    fn rest(mut client: TcpStream) -> String {
        let mut bytes = Vec::new();
        client.read_to_end(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn idle_connections_make_room_first() {
        let now = Instant::now();
        let site = Site::of(b"x 1\n");
        let (new, old) = (now, now - MINUTE / 2);
        let mut connections = limited(4, 0);
        let mut clients = Vec::new();
        for (is_idle, since) in [(false, new), (true, new), (false, old), (true, old)] {
            let (mut connection, mut client) =
                connect_and_send(since, if is_idle { REQUEST } else { b"GET" });
            connection.turn(&site, since);
            assert_eq!(is_idle, client.set_nonblocking(true).is_ok() && client.read(&mut [0; 999]).is_ok());
            client.set_nonblocking(false).unwrap();
            assert!(connections.admit(connection, now));
            clients.push(client);
        }
        for next in [3, 1, 2, 0] {
            assert!(connections.evict(now));
            assert_eq!(clients[next].read(&mut [0]).unwrap(), 0, "{next} is not the next");
        }
        assert!(!connections.evict(now), "there is nobody left");
    }

    #[test]
    fn a_connection_whose_request_has_arrived_stays() {
        let now = Instant::now();
        let site = Site::of(b"x 1\n");
        let mut connections = limited(2, 9);
        let (unread, unread_client) = connect_and_send(now - MINUTE / 2, LAST_REQUEST);
        assert!(connections.admit(unread, now));
        let (mut idle, mut idle_client) = connect_and_send(now - MINUTE / 2, REQUEST);
        idle.turn(&site, now - MINUTE / 2);
        assert!(idle_client.read(&mut [0; 999]).unwrap() > 0);
        idle_client.write_all(LAST_REQUEST).unwrap();
        assert!(connections.admit(idle, now));

        let (third, third_client) = connect_and_send(now, LAST_REQUEST);
        assert!(!connections.admit(third, now), "both others wait for us");
        for connection in &mut connections.open {
            connection.turn(&site, now);
        }
        assert!(rest(unread_client).ends_with("\r\n\r\nok\n"));
        assert!(rest(idle_client).ends_with("\r\n\r\nok\n"));
        assert!(rest(third_client).starts_with("HTTP/1.1 503 "));
    }

    #[test]
    fn closing_connections_hold_no_place() {
        let now = Instant::now();
        let site = Site::of(b"x 1\n");
        let mut connections = limited(1, 3);
        let mut clients = Vec::new();
        for i in 0..10 {
            let (connection, client) = connect_and_send(now + i * MINUTE / 1000, LAST_REQUEST);
            assert!(connections.admit(connection, now), "{i}");
            connections.open.last_mut().unwrap().turn(&site, now + i * MINUTE / 1000);
            connections.expire(now);
            // The client has its whole response and does not close.
            clients.push(client);
        }
        assert!(connections.open.len() == 3, "{}", connections.open.len());
        for client in clients {
            let mut text = [0; 4096];
            let n = (&client).read(&mut text).unwrap();
            assert!(text[..n].ends_with(b"\r\n\r\nok\n"));
        }
    }

    #[test]
    fn a_client_that_costs_less_comes_first() {
        let now = Instant::now();
        let mut connections = limited(3, 0);
        let mut clients = Vec::new();
        for (last, since) in [(1, now - MINUTE / 30), (2, now), (1, now - MINUTE / 60)] {
            let (mut connection, client) = connect(since);
            connection.peer = Ipv4Addr::new(192, 0, 2, last).into();
            connections.admit(connection, now);
            clients.push(client);
        }
        let turns = |connections: &Connections| {
            let mut ready = [0, 1, 2];
            connections.sort_by_turn(&mut ready);
            ready
        };
        assert_eq!(turns(&connections), [0, 2, 1], "the longest wait");
        connections.charge(0, Duration::from_millis(1));
        assert_eq!(turns(&connections), [1, 0, 2], "the other address");
        connections.charge(1, Duration::from_millis(2));
        assert_eq!(turns(&connections), [0, 2, 1]);
        connections.charge(0, Duration::from_millis(9));
        connections.expire(now + 2 * CHARGE_PERIOD);
        assert_eq!(turns(&connections), [0, 2, 1], "forgotten");
    }
}
