//! Finds the paths from which a container maps the most memory.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use super::labels::push_unescaped;
use super::table::{ContainerKey, Table};
use crate::smaps::fields::PSS;

/// How many of a container's largest paths are kept by name.
pub const MAX_PATHS: usize = 10;
/// How many of a container's largest paths are kept as a size and a hash of the path. The hash is enough to
/// find the size of the same path in an older list.
pub const MAX_SIZES: usize = 32;
/// The maximum length of a name in bytes. Longer names are cut, because OOM records keep names in memory.
const MAX_NAME_LEN: usize = 256;

/// The largest paths of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Largest {
    /// The proportional bytes of all paths of the container together.
    pub pss: u64,
    /// The name of the container's largest command.
    pub command: String,
    /// The largest paths, at most [`MAX_PATHS`], in descending order.
    pub paths: Vec<Part>,
    /// The sizes of the largest paths. [`Largest::compare`] subtracts earlier sizes from them to find out how
    /// much each path has grown.
    pub sizes: Sizes,
}

/// The sizes of a container's largest paths, at most [`MAX_SIZES`], in descending order. The first number of
/// an entry is a hash of the command and the path. The second number is the proportional bytes of the path.
pub type Sizes = Vec<(u64, u64)>;

/// The memory that the processes of one command map from one path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// The command's name.
    pub command: String,
    /// The path; `[other]` stands for all paths that are not kept by name.
    pub path: String,
    /// The proportional bytes.
    pub pss: u64,
    /// How many bytes the path has grown since an earlier time. `None` until [`Largest::compare`] is called
    /// with the sizes of that time.
    pub growth: Option<i64>,
}

impl Largest {
    /// Sets how much each path has grown since the sizes in `earlier`. A path that is not in `earlier` is
    /// assumed to have had 0 bytes.
    pub fn compare(&mut self, earlier: &Sizes) {
        for (part, (hash, pss)) in self.paths.iter_mut().zip(&self.sizes) {
            let before = earlier.iter().find(|(other, _)| other == hash).map_or(0, |&(_, pss)| pss);
            part.growth = Some(*pss as i64 - before as i64);
        }
    }

