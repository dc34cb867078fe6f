//! The catalogue of invariants. One row here and one function in its family's file is all that an invariant is.
//!
//! Each function gets the state as it was before an event and the event, and tells the [`Court`] what that decides. It never
//! looks at anything but facts learned since the last gap in the record: what it finds on a record with holes, it would
//! have found on the whole one.

use luo_trace_common::hooks::{Family, Hook};

use super::court::Court;
use super::scene::Scene;
use super::state::State;

mod file;
mod flb;
mod reboot;
mod session;

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

macro_rules! invariants {
    ($($invariant:ident $id:literal $family:ident $severity:ident
        statement: $statement:literal, why: $why:literal, advice: $advice:literal,
        needs: [$($hook:ident)*], check: $check:path;)*) => {
        /// A promise that a live update makes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Invariant { $(#[doc = $statement] $invariant,)* }

        impl Invariant {
            /// Every invariant, in the order of the catalogue.
            pub const ALL: &[Invariant] = &[$(Invariant::$invariant,)*];

            /// The stable id users see.
            pub const fn id(self) -> &'static str { match self { $(Invariant::$invariant => $id,)* } }

            /// Which part of LUO it is about.
            pub const fn family(self) -> Family { match self { $(Invariant::$invariant => Family::$family,)* } }

            /// How bad a violation is.
            pub const fn severity(self) -> Severity { match self { $(Invariant::$invariant => Severity::$severity,)* } }

            /// The promise, in a sentence.
            pub const fn statement(self) -> &'static str { match self { $(Invariant::$invariant => $statement,)* } }

            /// Why it matters.
            pub const fn why(self) -> &'static str { match self { $(Invariant::$invariant => $why,)* } }

            /// What to do when it is violated.
            pub const fn advice(self) -> &'static str { match self { $(Invariant::$invariant => $advice,)* } }

            /// The hooks without which nothing can be said about it.
            pub const fn needs(self) -> &'static [Hook] { match self { $(Invariant::$invariant => &[$(Hook::$hook,)*],)* } }

            pub(super) const fn check(self) -> Check { match self { $(Invariant::$invariant => $check,)* } }
        }
    };
}

/// How many invariants there are.
pub(super) const COUNT: usize = Invariant::ALL.len();

invariants! {
    SessionNameUnique "session-name-unique" Session Error
        statement: "There is one live session per name and direction.",
        why: "The next kernel finds a session by its name alone: of two with one name, one can never be retrieved.",
        advice: "Close one of the two sessions before the next kexec, and report the kernel that let both exist.",
        needs: [SessionCreate SessionRelease], check: session::name_unique;
    SessionBalance "session-balance" Session Error
        statement: "Every created session is released, serialized or alive, and an outgoing release unpreserves all its files.",
        why: "What a session held and did not give back stays locked in memory until the next cold boot.",
        advice: "Count the host's preserved memory as leaked: plan a cold boot, and report the kernel.",
        needs: [SessionCreate SessionRelease SessionSerialize FilePreserve FilesUnpreserve], check: session::balance;
    SessionRetrieveOnce "session-retrieve-once" Session Error
        statement: "A second retrieve of a session fails.",
        why: "Two owners of one session can finish it under each other's hands.",
        advice: "Make sure that only one process goes on using the session, and report the kernel.",
        needs: [SessionRetrieve SessionRelease], check: session::retrieve_once;

    FileTokenUnique "file-token-unique" File Error
        statement: "A token is used once per session.",
        why: "The next kernel finds a file by its token: of two files with one token, the second can never be retrieved.",
        advice: "Close the session and preserve its files anew under tokens of their own, and report the kernel.",
        needs: [FilePreserve FilesUnpreserve], check: file::token_unique;
    FileObjectUnique "file-object-unique" File Error
        statement: "One object is preserved by at most one session.",
        why: "Each session saves, and in the next kernel frees, the object's memory as if it were its only owner.",
        advice: "Close one of the two sessions before the next kexec. Kernels before 7.1 do not refuse this.",
        needs: [FilePreserve FilesUnpreserve], check: file::object_unique;
    FileBalance "file-balance" File Error
        statement: "A successful preserve ends in exactly one of unpreserve and serialization, and unpreserve goes last-in-first-out.",
        why: "A file that is not unpreserved leaks its memory; one that is unpreserved twice frees memory that others use.",
        advice: "Do not update this host again before a cold boot, and report the file's handler with this record.",
        needs: [FilePreserve FilesUnpreserve SessionSerialize], check: file::balance;
    FileRetrieveOnce "file-retrieve-once" File Error
        statement: "The handler's retrieve runs at most once per file, later calls give the same file, and a failure stays a failure.",
        why: "A handler that runs twice on the same saved state takes ownership of the same memory twice.",
        advice: "Do not trust the contents of this file: finish the session, restart its owner from scratch, and report the handler.",
        needs: [FileRetrieve FileCallback FilesFinish], check: file::retrieve_once;

    FlbCreateOnFirst "flb-create-on-first" Flb Error
        statement: "The global state is created exactly when its users go from 0 to 1.",
        why: "A second creation overwrites the first, whose memory is then lost; a missing one lets files depend on nothing.",
        advice: "Close every session and see whether the state goes away. If a module that owns it was unloaded meanwhile, \
            that explains a missing creation; otherwise report the kernel.",
        needs: [FlbCallback FlbPreserve], check: flb::create_on_first;
    FlbDestroyOnLast "flb-destroy-on-last" Flb Critical
        statement: "The global state is destroyed exactly when its users go to 0: never before, never twice, never not at all.",
        why: "Files in use lose the state they depend on, or memory stays preserved that nobody owns.",
        advice: "Do not kexec: abandon the update, close every session and plan a cold boot. If the state is merely still there, \
            a driver may hold a reference of its own to it.",
        needs: [FlbCallback FlbPreserve FlbUnpreserve FlbFinish SessionSerialize], check: flb::destroy_on_last;

    FreezeNoReturn "freeze-no-return" Reboot Critical
        statement: "A successful liveupdate_reboot is followed by the jump, not by userspace.",
        why: "What was serialized is frozen for good: a host that goes on changes state that the next kernel will not see.",
        advice: "Treat the update as failed: sessions stay locked on this boot, so move the workload away and do a cold boot. The kernel \
            comes back by itself where a step after the freeze fails; its log says which.",
        needs: [LiveupdateReboot Kexec], check: reboot::no_return;
}
