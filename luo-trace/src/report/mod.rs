//! What `luo-trace report` and `luo-trace demo` show of an update.

mod text;
mod units;

pub use text::{Style, render};
pub use units::{bytes, count, span};

use crate::judge::Case;
use crate::timeline::Timeline;

/// A chain of boots, and when what happened in it.
#[derive(Clone, Debug)]
pub struct Report {
    /// The boots, and what came of checking their records.
    pub case: Case,
    /// The boots on one axis.
    pub timeline: Timeline,
}

impl Report {
    /// The report of a case.
    pub fn of(case: Case) -> Self {
        let timeline = Timeline::of(&case.chain);
        Self { case, timeline }
    }
}
