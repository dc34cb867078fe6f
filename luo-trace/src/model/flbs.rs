//! Global states that files share (FLB), as far as the record tells: which exist, and for which files.

use luo_trace_common::events::{self as abi, FlbCall, FlbCallback, FlbUse, SnapshotFlb};
use luo_trace_common::text::Compatible;

use super::counts::{Counts, Direction, FlbCount, HandlerId};
use super::scene::{Moment, STRADDLES, TAINTED};
use crate::event::EventId;
use crate::model::HashMap;

/// More global states than this in one record are not followed. Linux 7.3 has room for 63 (`LUO_FLB_MAX`).
const MOST: usize = 1024;

/// Whether the files of a handler use a global state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Relation {
    #[default]
    Unknown,
    Uses,
    UsesNot,
}

/// Whether a global state exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Life {
    #[default]
    Unknown,
    /// Its callback made it, or brought it back, at this time.
    Alive(u64, EventId),
    /// Its callback took it down, or failed to make it, at this time.
    Dead(u64, EventId),
}

/// One direction of a global state.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Side {
    life: Life,
    epoch: u32,
    /// Its place in [`Counts::flbs`].
    count: Option<usize>,
}

impl Side {
    /// Whether it exists; unknown where events were lost since.
    pub(super) fn life(&self, epoch: u32) -> Life {
        if self.epoch == epoch { self.life } else { Life::Unknown }
    }
}

/// References that drivers took themselves.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct References {
    count: u64,
    /// The newest that was taken, and when.
    newest: Option<(u64, EventId)>,
    epoch: u32,
    /// Whether any was ever given back: before 7.2, taking one counts for nothing.
    pub(super) given_back: bool,
}

impl References {
    /// How many there are of which it was seen that they were taken.
    pub(super) fn held(&self, epoch: u32) -> u64 {
        if self.epoch == epoch { self.count } else { 0 }
    }

    /// The newest that was taken, and when; `None`: none ever was.
    pub(super) fn newest(&self) -> Option<(u64, EventId)> {
        self.newest
    }
}

/// What became of bringing it back in this kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Restored {
    #[default]
    Unknown,
    /// No process asked for it yet, a walk says.
    No(EventId),
    Done(EventId),
    /// It failed, at this time.
    Failed(u64, EventId),
}

#[derive(Debug)]
pub(super) struct Flb {
    pub(super) name: Compatible,
    pub(super) outgoing: Side,
    pub(super) incoming: Side,
    pub(super) references: [References; 2],
    restored: (Restored, u32),
    /// A file left it that could not bring it back, and that was told.
    pub(super) left_unrestored: bool,
    /// How many files used it when everything was serialized, where that is certain, and the epoch.
    at_freeze: Option<(u64, u32)>,
    /// By handler: whether its files use it, and how many outgoing ones do since it was made.
    users: Vec<(Relation, u64)>,
    /// The epoch in which users were counted from the first on.
    counted: u32,
}

impl Flb {
    /// Whether no coming and going of users was missed.
    pub(super) fn is_counted(&self, epoch: u32) -> bool {
        self.counted == epoch
    }

    pub(super) fn relation(&self, handler: HandlerId) -> Relation {
        self.users.get(usize::from(handler)).map_or(Relation::Unknown, |u| u.0)
    }

    /// Outgoing files of a handler that came since it was made.
    pub(super) fn users(&self, handler: HandlerId) -> u64 {
        self.users.get(usize::from(handler)).map_or(0, |u| u.1)
    }

    /// Outgoing files that certainly use it.
    pub(super) fn certain_users(&self) -> u64 {
        self.users.iter().filter(|u| u.0 == Relation::Uses).map(|u| u.1).sum()
    }

    /// Outgoing files that may use it.
    pub(super) fn possible_users(&self) -> u64 {
        self.users
            .iter()
            .filter(|u| u.0 != Relation::UsesNot)
            .map(|u| u.1)
            .sum()
    }

