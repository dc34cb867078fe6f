//! Preserved memory: what went into KHO's tree and out of it, and KHO's subtrees.

use luo_trace_common::events::{Keys, KhoBalance, KhoCall};
use luo_trace_common::text::Compatible;

use super::scene::{Moment, TAINTED};
use crate::event::{Body, Event, EventId};

/// More subtrees than this are not followed: a kernel has a handful.
const MOST_SUBTREES: usize = 256;

/// Keys that went in and out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pages {
    pub(super) added: Keys,
    pub(super) removed: Keys,
}

fn sum(a: Keys, b: Keys) -> Keys {
    Keys {
        calls: a.calls.wrapping_add(b.calls),
        pages: a.pages.wrapping_add(b.pages),
        sum: a.sum.wrapping_add(b.sum),
    }
}

impl Pages {
    pub(super) fn of(p: &KhoBalance) -> Self {
        let (added, removed) = (p.added, p.removed);
        Self { added, removed }
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self {
            added: sum(self.added, other.added),
            removed: sum(self.removed, other.removed),
        }
    }

    /// Whether the same keys went in and out.
    pub(super) fn balance(&self) -> bool {
        self.added == self.removed
    }

    /// What is wrong, in words.
    pub(super) fn difference(&self) -> String {
        let (added, removed) = (self.added.pages, self.removed.pages);
        if added == removed {
            format!("{added} pages were preserved and as many others given back")
        } else {
            format!("{added} pages were preserved and {removed} given back")
        }
    }
}

/// A subtree that was added.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subtree {
    pub(super) name: Compatible,
    address: u64,
    pub(super) id: EventId,
    pub(super) epoch: u32,
}

/// What is known of KHO.
#[derive(Debug)]
pub(super) struct Kho {
    /// What files' operations did, of which not told otherwise.
    all: Pages,
    /// The epoch in which all of it was seen.
    epoch: u32,
    /// How often global state came or went in operations on files that have not ended: what memory that took is told then.
    untold: usize,
    subtrees: Vec<Subtree>,
}

impl Kho {
    /// At the beginning of a record.
    pub(super) fn new(epoch: u32) -> Self {
        Self {
            all: Pages::default(),
            epoch,
            untold: 0,
            subtrees: Vec::new(),
        }
    }

    /// What all files' operations did, where every one was seen to its end.
    pub(super) fn all(&self, epoch: u32) -> Option<Pages> {
        (self.epoch == epoch && self.untold == 0).then_some(self.all)
    }

    /// Global state came or went.
    pub(super) fn step(&mut self) {
        self.untold += 1;
    }

    /// Something has a part in it that was not seen whole.
    pub(super) fn doubt(&mut self) {
        self.epoch = TAINTED;
    }

    /// Nothing is preserved: what comes from here on is seen whole.
    pub(super) fn begin(&mut self, epoch: u32) {
        (self.all, self.epoch, self.untold) = (Pages::default(), epoch, 0);
    }

    /// An operation ended that did this, and in which global state came or went so often.
    pub(super) fn count(&mut self, pages: Pages, steps: usize) {
        self.all = self.all.and(pages);
        self.untold = self.untold.saturating_sub(steps);
    }

    /// This was told as unbalanced: it is not to be told again in the sum of all.
    pub(super) fn settle(&mut self, told: Pages) {
        let (added, removed) = (told.removed, told.added);
        self.all = self.all.and(Pages { added, removed });
    }

    pub(super) fn subtree(&self, name: &Compatible) -> Option<&Subtree> {
        self.subtrees.iter().find(|subtree| subtree.name == *name)
    }

    pub(super) fn apply(&mut self, event: &Event, moment: Moment) {
        let Body::KhoOp(call, p) = &event.body else { return };
        match call {
            KhoCall::AddSubtree if p.outcome.is_ok() && self.subtrees.len() < MOST_SUBTREES => {
                self.subtrees.push(Subtree {
                    name: p.name,
                    address: p.address,
                    id: moment.id,
                    epoch: moment.stamp(),
                });
            }
            KhoCall::RemoveSubtree => {
                let same =
                    |s: &Subtree| (s.address != 0 && s.address == p.address) || (p.address == 0 && s.name == p.name);
                match self.subtrees.iter().position(same) {
                    Some(i) => _ = self.subtrees.remove(i),
                    // It may have been any of them.
                    None => self.subtrees.iter_mut().for_each(|s| s.epoch = TAINTED),
                }
            }
            _ => {}
        }
    }
}
