//! Options that cannot be combined.

use super::table::OPTIONS;
use super::usage_error::UsageError;

/// Each entry has an option, and the options that cannot be combined with it. If such a combination were
/// accepted, one of the two options would be ignored silently.
const EXCLUSIVE: [(&str, &[&str]); 4] = [
    ("once", &["record"]),
    ("fixture", &["proc-path", "containerd-sock", "containerd-namespace", "cri-sock", "container-logs"]),
    ("cri-sock", &["containerd-sock", "containerd-namespace", "container-logs"]),
    ("container-logs", &["containerd-sock", "containerd-namespace"]),
];

/// Fails if two of the given options cannot be combined, or if `--image` is given without `--print`. `given`
/// has a flag for each row of [`OPTIONS`].
pub(super) fn refuse(given: &[bool], image: &str) -> Result<(), UsageError> {
    let is_given = |name: &str| OPTIONS.iter().zip(given).any(|(spec, given)| *given && spec.name == name);
    let refused = |name: &str, other: &str| {
        UsageError::new(format!("--{name} and --{other} cannot be combined: expected one of them"))
    };
    for (name, others) in EXCLUSIVE.iter().filter(|(name, _)| is_given(name)) {
        if let Some(other) = others.iter().find(|other| is_given(other)) {
            return Err(refused(name, other));
        }
    }
    if is_given("image") && !is_given("print") {
        return Err(UsageError::new(format!("unexpected --image {image:?} without --print: expected both")));
    }
    let mut others = OPTIONS.iter().map(|spec| spec.name).filter(|name| !["print", "image"].contains(name));
    match others.find(|name| is_given("print") && is_given(name)) {
        Some(other) => Err(refused("print", other)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::super::args::{Command, parse};
    use super::*;

    fn refused(args: &[&str]) -> String {
        parse(args.iter().map(OsString::from)).expect_err(&args.join(" ")).to_string()
    }

    #[test]
    fn exclusive_options_exist() {
        let is_known = |name: &&str| OPTIONS.iter().any(|spec| spec.name == *name);
        for (name, others) in EXCLUSIVE {
            assert!(is_known(&name) && others.iter().all(is_known), "{name} {others:?}");
        }
    }

    #[test]
    fn a_combination_is_refused_in_any_order() {
        let values = [
            ("once", None),
            ("record", Some("DIR")),
            ("fixture", Some("DIR")),
            ("proc-path", Some("/proc")),
            ("containerd-sock", Some("/x")),
            ("containerd-namespace", Some("k8s.io")),
            ("cri-sock", Some("/x")),
            ("container-logs", Some("/x")),
        ];
        let arg = |name: &str| match values.iter().find(|(known, _)| *known == name) {
            Some((_, Some(value))) => format!("--{name}={value}"),
            _ => format!("--{name}"),
        };
        for (name, others) in EXCLUSIVE {
            for other in others {
                let expected = format!("--{name} and --{other} cannot be combined: expected one of them");
                assert_eq!(refused(&[&arg(name), &arg(other)]), expected);
                assert_eq!(refused(&[&arg(other), "--pid", &arg(name)]), expected);
            }
        }
        for together in [
            ["once", "fixture"],
            ["record", "fixture"],
            ["containerd-sock", "containerd-namespace"],
            ["proc-path", "cri-sock"],
        ] {
            let args = together.map(|name| OsString::from(arg(name)));
            assert!(matches!(parse(args), Ok(Command::Run(_))), "{together:?}");
        }
    }
}
