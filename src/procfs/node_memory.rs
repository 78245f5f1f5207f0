//! What proc shows about the memory of the whole node: `meminfo`, `zoneinfo` and `vmstat`.

use std::os::fd::AsFd as _;

use rustix::io::Errno;

use super::files::read_long;
use super::{Buffers, Proc};

/// The names of the files that are read. A recording also contains these files.
pub const FILES: [&str; 3] = ["meminfo", "zoneinfo", "vmstat"];
/// At most this many bytes of a file are read. The longest file is `zoneinfo`, with 100 bytes for each CPU in
/// each zone. On a machine with 4,096 CPUs and 5 zones, these are 2 MB.
const MAX_BYTES: usize = 8 << 20;

/// The memory of a node, in bytes. An optional value is `None` if the kernel does not print it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeMemory {
    /// All memory that the kernel manages.
    pub total: u64,
    /// Memory that nothing uses. This includes the free pages on the lists of each CPU, which `MemFree` does
    /// not include.
    pub free: u64,
    /// Kernel memory: slab, page tables, per-CPU data, and vmalloc, which includes kernel stacks.
    pub kernel: u64,
    /// The pool of huge pages, both used and free.
    pub hugetlb: Option<u64>,
    /// The memory in which zram or zswap keeps compressed pages.
    pub compressed: Option<u64>,
    /// Memory that the host of a virtual machine has taken back.
    pub balloon: Option<u64>,
}

impl Proc {
    /// Returns the memory of the node. Returns `None` if one of the [`FILES`] cannot be read, or if the files
    /// do not contain the total memory or the number of free pages.
    pub fn node_memory(&self, buffers: &mut Buffers) -> Option<NodeMemory> {
        let Buffers { text, .. } = buffers;
        let mut memory = NodeMemory::default();
        let mut mem_free = 0;
        let meminfo = read_long(self.root.as_fd(), FILES[0], MAX_BYTES, text).ok()?;
        for (key, value) in lines(meminfo) {
            let Some(bytes) = number(value).map(|number| number.saturating_mul(1024)) else { continue };
            match key {
                b"MemTotal:" => memory.total = bytes,
                b"MemFree:" => mem_free = bytes,
                b"Slab:" | b"PageTables:" | b"SecPageTables:" | b"Percpu:" | b"VmallocUsed:" => {
                    memory.kernel = memory.kernel.saturating_add(bytes);
                }
                b"Hugetlb:" => memory.hugetlb = Some(bytes),
                b"Balloon:" => memory.balloon = Some(bytes),
                _ => {}
            }
        }
        let zoneinfo = read_long(self.root.as_fd(), FILES[1], MAX_BYTES, text).ok()?;
        let counts = lines(zoneinfo).filter(|(key, _)| *key == b"count:");
        let n_on_lists = counts.filter_map(|(_, value)| number(value)).fold(0, u64::saturating_add);
        let (mut n_free, mut n_compressed) = (0, None);
        let vmstat = read_long(self.root.as_fd(), FILES[2], MAX_BYTES, text).ok()?;
        for (key, value) in lines(vmstat) {
            match key {
                b"nr_free_pages" => n_free = number(value).unwrap_or(0),
                b"nr_zspages" => n_compressed = number(value),
                _ => {}
            }
        }
        let page = page_bytes(mem_free, n_free)?;
        memory.free = mem_free.saturating_add(page.saturating_mul(n_on_lists));
        memory.compressed = n_compressed.map(|n_pages| page.saturating_mul(n_pages));
        (memory.total > 0).then_some(memory)
    }

    /// Returns the text of one of the [`FILES`].
    ///
    /// Fails with the system's error.
    pub fn raw_node_file(&self, name: &str, buffers: &mut Buffers) -> Result<Vec<u8>, Errno> {
        read_long(self.root.as_fd(), name, MAX_BYTES, &mut buffers.text).map(Into::into)
    }
}

/// Returns the size of a page in bytes. The size is computed, because a recording may come from a machine
/// with another page size than this one. `bytes` and `n_pages` are the free memory in two units, read at
/// different moments. So the quotient is only nearly right, and the nearest real page size is returned.
fn page_bytes(bytes: u64, n_pages: u64) -> Option<u64> {
    let size = bytes.checked_div(n_pages)?;
    [4096, 16 << 10, 64 << 10].into_iter().min_by_key(|page: &u64| page.abs_diff(size))
}

/// Returns the first word of each line, and the text that follows.
fn lines(text: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    text.split(|&b| b == b'\n').filter_map(|line| {
        let line = line.trim_ascii_start();
        Some(line.split_at(line.iter().position(|&b| b == b' ')?))
    })
}

/// Returns the number that is the first word of the text.
fn number(text: &[u8]) -> Option<u64> {
    let word = text.trim_ascii_start().split(|&b| b == b' ').next()?;
    std::str::from_utf8(word).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_three_files_are_combined() {
        let directory = std::env::temp_dir().join(format!("smaps-node-memory-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let meminfo = "MemTotal:       2000 kB\nMemFree:         400 kB\nSlab:             30 kB\n\
                       KernelStack:       9 kB\nPageTables:       4 kB\nSecPageTables:    1 kB\n\
                       VmallocUsed:      20 kB\nPercpu:            5 kB\nHugetlb:         100 kB\n";
        let zoneinfo = "Node 0, zone      DMA\n  pages free     50\n  pagesets\n    cpu: 0\n              \
                        count:    3\n              high:     9\n    cpu: 1\n              count:    2\n";
        let vmstat = "nr_free_pages 99\nnr_zspages 7\noom_kill 1\n";
        let mut buffers = Buffers::default();
        let proc = Proc::open(&directory).unwrap();
        assert_eq!(proc.node_memory(&mut buffers), None, "no file");
        for (name, text) in FILES.into_iter().zip([meminfo, zoneinfo, vmstat]) {
            fs::write(directory.join(name), text).unwrap();
        }
        let expected = NodeMemory {
            total: 2000 << 10,
            free: (400 << 10) + 5 * 4096,
            kernel: 60 << 10,
            hugetlb: Some(100 << 10),
            compressed: Some(7 * 4096),
            balloon: None,
        };
        assert_eq!(proc.node_memory(&mut buffers), Some(expected));
        fs::write(directory.join("meminfo"), format!("{meminfo}Balloon: 8 kB\n")).unwrap();
        fs::write(directory.join("vmstat"), "nr_free_pages 6\n").unwrap();
        let expected = NodeMemory {
            free: (400 << 10) + 5 * (64 << 10),
            compressed: None,
            balloon: Some(8 << 10),
            ..expected
        };
        assert_eq!(proc.node_memory(&mut buffers), Some(expected), "pages of 64 KiB");
        fs::write(directory.join("vmstat"), "nr_free_pages 0\n").unwrap();
        assert_eq!(proc.node_memory(&mut buffers), None);
        fs::remove_dir_all(&directory).unwrap();
    }
}
