//! The file of expectations, as it is written. Every key is documented in `luo-trace/ci/README.md`.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;
use toml::value::Datetime;

use super::values::{Count, Handler, Limit, Sessions, Size, Token};
use crate::chain::timeline;
use crate::model::{Invariant, Severity};

/// What the recorded updates have to be like. The default expects nothing but that every promise was kept.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expectations {
    /// What must have become of the updates.
    pub outcome: Option<Spanned<Outcomes>>,
    /// How many updates must have been tried.
    pub updates: Option<Spanned<Count>>,
    /// How long guests may have had no service, in each update.
    pub blackout: Option<Spanned<Limit>>,
    /// How long each phase may have taken, in each update.
    #[serde(default)]
    pub phases: BTreeMap<PhaseName, Spanned<Limit>>,
    /// How many sessions each update must carry.
    pub sessions: Option<Spanned<Count>>,
    /// How many files each update must carry.
    pub files: Option<Spanned<Count>>,
    /// How many bytes all files of an update must have.
    pub size: Option<Spanned<Size>>,
    /// Whether every file of every session must be retrieved.
    pub retrieved: Option<Spanned<bool>>,
    /// Whether every file of every session must be finished.
    pub finished: Option<Spanned<bool>>,
    /// The sessions that each update must carry.
    #[serde(default)]
    pub session: Vec<Spanned<Session>>,
    /// The least severity of a finding that fails.
    #[serde(default)]
    pub fail_on: FailOn,
    /// Whether what cannot be told because the record has holes is let pass.
    #[serde(default)]
    pub allow_loss: bool,
    /// Invariants that may be violated for a while.
    #[serde(default)]
    pub allow: Vec<Spanned<Allowance>>,
}

/// What must have become of the updates.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "WrittenOutcomes")]
pub enum Outcomes {
    /// None must have been tried.
    None,
    /// At least one, and each of them this.
    Each(Kind),
    /// So many, and each of them this, in their order.
    InOrder(Vec<Kind>),
}

/// How an update may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The next kernel took over.
    Completed,
    /// The kernel that tried it went on.
    Aborted,
}

impl Kind {
    /// The name users see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Aborted => "aborted",
        }
    }
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected \"completed\", \"aborted\", \"none\", or a list such as [\"aborted\", \"completed\"]"
)]
enum WrittenOutcomes {
    One(OneOutcome),
    Many(Vec<Kind>),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum OneOutcome {
    Completed,
    Aborted,
    None,
}

impl TryFrom<WrittenOutcomes> for Outcomes {
    type Error = String;

    fn try_from(written: WrittenOutcomes) -> Result<Self, String> {
        Ok(match written {
            WrittenOutcomes::One(OneOutcome::None) => Self::None,
            WrittenOutcomes::One(OneOutcome::Completed) => Self::Each(Kind::Completed),
            WrittenOutcomes::One(OneOutcome::Aborted) => Self::Each(Kind::Aborted),
            WrittenOutcomes::Many(kinds) if kinds.is_empty() => {
                return Err("the list of outcomes is empty; for no update, write \"none\"".into());
            }
            WrittenOutcomes::Many(kinds) => Self::InOrder(kinds),
        })
    }
}

/// A phase of an update.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct PhaseName(pub String);

impl TryFrom<String> for PhaseName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        if timeline::PHASES.contains(&name.as_str()) {
            return Ok(Self(name));
        }
        let known = timeline::PHASES.join(", ");
        Err(format!("there is no phase {name:?}; there are {known}"))
    }
}

/// What must be true of a session, or of each of some.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "WrittenSession")]
pub struct Session {
    /// Which are meant.
    pub which: Sessions,
    /// How many of them an update must carry.
    pub count: Option<Count>,
    /// How many files each has.
    pub files: Option<Count>,
    /// The tokens of its files, all of them.
    pub tokens: Option<Vec<Token>>,
    /// The handlers of its files, all of them.
    pub handlers: Option<Vec<Handler>>,
    /// How many bytes its files have together.
    pub size: Option<Size>,
    /// How many bytes each of its files has.
    pub file_size: Option<Size>,
    /// Whether all its files must be retrieved, or none.
    pub retrieved: Option<bool>,
    /// Whether all its files must be finished, or none.
    pub finished: Option<bool>,
    /// How long it may have had no service.
    pub blackout: Option<Limit>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenSession {
    name: Option<String>,
    #[serde(rename = "match")]
    pattern: Option<String>,
    count: Option<Count>,
    files: Option<Count>,
    tokens: Option<Vec<Token>>,
    handlers: Option<Vec<Handler>>,
    size: Option<Size>,
    file_size: Option<Size>,
    retrieved: Option<bool>,
    finished: Option<bool>,
    blackout: Option<Limit>,
}

impl TryFrom<WrittenSession> for Session {
    type Error = String;

    fn try_from(written: WrittenSession) -> Result<Self, String> {
        let which = match (&written.name, &written.pattern) {
            (Some(name), None) => Sessions::named(name)?,
            (None, Some(pattern)) => Sessions::matching(pattern)?,
            _ => return Err("a [[session]] says either name = \"vm\" or match = \"vm-*\"".into()),
        };
        Ok(Self {
            which,
            count: written.count,
            files: written.files,
            tokens: written.tokens,
            handlers: written.handlers,
            size: written.size,
            file_size: written.file_size,
            retrieved: written.retrieved,
            finished: written.finished,
            blackout: written.blackout,
        })
    }
}

/// The least severity of a finding that fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailOn {
    /// Every finding fails.
    #[default]
    Warning,
    /// What userspace did to hurt itself later is let pass.
    Error,
    /// Only lost state fails.
    Critical,
}

impl FailOn {
    /// Whether a finding of this severity fails.
    pub fn fails(self, severity: Severity) -> bool {
        let least = match self {
            Self::Warning => Severity::Warning,
            Self::Error => Severity::Error,
            Self::Critical => Severity::Critical,
        };
        severity >= least
    }
}

/// An invariant that may be violated for a while.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "WrittenAllowance")]
pub struct Allowance {
    /// Which.
    pub invariant: Invariant,
    /// Why.
    pub reason: String,
    /// The last day on which it may.
    pub until: Day,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenAllowance {
    invariant: String,
    reason: String,
    until: Datetime,
}

impl TryFrom<WrittenAllowance> for Allowance {
    type Error = String;

    fn try_from(written: WrittenAllowance) -> Result<Self, String> {
        let id = &written.invariant;
        let invariant = Invariant::ALL.iter().copied().find(|invariant| invariant.id() == id);
        let Some(invariant) = invariant else {
            return Err(format!(
                "there is no invariant {id:?}; `luo-trace invariants` lists them"
            ));
        };
        if written.reason.trim().is_empty() {
            return Err(format!(
                "the allowance of {id} has no reason; say why, for the person who finds it later"
            ));
        }
        let (Some(date), None, None) = (written.until.date, written.until.time, written.until.offset) else {
            return Err(format!(
                "the allowance of {id} ends on a day, such as until = 2027-01-31"
            ));
        };
        Ok(Self {
            invariant,
            reason: written.reason,
            until: Day {
                year: date.year.into(),
                month: date.month,
                day: date.day,
            },
        })
    }
}

/// A day of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Day {
    /// The year.
    pub year: i32,
    /// The month, from 1.
    pub month: u8,
    /// The day of the month, from 1.
    pub day: u8,
}

impl std::fmt::Display for Day {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}
