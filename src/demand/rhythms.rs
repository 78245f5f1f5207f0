//! Which clients come at a steady period, and when each comes next. Pure: the time is told.
//!
//! Three requests of one address at equal distances are a rhythm. One address may have several: two Prometheus servers behind one
//! gateway come at the same period and at different phases.

use std::net::IpAddr;
use std::time::{Duration, Instant};

/// As many clients and as many rhythms are remembered.
const MAX_CLIENTS: usize = 16;
/// As many of a client's last requests: three of a rhythm, among as many of another.
const MAX_VISITS: usize = 8;
/// Requests closer together are one visit.
const MIN_PERIOD: Duration = Duration::from_millis(250);
/// A longer period is none: an hour is Prometheus's staleness twelve times.
const MAX_PERIOD: Duration = Duration::from_secs(3600);
/// So many requests in a row may be missing; a rhythm that more are missing of is over.
const MAX_MISSED: u32 = 1;

/// The clients of late, and the rhythms found.
#[derive(Debug, Default)]
pub struct Rhythms {
    clients: Vec<Client>,
    rhythms: Vec<Rhythm>,
}

#[derive(Debug)]
struct Client {
    address: IpAddr,
    /// Its last visits, oldest first.
    visits: Vec<Instant>,
}

#[derive(Debug)]
struct Rhythm {
    address: IpAddr,
    period: Duration,
    next: Instant,
    /// How far off requests are from when they were expected, on average.
    jitter: Duration,
    n_missed: u32,
}

impl Rhythm {
    /// A request that is further off than this is another's.
    fn tolerance(period: Duration) -> Duration {
        (period / 10).clamp(Duration::from_millis(50), Duration::from_secs(2))
    }

    /// The scrape for it ends so long before it is expected.
    fn lead(&self) -> Duration {
        (2 * self.jitter).clamp(Duration::from_millis(5), Duration::from_millis(60))
    }

    /// It has come.
    fn keep(&mut self, now: Instant) {
        let error = distance(now, self.next);
        self.jitter = (3 * self.jitter + error) / 4;
        // Half of what it is off is drift, until the next says otherwise.
        let last = self.next.checked_sub(self.period).unwrap_or(now);
        let seen = now.saturating_duration_since(last);
        self.period = (7 * self.period + seen) / 8;
        self.next = now + self.period;
        self.n_missed = 0;
    }
}

impl Rhythms {
    /// A client asks.
    pub fn note(&mut self, address: IpAddr, now: Instant) {
        let i = self.client(address);
        let client = &mut self.clients[i];
        if client.visits.last().is_some_and(|&last| now < last + MIN_PERIOD) {
            return;
        }
        let mut own = self.rhythms.iter_mut().filter(|rhythm| rhythm.address == address);
        let is_expected =
            |rhythm: &&mut Rhythm| distance(now, rhythm.next) <= Rhythm::tolerance(rhythm.period);
        match own.find(is_expected) {
            Some(rhythm) => rhythm.keep(now),
            None => {
                if let Some(period) = period(&client.visits, now)
                    && self.rhythms.len() < MAX_CLIENTS
                {
                    let jitter = Duration::from_millis(20);
                    self.rhythms.push(Rhythm { address, period, next: now + period, jitter, n_missed: 0 });
                }
            }
        }
        let client = &mut self.clients[i];
        if client.visits.len() == MAX_VISITS {
            client.visits.remove(0);
        }
        client.visits.push(now);
    }

