//! Describes for the log which processes the filters select. The description helps if the exporter exports no
//! memory, because the usual reason is a filter that matches no process.

use std::collections::{BTreeSet, HashSet};
use std::fmt;

use super::filter::Filter;
use super::table::Container;

/// The log names at most this many namespaces.
const MAX_NAMED: usize = 20;

/// The numbers of processes and containers, in total and selected by the filters.
#[derive(Debug, Default, PartialEq)]
pub struct Selection<'a> {
    /// The filters.
    pub filters: &'a [Filter],
    /// The number of processes that a filter selects.
    pub n_selected: usize,
    /// The number of processes that are in containers.
    pub n_processes: usize,
    /// The number of containers with a selected process.
    pub n_selected_containers: usize,
    /// The number of containers with a process.
    pub n_containers: usize,
    /// The number of listed containers.
    pub n_listed: usize,
    /// The name of the runtime that listed the containers; `None` if recorded files were read instead.
    pub lister: Option<&'static str>,
    /// The namespaces of the containers.
    pub namespaces: BTreeSet<&'a str>,
}

impl<'a> Selection<'a> {
    /// Counts the processes and containers that the filters select. `processes` has a pair for each process
    /// in a container: the container, and whether a filter selects the process.
    pub fn of<'c>(filters: &'a [Filter], processes: impl Iterator<Item = (&'c Container, bool)>) -> Self {
        let mut selection = Self { filters, ..Self::default() };
        let (mut selected, mut known) = (HashSet::new(), HashSet::new());
        for (container, is_selected) in processes {
            selection.n_processes += 1;
            selection.n_selected += usize::from(is_selected);
            known.insert(container.id);
            if is_selected {
                selected.insert(container.id);
            }
        }
        (selection.n_selected_containers, selection.n_containers) = (selected.len(), known.len());
        selection
    }
}

impl fmt::Display for Selection<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            filters, n_selected, n_processes, n_selected_containers, n_containers, namespaces, ..
        } = self;
        // If no container has a process, the message does not mention the filters, because there is nothing
        // that they could select.
        match (n_containers, self.n_listed, self.lister.unwrap_or("the recording")) {
            (0, 0, lister) => return write!(f, "no container runs here: {lister} lists none"),
            (0, n, lister) => {
                return write!(f, "none of the {n} containers that {lister} lists has a process here");
            }
            _ => {}
        }
        let texts: Vec<String> = filters.iter().map(ToString::to_string).collect();
        match &texts[..] {
            [filter] => write!(f, "filter {filter} selects ")?,
            filters => write!(f, "filters {} select ", filters.join(", "))?,
        }
        match n_selected {
            0 => write!(f, "none of {n_processes} processes in {n_containers} containers")?,
            _ => write!(
                f,
                "{n_selected} of {n_processes} processes in {n_selected_containers} of {n_containers} \
                 containers"
            )?,
        }
        let named: Vec<String> =
            namespaces.iter().take(MAX_NAMED).map(|name| name.escape_debug().to_string()).collect();
        write!(f, "; namespaces here: {}", named.join(", "))?;
        match namespaces.len() - named.len() {
            0 => Ok(()),
            n => write!(f, " and {n} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_selection_is_described_in_one_line() {
        let many: Vec<String> = (0..23).map(|i| format!("n{i:02}")).collect();
        for (filters, counts, namespaces, expected) in [
            (
                &["default/*/*/*"][..],
                [4, 17, 2, 6],
                vec!["shop", "batch", "default"],
                "filter default/*/*/* selects 4 of 17 processes in 2 of 6 containers; namespaces here: \
                 batch, default, shop",
            ),
            (
                &["a/*/*/*", "b/*/*/*"],
                [0, 17, 0, 6],
                vec!["shop"],
                "filters a/*/*/*, b/*/*/* select none of 17 processes in 6 containers; namespaces here: shop",
            ),
            (
                &["*/*/*/*"],
                [0, 0, 0, 0],
                vec!["shop"],
                "none of the 3 containers that containerd lists has a process here",
            ),
            (
                &["*/*/*/*"],
                [1, 1, 1, 1],
                many.iter().map(String::as_str).collect(),
                "filter */*/*/* selects 1 of 1 processes in 1 of 1 containers; namespaces here: n00, n01, \
                 n02, n03, n04, n05, n06, n07, n08, n09, n10, n11, n12, n13, n14, n15, n16, n17, n18, n19 \
                 and 3 more",
            ),
        ] {
            let filters: Vec<Filter> = filters.iter().map(|text| Filter::parse(text).unwrap()).collect();
            let [n_selected, n_processes, n_selected_containers, n_containers] = counts;
            let selection = Selection {
                filters: &filters,
                n_selected,
                n_processes,
                n_selected_containers,
                n_containers,
                n_listed: 3,
                lister: Some("containerd"),
                namespaces: namespaces.into_iter().collect(),
            };
            assert_eq!(selection.to_string(), expected);
        }
        for (lister, expected) in [
            (Some("containerd"), "no container runs here: containerd lists none"),
            (None, "no container runs here: the recording lists none"),
        ] {
            assert_eq!(Selection { lister, ..Selection::default() }.to_string(), expected);
        }
    }
}
