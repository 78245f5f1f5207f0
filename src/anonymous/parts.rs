//! Sums the anonymous mappings of one process by part. A part is the memory with one use, such as thread
//! stacks.

use super::rules::{RULES, Spot, USUAL_STACKS, is_stack_above_guard};
use super::runs::{Below, Run};
use crate::smaps::fields::Values;
use crate::smaps::place::Place;
use crate::smaps::scanner::Mapping;
use crate::totals::anon_part::AnonPart;
use crate::totals::sums::Totals;

/// The index of the sum of all mappings that no rule claims. It comes after the parts in [`AnonPart::ALL`].
const REST: usize = AnonPart::ALL.len();

/// The anonymous memory of one process, summed by its use. This takes 4 KiB, however many mappings there are.
#[derive(Debug, Default)]
pub struct Parts {
    sums: [Totals; REST + 1],
    /// The mapping that was added last, if it has no name.
    last: Option<Place>,
    /// A mapping that is summed only after the next mapping was added, because its use may depend on that
    /// mapping. The tuple has the mapping, the unnamed mapping directly below it, and the values of the
    /// mapping.
    waiting: Option<(Place, Option<Place>, Values)>,
    /// The first entry is the kind of the mapping directly below the last unnamed mapping. The second entry
    /// is the kind of the mapping that was added last, whether it has a name or not.
    below: [Option<Below>; 2],
    run: Option<Run>,
    /// Each entry has a size, and the totals of all mappings of this size that look like stacks. Only eight
    /// different sizes are stored. A mapping of any further size does not count as a stack.
    stacks: [(u64, Totals); 8],
    is_java: bool,
    /// Whether the Java heap has a name. ZGC gives its heap a name.
    has_named_heap: bool,
}

impl Parts {
    /// Adds the next mapping of the process. Returns whether the mapping has no name. Only unnamed mappings
    /// are summed. A mapping with a name only affects how the mappings next to it are classified.
    pub fn add(&mut self, mapping: &Mapping<'_>) -> bool {
        if !mapping.path.is_empty() {
            self.note_named(mapping);
            return false;
        }
        let place = mapping.place.parse();
        let (below, below_run) = match place.is_adjacent {
            true => (self.last, self.below[1]),
            false => (None, None),
        };
        self.sum_waiting(place.is_adjacent.then_some(&place));
        let is_filler = below_run == Some(Below::ClassArchive) && place.is_inaccessible();
        self.below = [below_run, Some(if is_filler { Below::ClassArchive } else { Below::Anonymous })];
        self.last = Some(place);
        let spot = Spot { place: &place, below: below.as_ref(), above: None };
        match spot.depends_on_above() {
            true => self.waiting = Some((place, below, *mapping.values)),
            false => self.sum(&spot, mapping.values),
        }
        true
    }

