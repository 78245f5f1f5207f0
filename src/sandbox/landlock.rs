//! Uses Landlock to let the program only read a few directories and connect to the runtime's sockets.
//!
//! A process in a Landlock domain may not access processes outside the domain. CAP_PERFMON overrides this
//! rule, but CAP_SYS_PTRACE does not. A thread cannot leave a domain. So a trial thread enters the domain
//! first, and tests whether it can still read processes.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::thread;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreated, RulesetCreatedAttr as _, RulesetError, Scope,
};

use super::Needs;

/// The newest Landlock version that this program knows. Access rights that the kernel does not know are left
/// out.
const KNOWN: ABI = ABI::V10;

/// At most this many processes are tried until one has readable smaps. The first processes in proc may be
/// kernel threads, which have no memory to read.
const MAX_TRIED: usize = 1000;

/// Restricts this thread and the threads that it starts later. Restricts nothing and returns false if
/// Landlock would prevent the program from reading other processes.
pub(super) fn enter(needs: &Needs) -> Result<bool, String> {
    let Some(readable) = readable_smaps(&needs.proc_path) else { return Ok(false) };
    let ruleset = rules(needs).map_err(|error| error.to_string())?;
    let trial = ruleset.try_clone().map_err(|error| crate::errors::plain(&error))?;
    let is_readable = thread::spawn(move || trial.restrict_self().is_ok() && is_readable(&readable));
    if !is_readable.join().unwrap_or(false) {
        return Ok(false);
    }
    ruleset.restrict_self().map(|_| true).map_err(|error| error.to_string())
}

/// Returns a readable smaps file of a process other than this one.
fn readable_smaps(proc_path: &Path) -> Option<PathBuf> {
    let own = std::process::id().to_string();
    let names = fs::read_dir(proc_path).ok()?.flatten().map(|entry| entry.file_name());
    let pids = names.filter(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit) && *name != *own);
    let mut smaps = pids.take(MAX_TRIED).map(|pid| proc_path.join(pid).join("smaps"));
    smaps.find(|path| is_readable(path))
}

fn is_readable(smaps: &Path) -> bool {
    File::open(smaps).and_then(|mut file| file.read(&mut [0; 64])).is_ok_and(|n| n > 0)
}

fn rules(needs: &Needs) -> Result<RulesetCreated, RulesetError> {
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(AccessNet::from_all(KNOWN))?
        .scope(Scope::from_all(KNOWN))?
        .create()?;
    for path in &needs.reads {
        ruleset = allow(ruleset, path, AccessFs::ReadFile | AccessFs::ReadDir)?;
    }
    // The rule is for the directory, because a server that restarts creates a new socket in it.
    for directory in needs.sockets.iter().filter_map(|socket| socket.parent()) {
        ruleset = allow(ruleset, directory, AccessFs::ResolveUnix.into())?;
    }
    if let Some(directory) = needs.writes_in() {
        let writing = AccessFs::MakeDir | AccessFs::MakeReg | AccessFs::WriteFile | AccessFs::Truncate;
        ruleset = allow(ruleset, directory, writing)?;
    }
    Ok(ruleset)
}

/// Allows `access` below a path. A path that does not exist needs no rule.
fn allow(
    ruleset: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    match PathFd::new(path) {
        Ok(directory) => ruleset.add_rule(PathBeneath::new(directory, access)),
        Err(_) => Ok(ruleset),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    /// Runs `test` in a restricted thread. Returns `None` if the kernel has no Landlock.
    fn inside<T: Send + 'static>(needs: Needs, test: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let restricted = move || {
            let status = rules(&needs).unwrap().restrict_self().unwrap();
            (status.ruleset != landlock::RulesetStatus::NotEnforced).then(test)
        };
        thread::spawn(restricted).join().unwrap()
    }

    #[test]
    fn only_allowed_paths_are_accessible() {
        let base = std::env::temp_dir().join(format!("landlock-{}", std::process::id()));
        let (inner, outer) = (base.join("inner"), base.join("outer"));
        for directory in [&inner, &outer] {
            fs::create_dir_all(directory).unwrap();
            fs::write(directory.join("file"), "text").unwrap();
        }
        let socket = base.join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        let needs = Needs {
            proc_path: "/proc".into(),
            reads: vec![inner.clone(), base.join("absent")],
            sockets: vec![socket.clone()],
            writes: Some(outer.join("recording")),
            serves: true,
        };
        let (inner_file, outer_file) = (inner.join("file"), outer.join("file"));
        let made = outer.join("recording");
        let tried = inside(needs, move || {
            [
                ("reads inside", fs::read(&inner_file).is_ok(), true),
                ("lists inside", fs::read_dir(&inner).is_ok(), true),
                ("writes inside", fs::write(&inner_file, "").is_ok(), false),
                ("reads outside", fs::read(&outer_file).is_ok(), false),
                ("lists outside", fs::read_dir(&base).is_ok(), false),
                ("removes", fs::remove_file(&outer_file).is_ok(), false),
                ("records", fs::create_dir(&made).and_then(|()| fs::write(made.join("x"), "")).is_ok(), true),
                ("connects", UnixStream::connect(&socket).is_ok(), true),
                ("leaves", std::net::TcpStream::connect("127.0.0.1:1").is_ok(), false),
            ]
        });
        for (what, is_done, is_allowed) in tried.into_iter().flatten() {
            assert_eq!(is_done, is_allowed, "{what}");
        }
        fs::remove_dir_all(outer.parent().unwrap()).unwrap();
    }

    #[test]
    fn without_readable_smaps_nothing_is_restricted() {
        let proc_path = "/nonexistent".into();
        let needs = Needs { proc_path, reads: Vec::new(), sockets: Vec::new(), writes: None, serves: true };
        assert_eq!(enter(&needs), Ok(false));
    }
}
