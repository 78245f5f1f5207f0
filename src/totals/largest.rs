//! What a container's memory consists of, by path: the largest paths, and how much lies on paths of some kind.

use super::grouping::GroupBy;
use super::labels::push_unescaped;
use super::snapshot::{Command, Snapshot};
use crate::smaps::fields::{ANONYMOUS, PSS, RSS};

/// So many paths are told.
pub const MAX_PATHS: usize = 10;
/// Names are cut here, for they are kept.
const MAX_NAME_LEN: usize = 256;

/// The largest paths of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Largest {
    /// The proportional bytes of all its paths.
    pub pss: u64,
    /// The name of its largest command.
    pub command: String,
    /// Up to [`MAX_PATHS`] of them, the largest first.
    pub paths: Vec<Part>,
}

/// What one command maps of one path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// The command's name.
    pub command: String,
    /// The path, or what else a series stands for; empty if for all of the command.
    pub path: String,
    /// In proportional bytes.
    pub pss: u64,
}

impl Snapshot {
    /// The live commands of the container with this label text.
    fn commands_of<'a>(&'a self, container: &'a str) -> impl Iterator<Item = &'a Command> {
        let commands = &self.order.commands;
        let start = commands.partition_point(|&id| &*self.commands.get(id).labels < container);
        let of_container = move |command: &&Command| command.labels.starts_with(container);
        commands[start..].iter().map(|&id| self.commands.get(id)).take_while(of_container)
    }

    /// Makes `largest` what the container with this label text is full of, as it was summed last. Says whether there is anything.
    ///
    /// `scratch` keeps its room from one call to the next.
    pub fn largest(&self, container: &str, largest: &mut Largest, scratch: &mut Vec<(u64, u32)>) -> bool {
        scratch.clear();
        largest.pss = 0;
        let mut largest_command = None;
        for command in self.commands_of(container).filter(|command| !command.is_folded) {
            let mut sum = 0;
            for &id in command.series.values() {
                let series = self.series.get(id);
                if !series.is_folded && series.totals.n_mappings > 0 {
                    sum += series.totals.values.bytes[PSS];
                    scratch.push((series.totals.values.bytes[PSS], id));
                }
            }
            largest.pss += sum;
            if largest_command.is_none_or(|(largest, _)| sum > largest) {
                largest_command = Some((sum, command));
            }
        }
        scratch.sort_unstable_by(|a, b| b.cmp(a));
        scratch.truncate(MAX_PATHS);
        largest.command.clear();
        let Some((_, command)) = largest_command else { return false };
        push_unescaped(&mut largest.command, command.name(container), MAX_NAME_LEN);
        largest.paths.resize_with(scratch.len(), Part::default);
        for (part, &(pss, id)) in largest.paths.iter_mut().zip(scratch.iter()) {
            let command = self.commands.get(self.series.get(id).command);
            part.command.clear();
            push_unescaped(&mut part.command, command.name(container), MAX_NAME_LEN);
            part.path.clear();
            push_unescaped(&mut part.path, self.series.get(id).value(command), MAX_NAME_LEN);
            part.pss = pss;
        }
        scratch.shrink_to(4096);
        true
    }

