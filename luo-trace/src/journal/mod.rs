//! The journal: one boot's record, as a file that survives a killed agent, a full disk and the jump into the next kernel.
//!
//! A journal is `DIR/<boot-id>.luoj`. It begins with a preamble of 16 bytes that stays the same in every version: the
//! magic, the format's version, and their checksum. Frames follow:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | length of the payload |
//! | 2 | kind: [`kind`] |
//! | length | payload: a kernel record for an event, JSON for everything else |
//! | 4 | CRC32 of all of the above |
//!
//! A journal that is not to exceed a size goes on in parts, `DIR/<boot-id>.luoj.1` and so on, of which those in the middle are removed.
//! A part is a file of the same form, in version 2: an older reader takes none for a whole journal. Its header is that of the run
//! that it is of, and says how many records came before it; where the file before it is not there, that many are missing.
//!
//! Numbers are little-endian. The first frame is the [`Header`]. A reader skips kinds and JSON fields it does not know,
//! so a format grows without a new version; [`VERSION`] rises only when an old reader would misunderstand.
//!
//! [`Writer`] appends, [`Reader`] gives frames and tells of damage, [`events()`] gives what a model wants: events, and a
//! gap wherever something is missing. [`carry`] keeps a journal's tail in memory that outlives the kernel.

use luo_trace_common::hooks::Hook;
use serde::{Deserialize, Serialize};

use crate::model::{Coverage, Model, Origin};

pub mod carry;
mod events;
mod files;
mod frame;
mod host;
mod keep;
mod opened;
mod reader;
pub mod serial;
#[cfg(feature = "agent")]
mod tty;
mod writer;

#[cfg(test)]
mod tests;

pub use events::{Events, Summary, events};
pub use files::Files;
pub use frame::{MAX_PAYLOAD, VERSION, kind, preamble};
pub use host::Host;
pub use keep::{Keep, Limits, Pruned, Removed, prune};
pub use opened::{Opened, Unreadable, directories, each, newer, recordings};
pub use reader::{Damage, Frame, OpenError, Reader, Reason};
#[cfg(feature = "agent")]
pub use tty::Tty;
pub use writer::{Store, Writer};

/// What a journal says about the boot and the agent that recorded it.
///
/// Fields that a journal may lack have a default; unknown ones are ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// `/proc/sys/kernel/random/boot_id`, which also names the file.
    pub boot_id: String,
    /// `uname -r`.
    pub kernel_release: String,
    /// `uname -v`.
    #[serde(default)]
    pub kernel_version: String,
    /// `uname -m`.
    #[serde(default)]
    pub machine: String,
    /// Which machine it is.
    #[serde(default)]
    pub host: Host,
    /// LUO's number of this update, counted by the kernels themselves: 0 after a cold boot.
    #[serde(default)]
    pub update_number: Option<u64>,
    /// What the previous kernel said of itself through KHO; none after a cold boot.
    #[serde(default)]
    pub kexec: Option<Kexec>,
    /// The format in which LUO tells the next kernel of what is preserved, `luo-v5`.
    #[serde(default)]
    pub luo_format: Option<String>,
    /// The format of KHO's tree for the next kernel, `kho-v4`.
    #[serde(default)]
    pub kho_format: Option<String>,
    /// How much scratch memory KHO keeps for the next kernel to start in, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kho_scratch_bytes: Option<u64>,
    /// How the clocks stood when the recording began.
    pub clock: Clock,
    /// How long before that the agent was started, in nanoseconds: what loading and attaching took.
    #[serde(default)]
    pub attach_ns: u64,
    /// When the kernel ran init, the first process, in nanoseconds on the clock of its log, which is `CLOCK_MONOTONIC` up to
    /// a drift of some parts in a million.
    #[serde(default)]
    pub userspace_ns: Option<u64>,
    /// The hooks, and whether each is attached.
    #[serde(default)]
    pub hooks: Vec<HookState>,
    /// How they are attached: `multi`, by links to many functions at once, or `each`, one by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attach: Option<String>,
    /// Version of the agent that wrote this.
    #[serde(default)]
    pub agent_version: String,
    /// Version of the event ABI: [`luo_trace_common::events::ABI_VERSION`].
    pub abi_version: u16,
    /// Size of the ring buffer in bytes; 0: not known.
    #[serde(default)]
    pub ring_bytes: u64,
    /// Whether LUO was in use before the agent was attached: there were sessions, or those of the previous kernel had been
    /// read in. Sessions that came and went before are not known.
    #[serde(default)]
    pub late: bool,
    /// Which part of a journal the file is; none where it is the first, or the only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
}

