//! One row of the table of options, and how it takes a value.

use std::ffi::OsStr;

use super::options::Options;
use super::usage_error::UsageError;
use crate::cgroupfs::fields::GROUPS;
use crate::smaps::fields::FIELDS;

/// One option that takes a value, or a flag, whose `value` is empty.
pub(super) struct Spec {
    pub name: &'static str,
    /// What `--help` calls the value.
    pub value: &'static str,
    /// Parsed like an argument when the option is not given; empty is no default.
    pub default: &'static str,
    pub help: &'static str,
    pub expected: &'static str,
    pub is_repeatable: bool,
    pub is_too_large: fn(&OsStr) -> bool,
    pub set: fn(&mut Options, &OsStr) -> Option<()>,
}

pub(super) const UNSET: Spec = Spec {
    name: "",
    value: "",
    default: "",
    help: "",
    expected: "",
    is_repeatable: false,
    is_too_large: |_| false,
    set: |_, _| None,
};

pub(super) fn put<T>(value: Option<T>, to: &mut T) -> Option<()> {
    *to = value?;
    Some(())
}

/// Appends a value of an option that may be repeated, unless it was given before.
pub(super) fn add_once<T: PartialEq>(value: T, to: &mut Vec<T>) -> Option<()> {
    if !to.contains(&value) {
        to.push(value);
    }
    Some(())
}

impl Spec {
    /// Fails when the value is not what is expected. Errors call the option by `name`.
    pub(super) fn set(&self, name: &str, options: &mut Options, value: &OsStr) -> Result<(), UsageError> {
        (self.set)(options, value).ok_or_else(|| {
            let expected = self.expected();
            UsageError::new(match (self.is_too_large)(value) {
                true => format!("value {value:?} for {name} is too large: expected {expected}"),
                false => format!("invalid value {value:?} for {name}: expected {expected}"),
            })
        })
    }

    /// What values it takes.
    pub(super) fn expected(&self) -> String {
        let names = match self.name {
            "fields" => FIELDS.each_ref().map(|field| field.name).join(","),
            "cgroup-metrics" => GROUPS.join(","),
            _ => String::new(),
        };
        format!("{}{names}", self.expected)
    }
}
