//! The answers of `luo-trace check`, one by one, and the forms in which a CI takes them.
//!
//! Everything that is checked is one [`Check`] with a name and an [`Answer`]. Every form prints the same list.

mod github;
#[cfg(feature = "agent")]
mod junit;
mod ktap;
mod sarif;
#[cfg(test)]
mod tests;

pub use github::github;
#[cfg(feature = "agent")]
pub use junit::junit;
pub use ktap::ktap;
pub use sarif::sarif;

use serde::Serialize;

use crate::chain::case::Conclusion;
use crate::model::Finding;

/// One thing that was checked. Its JSON form is stable: `group`, `name`, `answer`, `message`, `findings`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What kind of thing it is.
    pub group: Group,
    /// What was checked: one line, escaped, and the same in every run of the same expectations.
    pub name: String,
    /// What came of it.
    pub answer: Answer,
    /// Why, in a sentence; one line, escaped.
    pub message: String,
    /// What was found against it, in JSON by the ids.
    #[serde(serialize_with = "ids")]
    pub findings: Vec<Finding>,
    /// Where it is asked for in the file of expectations, as a line from 1.
    #[serde(skip)]
    pub line: Option<usize>,
}

fn ids<S: serde::Serializer>(findings: &[Finding], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(findings.iter().map(|finding| finding.id))
}

/// What kind of thing is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// Whether a journal is a full proof.
    Record,
    /// A promise that LUO makes.
    Invariant,
    /// What a file of expectations asks for.
    Expectation,
}

impl Group {
    /// Every group, in the order in which they are shown.
    pub const ALL: [Self; 3] = [Self::Record, Self::Invariant, Self::Expectation];

    /// The name users see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::Invariant => "invariant",
            Self::Expectation => "expectation",
        }
    }
}

/// What came of a check, the better first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// It is as it should be.
    Pass,
    /// The user did not want to know: what would tell was switched off, or its loss is allowed.
    Skip,
    /// It cannot be told, since something is missing that could tell.
    Inconclusive,
    /// It is not as it should be.
    Fail,
}

impl Answer {
    /// The name users see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Skip => "skip",
            Self::Inconclusive => "inconclusive",
            Self::Fail => "fail",
        }
    }
}

/// What a list of checks comes to: the worst answer counts.
pub fn outcome(checks: &[Check]) -> Conclusion {
    match checks.iter().map(|check| check.answer).max() {
        Some(Answer::Fail) => Conclusion::Violated,
        Some(Answer::Inconclusive) => Conclusion::Inconclusive,
        Some(Answer::Skip | Answer::Pass) | None => Conclusion::Held,
    }
}
