//! What operators ordered and what the agent knows, where the programs read it.

use std::mem::offset_of;
use std::sync::atomic::{AtomicU64, Ordering};

use luo_trace_common::policy::{State, Verdict};
use zerocopy::FromZeros;

use crate::kernel::shared::Shared;

/// The one [`State`] of a set of programs. Each member is written by itself, and is in force at once; times are nanoseconds of
/// `CLOCK_MONOTONIC`.
pub struct SharedState(pub(super) Shared);

/// Gives the word of a member.
macro_rules! member {
    ($state:expr, $member:ident) => {
        &$state.0.words()[offset_of!(State, $member) / size_of::<u64>()]
    };
}

impl SharedState {
    /// Shows a sign of life; `NEVER`: an end in order, after which nothing grows stale.
    pub fn beat(&self, now: u64) {
        put(member!(self, heartbeat), now);
    }

    /// Holds the host until then; 0: no longer, `NEVER`: until it is told otherwise.
    pub fn hold(&self, until: u64) {
        put(member!(self, held_until), until);
    }

    /// Lets everything pass until then; 0: no longer.
    pub fn allow(&self, until: u64) {
        put(member!(self, allowed_until), until);
    }

    /// Tells what is known of the image that is loaded. It counts as long as no other is loaded than the one of
    /// [`Verdict::load`].
    pub fn judge(&self, verdict: Verdict) {
        put(member!(self, verdict), verdict.0);
    }

    /// Tells the worst severity of an invariant that is violated, as [`State::violated`] has it.
    pub fn violated(&self, severity: u64) {
        put(member!(self, violated), severity);
    }

    /// How often an image was about to be loaded.
    pub fn loads(&self) -> u64 {
        member!(self, loads).load(Ordering::SeqCst)
    }

    /// All of it, each member as it is when it is read.
    pub fn read(&self) -> State {
        let mut state = State::new_zeroed();
        let get = |member: &AtomicU64| member.load(Ordering::SeqCst);
        state.generation = get(member!(self, generation));
        state.heartbeat = get(member!(self, heartbeat));
        state.held_until = get(member!(self, held_until));
        state.allowed_until = get(member!(self, allowed_until));
        state.loads = get(member!(self, loads));
        state.verdict = get(member!(self, verdict));
        state.violated = get(member!(self, violated));
        state.probes = get(member!(self, probes));
        state
    }

    /// Takes over from a set that an agent left behind: its orders, and what it knew of the image.
    pub(super) fn inherit(&self, old: &State) {
        put(member!(self, held_until), old.held_until);
        put(member!(self, allowed_until), old.allowed_until);
        put(member!(self, verdict), old.verdict);
        // Loads that both sets counted make the sum too high, and so the verdict void.
        member!(self, loads).fetch_add(old.loads, Ordering::SeqCst);
    }

    /// Puts a policy in force; 0: none.
    pub(super) fn switch(&self, generation: u64) {
        put(member!(self, generation), generation);
    }

    /// How often the programs counted a probe.
    pub(super) fn probes(&self) -> u64 {
        member!(self, probes).load(Ordering::SeqCst)
    }
}

fn put(member: &AtomicU64, value: u64) {
    member.store(value, Ordering::SeqCst);
}