    /// When the scrape begins for whoever is expected next, if a scrape takes `length`. The last one began at `began_at`; what it gave
    /// is young until `young_until`.
    pub fn next_start(
        &mut self,
        now: Instant,
        began_at: Option<Instant>,
        young_until: Option<Instant>,
        length: Duration,
    ) -> Option<Instant> {
        for rhythm in &mut self.rhythms {
            while now > rhythm.next + Rhythm::tolerance(rhythm.period) && rhythm.n_missed <= MAX_MISSED {
                rhythm.next += rhythm.period;
                rhythm.n_missed += 1;
            }
        }
        self.rhythms.retain(|rhythm| rhythm.n_missed <= MAX_MISSED);
        let start = |rhythm: &Rhythm| {
            let start = rhythm.next.checked_sub(length + rhythm.lead()).unwrap_or(now);
            // It was made, or another one that is young enough, even if the client comes a little late.
            let is_made = began_at.is_some_and(|began| began >= start)
                || young_until.is_some_and(|until| rhythm.next + rhythm.lead() < until);
            if is_made { start + rhythm.period } else { start }
        };
        self.rhythms.iter().map(start).min()
    }

    /// The place of a client; one that is new takes that of the one who has not come for the longest time and has no rhythm.
    fn client(&mut self, address: IpAddr) -> usize {
        if let Some(i) = self.clients.iter().position(|client| client.address == address) {
            return i;
        }
        if self.clients.len() == MAX_CLIENTS {
            let rhythms = &self.rhythms;
            let by_use = |client: &Client| {
                let has_rhythm = rhythms.iter().any(|rhythm| rhythm.address == client.address);
                (has_rhythm, client.visits.last().copied())
            };
            let least = (0..MAX_CLIENTS).min_by_key(|&i| by_use(&self.clients[i]));
            let gone = self.clients.swap_remove(least.unwrap_or_default()).address;
            self.rhythms.retain(|rhythm| rhythm.address != gone);
        }
        self.clients.push(Client { address, visits: Vec::with_capacity(MAX_VISITS) });
        self.clients.len() - 1
    }
}

/// The shortest period that a visit now shares with two before it.
fn period(visits: &[Instant], now: Instant) -> Option<Duration> {
    visits.iter().rev().find_map(|&before| {
        let period = now.saturating_duration_since(before);
        let tolerance = Rhythm::tolerance(period) / 2;
        let first = before.checked_sub(period)?;
        let is_steady =
            period <= MAX_PERIOD && visits.iter().any(|&visit| distance(visit, first) <= tolerance);
        is_steady.then_some(period)
    })
}

