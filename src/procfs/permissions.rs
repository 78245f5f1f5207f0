//! What this process lacks to read the smaps of others (kernel: PTRACE_MODE_READ_FSCREDS, man 2 ptrace).

use std::fs;

const CAP_SYS_PTRACE: u32 = 19;
const CAP_PERFMON: u32 = 38;

/// One line that names the missing access, for the log.
pub fn missing() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let confinement = ["/proc/self/attr/apparmor/current", "/proc/self/attr/current"]
        .iter()
        .find_map(|path| fs::read_to_string(path).ok())
        .unwrap_or_default();
    explain(&status, confinement.trim_end_matches(['\n', '\0']))
}

/// The same for the text of a `status` file and the name of the AppArmor profile.
fn explain(status: &str, confinement: &str) -> String {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    let has = |capability: u32| effective & 1 << capability != 0;
    if !has(CAP_SYS_PTRACE) {
        let instead =
            if has(CAP_PERFMON) { "CAP_PERFMON is there, but this kernel asks for more; " } else { "" };
        return format!("{instead}CAP_SYS_PTRACE is missing (on recent kernels CAP_PERFMON serves as well)");
    }
    match confinement {
        "" | "unconfined" => {
            "CAP_SYS_PTRACE is there, so a security module or a user namespace denies it".into()
        }
        profile => format!("CAP_SYS_PTRACE is there, but AppArmor confines this process: {profile:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing() {
        let status =
            |mask: u64| format!("Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t{mask:016x}\nCapBnd:\t0\n");
        assert_eq!(
            explain(&status(0), "unconfined"),
            "CAP_SYS_PTRACE is missing (on recent kernels CAP_PERFMON serves as well)"
        );
        assert_eq!(
            explain(&status(1 << 38), ""),
            "CAP_PERFMON is there, but this kernel asks for more; CAP_SYS_PTRACE is missing (on recent kernels CAP_PERFMON serves as well)"
        );
        assert_eq!(
            explain(&status(1 << 19), "cri-containerd.apparmor.d (enforce)"),
            r#"CAP_SYS_PTRACE is there, but AppArmor confines this process: "cri-containerd.apparmor.d (enforce)""#
        );
        assert_eq!(
            explain(&status(1 << 19), "unconfined"),
            "CAP_SYS_PTRACE is there, so a security module or a user namespace denies it"
        );
    }
}
