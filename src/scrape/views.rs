//! Decides how the readings are exported. The program's options describe one view of the readings. Each
//! request with parameters describes another view.

use std::sync::Arc;

use crate::exposition;
use crate::node::containers::filter::Filter;
use crate::node::containers::table::Container;
use crate::totals::labels;
use crate::totals::shape::Shape;
use crate::totals::snapshot::Snapshot;
use crate::totals::view::View;

/// Renders `/metrics` without parameters. The program's options decide what one series stands for, for
/// example a path or a process, and which samples each series has.
#[derive(Debug)]
pub struct Views {
    main: View,
}

impl Views {
    /// Creates the view that the options describe.
    pub fn new(shape: Shape) -> Self {
        Self { main: View::new(shape) }
    }

    /// Returns whether anonymous memory is split into parts.
    pub fn anon_parts(&self) -> bool {
        self.main.shape().anon_parts
    }

    /// Whether `/metrics` needs only the sums that the kernel computes (smaps_rollup).
    pub fn are_sums(&self) -> bool {
        self.main.shape().is_rollup()
    }

    /// Returns the maximum number of `process_smaps_*` samples; 0 means no limit.
    pub fn max_samples(&self) -> usize {
        self.main.shape().max_samples
    }

    /// Appends the families `process_smaps_*` to `text`. Their values come from the last sums in `snapshot`.
    /// Returns the number of samples.
    pub fn render(&mut self, text: &mut Vec<u8>, snapshot: &Snapshot) -> u64 {
        self.main.update(snapshot.summed(), |_, _| true);
        exposition::text::render(text, &self.main, snapshot.summed())
    }

    /// Returns the containers that have folded paths in the last exposition. Folded paths are summed into
    /// `[other]`. Each item has the label text of the container, without its closing brace, and the number of
    /// its folded paths.
    pub fn folded<'a>(&'a self, snapshot: &'a Snapshot) -> impl Iterator<Item = (&'a str, u64)> {
        self.main.folded(snapshot.summed())
    }
}

/// The view that the parameters of one request describe.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    /// What one series of the view stands for, for example a path or a process, and which samples each series
    /// has.
    pub shape: Shape,
    /// The filters of the request. A process is shown if at least one filter matches it, or if there are no
    /// filters.
    pub filters: Vec<Filter>,
    /// Whether the view needs the paths of mappings. Without such a view, a scrape may read only the kernel's
    /// sums.
    pub needs_paths: bool,
}

impl Query {
    /// Appends the families `process_smaps_*` of the view to `text`. Returns the view and the number of
    /// samples. Returns `None` if the view and its text together would take more than `max_bytes`.
    pub fn render(&self, text: &mut Vec<u8>, snapshot: &Snapshot, max_bytes: usize) -> Option<(View, u64)> {
        let mut view = View::new(self.shape);
        view.update(snapshot.summed(), |container, command| self.selects(container, Some(command)));
        let n_bytes = view.text_bytes();
        if view.n_bytes() + n_bytes > max_bytes {
            return None;
        }
        text.reserve_exact(n_bytes);
        let n_samples = exposition::text::render(text, &view, snapshot.summed());
        Some((view, n_samples))
    }

    /// Whether the view shows at least one of these containers.
    pub fn selects_any(&self, containers: &[Arc<Container>]) -> bool {
        containers.iter().any(|container| self.selects(&container.labels, None))
    }

    /// Whether at least one filter matches this command of this container, or there are no filters.
    /// `container` is the container's label text, and `command` is the command's escaped name. If `command`
    /// is `None`, only the container must match.
    pub fn selects(&self, container: &str, command: Option<&str>) -> bool {
        if self.filters.is_empty() {
            return true;
        }
        let [namespace, pod, name] = labels::values_of_container(container);
        let command = command.map(|command| {
            let mut text = String::new();
            labels::push_unescaped(&mut text, command, usize::MAX / 2);
            text
        });
        self.filters.iter().any(|filter| match &command {
            Some(command) => filter.matches(&namespace, &pod, &name, command),
            None => filter.matches_container(&namespace, &pod, &name),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_see_unescaped_names() {
        let container = labels::container("sh\"op", "", "a\\b");
        let query = |filters: &[&str]| Query {
            shape: Shape::default(),
            filters: filters.iter().map(|text| Filter::parse(text).unwrap()).collect(),
            needs_paths: false,
        };
        for (filters, command, expected) in [
            (&[][..], Some("x"), true),
            (&["sh\"op//a\\b/x\"y"], Some(r#"x\"y"#), true),
            (&["*/*/*/y", "*/*/*/x"], Some("x"), true),
            (&["*/*/*/y"], Some("x"), false),
            (&["*/*/*/y"], None, true),
            (&["shop/*/*/*"], None, false),
            (&["*/?/*/*"], None, false),
        ] {
            assert_eq!(query(filters).selects(&container, command), expected, "{filters:?}");
        }
    }
}
