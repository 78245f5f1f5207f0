//! Finds out which permission this process lacks to read the smaps of other processes (kernel:
//! PTRACE_MODE_READ_FSCREDS, man 2 ptrace).

use std::fs;
use std::path::Path;

const CAP_SYS_PTRACE: u32 = 19;
const CAP_PERFMON: u32 = 38;

/// Returns a line for the log. The line names the missing permission.
pub fn missing() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let confinement = ["/proc/self/attr/apparmor/current", "/proc/self/attr/current"]
        .iter()
        .find_map(|path| fs::read_to_string(path).ok())
        .unwrap_or_default();
    explain(&status, confinement.trim_end_matches(['\n', '\0']))
}

/// Returns an error if proc hides other processes from this process. The error is a one-line message. If proc
/// is mounted with hidepid=4, it shows only processes that this process may trace. `CAP_PERFMON` is enough to
/// read smaps, but not to see hidden processes (kernel: fs/proc/base.c, `has_pid_permissions`).
pub fn ensure_visible(proc_path: &Path) -> Result<(), String> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let path = fs::canonicalize(proc_path).unwrap_or_else(|_| proc_path.to_owned());
    let is_hidden = hides_processes(&read("/proc/self/mountinfo"), &path);
    if is_hidden && effective(&read("/proc/self/status")) & 1 << CAP_SYS_PTRACE == 0 {
        return Err(format!(
            "cannot see processes: {proc_path:?} is mounted with hidepid=ptraceable (4), which needs \
             CAP_SYS_PTRACE"
        ));
    }
    Ok(())
}

/// Whether the last mount at `path` has hidepid=4. `mounts` is the text of a `mountinfo` file.
fn hides_processes(mounts: &str, path: &Path) -> bool {
    let mut mounts = mounts.lines().filter_map(|line| {
        let (mount, rest) = line.split_once(" - ")?;
        (Path::new(mount.split(' ').nth(4)?) == path).then_some(rest)
    });
    let options = mounts.next_back().and_then(|rest| rest.rsplit(' ').next()).unwrap_or_default();
    options.split(',').any(|option| ["hidepid=ptraceable", "hidepid=4"].contains(&option))
}

fn effective(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}

/// Returns a line that names the missing permission. `status` is the text of a `status` file, and
/// `confinement` is the name of the AppArmor profile.
fn explain(status: &str, confinement: &str) -> String {
    let effective = effective(status);
    let has = |capability: u32| effective & 1 << capability != 0;
    if !has(CAP_SYS_PTRACE) {
        let instead =
            if has(CAP_PERFMON) { "CAP_PERFMON is present, but this kernel requires more; " } else { "" };
        return format!("{instead}CAP_SYS_PTRACE is missing (on recent kernels CAP_PERFMON serves as well)");
    }
    match confinement {
        "" | "unconfined" => {
            "permission denied although CAP_SYS_PTRACE is present: by a security module or a user namespace"
                .into()
        }
        profile => format!("CAP_SYS_PTRACE is present, but AppArmor confines this process: {profile:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidepid_4_hides_processes() {
        let proc = "22 1 0:20 / /proc rw,nosuid - proc proc rw\n";
        let host = |options: &str| format!("{proc}30 1 0:30 / /host/proc ro - proc proc rw,{options}\n");
        for (mounts, path, expected) in [
            (host("gid=5,hidepid=ptraceable"), "/host/proc", true),
            (host("hidepid=4"), "/host/proc", true),
            (host("hidepid=invisible"), "/host/proc", false),
            (host("hidepid=ptraceable"), "/proc", false),
            (host("hidepid=ptraceable") + &host("subset=x"), "/host/proc", false),
            (String::new(), "/proc", false),
        ] {
            assert_eq!(hides_processes(&mounts, Path::new(path)), expected, "{path} {mounts}");
        }
    }

    #[test]
    fn missing_permission_is_named() {
        let status =
            |mask: u64| format!("Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t{mask:016x}\nCapBnd:\t0\n");
        assert_eq!(
            explain(&status(0), "unconfined"),
            "CAP_SYS_PTRACE is missing (on recent kernels CAP_PERFMON serves as well)"
        );
        assert_eq!(
            explain(&status(1 << 38), ""),
            "CAP_PERFMON is present, but this kernel requires more; CAP_SYS_PTRACE is missing (on recent \
             kernels CAP_PERFMON serves as well)"
        );
        assert_eq!(
            explain(&status(1 << 19), "cri-containerd.apparmor.d (enforce)"),
            "CAP_SYS_PTRACE is present, but AppArmor confines this process: \
                 \"cri-containerd.apparmor.d (enforce)\""
        );
        assert_eq!(
            explain(&status(1 << 19), "unconfined"),
            "permission denied although CAP_SYS_PTRACE is present: by a security module or a user namespace"
        );
    }
}
