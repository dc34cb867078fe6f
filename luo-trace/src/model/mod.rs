//! The model: what LUO's sessions, files and global states are now, and whether the promises of a live update were kept.
//!
//! It is pure: time arrives in events, nothing goes in or out but by [`Model::apply`], and the same events always give the
//! same findings, live or replayed. Events tell of operations at their end and operations overlap, so what looks wrong may
//! be explained by one that ends later: such suspicions wait. Loss is never an alarm: after a gap in the record, whatever
//! depends on the lost part is undecidable.
//!
//! Its files know each other in a circle, on purpose: an invariant is one row of the catalogue and one function, which asks the state
//! and tells the court, and the state's changes call those functions where they happen. Cutting the circle would split each invariant
//! over two places.

use luo_trace_common::OWN_SESSION;
use luo_trace_common::hooks::Hook;
use luo_trace_common::text::SessionName;

use crate::event::{Body, Event};

mod counts;
mod court;
mod device;
mod finding;
mod flbs;
mod handover;
mod images;
mod index;
mod invariants;
mod objects;
mod pages;
mod scene;
mod snapshot;
mod state;
mod tasks;
#[cfg(test)]
mod tests;

pub use counts::{Counts, Direction, FileCount, FileState, FlbCount};
pub use court::{Status, Verdict};
pub use finding::{Evidence, Finding, Id, Origin, Subject};
pub use handover::WaitingView;
pub use invariants::{Invariant, Severity};
pub use objects::{FileView, SessionState, SessionView, Task};

pub(crate) use court::SETTLE_NS;
pub(crate) use snapshot::Walk;
pub(crate) use state::BLINK_NS;

use court::Court;
use invariants::Asked;
use state::State;

/// Keys are numbers and short names, and some of those who choose them may mean harm: the hasher is fast for such, and
/// seeded.
type HashMap<K, V> = std::collections::HashMap<K, V, ahash::RandomState>;

/// The hooks that told all they had to while the record was made: what the others would have told is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    covered: u64,
    switched_off: u64,
}

impl Coverage {
    /// Every hook.
    pub fn all() -> Self {
        Hook::ALL.iter().copied().collect()
    }

    /// Whether nothing of what this hook has to tell was missed.
    pub fn has(self, hook: Hook) -> bool {
        self.covered & bit(hook) != 0
    }

    /// Whether this hook is not there because no option asked for it.
    pub fn is_switched_off(self, hook: Hook) -> bool {
        self.switched_off & bit(hook) != 0
    }

    /// The same without a hook.
    #[must_use]
    pub fn without(self, hook: Hook) -> Self {
        let covered = self.covered & !bit(hook);
        Self { covered, ..self }
    }

    /// What both told all of.
    #[must_use]
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            covered: self.covered & other.covered,
            switched_off: self.switched_off | other.switched_off,
        }
    }

    /// The same without the hooks whose bits are set, as [`HooksBlind`] has them.
    ///
    /// [`HooksBlind`]: luo_trace_common::events::HooksBlind
    #[must_use]
    pub(crate) fn but_for(self, blind: u64) -> Self {
        let covered = self.covered & !blind;
        Self { covered, ..self }
    }

    /// The same with these hooks switched off.
    #[must_use]
    pub fn switched_off(self, hooks: impl IntoIterator<Item = Hook>) -> Self {
        hooks.into_iter().fold(self, |coverage, hook| Self {
            covered: coverage.covered & !bit(hook),
            switched_off: coverage.switched_off | bit(hook),
        })
    }
}

impl FromIterator<Hook> for Coverage {
    fn from_iter<I: IntoIterator<Item = Hook>>(hooks: I) -> Self {
        Self {
            covered: hooks.into_iter().fold(0, |bits, hook| bits | bit(hook)),
            switched_off: 0,
        }
    }
}

fn bit(hook: Hook) -> u64 {
    1 << hook as u32
}

/// LUO's state and the judgement of it, over one boot.
#[derive(Debug)]
pub struct Model {
    state: State,
    court: Court,
    /// What the hooks tell all of while each that is attached sees.
    attached: Coverage,
    /// The invariants that can be decided with the hooks that see now.
    asked: Asked,
}

