//! The payloads of what policy did, of what an operator ordered, and of what was found in an image to jump into.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Image, Payload, SessionRef};
use crate::policy::{CgroupPath, RuleName};
use crate::text::Name;

/// A call that policy was asked about: payload of the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PolicyDecision {
    /// The raw [`Operation`](crate::policy::Operation).
    pub operation: u32,
    /// The raw [`Decision`](crate::policy::Decision).
    pub decision: u32,
    /// The rule, as in [`Ruling`](crate::policy::Ruling).
    pub rule: u32,
    /// The raw [`Mode`](crate::policy::Mode).
    pub mode: u32,
    /// [`Table::generation`](crate::policy::Table::generation).
    pub generation: u64,
    /// The rule's name; empty: none applied.
    pub rule_name: RuleName,
    /// The session, where it is about one. One that is being made has no id.
    pub session: SessionRef,
    /// The caller's real user id.
    pub uid: u32,
    /// The aspects that were not known, by bit.
    pub unselected: u32,
    /// The conditions that rules asked for and that were so, by bit.
    pub yes: u32,
    /// The conditions that rules asked for and that were not known, by bit.
    pub unknown: u32,
    /// How many outgoing sessions there were, or [`NOT_COUNTED`](crate::policy::NOT_COUNTED).
    pub sessions: u64,
    /// How many files they had, or [`NOT_COUNTED`](crate::policy::NOT_COUNTED).
    pub files: u64,
    /// [`State::loads`](crate::policy::State::loads).
    pub loads: u64,
    /// The image that is loaded; of a load: before it.
    pub image: Image,
    /// Path of the caller's control group.
    pub cgroup: CgroupPath,
}

payload!(PolicyDecision { session: SessionRef });

/// [`PolicyChange::what`]: a policy is in force from here on.
pub const POLICY_LOADED: u32 = 1;
/// [`PolicyChange::what`]: none is any more.
pub const POLICY_OFF: u32 = 2;
/// [`PolicyChange::what`]: an operator holds the host.
pub const POLICY_HOLD: u32 = 3;
/// [`PolicyChange::what`]: an operator lets everything pass for a time.
pub const POLICY_ALLOW: u32 = 4;
/// [`PolicyChange::what`]: an operator takes hold and allowance back.
pub const POLICY_CLEAR: u32 = 5;
/// [`PolicyChange::what`]: a hold or an allowance has come to its end.
pub const POLICY_EXPIRED: u32 = 6;
/// [`PolicyChange::what`]: what an agent that is gone left behind was taken over.
pub const POLICY_ADOPTED: u32 = 7;

/// Policy, or an operator's order, changed. No program can tell that: the record is the agent's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PolicyChange {
    /// [`POLICY_LOADED`] and the ones after it.
    pub what: u32,
    /// The raw [`Mode`](crate::policy::Mode) of the policy in force.
    pub mode: u32,
    /// [`Table::generation`](crate::policy::Table::generation); 0: none.
    pub generation: u64,
    /// Of a hold and an allowance: their end, in nanoseconds of `CLOCK_MONOTONIC`.
    pub until: u64,
    /// The operator: the user id of the login that the order came from (`/proc/PID/loginuid`), or where no login is known the
    /// effective one at the agent's socket; of a policy 0.
    pub uid: u32,
    /// Of a policy: the [`Operation`](crate::policy::Operation)s that it has rules for, by bit, of which every call is told.
    pub operations: u32,
    /// The operator's reason; of a policy: the name of its file.
    pub text: Name<256>,
}

payload!(PolicyChange {});

/// [`ImageVerdict::outcome`] and [`ImageVerdict::command_line`]: not known.
pub const VERDICT_UNKNOWN: u32 = 0;
/// [`ImageVerdict::outcome`]: it will take what is preserved. [`ImageVerdict::command_line`]: it switches LUO on.
pub const VERDICT_CARRIES: u32 = 1;
/// [`ImageVerdict::outcome`]: something of it will be lost. [`ImageVerdict::command_line`]: it does not switch LUO on.
pub const VERDICT_LOSES: u32 = 2;
/// [`ImageVerdict::outcome`]: it will panic while it boots.
pub const VERDICT_PANICS: u32 = 3;

/// What the agent found in an image that was loaded. The record is the agent's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ImageVerdict {
    /// [`Image::id`].
    pub image: u64,
    /// [`VERDICT_UNKNOWN`] and the ones after it: what the kernel in the image does with what is preserved.
    pub outcome: u32,
    /// [`VERDICT_UNKNOWN`], [`VERDICT_CARRIES`] or [`VERDICT_LOSES`]: what its command line does.
    pub command_line: u32,
    /// Why, in a sentence.
    pub reason: Name<512>,
}

payload!(ImageVerdict {});

impl ImageVerdict {
    /// Whether the kernel in it cannot take what is preserved; `None`: not known.
    pub const fn incompatible(&self) -> Option<bool> {
        fails(self.outcome)
    }

    /// Whether its command line does not switch LUO on; `None`: not known.
    pub const fn lacks_liveupdate(&self) -> Option<bool> {
        fails(self.command_line)
    }
}

/// Whether such a verdict says that something is lost.
pub const fn fails(verdict: u32) -> Option<bool> {
    match verdict {
        VERDICT_CARRIES => Some(false),
        VERDICT_LOSES | VERDICT_PANICS => Some(true),
        _ => None,
    }
}

/// The file of an image to jump into that is being loaded, so that the agent can look into it: payload of the event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ImageFile {
    /// Its inode number.
    pub inode: u64,
    /// Its file system, by the kernel's own number of a device: 20 bits of minor below 12 bits of major.
    pub device: u64,
    /// Its size in bytes.
    pub size: u64,
    /// The number of the load, as policy's programs count loads of files; 0: none counts.
    pub load: u32,
    /// Keeps the size a multiple of its alignment; 0.
    pub reserved: u32,
}

payload!(ImageFile {});
