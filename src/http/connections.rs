//! Manages the open connections. Decides how many connections may be open, which one is closed to make room
//! for a new one, and which one is served next.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

use super::connection::{Connection, State};

/// The open connections and their limits.
pub struct Connections {
    /// The connections, in no particular order.
    pub open: Vec<Connection>,
    /// The number of slots. A slot is a place for one open connection that may send several requests. A
    /// connection needs no slot while it waits for a scrape, or while it is closing. If no slot is free, a
    /// new connection gets a single response, and is then closed.
    n_slots: usize,
    /// The maximum number of connections that are closing or get only a single response. If there are more,
    /// the oldest of these connections are closed immediately.
    n_others: usize,
}

impl Connections {
    /// Creates an empty list of connections.
    pub fn new() -> Self {
        Connections { open: Vec::new(), n_slots: 64, n_others: 192 }
    }

    /// Adds a connection. If all slots are taken, tries to close another connection. Returns whether the
    /// added connection has a slot. A connection without a slot gets only one response. Probes such as
    /// `/healthz` are answered as usual, and other requests get an error.
    pub fn admit(&mut self, mut connection: Connection, now: Instant) -> bool {
        let n_taken = self.open.iter().filter(|connection| connection.takes_slot()).count();
        connection.client.has_slot = n_taken < self.n_slots || self.evict(Some(connection.peer), now);
        let has_slot = connection.client.has_slot;
        self.open.push(connection);
        has_slot
    }

    /// Closes one connection to free its slot, which is a place for one open connection. Returns whether a
    /// connection was closed.
    ///
    /// Connections from the client address that holds most slots are tried first. Among them, idle
    /// connections are tried first, then those that receive the head of a request, then those with a
    /// response. A connection that still makes progress is usually skipped. It is closed only if its client
    /// address holds at least two slots more than the address of the new connection, `newcomer`.
    pub fn evict(&mut self, newcomer: Option<IpAddr>, now: Instant) -> bool {
        let n_slots = self.n_slots_by_address();
        let n_wanted = newcomer.map(|peer| n_slots.get(&peer).map_or(1, |n| n + 1));
        let mut order: Vec<_> = (0..self.open.len()).filter(|&i| self.open[i].takes_slot()).collect();
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
            connection.can_be_evicted(now)
                || n_wanted.is_some_and(|n_wanted| n_slots[&connection.peer] > n_wanted)
        });
        evicted.map(|i| self.open.swap_remove(i)).is_some()
    }

    fn n_slots_by_address(&self) -> HashMap<IpAddr, usize> {
        let mut n_slots = HashMap::new();
        for connection in self.open.iter().filter(|connection| connection.takes_slot()) {
            *n_slots.entry(connection.peer).or_default() += 1;
        }
        n_slots
    }

    /// Removes the connections that have passed their deadline. If more than `n_others` of the remaining
    /// connections are closing or get only a single response, also removes the oldest of these, so that at
    /// most `n_others` are left.
    pub fn expire(&mut self, now: Instant) {
        self.open.retain(|connection| now < connection.deadline());
        let mut others: Vec<_> = self.open.iter().filter(|c| c.is_surplus()).map(|c| c.since).collect();
        if let Some(n_more @ 1..) = others.len().checked_sub(self.n_others) {
            others.sort();
            let newest_to_go = others[n_more - 1];
            self.open.retain(|connection| !connection.is_surplus() || connection.since > newest_to_go);
        }
    }

    /// Sorts ready connections into the order in which they are served. Connections from addresses that hold
    /// fewer slots (places for open connections) come first. Among addresses with equally many slots, the
    /// connection that has been in its state (such as receiving a request) for the longest time comes first.
    pub fn sort_by_turn(&self, ready: &mut [usize]) {
        let n_slots = self.n_slots_by_address();
        ready.sort_by_key(|&i| (n_slots.get(&self.open[i].peer), self.open[i].since));
    }
}

#[cfg(test)]
mod tests {
    use super::super::connection::{HEAD, IDLE, RESPONSE, STALLED};
    use super::super::site::Site;
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::time::Duration;

    const MS: Duration = Duration::from_millis(1);
    const REQUEST: &[u8] = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    const LAST_REQUEST: &[u8] = b"GET /readyz HTTP/1.0\r\n\r\n";
    const LARGE_REQUEST: &[u8] = b"GET /metrics HTTP/1.0\r\n\r\n";

