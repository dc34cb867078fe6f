//! What `luo-trace report` and `luo-trace demo` show of an update.

mod text;
mod units;

use std::path::PathBuf;

pub use text::{Style, render};
pub use units::{bytes, count, span};

use crate::judge::Judgement;
use crate::timeline::Timeline;

/// An update, and what came of checking its records.
pub struct Report {
    /// The boots on one axis.
    pub timeline: Timeline,
    /// What was checked, for each boot in the timeline's order.
    pub checks: Vec<Check>,
}

/// What checking one record gave.
#[derive(Clone, Debug)]
pub struct Check {
    /// Where the record lies.
    pub journal: PathBuf,
    /// What it proves.
    pub judgement: Judgement,
}
