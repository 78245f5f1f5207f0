//! What folds into `[other]`: the smallest paths of the node, until the samples keep to `--max-samples`. Every sum stays what it was.

use super::grouping::GroupBy;
use super::snapshot::{Series, Shape, Snapshot};
use super::tally::{OTHER, Totals};
use crate::smaps::fields::RSS;

impl Snapshot {
    /// Folds the smallest paths of the node, by resident bytes and then by label text, until the samples keep to the limit.
    pub(super) fn fold(&mut self) {
        self.n_folded = 0;
        let Shape { group_by, max_samples, .. } = self.shape;
        if max_samples == 0 || group_by != GroupBy::Path {
            return;
        }
        let mut n_samples = self.n_samples();
        if n_samples <= max_samples {
            return;
        }
        self.smallest.clear();
        for (position, &id) in self.order.series.iter().enumerate() {
            let series = self.series.get(id);
            if !series.is_other {
                self.smallest.push((series.totals.values.bytes[RSS], position as u32, id));
            }
        }
        self.smallest.sort_unstable();
        for &(_, _, id) in &self.smallest {
            if n_samples <= max_samples {
                break;
            }
            let series = self.series.get_mut(id);
            series.is_folded = true;
            let (totals, owner) = (series.totals, series.command);
            let command = self.commands.get_mut(owner);
            (command.n_folded, command.last_folded) = (command.n_folded + 1, id);
            let other = *command.other.get_or_insert_with(|| {
                self.shape.label(&mut self.text, &command.labels, OTHER);
                self.order.is_stale = true;
                self.series.insert(Series::new(&self.text, owner, true))
            });
            let other = &mut self.series.get_mut(other).totals;
            n_samples -= self.shape.n_samples(other) + self.shape.n_samples(&totals);
            other.add(&totals);
            n_samples += self.shape.n_samples(other);
            self.n_folded += 1;
        }
        self.smallest.shrink_to(2 * self.order.series.len());
        self.unfold_lonely();
    }

    /// Shows a path under its name again that is alone in its fold: it takes as many samples either way.
    fn unfold_lonely(&mut self) {
        for command in self.commands.iter_mut().filter(|command| command.n_folded == 1) {
            let lonely = self.series.get(command.last_folded).totals;
            let other = command.other.map(|other| self.series.get_mut(other));
            if let Some(other) = other.filter(|other| other.totals == lonely) {
                other.totals = Totals::default();
                self.series.get_mut(command.last_folded).is_folded = false;
                command.n_folded = 0;
                self.n_folded -= 1;
            }
        }
    }
}
