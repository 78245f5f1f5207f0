//! Returns the files of a process as the kernel printed them, for a recording.

use std::fs::File;
use std::io::Read;

use super::cgroup::Cgroups;
use super::errors::ReadError;
use super::files::open_file;
use super::{Buffers, ProcessDir};

impl ProcessDir {
    /// Returns the content of the files `comm`, `cgroup` and `smaps`, with their names.
    ///
    /// If the first thread has exited, its `cgroup` and `smaps` do not describe the process. In that case the
    /// content comes from the files of another thread.
    pub fn raw(&self, buffers: &mut Buffers) -> Result<[(&'static str, Vec<u8>); 3], ReadError> {
        let comm = self.raw_file("comm")?;
        let cgroup = self.raw_cgroup(buffers)?;
        let mut smaps = match self.raw_file("smaps") {
            Err(ReadError::Gone) => Vec::new(), // recent kernels return this for a process without memory
            smaps => smaps?,
        };
        if smaps.is_empty() {
            let of_threads = |tid| self.raw_file(&format!("task/{tid}/smaps")).ok();
            smaps = self.first_of_threads(buffers, of_threads, |smaps| !smaps.is_empty()).unwrap_or_default();
        }
        Ok([("comm", comm), ("cgroup", cgroup), ("smaps", smaps)])
    }

    /// Returns the content of the file `cgroup`. If the first thread has exited, the content comes from
    /// another thread.
    pub fn raw_cgroup(&self, buffers: &mut Buffers) -> Result<Vec<u8>, ReadError> {
        let cgroup = self.raw_file("cgroup")?;
        let may_hide = |text: &[u8]| {
            let mut cgroups = Cgroups::default();
            cgroups.parse(text);
            cgroups.may_hide()
        };
        if !may_hide(&cgroup) {
            return Ok(cgroup);
        }
        let of_threads = |tid| self.raw_file(&format!("task/{tid}/cgroup")).ok();
        Ok(self.first_of_threads(buffers, of_threads, |text| !may_hide(text)).unwrap_or(cgroup))
    }

    fn first_of_threads(
        &self,
        buffers: &mut Buffers,
        file: impl Fn(u32) -> Option<Vec<u8>>,
        is_good: impl Fn(&[u8]) -> bool,
    ) -> Option<Vec<u8>> {
        self.threads(buffers).ok()?;
        std::mem::take(&mut buffers.tids).into_iter().filter_map(file).find(|text| is_good(text))
    }

    fn raw_file(&self, name: &str) -> Result<Vec<u8>, ReadError> {
        let mut text = Vec::new();
        File::from(open_file(self.as_fd(), name)?).read_to_end(&mut text)?;
        Ok(text)
    }
}