    /// Connects a client that sends `bytes`. The bytes have arrived when this function returns, because
    /// loopback delivers them at once.
    fn connect(now: Instant, bytes: &[u8]) -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        client.write_all(bytes).unwrap();
        let (stream, peer) = listener.accept().unwrap();
        (Connection::new(stream, peer.ip(), now).unwrap(), client)
    }

    /// Connects from an address that ends in `last`, and sends a request. The client does not read the
    /// response.
    fn connect_and_stall(site: &Site, last: u8, now: Instant) -> (Connection, TcpStream) {
        let (mut connection, client) = connect(now, LARGE_REQUEST);
        (0..2).for_each(|_| connection.turn(site, now));
        assert!(matches!(connection.state, State::Writing { .. }));
        connection.peer = Ipv4Addr::new(192, 0, 2, last).into();
        (connection, client)
    }

    fn limited(n_slots: usize, n_others: usize) -> Connections {
        Connections { n_slots, n_others, ..Connections::new() }
    }

    /// Returns what the client receives until the connection is closed.
    fn rest(mut client: TcpStream) -> String {
        let mut bytes = Vec::new();
        client.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    #[test]
    fn deadlines_end_connections() {
        let (now, site) = (Instant::now(), Site::of(&vec![b'x'; 8 << 20]));
        let answered_and_more = [REQUEST, b"GET / HT"].concat();
        for (bytes, n_answers, limit) in [
            (&b""[..], 0, HEAD),
            (b"GET / HT", 0, HEAD),
            (&answered_and_more, 1, HEAD),
            (REQUEST, 1, IDLE),
            (LARGE_REQUEST, 1, RESPONSE),
        ] {
            let mut connections = limited(1, 0);
            let (connection, client) = connect(now, bytes);
            connections.admit(connection, now);
            // Three turns are enough to parse the bytes and to write a response until the socket's buffer is
            // full.
            (0..3).for_each(|_| connections.open[0].turn(&site, now));
            assert_eq!(connections.open[0].next_turn(&site), now + limit);
            connections.expire(now + limit - MS);
            assert_eq!(connections.open.len(), 1);
            connections.expire(now + limit);
            assert!(connections.open.is_empty());
            let answers = rest(client);
            assert_eq!(answers.matches("HTTP/1.1 200 ").count(), n_answers, "{answers}");
        }
    }

    #[test]
    fn idle_connections_make_room_first() {
        let (now, site) = (Instant::now(), Site::of(b"x 1\n"));
        let (new, old) = (now, now - HEAD / 2);
        let mut connections = limited(4, 0);
        let mut clients = Vec::new();
        for (bytes, since) in [(&b"GET"[..], new), (REQUEST, new), (b"GET", old), (REQUEST, old)] {
            let (mut connection, mut client) = connect(since, bytes);
            connection.turn(&site, since);
            if bytes == REQUEST {
                assert!(client.read(&mut [0; 999]).unwrap() > 0);
            }
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
        let (now, site) = (Instant::now(), Site::of(&vec![b'x'; 8 << 20]));
        let mut connections = limited(4, 9);
        let mut clients = Vec::new();
        // Each number is the last byte of a client's IP address. The first four connections take all four
        // slots, so each further connection needs the slot of an earlier one.
        for (i, last) in [1, 1, 1, 1, 1, 2, 3, 1, 2].into_iter().enumerate() {
            let (connection, client) = connect_and_stall(&site, last, now + MS * i as u32);
            assert_eq!(connections.admit(connection, now), [0, 1, 2, 3, 5, 6].contains(&i), "{i}");
            clients.push(client);
        }
        let slots = connections.open.iter().filter(|connection| connection.takes_slot());
        let mut left: Vec<_> = slots.map(|connection| (connection.since - now).as_millis()).collect();
        left.sort();
        assert_eq!(left, [2, 3, 5, 6], "the oldest of address 1 are closed");
        assert!(!connections.evict(None, now + STALLED - MS));
        assert!(connections.evict(None, now + STALLED + 9 * MS), "a stalled response makes room");
    }

    #[test]
    fn arrived_request_keeps_its_slot() {
        let (now, site) = (Instant::now(), Site::of(b"x 1\n"));
        let mut connections = limited(2, 9);
        let (unread, unread_client) = connect(now - HEAD / 2, LAST_REQUEST);
        assert!(connections.admit(unread, now));
        let (mut idle, mut idle_client) = connect(now - HEAD / 2, REQUEST);
        idle.turn(&site, now - HEAD / 2);
        assert!(idle_client.read(&mut [0; 999]).unwrap() > 0);
        idle_client.write_all(LAST_REQUEST).unwrap();
        assert!(connections.admit(idle, now));

        let (third, third_client) = connect(now, b"GET / HTTP/1.0\r\n\r\n");
        assert!(!connections.admit(third, now), "two requests have arrived");
        let (probe, probe_client) = connect(now, REQUEST);
        assert!(!connections.admit(probe, now));
        let (health, health_client) = connect(now, b"GET /healthz HTTP/1.0\r\n\r\n");
        assert!(!connections.admit(health, now));
        for connection in &mut connections.open {
            (0..2).for_each(|_| connection.turn(&site, now));
        }
        for client in [unread_client, idle_client, probe_client, health_client] {
            assert!(rest(client).ends_with("\r\n\r\nok\n"), "a probe needs no slot");
        }
        let refused = rest(third_client);
        assert!(refused.starts_with("HTTP/1.1 503 ") && refused.ends_with("too many connections\n"));
    }

    #[test]
    fn closing_connections_need_no_slot() {
        let (now, site) = (Instant::now(), Site::of(b"x 1\n"));
        let mut connections = limited(1, 3);
        let mut clients = Vec::new();
        for at in (0..10).map(|i| now + 60 * i * MS) {
            let (connection, client) = connect(at, LAST_REQUEST);
            assert!(connections.admit(connection, now));
            connections.open.last_mut().unwrap().turn(&site, at);
            connections.expire(now);
            // The client has received its whole response, but keeps the connection open.
            clients.push(client);
        }
        assert_eq!(connections.open.len(), 3);
        for mut client in clients {
            let mut text = [0; 4096];
            let n = client.read(&mut text).unwrap();
            assert!(text[..n].ends_with(b"\r\n\r\nok\n"));
        }
    }

    #[test]
    fn address_with_fewer_slots_comes_first() {
        let (now, site) = (Instant::now(), Site::of(&vec![b'x'; 8 << 20]));
        let mut connections = limited(4, 0);
        let mut clients = Vec::new();
        for (last, since) in [(1, now - 2 * MS), (2, now), (1, now - MS), (1, now - 3 * MS)] {
            let (connection, client) = connect_and_stall(&site, last, since);
            connections.admit(connection, now);
            clients.push(client);
        }
        let mut ready = [0, 1, 2, 3];
        connections.sort_by_turn(&mut ready);
        assert_eq!(ready, [1, 3, 0, 2]);
    }
}
