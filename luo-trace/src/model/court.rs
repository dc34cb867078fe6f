//! Keeps account of what is decided about each invariant, and of suspicions that wait for the event that clears or proves
//! them.

use luo_trace_common::events::KhoCall;
use luo_trace_common::hooks::Hook;
use serde::Serialize;

use super::Coverage;
use super::finding::{Finding, Origin};
use super::invariants::{COUNT, Invariant};
use super::scene::Scene;
use super::state::State;
use crate::event::Body;

/// How long a suspicion waits, in nanoseconds of event time, for the end of an operation that would clear it. Events are
/// sent when operations end, so the one that clears may come after the one that looks wrong.
pub(crate) const SETTLE_NS: u64 = 1_000_000_000;

/// More suspicions than this do not wait at a time: a record that raises as many in a second is no kernel's.
const MOST_SUSPICIONS: usize = 1024;

/// What is known about an invariant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It held wherever it could have been broken.
    Ok,
    /// It was broken at least once.
    Violated,
    /// It was not seen broken, but the record has holes, or a hook that it needs is missing.
    Unknown,
}

impl Status {
    /// The name users see.
    pub const fn name(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Violated => "violated",
            Status::Unknown => "unknown",
        }
    }
}

/// The verdict on one invariant, with the number of objects behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Which invariant, in JSON by its id.
    #[serde(serialize_with = "id")]
    pub invariant: Invariant,
    /// What is known about it.
    pub status: Status,
    /// For how many objects it held.
    pub ok: u64,
    /// How often it was broken.
    pub violated: u64,
    /// For how many objects it cannot be told.
    pub undecidable: u64,
    /// For how many objects it is not decided yet; at the end of a record, those that were still alive.
    pub open: u64,
    /// Ids of the hooks that are missing for it.
    pub missing_hooks: Vec<&'static str>,
    /// Ids of the hooks it needs that are switched off.
    pub switched_off_hooks: Vec<&'static str>,
}

impl Verdict {
    /// Whether nothing but a switch keeps it from being decided: it was not watched, and no option asked for that.
    pub fn is_unwatched(&self) -> bool {
        self.status == Status::Unknown
            && !self.switched_off_hooks.is_empty()
            && self.missing_hooks.is_empty()
            && self.undecidable == 0
    }
}

fn id<S: serde::Serializer>(invariant: &Invariant, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(invariant.id())
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Tally {
    ok: u64,
    violated: u64,
    undecidable: u64,
    open: u64,
}

/// What a suspicion waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// The end of a release of the session of this serial number that was under way. In time it is proved.
    Release(u64),
    /// The end of giving back the files of the session of this serial number. It may take any time.
    GivingBack(u64),
    /// The end of a preserve that uses the global state of this number. None is under way when no session is open.
    User(usize),
    /// The same, of global state that a preserve left behind which failed.
    Joiner(usize),
    /// The end of an operation that changes the users of the global state of this number. In time it is proved.
    Users(usize),
    /// The end of a close of the device that was under way. In time it is proved, or by a close that began later where none of those
    /// who have opened it since, so many, can have closed it.
    Close(u32),
    /// The end of an operation that was under way and changes the files of the session of this id. In time it is proved.
    Files(u64),
    /// The end of an operation that was under way and makes or unmakes sessions. In time it is proved.
    Sessions,
    /// The removal of a subtree that was under way. In time it is proved.
    Removal,
}

/// Something that looks wrong, unless an operation is still under way that explains it.
#[derive(Debug)]
struct Suspicion {
    waits: Waits,
    since: u64,
    finding: Finding,
}

#[derive(Debug)]
pub(super) struct Court {
    origin: Origin,
    coverage: Coverage,
    tallies: [Tally; COUNT],
    /// Whether the record has holes: then nothing that was not seen can be called ok.
    holes: bool,
    suspicions: Vec<Suspicion>,
    pub(super) found: Vec<Finding>,
}

impl Court {
    pub(super) fn new(coverage: Coverage, origin: Origin) -> Self {
        Self {
            origin,
            coverage,
            tallies: [Tally::default(); COUNT],
            holes: false,
            suspicions: Vec::new(),
            found: Vec::new(),
        }
    }

    /// These hooks see from now on, and no others.
    pub(super) fn see(&mut self, coverage: Coverage) {
        self.coverage = coverage;
    }

    /// Whether nothing of what this hook has to tell is missing.
    pub(super) fn sees(&self, hook: Hook) -> bool {
        self.coverage.has(hook)
    }

    /// An object is known from its beginning; its end will decide.
    pub(super) fn open(&mut self, invariant: Invariant) {
        self.tallies[invariant as usize].open += 1;
    }

