//! Policy: what an operator lets pass, as a file says it, and what follows from it. Pure.
//!
//! A [`Policy`] is read from TOML, [compiled](Policy::compile) into what the programs in the kernel decide by, looked over for
//! what its author cannot have meant, and tried on recorded updates. The decision itself is `luo_trace_common::policy`'s,
//! in the kernel and here.

use std::fmt;

use luo_trace_common::policy::{Aspect, CgroupName, Condition, Mode, Operation, RuleName};
use luo_trace_common::text::{Comm, Compatible, SessionName};

use crate::model::Severity;

mod compile;
mod file;
mod lint;
pub mod orders;
mod replay;
pub mod tell;
#[cfg(test)]
mod tests;

pub use compile::{Compiled, SessionPrefix, level};
pub use file::{MAX_FILE, Problem, Problems};
pub use replay::{Circumstances, Replay, Replayed};

/// What may pass. One that was made by [`Policy::read`] fits the tables in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What it does at all.
    pub mode: Mode,
    /// Whether images and reboots are refused while the agent is lost (`on_agent_loss = "closed"`).
    pub closed: bool,
    /// For how long the agent may show no sign of life, in nanoseconds.
    pub stale_after: u64,
    rules: Vec<Rule>,
}

/// A rule of a [`Policy`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name.
    pub name: RuleName,
    /// The operations it is about.
    pub on: Vec<Operation>,
    /// The calls it is about: of every aspect that is named here, one value has to match.
    pub matches: Selection,
    /// The calls it is not about: those that match all that is named here. Nothing named: no exception.
    pub unless: Selection,
    /// What must be so.
    pub when: When,
    /// Whether it refuses; otherwise it looks.
    pub deny: bool,
    /// Whether it applies where it is not known whether it does. `None`: to reboots it does, to nothing else.
    pub unknown_applies: Option<bool>,
    places: Places,
}

/// A place in a policy's file. The smallest one is where nothing more is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line, from 1.
    pub line: usize,
    /// The character in it, from 1.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line.max(1), self.column.max(1))
    }
}

/// Where a rule says what; of what it does not say, where it begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Places {
    rule: Place,
    on: Place,
    matches: Place,
    unless: Place,
    when: Place,
    unknown: Place,
}

/// Values that calls are told apart by. An aspect without a value is not named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Names of the calling thread.
    pub comm: Vec<Comm>,
    /// Real user ids.
    pub uid: Vec<u32>,
    /// Control groups, by their components from the root on; what lies below one matches as well.
    pub cgroup: Vec<Vec<CgroupName>>,
    /// Sessions.
    pub session: Vec<Sessions>,
    /// Handlers.
    pub handler: Vec<Compatible>,
}

/// The sessions that a policy means by one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Sessions {
    /// The one of this name.
    Named(SessionName),
    /// All whose names begin so (`"vm-*"`).
    Beginning(SessionName),
}

/// What must be so for a rule to apply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct When {
    /// The conditions that are answered by yes or no.
    pub simple: Vec<Condition>,
    /// There are more sessions than so many.
    pub sessions_over: Option<u64>,
    /// They have more files than so many.
    pub files_over: Option<u64>,
    /// An invariant of at least this severity is violated.
    pub violated: Option<Severity>,
}

impl Policy {
    /// Its rules, in the order of the file.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }
}

impl Rule {
    /// Whether it applies to an operation of which it is not known whether it does.
    pub fn applies_unknown(&self, operation: Operation) -> bool {
        self.unknown_applies.unwrap_or(operation == Operation::KexecReboot)
    }

    /// Whether only the agent can tell that it applies, after the fact: which handler takes a file is not known when a program
    /// is asked.
    pub fn is_after_the_fact(&self, operation: Operation) -> bool {
        operation == Operation::FilePreserve && self.on.contains(&operation) && self.matches.names(Aspect::Handler)
    }
}

impl Selection {
    /// Whether it tells calls apart by this.
    pub fn names(&self, aspect: Aspect) -> bool {
        match aspect {
            Aspect::Comm => !self.comm.is_empty(),
            Aspect::Uid => !self.uid.is_empty(),
            Aspect::Cgroup => !self.cgroup.is_empty(),
            Aspect::Session => !self.session.is_empty(),
            Aspect::Handler => !self.handler.is_empty(),
        }
    }

    /// Whether it names nothing.
    pub fn is_empty(&self) -> bool {
        !Aspect::ALL.iter().any(|&aspect| self.names(aspect))
    }
}

impl Sessions {
    /// Whether this one is meant.
    pub fn mean(&self, name: &SessionName) -> bool {
        match self {
            Self::Named(wanted) => wanted.as_bytes() == name.as_bytes(),
            Self::Beginning(beginning) => name.as_bytes().starts_with(beginning.as_bytes()),
        }
    }

    /// Whether all that the other one means is meant.
    fn cover(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Beginning(_), Self::Named(name) | Self::Beginning(name)) => self.mean(name),
            _ => self == other,
        }
    }
}

impl When {
    /// Whether it asks for this.
    pub fn names(&self, condition: Condition) -> bool {
        match condition {
            Condition::SessionsOver => self.sessions_over.is_some(),
            Condition::FilesOver => self.files_over.is_some(),
            Condition::InvariantViolated => self.violated.is_some(),
            condition => self.simple.contains(&condition),
        }
    }
}