    /// Finds the largest paths of a container in the last sums. Returns false if the container has no
    /// commands.
    ///
    /// `scratch` is memory that is reused between calls.
    pub fn find(&mut self, table: &Table, container: ContainerKey, scratch: &mut Vec<(u64, u32)>) -> bool {
        scratch.clear();
        self.pss = 0;
        self.command.clear();
        self.sizes.clear();
        let mut largest_command = None;
        let Some(container) = table.container(container) else { return false };
        for command in table.commands_of(container) {
            let mut sum = 0;
            for &id in command.series.values() {
                let series = table.series.get(id);
                if series.totals.n_mappings > 0 {
                    sum += series.totals.values.bytes[PSS];
                    scratch.push((series.totals.values.bytes[PSS], id));
                }
            }
            self.pss += sum;
            if largest_command.is_none_or(|(largest, _)| sum > largest) {
                largest_command = Some((sum, command));
            }
        }
        scratch.sort_unstable_by(|a, b| b.cmp(a));
        scratch.truncate(MAX_SIZES);
        let Some((_, command)) = largest_command else { return false };
        let container = &*table.containers.get(container).labels;
        self.sizes.extend(scratch.iter().map(|&(pss, id)| {
            let series = table.series.get(id);
            let command = table.commands.get(series.command);
            let mut hasher = DefaultHasher::new();
            (command.name(container), series.value(command)).hash(&mut hasher);
            (hasher.finish(), pss)
        }));
        scratch.truncate(MAX_PATHS);
        push_unescaped(&mut self.command, command.name(container), MAX_NAME_LEN);
        self.paths.resize_with(scratch.len(), Part::default);
        for (part, &(pss, id)) in self.paths.iter_mut().zip(scratch.iter()) {
            let series = table.series.get(id);
            let command = table.commands.get(series.command);
            part.command.clear();
            push_unescaped(&mut part.command, command.name(container), MAX_NAME_LEN);
            part.path.clear();
            push_unescaped(&mut part.path, series.value(command), MAX_NAME_LEN);
            (part.pss, part.growth) = (pss, None);
        }
        scratch.shrink_to(4096);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smaps::fields::values;
    use crate::totals::sums::Totals;

    /// Returns the key of a container with this name.
    fn key(container: &str) -> ContainerKey {
        ContainerKey(container.bytes().fold(0, |key, byte| 256 * key + u32::from(byte)))
    }

    /// Returns a table with these mappings. A mapping is given as container, command, path, PSS, and how much
    /// of the PSS is anonymous. Each page counts as shared by two processes, so the resident bytes and the
    /// anonymous resident bytes are twice as much.
    fn table(mapped: &[(&str, &str, &str, u64, u64)]) -> Table {
        let mut table = Table::default();
        for &(container, comm, path, pss, anonymous) in mapped {
            table.register(key(container), &format!("{{container=\"{container}\""));
            let id = table.container(key(container)).unwrap();
            let command = table.command(id, comm, |_, _| true).unwrap();
            let series = table.series_of(command, path);
            let values = values(&[("pss", pss), ("rss", 2 * pss), ("anonymous", 2 * anonymous)]);
            table.series.get_mut(series).totals.add(&Totals { values, n_mappings: 1 });
        }
        table.sort();
        table
    }

    fn largest(table: &Table, container: &str) -> Option<Largest> {
        let mut largest = Largest { paths: vec![Part::default(); 3], ..Largest::default() };
        largest.find(table, key(container), &mut vec![(1, 1)]).then_some(largest)
    }

    const MAPPED: [(&str, &str, &str, u64, u64); 7] = [
        ("a", "x", "/lib", 30, 10),
        ("b", "java", "[heap]", 90, 90),
        ("b", "java", "/a\"b\\c", 50, 0),
        ("b", "sh", "/lib", 60, 5),
        ("b", "sh", "[anon]", 70, 70),
        ("b", "sh", "/dev/shm/x", 20, 0),
        ("bb", "x", "/lib", 1000, 0),
    ];

    #[test]
    fn largest_paths_of_one_container_are_found() {
        let found = largest(&table(&MAPPED), "b").unwrap();
        assert_eq!((found.pss, &*found.command), (290, "sh"));
        let paths: Vec<_> = found.paths.iter().map(|p| (&*p.command, &*p.path, p.pss)).collect();
        let expected = [
            ("java", "[heap]", 90),
            ("sh", "[anon]", 70),
            ("sh", "/lib", 60),
            ("java", "/a\"b\\c", 50),
            ("sh", "/dev/shm/x", 20),
        ];
        assert_eq!(paths, expected);
        assert_eq!(largest(&table(&MAPPED), "c"), None);
        assert_eq!(largest(&Table::default(), "b"), None);
    }

    #[test]
    fn paths_grow_since_earlier_sizes() {
        let find = |mapped: &[_]| largest(&table(mapped), "b").unwrap();
        let mut later = find(&MAPPED);
        assert_eq!(later.paths[0].growth, None);
        let earlier = [("b", "java", "[heap]", 50, 0), ("b", "sh", "/lib", 70, 0), ("b", "java", "", 9, 0)];
        later.compare(&find(&earlier).sizes);
        let growth: Vec<_> = later.paths.iter().filter_map(|part| part.growth).collect();
        assert_eq!(growth, [40, 70, -10, 50, 20]);
    }

    #[test]
    fn at_most_ten_paths_are_named_and_names_are_cut() {
        let paths: Vec<String> = (0..30).map(|i| format!("/{i}/{}", "x".repeat(300))).collect();
        let mapped: Vec<_> = (1..).zip(&paths).map(|(pss, path)| ("a", "x", &**path, pss, 0)).collect();
        let found = largest(&table(&mapped), "a").unwrap();
        assert_eq!((found.paths.len(), found.pss), (MAX_PATHS, 465));
        assert_eq!(found.paths[9].pss, 21);
        assert!(found.paths.iter().all(|part| part.path.len() == MAX_NAME_LEN + '…'.len_utf8()));
    }
}