    /// An open object kept the promise.
    pub(super) fn close(&mut self, invariant: Invariant) {
        self.unopen(invariant);
        self.hold(invariant);
    }

    /// The promise was kept, and that is all there is to say about it.
    pub(super) fn hold(&mut self, invariant: Invariant) {
        self.tallies[invariant as usize].ok += 1;
    }

    /// An open object is not open any more; what follows tells how it ended.
    pub(super) fn unopen(&mut self, invariant: Invariant) {
        let tally = &mut self.tallies[invariant as usize];
        tally.open = tally.open.saturating_sub(1);
    }

    /// It cannot be told whether the promise was kept.
    pub(super) fn undecidable(&mut self, invariant: Invariant) {
        self.tallies[invariant as usize].undecidable += 1;
    }

    /// The promise was broken.
    pub(super) fn violate(&mut self, finding: Finding) {
        self.tallies[finding.invariant as usize].violated += 1;
        let finding = finding.named(&self.origin, &self.found, usize::MAX);
        self.found.push(finding);
    }

    /// The promise looks broken since `since`.
    pub(super) fn suspect(&mut self, waits: Waits, since: u64, finding: Finding) {
        if self.suspicions.len() >= MOST_SUSPICIONS {
            return self.undecidable(finding.invariant);
        }
        self.suspicions.push(Suspicion { waits, since, finding });
    }

    /// Whether something waits for this.
    pub(super) fn suspects(&self, waits: Waits) -> bool {
        self.suspicions.iter().any(|suspicion| suspicion.waits == waits)
    }

    /// A user came, or the global state went: what waits for that is well. Where it waits for a user, it is open again, as
    /// it was before it was suspected.
    pub(super) fn clear(&mut self, waits: Waits) {
        if self.suspicions.is_empty() {
            return;
        }
        let tallies = &mut self.tallies;
        self.suspicions.retain(|suspicion| {
            let cleared = suspicion.waits == waits;
            let tally = &mut tallies[suspicion.finding.invariant as usize];
            match waits {
                _ if !cleared => {}
                Waits::User(_) => tally.open += 1,
                _ => tally.ok += 1,
            }
            !cleared
        });
    }

    /// What was open, or suspected, depends on events that are lost.
    pub(super) fn lose(&mut self) {
        self.holes = true;
        for tally in &mut self.tallies {
            tally.undecidable += std::mem::take(&mut tally.open);
        }
        for suspicion in self.suspicions.drain(..) {
            self.tallies[suspicion.finding.invariant as usize].undecidable += 1;
        }
    }

    /// Decides the suspicions that an event clears or proves, before the event takes effect.
    pub(super) fn weigh(&mut self, state: &State, scene: &Scene) {
        if self.suspicions.is_empty() {
            return;
        }
        for mut suspicion in std::mem::take(&mut self.suspicions) {
            match suspicion.judge(state, scene) {
                None => self.suspicions.push(suspicion),
                Some(judgement) => self.pass(judgement, suspicion.finding, scene),
            }
        }
    }

    fn pass(&mut self, judgement: Judgement, mut finding: Finding, scene: &Scene) {
        match judgement {
            Judgement::Cleared => self.hold(finding.invariant),
            Judgement::Undecidable => self.undecidable(finding.invariant),
            Judgement::Proved => {
                finding.time_ns = scene.event.header.ktime;
                finding.evidence.push(scene.event.id().into());
                self.violate(finding);
            }
            Judgement::Settled => {
                finding.time_ns = scene.event.header.ktime;
                self.violate(finding);
            }
        }
    }

    /// The record ends: what has waited long enough is proved, and the rest is not.
    pub(super) fn finish(&mut self, state: &State) {
        for suspicion in std::mem::take(&mut self.suspicions) {
            if suspicion.has_settled(state, true) {
                self.violate(suspicion.finding);
            } else {
                self.undecidable(suspicion.finding.invariant);
            }
        }
        // The record ends with the jump, or in the time between.
        for invariant in [Invariant::FreezeNoReturn, Invariant::FrozenImmutable] {
            let departure = &mut self.tallies[invariant as usize];
            departure.ok += std::mem::take(&mut departure.open);
        }
    }

    /// All that is decided and suspected, in numbers.
    #[cfg(test)]
    pub(super) fn account(&self) -> ([Tally; COUNT], usize, usize) {
        (self.tallies, self.suspicions.len(), self.found.len())
    }

