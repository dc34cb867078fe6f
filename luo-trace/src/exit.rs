//! The exit statuses of every subcommand: what a script or a CI job decides by.

use std::process::{ExitCode, Termination};

/// How a subcommand ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Exit {
    /// 0: what was asked for was done, and what was checked holds.
    Held = 0,
    /// 1: an invariant is violated, an operation was denied, or an expectation failed.
    Violated = 1,
    /// 2: wrong usage, unreadable input, or an internal error.
    Error = 2,
    /// 3: nothing is violated as far as can be known, but something is missing that could tell.
    Inconclusive = 3,
    /// 4: it cannot work here: no LUO, no privilege.
    CannotWork = 4,
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(self as u8)
    }
}