    pub(super) fn side(&self, direction: Direction) -> &Side {
        match direction {
            Direction::Outgoing => &self.outgoing,
            Direction::Incoming => &self.incoming,
        }
    }

    pub(super) fn references(&self, direction: Direction) -> &References {
        &self.references[direction as usize]
    }

    /// What is known of bringing it back.
    pub(super) fn restored(&self, epoch: u32) -> Restored {
        if self.restored.1 == epoch {
            self.restored.0
        } else {
            Restored::Unknown
        }
    }

    /// How many files used it when everything was serialized.
    pub(super) fn at_freeze(&self, epoch: u32) -> Option<u64> {
        self.at_freeze.filter(|f| f.1 == epoch).map(|f| f.0)
    }

    /// How many outgoing files use it, where none is in doubt.
    pub(super) fn exact_users(&self, epoch: u32) -> Option<u64> {
        let exact = self.is_counted(epoch) && self.certain_users() == self.possible_users();
        match self.outgoing.life(epoch) {
            Life::Alive(..) if exact => Some(self.certain_users()),
            Life::Dead(..) => Some(0),
            _ => None,
        }
    }

    fn user(&mut self, handler: HandlerId) -> &mut (Relation, u64) {
        let handler = usize::from(handler);
        if self.users.len() <= handler {
            self.users.resize(handler + 1, Default::default());
        }
        &mut self.users[handler]
    }

    fn set_life(&mut self, direction: Direction, life: Life, moment: Moment, counts: &mut Counts) {
        let name = self.name;
        let users = self.certain_users();
        let side = match direction {
            Direction::Outgoing => &mut self.outgoing,
            Direction::Incoming => &mut self.incoming,
        };
        side.life = life;
        side.epoch = moment.stamp();
        let alive = matches!(life, Life::Alive(..));
        let count = *side.count.get_or_insert_with(|| {
            counts.flbs.push(FlbCount {
                name,
                direction,
                users: 0,
                alive,
            });
            counts.flbs.len() - 1
        });
        if let Some(count) = counts.flbs.get_mut(count) {
            count.alive = alive;
            count.users = if alive && direction == Direction::Outgoing {
                users
            } else {
                0
            };
        }
    }

    fn show_users(&self, counts: &mut Counts) {
        if let Some(count) = self.outgoing.count.and_then(|i| counts.flbs.get_mut(i)) {
            count.users = self.certain_users();
        }
    }
}

/// Which direction a callback is about.
pub(super) fn direction(call: FlbCall) -> Direction {
    match call {
        FlbCall::Preserve | FlbCall::Unpreserve => Direction::Outgoing,
        FlbCall::Retrieve | FlbCall::Finish => Direction::Incoming,
    }
}

#[derive(Debug, Default)]
pub(super) struct Flbs {
    all: Vec<Flb>,
    by_address: HashMap<u64, usize>,
}