fn distance(a: Instant, b: Instant) -> Duration {
    a.max(b) - a.min(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const LENGTH: Duration = Duration::from_millis(100);
    const YOUTH: Duration = Duration::from_secs(1);

    fn address(last: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, last).into()
    }

    /// Rhythms, their clock, and a scraper that begins when it is told to and takes [`LENGTH`].
    struct Node {
        rhythms: Rhythms,
        start: Instant,
        began_at: Option<Instant>,
        n_scrapes: u32,
    }

    impl Node {
        fn new() -> Self {
            Self { rhythms: Rhythms::default(), start: Instant::now(), began_at: None, n_scrapes: 0 }
        }

        /// Scrapes for whoever is expected until `ms`.
        fn run_to(&mut self, now: Instant) {
            let mut at = self.began_at.unwrap_or(self.start);
            while at < now {
                let young_until = self.began_at.map(|began| began + YOUTH);
                let next = self.rhythms.next_start(at, self.began_at, young_until, LENGTH);
                // Between two requests nothing changes but the time, by which those that are missing are given up.
                let step = at + Duration::from_millis(50);
                at = match next {
                    Some(next) if next <= step.min(now) => {
                        self.began_at = Some(next.max(at));
                        self.n_scrapes += 1;
                        step
                    }
                    _ => step,
                };
            }
        }

        /// A client comes: says how old what it gets is, in ms; none if it has to wait for a scrape.
        fn come(&mut self, client: u8, ms: u64) -> Option<u64> {
            let now = self.start + Duration::from_millis(ms);
            self.run_to(now);
            self.rhythms.note(address(client), now);
            let age = self.began_at.map(|began| now.saturating_duration_since(began + LENGTH));
            let is_young = self.began_at.is_some_and(|began| began + LENGTH <= now && now < began + YOUTH);
            if !is_young {
                self.began_at = Some(now);
            }
            age.filter(|_| is_young).map(|age| age.as_millis() as u64)
        }
    }

    #[test]
    fn a_steady_client_is_expected_from_its_fourth_request_on() {
        let mut node = Node::new();
        let ages: Vec<_> = (1..=20).map(|i| node.come(1, 15_000 * i)).collect();
        assert_eq!(ages[..3], [None; 3]);
        assert!(ages[3..].iter().all(|age| age.is_some_and(|age| age <= 60)), "{ages:?}");
        assert_eq!(node.n_scrapes, 17, "one for each");
    }

    #[test]
    fn jitter_and_drift_are_followed() {
        let mut node = Node::new();
        // 20 ms to and fro, and 5 ms more each time
        let ages: Vec<_> =
            (1..=60).map(|i| node.come(1, 15_005 * i + [0, 20, 7, 13, 2][i as usize % 5])).collect();
        let n_served = ages[3..].iter().flatten().filter(|&&age| age <= 100).count();
        assert!(n_served >= 50, "{ages:?}");
    }

    #[test]
    fn a_missed_request_ends_nothing_and_two_do() {
        let mut node = Node::new();
        (1..=5).for_each(|i| _ = node.come(1, 15_000 * i));
        assert!(node.come(1, 15_000 * 7).is_some(), "the sixth is missing");
        let before = node.n_scrapes;
        node.run_to(node.start + Duration::from_secs(3600));
        assert_eq!(node.n_scrapes, before + 2, "it has gone");
        assert_eq!(node.rhythms.next_start(node.start + Duration::from_secs(3600), None, None, LENGTH), None);
    }

    #[test]
    fn one_address_may_have_two_rhythms() {
        for other in [1, 2] {
            let mut node = Node::new();
            let mut n_waits = 0;
            for i in 1..=20 {
                n_waits += u32::from(node.come(1, 15_000 * i).is_none());
                n_waits += u32::from(node.come(other, 15_000 * i + 4000).is_none());
            }
            assert!(n_waits <= 8, "client {other}: {n_waits} had to wait");
        }
    }

    #[test]
    fn clients_that_come_close_together_share_a_scrape() {
        let mut node = Node::new();
        for i in 1..=20 {
            node.come(1, 15_000 * i);
            node.come(2, 15_000 * i + 300);
        }
        assert!(node.n_scrapes <= 19, "{}", node.n_scrapes);
    }

    #[test]
    fn a_changed_period_is_learned() {
        let mut node = Node::new();
        (1..=10).for_each(|i| _ = node.come(1, 15_000 * i));
        let ages: Vec<_> = (1..=10).map(|i| node.come(1, 150_000 + 5000 * i)).collect();
        assert!(ages[4..].iter().all(Option::is_some), "{ages:?}");
    }

    #[test]
    fn a_page_that_polls_each_second_is_expected() {
        let mut node = Node::new();
        let n_waits = (1..=60).filter(|i| node.come(1, 1000 * i).is_none()).count();
        assert!(n_waits <= 4, "{n_waits}");
        assert!(node.n_scrapes <= 60, "{}", node.n_scrapes);
    }

    #[test]
    fn a_flood_of_strangers_changes_nothing() {
        let mut node = Node::new();
        (1..=4).for_each(|i| _ = node.come(1, 15_000 * i));
        for i in 0..4000 {
            node.rhythms
                .note(Ipv4Addr::from(i).into(), node.start + Duration::from_millis(60_001 + u64::from(i)));
        }
        assert!(node.rhythms.clients.len() <= MAX_CLIENTS && node.rhythms.rhythms.len() <= MAX_CLIENTS);
        assert!(node.come(1, 75_000).is_some());
        // and one that asks all the time is one client at no period
        (0..5000)
            .for_each(|i| node.rhythms.note(address(9), node.start + Duration::from_millis(75_001 + 3 * i)));
        assert!(node.rhythms.rhythms.len() <= MAX_CLIENTS);
        assert!(node.come(1, 90_001).is_some());
    }
}
