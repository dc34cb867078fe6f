//! Live updates over kernels: which boot followed which, what left, what arrived.
//!
//! One boot's promises are the model's to judge; those that a live update makes from one kernel to the next are judged
//! here, over [`Boot`]s, each gathered from one record. Pure: whatever is known of files and clocks came with the records.
//!
//! - `boot`, `lines`, `handover`: the account of one boot, event by event, in bounded memory;
//! - `machines`: which boots are of one machine;
//! - `join`: which of them followed which;
//! - `conserve`, `account`, `jump`: the invariants, and `ledger` keeps their accounts.

mod account;
mod boot;
pub mod case;
mod conserve;
mod decisions;
mod handover;
mod join;
mod jump;
mod ledger;
mod lines;
mod machines;
#[cfg(test)]
mod tests;
pub mod timeline;

pub use account::{Files, Unclaimed};
pub use boot::{Attempt, Boot, FlbLine, Handover, Pages};
pub use decisions::Policies;
pub use join::{Basis, Hole};
pub use lines::{FileFate, FileLine, Refused, SessionLine, Sessions, Span};
pub use machines::{Hosts, Stranger};

use std::ops::Range;

use crate::model::{Finding, Invariant, Origin, Verdict};
use ledger::{Account, Ledger};
use machines::Machines;

/// What follows a departure this soon, by the wall clock, follows it directly: no boot that was of any use can have been in
/// between unseen. In nanoseconds.
const SOON_NS: u64 = 600_000_000_000;

/// Boots in the order they ran, and the live updates between them.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    /// The boots, in the order they ran.
    pub boots: Vec<Boot>,
    /// For each boot its place among those that were given to be joined.
    pub given: Vec<usize>,
    /// The places of each machine's boots.
    machines: Vec<Range<usize>>,
    /// The live updates that were tried, in their order.
    pub updates: Vec<Update>,
    /// Where boots are missing from the records.
    pub holes: Vec<Hole>,
    /// What keeps boots from being joined.
    pub strangers: Vec<Stranger>,
    /// What was found over the updates; what one boot proves is in its own judgement.
    pub findings: Vec<Finding>,
    /// The verdicts on the invariants that take a chain. One on the compatibility of the next kernel is among them only
    /// where an update shows it.
    pub verdicts: Vec<Verdict>,
}

/// One live update: a kernel that left, or tried to, and the one that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// LUO's number of it, which is that of the kernel that arrives; `None`: not known.
    pub number: Option<u64>,
    /// The boot that left, as its place in [`Chain::boots`]; `None`: there is no record of it.
    pub from: Option<usize>,
    /// The boot that arrived, as its place in [`Chain::boots`]; `None`: there is no record of it.
    pub to: Option<usize>,
    /// What became of it.
    pub fate: Fate,
    /// The attempt that it is, as its place in the [`Boot::attempts`] of the boot that left; `None`: there is no record of it.
    pub attempt: Option<usize>,
    /// What says that the one boot followed the other; `None` where there are not two.
    pub basis: Option<Basis>,
    /// Whether the one boot followed the other for certain: it says so itself, and it began so soon after the other left, by the wall
    /// clock, that no other can have been in between. After a cold boot without a record numbers begin anew, and may seem to go on.
    /// True where there are not two.
    pub direct: bool,
    /// The verdicts on the invariants that take a chain, over this update alone, as in [`Chain::verdicts`]. Of an aborted one there are
    /// none: nothing left.
    pub verdicts: Vec<Verdict>,
    /// What became of the files that arrived.
    pub files: Files,
    /// The first files that arrived and that no process brought back: finished as they were, or pending. That is for who runs
    /// the host to judge, and breaks no promise of the kernel's.
    pub unclaimed: Vec<Unclaimed>,
}

/// What became of a live update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fate {
    /// The next kernel took over.
    Completed,
    /// The kernel that tried it went on: the freeze failed, or the jump did.
    Aborted,
    /// It departed, and there is no record of its arrival.
    Departed,
    /// It arrived, and there is no record of its departure.
    Arrived,
}