impl Flbs {
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &Flb)> {
        self.all.iter().enumerate()
    }

    pub(super) fn get(&self, address: u64) -> Option<(usize, &Flb)> {
        let &i = self.by_address.get(&address)?;
        Some((i, self.all.get(i)?))
    }

    pub(super) fn callback(
        &mut self,
        call: FlbCall,
        p: &FlbCallback,
        handler: HandlerId,
        moment: Moment,
        counts: &mut Counts,
    ) {
        let Some(flb) = self.meet(p.flb, p.name) else { return };
        match (call, p.outcome.is_ok()) {
            (FlbCall::Retrieve, true) => flb.restored = (Restored::Done(moment.id), moment.stamp()),
            (FlbCall::Retrieve, false) => flb.restored = (Restored::Failed(moment.at, moment.id), moment.stamp()),
            _ => {}
        }
        if handler != 0 {
            flb.user(handler).0 = Relation::Uses;
        }
        let (at, id) = (moment.at, moment.id);
        let life = match (call, p.outcome.is_ok()) {
            (FlbCall::Preserve, made) => {
                // Users of an earlier life who are not done leaving are no users of this one.
                flb.users.iter_mut().for_each(|user| user.1 = 0);
                flb.counted = moment.stamp();
                if made { Life::Alive(at, id) } else { Life::Dead(at, id) }
            }
            (FlbCall::Retrieve, true) => Life::Alive(at, id),
            (FlbCall::Retrieve, false) => Life::Unknown,
            (FlbCall::Unpreserve | FlbCall::Finish, _) => {
                counts.retired += 1;
                Life::Dead(at, id)
            }
        };
        flb.set_life(direction(call), life, moment, counts);
    }

    /// A file of this handler began to use the handler's FLBs, and nothing took them from it before this event.
    pub(super) fn user_came(&mut self, handler: HandlerId, moment: Moment, counts: &mut Counts) {
        for flb in &mut self.all {
            if moment.epoch == STRADDLES {
                // A walk may have counted it. One too many is never an alarm.
                flb.counted = TAINTED;
            }
            match flb.outgoing.life {
                Life::Alive(..) => flb.user(handler).1 += 1,
                // Had it used this one, this one would exist.
                Life::Dead(..) if flb.outgoing.epoch == moment.epoch && flb.relation(handler) == Relation::Unknown => {
                    flb.user(handler).0 = Relation::UsesNot;
                }
                _ => {}
            }
            flb.show_users(counts);
        }
    }

    /// A file of this handler stopped using them.
    pub(super) fn user_left(&mut self, handler: HandlerId, moment: Moment, counts: &mut Counts) {
        for flb in &mut self.all {
            if moment.epoch == STRADDLES {
                flb.counted = TAINTED;
                continue;
            }
            let made = match flb.outgoing.life {
                Life::Alive(made, _) => made,
                Life::Dead(..) => 0,
                Life::Unknown => continue,
            };
            // One that began to leave before this life began, left the life before.
            if moment.start.is_none_or(|start| start >= made) {
                let user = flb.user(handler);
                user.1 = user.1.saturating_sub(1);
            }
            if moment.start.is_none() && flb.relation(handler) != Relation::UsesNot {
                (flb.outgoing.epoch, flb.counted) = (TAINTED, TAINTED);
            }
            flb.show_users(counts);
        }
    }

    /// A driver took a reference, or gave one back.
    pub(super) fn reference(&mut self, p: &FlbUse, taken: bool, moment: Moment) {
        let direction = match p.direction {
            abi::OUTGOING => Direction::Outgoing,
            abi::INCOMING => Direction::Incoming,
            _ => return,
        };
        let Some(flb) = self.meet(p.flb, p.name) else { return };
        if moment.epoch == STRADDLES {
            // A walk may have counted it, or not: who uses this one is certain again after the next walk.
            let side = match direction {
                Direction::Outgoing => &mut flb.outgoing,
                Direction::Incoming => &mut flb.incoming,
            };
            (side.epoch, flb.counted) = (TAINTED, TAINTED);
            flb.references[direction as usize].epoch = TAINTED;
            return;
        }
        let references = &mut flb.references[direction as usize];
        if references.epoch != moment.epoch {
            (references.count, references.epoch) = (0, moment.stamp());
        }
        if taken {
            references.count += 1;
            references.newest = Some((moment.at, moment.id));
        } else {
            references.count = references.count.saturating_sub(1);
            references.given_back = true;
        }
    }

    /// A file of this handler left incoming states that no process had brought back.
    pub(super) fn left(&mut self, handler: HandlerId, moment: Moment) {
        for flb in &mut self.all {
            let unrestored = matches!(flb.restored(moment.epoch), Restored::No(_) | Restored::Failed(..));
            flb.left_unrestored |= unrestored && flb.relation(handler) == Relation::Uses;
        }
    }

    /// Everything that exists is on its way into the next kernel: nothing is left to decide here but what it is told.
    pub(super) fn serialized(&mut self, epoch: u32) {
        for flb in &mut self.all {
            flb.at_freeze = flb.exact_users(epoch).map(|users| (users, epoch));
            flb.outgoing.epoch = TAINTED;
        }
    }

    /// Takes over what a walk found of one, where it is not known already: which handlers' files use it, with how many
    /// outgoing ones there are of each, and how many users the kernel counts. Tells whether that was news.
    pub(super) fn learn(
        &mut self,
        p: &SnapshotFlb,
        handlers: &[(HandlerId, Option<u64>)],
        moment: Moment,
        counts: &mut Counts,
    ) -> bool {
        let Some(flb) = self.meet(p.flb, p.name) else {
            return false;
        };
        let epoch = moment.stamp();
        let (at, id) = (moment.at, moment.id);
        for &(handler, files) in handlers {
            flb.user(handler).0 = if files.is_some() {
                Relation::Uses
            } else {
                Relation::UsesNot
            };
        }
        let mut news = false;
        if flb.restored(epoch) == Restored::Unknown {
            flb.restored.1 = epoch;
            flb.restored.0 = match p.retrieve_status {
                0 => Restored::No(id),
                1.. => Restored::Done(id),
                _ => Restored::Failed(at, id),
            };
            match (p.finished, p.retrieve_status) {
                (1, _) => flb.set_life(Direction::Incoming, Life::Dead(at, id), moment, counts),
                (_, 1..) => flb.set_life(Direction::Incoming, Life::Alive(at, id), moment, counts),
                _ => {}
            }
            news = true;
        }
        let Ok(users) = u64::try_from(p.outgoing_users) else {
            return news;
        };
        let references = flb.references[0].held(epoch);
        if flb.exact_users(epoch).is_some_and(|files| files + references == users) {
            return news;
        }
        let files: u64 = handlers.iter().filter_map(|h| h.1).sum();
        for &(handler, files) in handlers {
            flb.user(handler).1 = files.unwrap_or(0);
        }
        // An operation under way may be half of it.
        flb.counted = if users == files { epoch } else { TAINTED };
        // What is no file is a driver's.
        (flb.references[0].count, flb.references[0].epoch) = (users.saturating_sub(files), epoch);
        match (users, flb.outgoing.life(epoch)) {
            (0, Life::Dead(..)) | (1.., Life::Alive(..)) => flb.show_users(counts),
            // Its end may be under way, and is told when it is over.
            (0, Life::Alive(..)) => flb.outgoing.epoch = TAINTED,
            (0, Life::Unknown) => return news,
            _ => flb.set_life(Direction::Outgoing, Life::Alive(at, id), moment, counts),
        }
        true
    }

    /// Whether no outgoing state exists that anything could have been saved for.
    pub(super) fn none_outgoing(&self) -> bool {
        let none = |flb: &Flb| !matches!(flb.outgoing.life, Life::Alive(..)) && flb.references[0].count == 0;
        self.all.iter().all(none)
    }

    pub(super) fn named(&self, name: &Compatible) -> Option<&Flb> {
        self.all.iter().find(|flb| flb.name == *name)
    }

    fn meet(&mut self, address: u64, name: Compatible) -> Option<&mut Flb> {
        let i = match self.by_address.get(&address) {
            Some(&i) => i,
            None if address == 0 || self.all.len() >= MOST => return None,
            None => {
                self.by_address.insert(address, self.all.len());
                self.all.push(Flb {
                    name,
                    outgoing: Side::default(),
                    incoming: Side::default(),
                    references: Default::default(),
                    restored: Default::default(),
                    left_unrestored: false,
                    at_freeze: None,
                    users: Vec::new(),
                    counted: TAINTED,
                });
                self.all.len() - 1
            }
        };
        self.all.get_mut(i)
    }
}