    /// Finishes the sums of the process. Calls `each` with the path and the totals of each part that has
    /// mappings. The path is empty for the mappings that no rule claims.
    pub fn finish(&mut self, mut each: impl FnMut(&'static str, &Totals)) {
        self.sum_waiting(None);
        self.end_run();
        for (size, totals) in self.stacks.iter().filter(|(_, totals)| totals.n_mappings > 0) {
            let is_stack = totals.n_mappings > 1 || USUAL_STACKS.contains(size);
            self.sums[if is_stack { AnonPart::ThreadStacks as usize } else { REST }].add(totals);
        }
        for part in [AnonPart::JavaHeap, AnonPart::JavaClasses].into_iter().filter(|_| !self.is_java) {
            let totals = std::mem::take(&mut self.sums[part as usize]);
            self.sums[REST].add(&totals);
        }
        let sums = AnonPart::ALL.iter().map(|part| part.path()).chain([""]).zip(&self.sums);
        sums.filter(|(_, sum)| sum.n_mappings > 0).for_each(|(path, sum)| each(path, sum));
    }

    /// Handles a mapping that has a name, such as the path of a file. The mapping is not summed, but its name
    /// may show that the process is a JVM. The kind of the mapping is stored, because some rules depend on
    /// what lies directly below a mapping.
    fn note_named(&mut self, mapping: &Mapping<'_>) {
        self.sum_waiting(None);
        self.last = None;
        self.below[1] = match mapping.path {
            [.., b'.', b'j', b's', b'a'] => Some(Below::ClassArchive),
            [b'/', ..] => Some(Below::File),
            _ => None,
        };
        if let (Some(run), Some(Below::ClassArchive)) = (&mut self.run, self.below[1]) {
            run.is_below_archive = mapping.place.parse().begin == run.end;
        }
        self.is_java |= mapping.path.ends_with(b"/server/libjvm.so");
        self.has_named_heap |= mapping.path.starts_with(b"/memfd:java_heap");
    }

    /// Adds the mapping in `waiting` to the sum of its part. `above` is the unnamed mapping directly above
    /// it, if there is one.
    fn sum_waiting(&mut self, above: Option<&Place>) {
        if let Some((place, below, values)) = self.waiting.take() {
            self.sum(&Spot { place: &place, below: below.as_ref(), above }, &values);
        }
    }

    /// Adds a mapping to the sum of its part.
    fn sum(&mut self, spot: &Spot<'_>, values: &Values) {
        let place = spot.place;
        let sum = if let Some((_, part)) = RULES.iter().find(|(claims, _)| claims(spot)) {
            &mut self.sums[*part as usize]
        } else if is_stack_above_guard(spot)
            && let Some((size, sum)) =
                self.stacks.iter_mut().find(|(size, _)| [0, place.size()].contains(size))
        {
            *size = place.size();
            sum
        } else {
            if !self.run.as_mut().is_some_and(|run| run.try_add(place)) {
                self.end_run();
                self.run = Run::beginning(place, self.below[0]);
            }
            match &mut self.run {
                Some(run) if place.is_writable() => &mut run.totals,
                _ => &mut self.sums[REST],
            }
        };
        sum.add_values(values, 1);
    }

    /// Ends the current run of adjacent mappings. Adds its writable mappings to the sum for Go heap, Java
    /// heap or Java classes. If no rule claims the run, adds them to the sum of unclaimed mappings.
    fn end_run(&mut self) {
        if let Some(run) = self.run.take() {
            let part = run.part(self.has_named_heap);
            self.sums[part.map_or(REST, |part| part as usize)].add(&run.totals);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smaps::scanner::Scanner;

    /// Returns the size of each part in KiB. Each mapping is given as `<addresses> <permissions> [<flag>...]
    /// [<path>]`.
    fn parts(mappings: &[&str]) -> Vec<(&'static str, u64)> {
        let (mut scanner, mut parts, mut text) = (Scanner::default(), Parts::default(), String::new());
        for mapping in mappings {
            let words: Vec<&str> = mapping.split(' ').collect();
            let (begin, end) = words[0].split_once('-').unwrap();
            let address = |text| u64::from_str_radix(text, 16).unwrap();
            let path = words.last().filter(|word| word.starts_with(['/', '['])).unwrap_or(&"");
            let size = (address(end) - address(begin)) >> 10;
            let flags = words[2..].join(" ");
            let header = format!("{} {} 00000000 00:00 0 ", words[0], words[1]);
            text += &format!("{header:<73}{path}\nSize:           {size:>8} kB\nVmFlags: rd {flags} \n");
        }
        let mut rest = text.as_bytes();
        while let Some((mapping, n_bytes, _)) = scanner.next(rest, true) {
            parts.add(&mapping);
            rest = &rest[n_bytes..];
        }
        let mut found = Vec::new();
        parts.finish(|path, totals| found.push((path, totals.values.bytes[0] >> 10)));
        found
    }

    const STACKS: &str = "[anon ~thread stacks]";
    const ARENAS: &str = "[anon ~malloc arenas]";
    const HEAP: &str = "[anon ~java heap]";
    const CLASSES: &str = "[anon ~java classes]";
    const ALLOCATOR: &str = "[anon ~allocator]";
    const JVM: &str = "7ffff0000000-7ffff1000000 r-xp /usr/lib/jvm/lib/server/libjvm.so";

    #[test]
    fn stacks_are_recognized_by_flag_or_by_size() {
        for (mappings, expected) in [
            (&["7f0000000000-7f0000001000 ---p nh", "7f0000001000-7f0000041000 rw-p nh"][..], STACKS),
            (&["7f0000000000-7f0000011000 ---p", "7f0000011000-7f0000051000 rw-p nh"], ""),
            (&["7f0000000000-7f0000040000 rw-p nh gu"], STACKS),
            (&["7f0000000000-7f0000040000 rw-p nh"], ""),
            (&["7f0000000000-7f0000001000 ---p", "7f0000001000-7f0000801000 rw-p"], STACKS),
            (&["7f0000000000-7f0000001000 ---p", "7f0000001000-7f0000801000 rw-p dc"], ""),
            (&["7f0000000000-7f0000001000 ---p", "7f0000002000-7f0000802000 rw-p"], ""),
            (&["5f0000000000-5f0000001000 ---p", "5f0000001000-5f0000801000 rw-p"], ""),
            (&["7f0000000000-7f0000006000 ---p", "7f0000006000-7f0000806000 rw-p"], ""),
        ] {
            let found = parts(mappings);
            assert_eq!(found[0].0, expected, "{mappings:?}");
        }
        let two = ["7f0000000000-7f0000001000 ---p", "7f0000001000-7f0000042000 rw-p"];
        let more = ["7f0000042000-7f0000043000 ---p", "7f0000043000-7f0000084000 rw-p"];
        assert_eq!(parts(&two), [("", 264)], "a size that is neither usual nor seen twice");
        assert_eq!(parts(&[two, more].concat()), [(STACKS, 520), ("", 8)]);
    }

    #[test]
    fn malloc_arenas_end_at_a_multiple_of_their_size() {
        for (mappings, expected) in [
            (&["7f0000000000-7f0000021000 rw-p nr", "7f0000021000-7f0004000000 ---p nr"][..], ARENAS),
            (&["7f0000000000-7f0000021000 rw-p ac", "7f0000021000-7f0004000000 ---p"], ARENAS),
            (&["7f0000000000-7f0000021000 rw-p ac", "7f0000021000-7f0004000000 ---p nr"], ""),
            (&["7f0000000000-7f0000021000 rw-p ac", "7f0000021000-7f0003fff000 ---p"], ""),
            (&["7f0000000000-7f0004000000 rw-p nr"], ARENAS),
            (&["7f0000000000-7f0004000000 rw-p ac"], ""),
            (&["7effffc00000-7f0003000000 rw-p ac", "7f0003000000-7f0004000000 ---p"], ARENAS),
            (&["7efff1000000-7f0003000000 rw-p ac", "7f0003000000-7f0004000000 ---p"], ""),
            (&["7f0000100000-7f0000121000 rw-p nr", "7f0000121000-7f0004000000 ---p nr"], ""),
            (&["7f0000100000-7f0000121000 rw-p nr"], ALLOCATOR),
            (&["7f0000100000-7f0000121000 rw-p nr ac"], ""),
            (&["445f4000000-445f6100000 rw-p nr"], ALLOCATOR),
            (&["445f5000000-445f6100000 rw-p nr"], ""),
        ] {
            assert_eq!(parts(mappings)[0].0, expected, "{mappings:?}");
        }
    }

    #[test]
    fn java_parts_are_found_only_in_a_jvm() {
        let metaspace = ["7f0000000000-7f0000010000 rw-p ac", "7f0000010000-7f0000400000 ---p nr"];
        let chunk = ["7f0000400000-7f0000410000 rw-p ac", "7f0000410000-7f0004000000 ---p nr"];
        let archive = ["7f0004000000-7f0004100000 rw-p /classes.jsa", "7f0004100000-7f0004400000 ---p nr"];
        let space = ["7f0004400000-7f0004410000 rw-p ac", "7f0004410000-7f0044400000 ---p nr"];
        let heap = ["c0000000-fed00000 rw-p ac", "fed00000-100000000 ---p nr"];
        let at_4_gib = ["100000000-100020000 rw-p ac", "100020000-140000000 ---p nr"];
        let huge = ["7e0000000000-7e0000010000 rw-p ac", "7e0000010000-7e0c00000000 ---p nr"];
        let named = ["3000000000-3000001000 rw-s /memfd:java_heap", huge[0], huge[1], JVM];
        let file = ["00400000-00500000 r-xp /java", "00500000-00600000 rw-p ac", JVM];
        for (mappings, expected) in [
            (&[&metaspace[..], &chunk, &[JVM]].concat()[..], &[(CLASSES, 128)][..]),
            (&[&metaspace[..], &chunk].concat(), &[("", 128)]),
            (&[&metaspace[..], &[JVM]].concat(), &[("", 64)]),
            (&[&chunk[..], &archive, &space, &[JVM]].concat(), &[(CLASSES, 128)]),
            (&[&heap[..], &at_4_gib, &[JVM]].concat(), &[(HEAP, 1_029_120), (CLASSES, 128)]),
            (&[&huge[..], &[JVM]].concat(), &[(HEAP, 64)]),
            (&named, &[("", 64)]),
            (&file, &[("", 1024)]),
        ] {
            let mut found = parts(mappings);
            let reserved =
                mappings.iter().filter(|mapping| mapping.contains("---p")).map(|mapping| parts(&[mapping]));
            let reserved: u64 = reserved.map(|parts| parts[0].1).sum();
            found.iter_mut().filter(|(path, _)| path.is_empty()).for_each(|(_, size)| *size -= reserved);
            found.retain(|(_, size)| *size > 0);
            assert_eq!(found, expected, "{mappings:?}");
        }
    }

    #[test]
    fn go_v8_and_jit_memory_is_recognized_by_layout() {
        for (mappings, expected) in [
            (&["c000000000-c000400000 rw-p ac", "c000400000-c004000000 ---p"][..], "[anon ~go heap]"),
            (&["4000000000-4000400000 rw-p ac", "4000400000-4004000000 ---p"], "[anon ~go heap]"),
            (&["c000000000-c000300000 rw-p ac", "c000300000-c004000000 ---p"], ""),
            (&["c000000000-c000400000 rw-p ac", "c000400000-c003000000 ---p"], ""),
            (&["c000000000-c000400000 rw-p ac", "c000400000-c004000000 ---p nr"], ""),
            (&["122001c0000-12200200000 rw-p dc nr"], "[anon ~v8 heap]"),
            (&["122001c0000-12200200000 r--p dc nr"], "[anon ~v8 heap]"),
            (&["122001c1000-12200200000 rw-p dc nr"], ""),
            (&["122001c0000-12200200000 rw-p nr"], ""),
            (&["7f0000100000-7f0000121000 r-xp"], "[anon ~jit code]"),
        ] {
            assert_eq!(parts(mappings)[0].0, expected, "{mappings:?}");
        }
    }
}
