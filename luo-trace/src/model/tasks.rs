//! What each task did so far in the operation that it is in: parts of an operation come before its own event.

use luo_trace_common::events::{FlbCall, FlbCallback, KhoBalance};
use luo_trace_common::hooks::Hook;

use super::flbs::Flbs;
use super::scene::Moment;
use crate::event::{Body, Event, EventId};
use crate::model::HashMap;

/// More tasks than this are not followed at a time: no machine has as many in an operation.
const MOST: usize = 1024;

/// More steps than this are not kept of one operation. Linux 7.3 has room for 63 global states (`LUO_FLB_MAX`).
const MOST_STEPS: usize = 256;

/// Global state that came or went.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    /// Its number.
    pub(super) flb: usize,
    pub(super) made: bool,
    pub(super) at: u64,
}

/// The parts of one task's operation.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// What came and went, also in an operation before this one, where that is not watched.
    flbs: Vec<Step>,
    /// The file joined its handler's global states, and has not left them.
    pub(super) joined: Option<(u64, EventId)>,
    /// What an operation did to preserved memory, and when that was told.
    balance: Option<(KhoBalance, EventId, u64)>,
    /// Reading in the previous kernel's sessions failed.
    pub(super) arrival_failed: Option<(u64, EventId)>,
    /// When an inner failure was found that the outer call hid.
    pub(super) hidden_failure: u64,
}

impl Parts {
    /// What the operation that ends with this hook, and began at this time, did to preserved memory. One that did nothing
    /// tells of nothing, and what is there then is of an earlier one whose end was not seen.
    pub(super) fn balance_of(&self, hook: Hook, start: Option<u64>) -> Option<(&KhoBalance, EventId)> {
        let (balance, id, at) = self.balance.as_ref()?;
        let its_own = balance.operation == hook as u32 && *at >= start.unwrap_or(0);
        its_own.then_some((balance, *id))
    }

    /// The global states that came or went since this time.
    fn steps(&self, since: u64) -> impl Iterator<Item = &Step> {
        self.flbs.iter().filter(move |step| step.at >= since)
    }

    /// How often global state came or went since this time.
    pub(super) fn stepped(&self, since: u64) -> usize {
        self.steps(since).count()
    }

    /// Whether global state went since this time.
    pub(super) fn took_down(&self, since: u64) -> bool {
        self.steps(since).any(|step| !step.made)
    }

    /// Global states that were made since this time, and not taken down again by the same task.
    pub(super) fn left_over(&self, since: u64) -> impl Iterator<Item = &Step> {
        let made = self.steps(since).filter(|step| step.made);
        made.filter(|made| {
            let gone = |later: &Step| !later.made && later.flb == made.flb && later.at >= made.at;
            !self.flbs.iter().any(gone)
        })
    }

    /// Whether other files have a part in what this operation did since this time: it made global state that stays, or took some
    /// down that others had made.
    pub(super) fn is_mixed(&self, since: u64) -> bool {
        let made = |flb| self.steps(since).filter(|s| s.flb == flb && s.made).count();
        let gone = |flb| self.steps(since).filter(|s| s.flb == flb && !s.made).count();
        self.steps(since).any(|step| made(step.flb) != gone(step.flb))
    }
}

/// Whether outgoing global state came or went with this callback.
pub(super) fn comes_or_goes(call: FlbCall, p: &FlbCallback) -> bool {
    match call {
        FlbCall::Preserve => p.outcome.is_ok(),
        FlbCall::Unpreserve => true,
        FlbCall::Retrieve | FlbCall::Finish => false,
    }
}

#[derive(Debug, Default)]
pub(super) struct Tasks(HashMap<u32, Parts>);

impl Tasks {
    /// What this event's task did so far.
    pub(super) fn parts(&self, event: &Event) -> Option<&Parts> {
        self.0.get(&event.header.pid)
    }

    pub(super) fn forget(&mut self) {
        self.0.clear();
    }

    pub(super) fn apply(&mut self, event: &Event, moment: Moment, flbs: &Flbs) {
        let (at, id) = (moment.at, moment.id);
        match &event.body {
            Body::FlbCallback(call, p) if comes_or_goes(*call, p) => {
                if let Some((flb, _)) = flbs.get(p.flb) {
                    let made = *call == FlbCall::Preserve;
                    let parts = self.of(event);
                    if parts.flbs.len() < MOST_STEPS {
                        parts.flbs.push(Step { flb, made, at });
                    }
                }
            }
            Body::FlbPreserve(p) if p.outcome.is_ok() => self.of(event).joined = Some((at, id)),
            Body::FlbUnpreserve(_) => self.of(event).joined = None,
            Body::KhoBalance(p) => self.of(event).balance = Some((*p, id, at)),
            Body::KhoOp(_, p) if p.outcome.is_ok() && p.inner_failures > 0 => self.of(event).hidden_failure = at,
            Body::SessionDeserialize(p) if !p.outcome.is_ok() => self.of(event).arrival_failed = Some((at, id)),
            Body::FilePreserve(_)
            | Body::FilesUnpreserve(_)
            | Body::FileRetrieve(_)
            | Body::FilesFinish(_)
            | Body::SessionCreate(_)
            | Body::SessionRetrieve(_)
            | Body::SessionRelease(_)
            | Body::SessionSerialize(_)
            | Body::DeviceOpen(_) => {
                self.0.remove(&event.header.pid);
            }
            _ => {}
        }
    }

    fn of(&mut self, event: &Event) -> &mut Parts {
        if self.0.len() >= MOST {
            self.0.clear();
        }
        self.0.entry(event.header.pid).or_default()
    }
}