    /// How many proportional bytes of files the container with this label text maps that lie on paths for which `is_of` holds, as it was
    /// summed last; none if there are no paths. What the processes have written to private mappings is not the files'.
    pub fn mapped_files(&self, container: &str, is_of: impl Fn(&str) -> bool) -> Option<u64> {
        if self.shape.group_by != GroupBy::Path {
            return None;
        }
        let series = self.commands_of(container).flat_map(|command| &command.series);
        let mapped = series.map(|(path, &id)| {
            let bytes = &self.series.get(id).totals.values.bytes;
            // What is anonymous of a private mapping is told in resident bytes: as much of the proportional ones is taken to be.
            let of_file = match bytes[RSS].saturating_sub(bytes[ANONYMOUS]) {
                of_file if of_file == bytes[RSS] => bytes[PSS],
                of_file => (u128::from(bytes[PSS]) * u128::from(of_file) / u128::from(bytes[RSS])) as u64,
            };
            if of_file > 0 && is_of(path) { of_file } else { 0 }
        });
        Some(mapped.sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smaps::fields::values;
    use crate::smaps::scanner::Mapping;
    use crate::totals::reading::Reading;
    use crate::totals::snapshot::Shape;
    use crate::totals::tally::Tally;

    /// A snapshot of these: container, command, path, PSS, and how much of that is anonymous.
    fn snapshot(shape: Shape, mapped: &[(&str, &str, &str, u64, u64)]) -> Snapshot {
        let mut snapshot = Snapshot::new(shape);
        let mut readings = Vec::new();
        for (pid, &(container, comm, path, pss, anonymous)) in (1..).zip(mapped) {
            let mut tally = Tally::new(shape.group_by, shape.max_samples);
            let values = values(&[("pss", pss), ("rss", 2 * pss), ("anonymous", 2 * anonymous)]);
            tally.add(&Mapping { path: path.as_bytes(), values: &values, count: 1 });
            let mut reading = Reading::default();
            let container = format!("{{container=\"{container}\"");
            assert!(snapshot.record(&container, comm.as_bytes(), pid, &tally, &mut reading));
            readings.push(reading);
        }
        snapshot.sum(|each| readings.iter_mut().for_each(each));
        snapshot
    }

    fn told(snapshot: &Snapshot, container: &str) -> Option<Largest> {
        let mut largest = Largest { paths: vec![Part::default(); 3], ..Largest::default() };
        let container = format!("{{container=\"{container}\"");
        snapshot.largest(&container, &mut largest, &mut vec![(1, 1)]).then_some(largest)
    }

    const MAPPED: [(&str, &str, &str, u64, u64); 7] = [
        ("a", "x", "/lib", 30, 10),
        ("b", "java", "[heap]", 90, 90),
        ("b", "java", "/a\"b\\c", 50, 0),
        ("b", "sh", "/lib", 60, 5),
        ("b", "sh", "", 70, 70),
        ("b", "sh", "/dev/shm/x", 20, 0),
        ("bb", "x", "/lib", 1000, 0),
    ];

    #[test]
    fn the_largest_paths_of_one_container() {
        let largest = told(&snapshot(Shape::default(), &MAPPED), "b").unwrap();
        assert_eq!((largest.pss, &*largest.command), (290, "sh"));
        let paths: Vec<_> = largest.paths.iter().map(|p| (&*p.command, &*p.path, p.pss)).collect();
        let expected = [
            ("java", "[heap]", 90),
            ("sh", "[anon]", 70),
            ("sh", "/lib", 60),
            ("java", "/a\"b\\c", 50),
            ("sh", "/dev/shm/x", 20),
        ];
        assert_eq!(paths, expected);
        assert_eq!(told(&snapshot(Shape::default(), &MAPPED), "c"), None);
        assert_eq!(told(&Snapshot::default(), "b"), None);
    }

    #[test]
    fn ten_paths_and_short_names() {
        let paths: Vec<String> = (0..30).map(|i| format!("/{i}/{}", "x".repeat(300))).collect();
        let mapped: Vec<_> = (1..).zip(&paths).map(|(pss, path)| ("a", "x", &**path, pss, 0)).collect();
        let largest = told(&snapshot(Shape::default(), &mapped), "a").unwrap();
        assert_eq!((largest.paths.len(), largest.pss), (MAX_PATHS, 465));
        assert_eq!(largest.paths[9].pss, 21);
        assert!(largest.paths.iter().all(|part| part.path.len() == MAX_NAME_LEN + '…'.len_utf8()));
    }

    #[test]
    fn other_shapes() {
        let kinds = Shape { group_by: GroupBy::Kind, ..Shape::default() };
        let largest = told(&snapshot(kinds, &MAPPED), "b").unwrap();
        assert_eq!((&*largest.paths[0].path, largest.paths[0].pss), ("heap", 90));
        let processes = Shape { group_by: GroupBy::Process, by_pid: true, ..Shape::default() };
        let largest = told(&snapshot(processes, &MAPPED), "b").unwrap();
        assert_eq!((&*largest.paths[0].command, &*largest.paths[0].path, largest.pss), ("java", "", 290));
        assert_eq!(snapshot(processes, &MAPPED).mapped_files("{container=\"b\"", |_| true), None);
    }

    #[test]
    fn what_is_mapped_of_some_files() {
        let snapshot = snapshot(Shape::default(), &MAPPED);
        let mapped = |container: &str, prefix: &str| {
            snapshot.mapped_files(&format!("{{container=\"{container}\""), |path| path.starts_with(prefix))
        };
        assert_eq!(mapped("b", "/dev/shm/"), Some(20));
        assert_eq!(mapped("b", "/lib"), Some(55), "what was written to a private mapping is anonymous");
        assert_eq!(mapped("b", ""), Some(125));
        assert_eq!(mapped("nobody", ""), Some(0));
    }
}
