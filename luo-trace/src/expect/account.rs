//! What expectations are held against: of each update what it carried, what became of that, and how long it took.

use std::collections::BTreeMap;

use luo_trace_common::text::{Compatible, SessionName};

use super::values::Limit;
use crate::chain::{Boot, Fate};
use crate::checks::Answer;
use crate::judge::Case;
use crate::report::span;
use crate::timeline::{Course, PHASES, Timeline};

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
    /// Whether it was tried to bring it back, and that failed.
    pub failed: bool,
    /// Whether it was finished.
    pub finished: Option<bool>,
}

impl Account {
    /// What a case tells of its updates.
    pub fn of(case: &Case) -> Self {
        let chain = &case.chain;
        let clean: Vec<_> = case
            .records
            .iter()
            .map(|record| record.judgement.gaps().is_empty())
            .collect();
        let timeline = Timeline::of(chain);
        let updates = chain.updates.iter().zip(&timeline.updates).map(|(update, course)| {
            let boot = |place: Option<usize>| {
                let place = place?;
                Some((chain.boots.get(place)?, clean.get(place).copied().unwrap_or_default()))
            };
            let (from, to) = (boot(update.from), boot(update.to));
            Update {
                number: update.number,
                fate: update.fate,
                sessions: sessions(from, to),
                whole: from.or(to).is_some_and(|(_, clean)| clean),
                phases: PHASES
                    .iter()
                    .filter_map(|name| Some((*name, took(course, name)?)))
                    .collect(),
                blackout: course.blackout.map(|ns| across(course, ns)),
            }
        });
        Self {
            updates: updates.collect(),
            whole: clean.iter().all(|&clean| clean),
        }
    }
}

/// The sessions that left one boot and arrived in the next, as far as there are records of either.
fn sessions(from: Option<(&Boot, bool)>, to: Option<(&Boot, bool)>) -> BTreeMap<SessionName, Session> {
    let mut all: BTreeMap<SessionName, Session> = BTreeMap::new();
    if let Some((boot, clean)) = from {
        for line in boot.outgoing.iter() {
            let session = all.entry(line.name).or_default();
            session.whole = clean;
            for (&token, file) in &line.files {
                let known = session.files.entry(token).or_default();
                known.handler = Some(file.handler).filter(|handler| !handler.is_empty());
                known.size = Some(file.size);
            }
        }
    }
    let Some((boot, clean)) = to else { return all };
    for (name, session) in &mut all {
        let line = boot.incoming.get(name);
        session.arrived = if line.is_some() { Some(true) } else { None };
        let known = |happened: bool| if happened || clean { Some(happened) } else { None };
        for (token, file) in &mut session.files {
            let there = line.and_then(|line| line.files.get(token));
            file.retrieved = known(there.is_some_and(|there| there.retrieve.is_some()));
            file.failed = there.is_some_and(|there| there.failures > 0);
            file.finished = known(line.is_some_and(|line| line.finished.is_some()));
        }
    }
    all
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