impl Fate {
    /// The name users see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Aborted => "aborted",
            Self::Departed => "departed",
            Self::Arrived => "arrived",
        }
    }
}

impl Update {
    /// An update of which nothing but this is known.
    pub fn new(number: Option<u64>, fate: Fate) -> Self {
        Self {
            number,
            from: None,
            to: None,
            fate,
            attempt: None,
            basis: None,
            direct: true,
            verdicts: Vec::new(),
            files: Files::default(),
            unclaimed: Vec::new(),
        }
    }

    /// The attempt that it is, by the record of the boot that left.
    fn attempt_of<'a>(&self, from: &'a Boot) -> Option<&'a Attempt> {
        from.attempts.get(self.attempt?)
    }

    /// Whether everything that left with it is known, by the record of the boot that left: what is there at the end of that
    /// is what was serialized, since the freeze was seen from its beginning, and nothing changed while it went on.
    pub fn knows_what_left(&self, from: &Boot) -> bool {
        let serialized = self.attempt_of(from).and_then(|attempt| attempt.serialize);
        // One whose beginning was not seen has no length.
        let seen = serialized.is_some_and(|span| span.ok && span.start < span.end && from.known.changed <= span.start);
        seen && from.knows_outgoing()
    }

    /// Whether it jumped into an image that takes nothing along, by the record of the boot that left.
    pub fn carries_nothing(&self, from: &Boot) -> bool {
        self.attempt_of(from)
            .is_some_and(|attempt| attempt.departs() && attempt.carries_nothing())
    }

    /// Whether everything that left with it is lost for certain, since the image takes nothing along.
    pub fn loses_everything(&self, from: &Boot) -> bool {
        from.covers(Invariant::KexecSessionsConserved) && self.knows_what_left(from) && self.carries_nothing(from)
    }

    /// Whether it is certain that what left and did not come is lost.
    pub fn decides_sessions(&self, from: &Boot, to: &Boot) -> bool {
        from.covers(Invariant::KexecSessionsConserved)
            && self.knows_what_left(from)
            && self.knows_what_came(to)
            && self.direct
    }

    /// Whether it is certain what became of the files that came.
    pub fn decides_files(&self, to: &Boot) -> bool {
        to.covers(Invariant::KexecFilesAccounted) && self.knows_what_came(to)
    }

    /// Whether everything that came with it is known, by the record of the boot that arrived.
    pub fn knows_what_came(&self, to: &Boot) -> bool {
        let found = to.handover.as_ref().is_some_and(|handover| handover.whole);
        // LUO counts from 0 where it was handed nothing.
        let nothing = to.update_number == Some(0) && self.basis != Some(Basis::Number);
        (found || nothing || to.known.incoming) && to.incoming.dropped == 0
    }
}

/// A boot and its place in the chain.
#[derive(Clone, Copy, Debug)]
struct Place<'a> {
    number: usize,
    boot: &'a Boot,
}

/// One live update that was not given up, with the records of its two sides.
#[derive(Clone, Copy, Debug)]
struct Crossing<'a> {
    update: &'a Update,
    from: Option<Place<'a>>,
    to: Option<Place<'a>>,
    /// The machine's next boot of which there is a record, where it is not the one that arrived.
    next: Option<Place<'a>>,
}

/// Judges a live update by one invariant.
type Judge = fn(&Crossing, &mut Account);

/// The invariants that take a chain, each with its function.
const JUDGES: [(Invariant, Judge); 7] = [
    (Invariant::KexecSessionsConserved, conserve::sessions),
    (Invariant::KexecFlbData, conserve::flb_data),
    (Invariant::KexecMemoryConserved, conserve::memory),
    (Invariant::KexecFilesAccounted, account::files),
    (Invariant::KexecNumber, jump::number),
    (Invariant::KexecArrived, jump::arrived),
    (Invariant::TargetCompatible, jump::compatible),
];