    pub(super) fn verdict(&self, invariant: Invariant) -> Verdict {
        let tally = self.tallies[invariant as usize];
        let absent = || {
            let wanted = invariant.needs().iter().chain(invariant.also());
            wanted.filter(|&&hook| !self.coverage.has(hook))
        };
        let ids = |off: bool| {
            let those = absent().filter(move |&&hook| self.coverage.is_switched_off(hook) == off);
            those.map(|hook| hook.id()).collect()
        };
        let status = if tally.violated > 0 {
            Status::Violated
        } else if tally.undecidable > 0 || self.holes || absent().next().is_some() {
            Status::Unknown
        } else {
            Status::Ok
        };
        Verdict {
            invariant,
            status,
            ok: tally.ok,
            violated: tally.violated,
            undecidable: tally.undecidable,
            open: tally.open,
            missing_hooks: ids(false),
            switched_off_hooks: ids(true),
        }
    }
}

enum Judgement {
    Cleared,
    Undecidable,
    /// By this event.
    Proved,
    /// By the time that passed.
    Settled,
}

impl Suspicion {
    fn judge(&mut self, state: &State, scene: &Scene) -> Option<Judgement> {
        match self.waits {
            Waits::Release(serial) | Waits::GivingBack(serial) if scene.is_operation_on(serial) => {
                let Some(start) = scene.moment.start else {
                    return Some(Judgement::Undecidable);
                };
                if start > self.since {
                    return Some(Judgement::Proved);
                }
                let ends = match scene.event.body {
                    Body::SessionRelease(p) => p.outcome.is_ok(),
                    Body::FilesUnpreserve(_) => matches!(self.waits, Waits::GivingBack(_)),
                    _ => false,
                };
                ends.then_some(Judgement::Cleared)
            }
            Waits::Files(id)
                if scene.event.body.session().is_some_and(|s| s.id == id)
                    && !matches!(scene.event.body, Body::FileCallback(..) | Body::KhoBalance(_)) =>
            {
                self.ends(scene)
            }
            Waits::Close(since) => self.close(since, state, scene),
            _ if self.is_touched(state, scene) => self.ends(scene).or_else(|| self.settled(state)),
            _ => self.settled(state),
        }
    }

    /// `since` have opened the device since the first opener, and may have it open.
    fn close(&mut self, since: u32, state: &State, scene: &Scene) -> Option<Judgement> {
        let judged = match &scene.event.body {
            Body::DeviceOpen(p) if p.outcome.is_ok() => {
                self.waits = Waits::Close(since.saturating_add(1));
                None
            }
            Body::DeviceRelease(_) => self.ends(scene).or_else(|| {
                self.waits = Waits::Close(since.saturating_sub(1));
                (since == 0).then_some(Judgement::Proved)
            }),
            _ => None,
        };
        judged.or_else(|| self.settled(state))
    }

    /// Whether this may be the end of what it waits for, where any operation of a kind may be.
    fn is_touched(&self, state: &State, scene: &Scene) -> bool {
        let body = &scene.event.body;
        match self.waits {
            Waits::Sessions => matches!(
                body,
                Body::SessionCreate(_) | Body::SessionRelease(_) | Body::FilesDeserialize(_)
            ),
            Waits::Removal => matches!(body, Body::KhoOp(KhoCall::RemoveSubtree, _)),
            Waits::Users(flb) => {
                let address = match body {
                    Body::FlbPreserve(_) | Body::FlbUnpreserve(_) => return true,
                    Body::FlbGet(p) | Body::FlbPut(p) => p.flb,
                    Body::FlbCallback(_, p) => p.flb,
                    _ => return false,
                };
                state.flbs.get(address).is_some_and(|(i, _)| i == flb)
            }
            _ => false,
        }
    }

    fn settled(&self, state: &State) -> Option<Judgement> {
        self.has_settled(state, false).then_some(Judgement::Settled)
    }

    /// Cleared by an operation that was under way when it came up.
    fn ends(&self, scene: &Scene) -> Option<Judgement> {
        match scene.moment.start {
            None => Some(Judgement::Undecidable),
            Some(start) => (start <= self.since).then_some(Judgement::Cleared),
        }
    }

    /// Whether nothing can come any more that would clear it.
    fn has_settled(&self, state: &State, at_end: bool) -> bool {
        let waited = state.now() >= self.since.saturating_add(SETTLE_NS);
        match self.waits {
            Waits::Release(_)
            | Waits::Close(_)
            | Waits::Files(_)
            | Waits::Sessions
            | Waits::Removal
            | Waits::Users(_) => waited,
            Waits::GivingBack(_) => false,
            Waits::User(_) | Waits::Joiner(_) => state.is_idle() && (waited || at_end),
        }
    }
}
