//! Divides a limit among containers. No container can use up the share of another container.

/// A limit that is divided among containers, beginning with the container that needs least. What is left of
/// the limit is always divided equally among the containers that are left. So if a container needs less than
/// its share, the others get more.
#[derive(Debug)]
pub(super) struct FairShare {
    left: usize,
    n_left: usize,
}

impl FairShare {
    /// Divides `limit` among `n` containers.
    pub(super) fn new(limit: usize, n: usize) -> Self {
        Self { left: limit, n_left: n }
    }

    /// Returns the share of the next container.
    pub(super) fn next(&self) -> usize {
        self.left / self.n_left.max(1)
    }

    /// Subtracts `used` from what is left of the limit. `used` is the amount that a container really uses of
    /// the share that [`next`](Self::next) returned for it.
    pub(super) fn take(&mut self, used: usize) {
        self.left = self.left.saturating_sub(used);
        self.n_left -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unused_share_goes_to_the_others() {
        for (needs, limit, expected) in [
            (&[][..], 100, &[][..]),
            (&[100], 100, &[100]),
            (&[101], 100, &[100]),
            (&[60, 60], 100, &[50, 50]),
            (&[10, 30, 90], 100, &[10, 30, 60]),
            (&[5, 90, 90], 100, &[5, 47, 48]),
            (&[1, 2, 3], 0, &[0, 0, 0]),
        ] {
            let mut shares = FairShare::new(limit, needs.len());
            let used: Vec<usize> = needs
                .iter()
                .map(|&need| {
                    let used = shares.next().min(need);
                    shares.take(used);
                    used
                })
                .collect();
            assert_eq!(used, expected, "{needs:?}");
        }
    }
}
