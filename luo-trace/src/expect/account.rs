//! What expectations are held against: of each update what it carried, what became of that, and how long it took.

use std::collections::BTreeMap;

use luo_trace_common::OWN_SESSION;
use luo_trace_common::text::{Compatible, SessionName};

use super::values::Limit;
use crate::chain::case::Case;
use crate::chain::timeline::{self, Axis, Course, PHASES, Timeline};
use crate::chain::{self, Boot, Fate, FileFate, FileLine, SessionLine};
use crate::expect::formats::Answer;
use crate::text::units::span;

/// What the records tell of the live updates.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// The updates that were tried, in their order.
    pub updates: Vec<Update>,
    /// Whether no update can be missing.
    pub whole: bool,
}

/// What the records tell of one live update.
#[derive(Clone, Debug)]
pub struct Update {
    /// LUO's number of it.
    pub number: Option<u64>,
    /// What became of it.
    pub fate: Fate,
    /// The sessions that it carried.
    pub sessions: BTreeMap<SessionName, Session>,
    /// Whether no session can be missing.
    pub whole: bool,
    /// How long each phase took; one that is not known is missing.
    pub phases: Vec<(&'static str, Took)>,
    /// How long guests had no service, where that is known.
    pub blackout: Option<Took>,
}

/// How long something took, as far as can be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Took {
    /// Nanoseconds.
    pub ns: u64,
    /// How far off that may be, in nanoseconds either way: what is measured over two kernels is as good as their clocks agree.
    pub uncertainty: u64,
}

impl Took {
    /// Whether that is within a limit.
    pub fn within(self, limit: Limit) -> Answer {
        match () {
            () if self.ns.saturating_sub(self.uncertainty) > limit.0 => Answer::Fail,
            () if self.ns.saturating_add(self.uncertainty) > limit.0 => Answer::Inconclusive,
            () => Answer::Pass,
        }
    }
}

impl std::fmt::Display for Took {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&span(self.ns))?;
        match self.uncertainty {
            0 => Ok(()),
            ns => write!(f, " ± {}", span(ns)),
        }
    }
}

impl Update {
    /// Whether it carried anything into the next kernel, as far as is known.
    pub fn left(&self) -> bool {
        self.fate != Fate::Aborted
    }
}

/// One session that an update carried.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// Whether it arrived; `None`: not known.
    pub arrived: Option<bool>,
    /// Its files by token.
    pub files: BTreeMap<u64, File>,
    /// Whether no file can be missing.
    pub whole: bool,
    /// How long it had no service, where that is known.
    pub blackout: Option<Took>,
}

/// One file of a session. What is not known is `None`.
#[derive(Clone, Copy, Debug, Default)]
pub struct File {
    /// Its handler's compatible string.
    pub handler: Option<Compatible>,
    /// Its size in bytes.
    pub size: Option<u64>,
    /// Whether it was brought back.
    pub retrieved: Option<bool>,
    /// The errno of the first try to bring it back that failed, negative.
    pub refused: Option<i64>,
    /// Whether it was finished.
    pub finished: Option<bool>,
}

impl Account {
    /// What a case tells of its updates.
    pub fn of(case: &Case) -> Self {
        let chain = &case.chain;
        let timeline = Timeline::of(chain);
        let updates = chain.updates.iter().zip(&timeline.updates).map(|(update, course)| {
            let sides = Sides::of(case, update);
            let mut sessions = sides.sessions();
            // The recorder's own is not what anybody expects something of.
            sessions.remove(&SessionName::new(OWN_SESSION));
            for (name, session) in &mut sessions {
                session.blackout = sides
                    .blackout(&timeline.axis, update, name)
                    .map(|ns| across(course, ns));
            }
            Update {
                number: update.number,
                fate: update.fate,
                sessions,
                whole: sides.left.is_some_and(|left| left.whole) || sides.came.is_some_and(|came| came.whole),
                phases: PHASES
                    .iter()
                    .filter_map(|name| Some((*name, took(course, name)?)))
                    .collect(),
                blackout: course.blackout.map(|ns| across(course, ns)),
            }
        });
        Self {
            updates: updates.collect(),
            whole: chain.holes.is_empty() && case.records.iter().all(|record| record.judgement.gaps().is_empty()),
        }
    }
}

/// Both kernels of an update, as far as there are records of them.
struct Sides<'a> {
    left: Option<Left<'a>>,
    came: Option<Came<'a>>,
}

/// The kernel that left.
#[derive(Clone, Copy)]
struct Left<'a> {
    boot: &'a Boot,
    /// Everything that left is known: what it has at the end of its record.
    whole: bool,
    /// It jumped into an image that takes nothing along.
    nowhere: bool,
}