/// A row of the catalogue without its function does not compile: its invariant would always read *ok*.
const _: () = {
    let mut row = 0;
    while row < Invariant::ALL.len() {
        let invariant = Invariant::ALL[row];
        let (mut functions, mut place) = (0, 0);
        while place < JUDGES.len() {
            if JUDGES[place].0 as u32 == invariant as u32 {
                functions += 1;
            }
            place += 1;
        }
        assert!(
            functions == if invariant.is_of_a_chain() { 1 } else { 0 },
            "each invariant that takes a chain stands once in JUDGES, and no other does"
        );
        row += 1;
    }
};

impl Chain {
    /// Joins the records of boots, given in any order. The boots of one machine come one after the other.
    pub fn join(boots: Vec<Boot>, hosts: Hosts) -> Self {
        let told = Machines::of(&boots, hosts);
        let (mut given, mut machines) = (Vec::new(), Vec::new());
        for machine in &told.machines {
            let begin = given.len();
            given.extend(join::order(&boots, machine));
            machines.push(begin..given.len());
        }
        let mut boots: Vec<_> = boots.into_iter().map(Some).collect();
        let ordered = given.iter().filter_map(|&place| boots.get_mut(place)?.take());
        let boots: Vec<_> = ordered.collect();
        let mut ledger = Ledger::default();
        let (mut updates, mut holes) = (Vec::new(), Vec::new());
        for machine in &machines {
            let (tried, missing) = join::updates(&boots, machine.clone());
            holes.extend(missing);
            updates.extend(
                tried
                    .into_iter()
                    .map(|update| judged(&boots, machine, update, &mut ledger)),
            );
        }
        let (findings, verdicts) = ledger.close();
        Self {
            strangers: told.strangers(&given),
            boots,
            given,
            machines,
            updates,
            holes,
            findings,
            verdicts,
        }
    }

    /// The boot of the same machine that ran before this one, as far as there are records.
    fn before(&self, place: usize) -> Option<usize> {
        let machine = self.machines.iter().find(|machine| machine.contains(&place))?;
        place.checked_sub(1).filter(|before| machine.contains(before))
    }

    /// What keeps the chain from being a full proof, a sentence each.
    pub fn doubts(&self) -> Vec<String> {
        let mut doubts: Vec<_> = self.holes.iter().map(ToString::to_string).collect();
        let half = |update: &Update| update.fate != Fate::Aborted && (update.from.is_none() || update.to.is_none());
        if self.updates.iter().any(half) {
            doubts.extend(self.strangers.iter().map(ToString::to_string));
        }
        doubts
    }
}

/// Judges an update between boots of this machine, and says what became of its files.
fn judged(boots: &[Boot], machine: &Range<usize>, mut update: Update, total: &mut Ledger) -> Update {
    if let Some(boot) = update.to.and_then(|to| boots.get(to)) {
        (update.files, update.unclaimed) = account::unclaimed(boot);
    }
    if update.fate == Fate::Aborted {
        return update;
    }
    let place = |number: usize| boots.get(number).map(|boot| Place { number, boot });
    let after = |from: usize| Some(from + 1).filter(|next| machine.contains(next)).and_then(place);
    let crossing = Crossing {
        update: &update,
        from: update.from.and_then(place),
        to: update.to.and_then(place),
        next: update.from.filter(|_| update.to.is_none()).and_then(after),
    };
    let boot = |place: Option<Place<'_>>| place.map(|place| place.boot.boot_id.clone());
    let (from, to) = (boot(crossing.from), boot(crossing.to));
    let mut ledger = Ledger::of(Origin::of_update(from.as_deref(), to.as_deref()));
    for (invariant, judge) in JUDGES {
        judge(&crossing, &mut ledger.account(invariant));
    }
    total.add(&ledger);
    (_, update.verdicts) = ledger.close();
    update
}
