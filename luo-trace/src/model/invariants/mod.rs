//! The catalogue of invariants. One row in `catalogue.rs` and one function in its family's file is all that an invariant is.
//!
//! Each function gets the state as it was before an event and the event, and tells the [`Court`] what that decides. It never
//! looks at anything but facts learned since the last gap in the record: what it finds on a record with holes, it would
//! have found on the whole one.

use super::court::Court;
use super::scene::Scene;
use super::state::State;

mod atomic;
mod catalogue;
mod file;
mod finish;
mod flb;
mod flb_users;
mod freeze;
mod kexec;
mod kho;
mod reboot;
mod session;
mod snapshot;

pub(super) use catalogue::Asked;
pub use catalogue::Invariant;

/// Refusals of the kernel, as results: each proves that a promise was kept.
const EEXIST: i64 = -17;
const EBUSY: i64 = -16;
const EINVAL: i64 = -22;

/// How bad a violation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Userspace did something that will hurt later.
    Warning,
    /// The kernel broke its own contract.
    Error,
    /// State or memory is lost, or the next kernel may panic.
    Critical,
}

impl Severity {
    /// The name users see.
    pub const fn name(self) -> &'static str {
        match self {
            Severity::Warning => "warning",
            Severity::Error => "error",
            Severity::Critical => "critical",
        }
    }
}

pub(super) type Check = fn(&State, &Scene, &mut Court);

/// What it takes to decide an invariant.
#[derive(Clone, Copy)]
pub(super) enum Judged {
    /// The record of one boot.
    Boot(Check),
    /// The records of a chain of boots: one boot's record never tells. See [`crate::chain`].
    Chain,
    /// The record of one boot where the agent looked ahead, into the image, and else the records of a chain. Where neither
    /// tells, it is not among the verdicts: nothing is missing from a record because no agent had the time to look.
    Ahead(Check),
}

/// How many invariants there are.
pub(super) const COUNT: usize = Invariant::ALL.len();