/// The kernel that arrived.
#[derive(Clone, Copy)]
struct Came<'a> {
    boot: &'a Boot,
    /// Everything that arrived is known.
    whole: bool,
    /// Its record was ended, so that what is not in it did not happen.
    ended: bool,
}

impl<'a> Sides<'a> {
    fn of(case: &'a Case, update: &chain::Update) -> Self {
        let boots = &case.chain.boots;
        let left = update.from.and_then(|place| boots.get(place)).map(|boot| Left {
            boot,
            whole: update.knows_what_left(boot),
            nowhere: update.carries_nothing(boot),
        });
        let came = update.to.and_then(|place| {
            let (boot, record) = (boots.get(place)?, case.records.get(place)?);
            Some(Came {
                boot,
                whole: update.knows_what_came(boot) && update.direct,
                ended: record.judgement.ending().is_some(),
            })
        });
        Self { left, came }
    }

    /// How long this session had no service.
    fn blackout(&self, axis: &Axis, update: &chain::Update, name: &SessionName) -> Option<u64> {
        let left = (update.from?, self.left?.boot.outgoing.get(name)?);
        let came = (update.to?, self.came?.boot.incoming.get(name)?);
        timeline::blackout(axis, left, came)
    }

    /// The sessions that left or came.
    fn sessions(&self) -> BTreeMap<SessionName, Session> {
        let mut all: BTreeMap<SessionName, Session> = BTreeMap::new();
        if let Some(left) = self.left {
            for line in left.boot.outgoing.iter() {
                let session = all.entry(line.name).or_default();
                session.whole = left.whole;
                session.arrived = (left.whole && left.nowhere).then_some(false);
                line.files.iter().for_each(|(&token, file)| session.learn(token, file));
            }
        }
        let Some(came) = self.came else { return all };
        for line in came.boot.incoming.iter() {
            let session = all.entry(line.name).or_default();
            session.arrived = Some(true);
            session.whole |= line.listed;
            line.files.iter().for_each(|(&token, file)| session.learn(token, file));
        }
        let sure = self.left.is_some_and(|left| left.whole);
        for (name, session) in &mut all {
            let line = came.boot.incoming.get(name);
            if line.is_none() && came.whole && sure {
                session.arrived = Some(false);
            }
            // Neither was, where it is known that it did not arrive.
            let lost = session.arrived.filter(|arrived| !arrived);
            for (token, file) in &mut session.files {
                match line {
                    Some(line) => came.became(line, *token, file),
                    None => (file.retrieved, file.finished) = (lost, lost),
                }
            }
        }
        all
    }
}

impl Came<'_> {
    /// What became of a file here.
    fn became(&self, session: &SessionLine, token: u64, file: &mut File) {
        // One that the user has not named or listed here was not asked for.
        let unknown = FileLine::default();
        let line = session.files.get(&token).unwrap_or(&unknown);
        file.refused = line.refused.filter(|_| line.retrieve.is_none());
        (file.retrieved, file.finished) = match self.boot.fate(session, line) {
            Some(FileFate::Finished) => (Some(true), Some(true)),
            Some(FileFate::Unclaimed) => (Some(false), Some(true)),
            Some(FileFate::Lost) => (Some(false), Some(false)),
            Some(FileFate::Retrieved) if self.ended => (Some(true), Some(false)),
            Some(FileFate::Pending) if self.ended => (Some(false), Some(false)),
            _ => {
                let happened = |stamp: Option<u64>| stamp.map(|_| true);
                (happened(line.retrieve.map(|span| span.end)), happened(session.finished))
            }
        };
    }
}

impl Session {
    /// Takes what one side tells of a file.
    fn learn(&mut self, token: u64, line: &FileLine) {
        let file = self.files.entry(token).or_default();
        if !line.handler.is_empty() {
            file.handler = Some(line.handler);
        }
        // An empty file has size 0, and so has one whose size is not known.
        if line.size > 0 || line.preserve.is_some() || line.retrieve.is_some() {
            file.size = file.size.max(Some(line.size));
        }
    }
}

/// A time that begins in one kernel and ends in the next.
fn across(course: &Course, ns: u64) -> Took {
    let uncertainty = course.link.map_or(0, |link| link.uncertainty);
    Took { ns, uncertainty }
}

/// How long the phase of this name took.
fn took(course: &Course, name: &str) -> Option<Took> {
    let ns = course.phase(name)?;
    // Every other phase lies in one kernel, whose own clock is exact.
    Some(match name {
        "shutdown" => across(course, ns),
        _ => Took { ns, uncertainty: 0 },
    })
}
