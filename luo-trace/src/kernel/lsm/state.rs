//! What operators ordered and what the agent knows, where the programs read it.

use std::mem::offset_of;
use std::sync::atomic::{AtomicU64, Ordering};

use luo_trace_common::policy::{ImageBits, Load, State};
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

    /// Tells what is known of an image. It counts as long as the image in place came by the load of [`ImageBits::load`].
    pub fn judge(&self, image: u64, verdict: ImageBits) {
        put(member!(self, judged), image);
        put(member!(self, verdict), verdict.0);
    }

    /// Tells the worst severity of an invariant that is violated, as [`State::violated`] has it.
    pub fn violated(&self, severity: u64) {
        put(member!(self, violated), severity);
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
        for i in 0..2 {
            let words = self.load(i);
            state.load[i] = Load {
                number: get(&words[0]),
                before: get(&words[1]),
                before_number: get(&words[2]),
            };
        }
        state.verdict = get(member!(self, verdict));
        state.judged = get(member!(self, judged));
        state.violated = get(member!(self, violated));
        state.probes = get(member!(self, probes));
        state
    }

    /// Takes over from a set that an agent left behind: its orders, and what it knew of the image.
    pub(super) fn inherit(&self, old: &State) {
        put(member!(self, held_until), old.held_until);
        put(member!(self, allowed_until), old.allowed_until);
        // Where these programs have counted a load already, what is written here is void.
        if let Some((verdict, load)) = State::inherited(old) {
            let words = self.load(0);
            put(&words[2], load.before_number);
            put(&words[1], load.before);
            self.judge(old.judged, verdict);
        }
    }

    /// The words of a [`Load`].
    fn load(&self, i: usize) -> &[AtomicU64] {
        let first = (offset_of!(State, load) + i * size_of::<Load>()) / size_of::<u64>();
        &self.0.words()[first..][..size_of::<Load>() / size_of::<u64>()]
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
