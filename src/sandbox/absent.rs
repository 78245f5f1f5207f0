//! No sandbox: only Linux has one. Elsewhere the program reads recordings, which takes no rights.

#[allow(dead_code, reason = "nothing reads what the sandbox must allow")]
#[path = "needs.rs"]
mod needs;

pub use self::needs::Needs;

/// Gives up nothing.
pub fn enter(_: &Needs) {}
