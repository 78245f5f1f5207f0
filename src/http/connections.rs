//! The open connections: how many there may be, which one makes room for another, and whose turn it is.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::connection::{Connection, State};
use super::limits::Limits;

/// How long the cost of an address is remembered.
const CHARGE_PERIOD: Duration = Duration::from_secs(1);

/// The open connections.
pub struct Connections {
    /// In no particular order.
    pub open: Vec<Connection>,
    limits: Limits,
    /// What each address has cost in this period. There are no more addresses than can be accepted with a
    /// period's CPU time.
    charges: HashMap<IpAddr, Duration>,
    charged_since: Instant,
}

impl Connections {
    /// Starts without connections.
    pub fn new(limits: Limits) -> Self {
        Connections { open: Vec::new(), limits, charges: HashMap::new(), charged_since: Instant::now() }
    }

    /// Adds a connection, closing another one for it if necessary. Returns whether it got a slot. Without a
    /// slot only a probe is answered.
    pub fn admit(&mut self, mut connection: Connection, now: Instant) -> bool {
        let n_taken = self.open.iter().filter(|connection| connection.takes_slot()).count();
        connection.has_slot = n_taken < self.limits.n_slots || self.evict(Some(connection.peer), now);
        let has_slot = connection.has_slot;
        self.open.push(connection);
        has_slot
    }

    /// Closes a connection of the address that holds most slots: an idle one, else one still receiving a
    /// head, else one with a stalled response; of several, the one longest in that state. A response that
    /// makes progress is cut only for an address that, even with its new connection, holds fewer slots.
    ///
    /// Returns whether there was such a connection.
    pub fn evict(&mut self, newcomer: Option<IpAddr>, now: Instant) -> bool {
        self.open.retain(|connection| !matches!(connection.state, State::Ended));
        let mut order: Vec<_> = (0..self.open.len()).filter(|&i| self.open[i].takes_slot()).collect();
        let mut n_slots: HashMap<IpAddr, usize> = HashMap::new();
        order.iter().for_each(|&i| *n_slots.entry(self.open[i].peer).or_default() += 1);
        let n_wanted = newcomer.map(|peer| n_slots.get(&peer).map_or(1, |n| n + 1));
        order.sort_by_key(|&i| {
            let connection = &self.open[i];
            let rank = match connection.state {
                State::Idle => 0,
                State::ReadingHead => 1,
                _ => 2,
            };
            (Reverse(n_slots[&connection.peer]), rank, connection.since)
        });
        let evicted = order.into_iter().find(|&i| {
            let connection = &mut self.open[i];
            connection.can_be_evicted(now, &self.limits)
                || n_wanted.is_some_and(|n_wanted| n_slots[&connection.peer] > n_wanted)
        });
        evicted.map(|i| self.open.swap_remove(i)).is_some()
    }

    /// Removes the connections that are over, and the oldest of too many that are closing or have no slot.
    pub fn expire(&mut self, now: Instant) {
        self.open.retain(|connection| now < connection.end(&self.limits));
        let mut others: Vec<_> = self.open.iter().filter(|c| c.is_surplus()).map(|c| c.since).collect();
        if let Some(n_more @ 1..) = others.len().checked_sub(self.limits.n_others) {
            others.sort();
            let newest_to_go = others[n_more - 1];
            self.open.retain(|connection| !connection.is_surplus() || connection.since > newest_to_go);
        }
        if now.duration_since(self.charged_since) >= CHARGE_PERIOD {
            self.charges.clear();
            self.charged_since = now;
        }
    }

    /// Adds the cost of a turn of this connection to its address.
    pub fn charge(&mut self, i: usize, cost: Duration) {
        *self.charges.entry(self.open[i].peer).or_default() += cost;
    }

    /// Sorts connections by turn: addresses that have cost the least lately, then the longest wait.
    pub fn sort_by_turn(&self, ready: &mut [usize]) {
        ready.sort_by_key(|&i| {
            let connection = &self.open[i];
            (self.charges.get(&connection.peer).copied().unwrap_or_default(), connection.since)
        });
    }

    /// Returns when the first connection's deadline is.
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

    fn limited(n_slots: usize, n_others: usize) -> Connections {
        Connections::new(Limits { n_slots, n_others, ..LIMITS })
    }

    fn rest(mut client: TcpStream) -> String {
        let mut bytes = Vec::new();
        client.read_to_end(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    /// A connection from this address that sends a response which its client does not read.
    fn connect_and_stall(site: &Site, last: u8, now: Instant) -> (Connection, TcpStream) {
        let (mut connection, client) = connect_and_send(now, b"GET /metrics HTTP/1.0\r\n\r\n");
        (0..2).for_each(|_| connection.turn(site, now));
        assert!(matches!(connection.state, State::Writing { .. }));
        connection.peer = Ipv4Addr::new(192, 0, 2, last).into();
        (connection, client)
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
            assert!(connections.evict(None, now));
            assert_eq!(clients[next].read(&mut [0]).unwrap(), 0, "{next} is not the next");
        }
        assert!(!connections.evict(None, now), "no connection is left");
    }

    #[test]
    fn address_with_most_slots_makes_room_for_others() {
        let now = Instant::now();
        let site = Site::of(&vec![b'x'; 8 << 20]);
        let mut connections = limited(4, 9);
        let mut clients = Vec::new();
        // The addresses in the order in which they connect, and whether each gets a slot.
        for (i, (last, has_slot)) in [
            (1, true),
            (1, true),
            (1, true),
            (1, true),
            (1, false),
            (2, true),
            (3, true),
            (1, false),
            (2, false),
        ]
        .into_iter()
        .enumerate()
        {
            let (connection, client) = connect_and_stall(&site, last, now + Duration::from_millis(i as u64));
            assert_eq!(connections.admit(connection, now), has_slot, "{i}, address {last}");
            clients.push(client);
        }
        let slots = connections.open.iter().filter(|connection| connection.takes_slot());
        let mut left: Vec<_> =
            slots.map(|connection| connection.since.duration_since(now).as_millis()).collect();
        left.sort();
        assert_eq!(left, [2, 3, 5, 6], "the oldest of address 1 are closed");
        assert!(connections.evict(None, now + LIMITS.stalled * 2), "a stalled response makes room");
    }

    #[test]
    fn arrived_request_keeps_its_slot() {
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

        let (third, third_client) = connect_and_send(now, b"GET / HTTP/1.0\r\n\r\n");
        assert!(!connections.admit(third, now), "two requests have arrived");
        let (probe, probe_client) = connect_and_send(now, REQUEST);
        assert!(!connections.admit(probe, now));
        for connection in &mut connections.open {
            (0..2).for_each(|_| connection.turn(&site, now));
        }
        for client in [unread_client, idle_client, probe_client] {
            assert!(rest(client).ends_with("\r\n\r\nok\n"), "a probe needs no slot");
        }
        assert!(rest(third_client).starts_with("HTTP/1.1 503 "));
    }

    #[test]
    fn closing_connections_need_no_slot() {
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
    fn address_that_costs_less_comes_first() {
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
