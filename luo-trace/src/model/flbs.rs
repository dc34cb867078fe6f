//! Global states that files share (FLB), as far as the record tells: which exist, and for which files.

use std::collections::HashMap;

use luo_trace_common::events::{FlbCall, FlbCallback};
use luo_trace_common::text::Compatible;

use super::counts::{Counts, Direction, FlbCount, HandlerId};
use super::scene::{Moment, TAINTED};
use crate::event::EventId;

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

#[derive(Debug)]
pub(super) struct Flb {
    pub(super) name: Compatible,
    pub(super) outgoing: Side,
    pub(super) incoming: Side,
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
        let Some(flb) = self.meet(p) else { return };
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

    /// Everything that exists is on its way into the next kernel: nothing is left to decide here.
    pub(super) fn serialized(&mut self) {
        self.all.iter_mut().for_each(|flb| flb.outgoing.epoch = TAINTED);
    }

    fn meet(&mut self, p: &FlbCallback) -> Option<&mut Flb> {
        let i = match self.by_address.get(&p.flb) {
            Some(&i) => i,
            None if p.flb == 0 || self.all.len() >= MOST => return None,
            None => {
                self.by_address.insert(p.flb, self.all.len());
                self.all.push(Flb {
                    name: p.name,
                    outgoing: Side::default(),
                    incoming: Side::default(),
                    users: Vec::new(),
                    counted: TAINTED,
                });
                self.all.len() - 1
            }
        };
        self.all.get_mut(i)
    }
}