/// What a part of a journal says of what comes before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Which part it is, from 1.
    pub number: u64,
    /// How many records of the boot come before it, those that were lost on the way into the journal too.
    pub before: u64,
    /// How many of them are of the run that its header tells of.
    pub of_run: u64,
}

impl Header {
    /// A model of what this run of an agent records, which has seen nothing yet.
    pub fn model(&self) -> Model {
        let origin = Origin::of_run(&self.boot_id, self.clock.monotonic_ns);
        Model::of(&self.coverage(), origin)
    }

    /// What the hooks told all of, and which were switched off, as far as this version knows them.
    pub fn coverage(&self) -> Coverage {
        let hooks = |is: fn(&HookState) -> bool| {
            let states = self.hooks.iter().filter(move |state| is(state));
            states.filter_map(|state| Hook::ALL.iter().copied().find(|hook| hook.id() == state.id))
        };
        let covered: Coverage = hooks(HookState::is_covered).collect();
        covered.switched_off(hooks(|state| state.switched_off))
    }
}

/// KHO's `kexec-metadata`. Mirrors `struct kho_kexec_metadata` in `include/linux/kho/abi/kexec_handover.h` (7.3).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kexec {
    /// `uname -r` of the kernel before this one.
    #[serde(default)]
    pub previous_release: Option<String>,
    /// How many kexecs lie between the last cold boot and this one.
    #[serde(default)]
    pub count: Option<u64>,
}

/// Several clocks read at the same moment, so that times of one can be told in another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// `CLOCK_MONOTONIC`, the clock of every event, in nanoseconds.
    pub monotonic_ns: u64,
    /// `CLOCK_REALTIME` in nanoseconds since 1970.
    pub realtime_ns: u64,
    /// `CLOCK_BOOTTIME` in nanoseconds.
    #[serde(default)]
    pub boottime_ns: u64,
    /// The CPU's own counter, which goes on counting over a kexec.
    #[serde(default)]
    pub tsc: Option<u64>,
    /// How fast it counts, in kHz: as the kernel says, or else as the agent has measured it while it attached. Only a
    /// header's clock says so.
    #[serde(default)]
    pub tsc_khz: Option<u64>,
    /// Whether it counts at this rate all the time: true where the CPU promises it, false where the kernel has found that it
    /// does not; `None` where neither is the case, as in many virtual machines. Only a header's clock says so.
    #[serde(default)]
    pub counter_invariant: Option<bool>,
}

impl Clock {
    /// When `CLOCK_MONOTONIC` was 0, in nanoseconds since 1970, and before that below 0: what an event's time is added to.
    pub fn zero_unix_ns(&self) -> i128 {
        i128::from(self.realtime_ns) - i128::from(self.monotonic_ns)
    }
}

/// One hook of the table, as it was when the recording began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookState {
    /// [`Hook::id`].
    pub id: String,
    /// Whether it sends events.
    pub attached: bool,
    /// The kernel functions it is attached to.
    #[serde(default)]
    pub targets: Vec<String>,
    /// Why it is not attached, or not to all of its functions.
    #[serde(default)]
    pub reason: Option<String>,
    /// It is not attached because an option of the agent does not ask for it.
    #[serde(default)]
    pub switched_off: bool,
    /// It is not attached because this kernel has no such function: what does not exist has nothing to tell.
    #[serde(default)]
    pub nothing_to_tell: bool,
}

impl HookState {
    /// Whether the record has everything that it had to tell. A hook that reaches only some of its functions cannot be
    /// relied on.
    pub fn is_covered(&self) -> bool {
        (self.attached && self.reason.is_none()) || self.nothing_to_tell
    }

    /// Whether nothing is known to be in the way of it, where it was not tried.
    pub fn is_attachable(&self) -> bool {
        self.is_missing() && self.reason.is_none() && !self.targets.is_empty()
    }

    /// Whether it should be attached and is not.
    pub fn is_missing(&self) -> bool {
        !self.attached && !self.switched_off && !self.nothing_to_tell
    }
}

/// Records that never reached the journal, at this place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// How many.
    pub records: u64,
    /// What kept them from being written.
    #[serde(default)]
    pub why: String,
}

/// The recording ended as it should.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Why it ended.
    #[serde(default)]
    pub reason: String,
    /// How many events the kernel's side had lost in all, read after the last event.
    #[serde(default)]
    pub kernel_lost: u64,
}
