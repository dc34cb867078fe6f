//! What the model found: a promise that was not kept, about what, and what to do.

use std::borrow::Cow;
use std::fmt;

use luo_trace_common::text::{Compatible, SessionName};
use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::counts::Direction;
use super::invariants::Invariant;
use crate::event::EventId;
use crate::text::hash::fnv64;

/// What a record is of, without which its events have no names of their own: [`Id`] takes it in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin(String);

impl Origin {
    /// A run of an agent: of this boot, in which it began at this time of `CLOCK_MONOTONIC`, in nanoseconds. Each run counts its events
    /// anew.
    pub fn of_run(boot_id: &str, began_ns: u64) -> Self {
        Self(format!("{boot_id}@{began_ns}"))
    }

    /// A live update: from one boot to another; `None`: there is no record of it.
    pub fn of_update(from: Option<&str>, to: Option<&str>) -> Self {
        Self(format!("{}>{}", from.unwrap_or_default(), to.unwrap_or_default()))
    }
}

/// Names a finding or a refusal: the same for the same one, wherever and whenever it is told, and another for every other. Its text
/// is 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(u64);

impl Id {
    /// The id of what these events prove about an object, of those that say the same the one of this number.
    fn of_finding(origin: &Origin, invariant: Invariant, object: &Subject, events: &[Evidence], number: usize) -> Self {
        let events: Vec<_> = events.iter().map(|evidence| evidence.event.to_string()).collect();
        let (origin, invariant, events) = (&origin.0, invariant.id(), events.join(","));
        Self(fnv64(format!("{origin}/{invariant}/{object}/{events}/{number}")))
    }

    /// The id of the refusal that this event of a boot tells of, which came at this time of `CLOCK_MONOTONIC`, in nanoseconds.
    pub fn of_refusal(boot_id: &str, event: EventId, time_ns: u64) -> Self {
        Self(fnv64(format!("{boot_id}/refusal/{event}/{time_ns}")))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A violation of an invariant. Its JSON form is stable: `id`, `invariant`, `severity`, `object`, `expected`, `seen`, `advice`,
/// `evidence` (`"cpu:seq"` of each event, and `"boot/cpu:seq"` where it takes more than one boot's) and `time_ns`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its name.
    pub id: Id,
    /// Which promise was broken.
    pub invariant: Invariant,
    /// What it is about.
    pub object: Subject,
    /// What should have been.
    pub expected: Cow<'static, str>,
    /// What was.
    pub seen: Cow<'static, str>,
    /// What an operator should do.
    pub advice: &'static str,
    /// The events that prove it, the earliest first.
    pub evidence: Vec<Evidence>,
    /// When it was certain, in nanoseconds of `CLOCK_MONOTONIC`; where it takes two boots, of the later
    /// one.
    pub time_ns: u64,
}

impl Finding {
    /// The same under its own id. `before` are those that were found with it, and `proof` so many of its first events as any record
    /// has that shows it.
    #[must_use]
    pub(crate) fn named(mut self, origin: &Origin, before: &[Self], proof: usize) -> Self {
        let proof = |finding: &Self| finding.evidence.iter().take(proof).copied().collect::<Vec<_>>();
        let events = proof(&self);
        let same =
            |other: &&Self| (other.invariant, other.object) == (self.invariant, self.object) && proof(other) == events;
        let number = before.iter().filter(same).count();
        self.id = Id::of_finding(origin, self.invariant, &self.object, &events, number);
        self
    }
}

/// An event that proves something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Evidence {
    /// Its boot's place in the chain, from 0, where several boots have a part in it. It is shown from 1.
    pub boot: Option<usize>,
    /// Which event of that boot's record.
    pub event: EventId,
}

impl From<EventId> for Evidence {
    fn from(event: EventId) -> Self {
        Self { boot: None, event }
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.boot {
            Some(boot) => write!(f, "{}/{}", boot + 1, self.event),
            None => self.event.fmt(f),
        }
    }
}

impl Serialize for Evidence {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What a finding is about. Names are escaped where they are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// A session.
    Session {
        /// Which way it goes.
        direction: Direction,
        /// Its name; empty: not known.
        name: SessionName,
    },
    /// A file of a session.
    File {
        /// Its session's name; empty: not known.
        session: SessionName,
        /// Its token; `None`: not known.
        token: Option<u64>,
    },
    /// A global state that files share.
    Flb {
        /// Which way it goes.
        direction: Direction,
        /// Its compatible string.
        name: Compatible,
    },
    /// The live update of this boot.
    Update,
    /// `/dev/liveupdate`.
    Device,
    /// Memory that KHO keeps.
    Memory,
    /// A subtree of what KHO tells the next kernel.
    Subtree {
        /// Its name.
        name: Compatible,
    },
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Session { direction, name } => write!(f, "{direction} session \"{name}\""),
            Subject::File { session, token: None } => write!(f, "a file of session \"{session}\""),
            Subject::File {
                session,
                token: Some(token),
            } => write!(f, "file {token:#x} of session \"{session}\""),
            Subject::Flb { direction, name } => write!(f, "{direction} global state \"{name}\""),
            Subject::Update => f.write_str("the live update"),
            Subject::Device => f.write_str("/dev/liveupdate"),
            Subject::Memory => f.write_str("preserved memory"),
            Subject::Subtree { name } => write!(f, "KHO subtree \"{name}\""),
        }
    }
}

impl fmt::Display for Finding {
    /// One paragraph for a terminal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({}): {}. Expected: {}. Seen: {}. {} Evidence: events",
            self.invariant.id(),
            self.invariant.severity().name(),
            self.object,
            self.expected,
            self.seen,
            self.advice,
        )?;
        for (i, id) in self.evidence.iter().enumerate() {
            write!(f, "{} {id}", if i > 0 { "," } else { "" })?;
        }
        write!(f, ". Id: {}.", self.id)
    }
}

impl Serialize for Finding {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut json = serializer.serialize_struct("Finding", 9)?;
        json.serialize_field("id", &self.id)?;
        json.serialize_field("invariant", self.invariant.id())?;
        json.serialize_field("severity", self.invariant.severity().name())?;
        json.serialize_field("object", &self.object.to_string())?;
        json.serialize_field("expected", &self.expected)?;
        json.serialize_field("seen", &self.seen)?;
        json.serialize_field("advice", &self.advice)?;
        json.serialize_field("evidence", &self.evidence)?;
        json.serialize_field("time_ns", &self.time_ns)?;
        json.end()
    }
}
