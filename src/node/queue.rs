//! Whose turn it is to be read. Pure.

use std::time::Instant;

/// The order in which processes are read: their positions, and how far it has come.
#[derive(Debug, Default)]
pub struct Queue {
    positions: Vec<u32>,
    next: usize,
    by_age: Vec<(Option<Instant>, u32)>,
}

impl Queue {
    /// Queues these: position and time of the last reading. The process with the oldest values comes first, then a new one, and so on.
    /// New ones before all others would let a workload that forks faster than the budget allows keep the rest from ever being read again.
    pub fn fill(&mut self, processes: impl Iterator<Item = (u32, Option<Instant>)>) {
        self.by_age.clear();
        self.by_age.extend(processes.map(|(position, read_at)| (read_at, position)));
        self.by_age.sort_unstable();
        let n_new = self.by_age.partition_point(|(read_at, _)| read_at.is_none());
        let (new, old) = self.by_age.split_at(n_new);
        self.positions.clear();
        self.next = 0;
        let pairs = (0..new.len().max(old.len())).flat_map(|turn| [old.get(turn), new.get(turn)]);
        self.positions.extend(pairs.flatten().map(|&(_, position)| position));
        self.by_age.shrink_to(2 * self.positions.len());
        self.positions.shrink_to(2 * self.positions.len());
    }

    /// The one that was given last comes once more, at once.
    pub fn again(&mut self, position: usize) {
        if self.next > 0 {
            self.next -= 1;
            self.positions[self.next] = position as u32;
        }
    }

    /// The position of the next one.
    pub fn pop(&mut self) -> Option<usize> {
        let &position = self.positions.get(self.next)?;
        self.next += 1;
        Some(position as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_oldest_and_the_new_alternate() {
        let now = Instant::now();
        let at = |ms| Some(now + Duration::from_millis(ms));
        let cases: &[(&[Option<Instant>], &[usize])] = &[
            (&[], &[]),
            (&[None, None, None], &[0, 1, 2]),
            (&[at(3), at(1), at(2)], &[1, 2, 0]),
            (&[at(3), None, at(1), None, at(2)], &[2, 1, 4, 3, 0]),
            (&[None, None, None, at(1)], &[3, 0, 1, 2]),
        ];
        let mut queue = Queue::default();
        for (read_at, expected) in cases {
            queue.fill(read_at.iter().enumerate().map(|(i, &read_at)| (i as u32, read_at)));
            let popped: Vec<usize> = std::iter::from_fn(|| queue.pop()).collect();
            assert_eq!(popped, *expected, "{read_at:?}");
        }
    }
}