impl Model {
    /// A model that has seen nothing yet. What happened before its first event is unknown.
    pub fn new(coverage: &Coverage) -> Self {
        Self::of(coverage, Origin::default())
    }

    /// The same of a record whose origin is known.
    pub fn of(coverage: &Coverage, origin: Origin) -> Self {
        Self {
            state: State::default(),
            court: Court::new(*coverage, origin),
            attached: *coverage,
            asked: Asked::with(*coverage),
        }
    }

    /// The hooks of these bits see nothing from now on, and all others do: what the blind ones would have told, before as after, may
    /// be missing.
    fn blind(&mut self, hooks: u64, event: &Event) {
        let coverage = self.attached.but_for(hooks);
        self.asked = Asked::with(coverage);
        self.court.see(coverage);
        self.court.lose();
        self.state.lose(event);
    }

    /// Takes the next event of the record, in the order of the ring or the journal, and gives what it proves.
    pub fn apply(&mut self, event: &Event) -> &[Finding] {
        self.court.found.clear();
        if matches!(event.body, Body::Gap { .. }) || State::is_blank(event) {
            self.court.lose();
            self.state.lose(event);
            return &self.court.found;
        }
        if let Body::HooksBlind(p) = &event.body {
            self.blind(p.hooks, event);
            return &self.court.found;
        }
        // Whether LUO may be asked is decided before it is: what it did then, its own events tell.
        if matches!(event.body, Body::PolicyDecision(..) | Body::PolicyChange(_)) {
            return &self.court.found;
        }
        let handler = self.state.meet(event);
        let scene = self.state.scene(event, handler);
        self.court.weigh(&self.state, &scene);
        self.asked.judge(&self.state, &scene, &mut self.court);
        let moment = scene.moment;
        if self.state.snapshot.is_some() {
            self.state
                .openings()
                .into_iter()
                .for_each(|opened| self.court.open(opened));
        }
        self.state.apply(event, moment, handler);
        &self.court.found
    }

    /// The record ends here: decides what still waits, and gives what that proves.
    pub fn finish(&mut self) -> &[Finding] {
        self.court.found.clear();
        self.court.finish(&self.state);
        &self.court.found
    }

    /// What is known about each invariant that one boot decides, in the order of the catalogue. What the agent could have
    /// decided by a look into the image is among them only where it did.
    pub fn verdicts(&self) -> Vec<Verdict> {
        let verdicts = Invariant::of_one_boot().map(|i| self.court.verdict(i));
        let shown = |v: &Verdict| !v.invariant.is_told_where_decided() || v.ok + v.violated + v.undecidable > 0;
        verdicts.filter(shown).collect()
    }

    /// How many there are of what.
    pub fn counts(&self) -> &Counts {
        self.state.counts()
    }

    /// The same without the recorder's own session: what operators count.
    pub fn counts_of_others(&self) -> Counts {
        let mut counts = self.counts().clone();
        for direction in Direction::ALL {
            let own = self.state.named(direction, SessionName::new(OWN_SESSION));
            if let Some(session) = own.filter(|session| session.is_own()) {
                counts.leave_out(session);
            }
        }
        counts
    }

    /// The live sessions, outgoing ones first, then by name.
    pub fn sessions(&self) -> impl Iterator<Item = SessionView<'_>> {
        self.state.list_sessions().into_iter()
    }

    /// The sessions of the previous kernel that wait to be read in, by name; they are among the counts.
    pub fn waiting(&self) -> impl Iterator<Item = WaitingView<'_>> {
        self.state.waiting()
    }

    /// The global states that exist, in the order they were first seen.
    pub fn flbs(&self) -> impl Iterator<Item = &FlbCount> {
        self.state.counts().flbs().iter().filter(|flb| flb.alive)
    }

    /// How many entries are kept to find objects by: none, when nothing is alive.
    #[cfg(test)]
    fn remembered(&self) -> usize {
        self.state.remembered()
    }
}
