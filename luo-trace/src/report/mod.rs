//! What `luo-trace report` and `luo-trace demo` show of an update.

mod text;
mod units;

use std::path::PathBuf;

pub use text::{Style, render};
pub use units::{bytes, count, span};

use crate::timeline::Timeline;

/// An update, and what came of checking its records.
pub struct Report {
    /// The boots on one axis.
    pub timeline: Timeline,
    /// What was checked, for each boot in the timeline's order.
    pub checks: Vec<Check>,
}

/// What checking one record gave.
#[derive(Clone, Debug, Default)]
pub struct Check {
    /// Where the record lies.
    pub journal: PathBuf,
    /// The findings, each ready to be shown.
    pub findings: Vec<String>,
    /// Ids of invariants that hold.
    pub held: Vec<String>,
    /// Ids of invariants that are violated.
    pub violated: Vec<String>,
    /// Ids of invariants that cannot be decided.
    pub unknown: Vec<String>,
    /// What is wrong with the record itself, such as damage.
    pub troubles: Vec<String>,
}
