//! One row of the table of options, and how the option's value is set.

use std::ffi::OsStr;

use super::options::Options;
use super::usage_error::UsageError;
use crate::cgroupfs::fields::GROUPS;
use crate::smaps::fields::FIELDS;

/// One option. An option with an empty `value` is a flag: it takes no value.
pub(super) struct Spec {
    pub name: &'static str,
    /// The name of the value in `--help`.
    pub value: &'static str,
    /// The default, which is parsed like an argument; empty if there is none.
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

/// Adds a value to the list of a repeatable option, unless the list contains it.
pub(super) fn add_once<T: PartialEq>(value: T, to: &mut Vec<T>) -> Option<()> {
    if !to.contains(&value) {
        to.push(value);
    }
    Some(())
}

impl Spec {
    /// Sets the option to `value`. Fails if the value is not an expected one. The error refers to the option
    /// as `name`.
    pub(super) fn set(&self, name: &str, options: &mut Options, value: &OsStr) -> Result<(), UsageError> {
        (self.set)(options, value).ok_or_else(|| {
            let expected = self.expected();
            UsageError::new(match (self.is_too_large)(value) {
                true => format!("value {value:?} for {name} is too large: expected {expected}"),
                false => format!("invalid value {value:?} for {name}: expected {expected}"),
            })
        })
    }

    /// Describes the values that the option takes.
    pub(super) fn expected(&self) -> String {
        let names = match self.name {
            "fields" => FIELDS.each_ref().map(|field| field.name).join(","),
            "cgroup-metrics" => GROUPS.join(","),
            _ => String::new(),
        };
        format!("{}{names}", self.expected)
    }
}
