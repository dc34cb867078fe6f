//! Events as they cross the ring buffer and lie in a journal: a header, then the payload that its kind names.
//!
//! All numbers are in the machine's byte order (little-endian on every supported target). A payload may grow at its end
//! in a later version and never changes otherwise: a reader takes the prefix it knows, and fills with zeros what an older
//! writer left out. Zero is therefore "not known" wherever a field's doc says so.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::text::{Comm, Compatible, SessionName};

/// Version of this ABI, written in a journal's header.
pub const ABI_VERSION: u16 = 1;

/// Declares the kinds once: the raw number, the payload's type, the name shown to users.
macro_rules! kinds {
    ($($(#[$doc:meta])* $value:literal $kind:ident($payload:ty) $name:literal;)*) => {
        /// What an event tells, as the raw `u16` of [`Header::kind`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum Kind { $($(#[$doc])* $kind = $value,)* }

        impl Kind {
            /// Every kind, in the order of their numbers.
            pub const ALL: &[Kind] = &[$(Kind::$kind,)*];

            /// The kind of this number, or `None` where this version knows none.
            pub const fn from_raw(raw: u16) -> Option<Self> {
                match raw { $($value => Some(Kind::$kind),)* _ => None }
            }

            /// The name users see, in output and in metric labels.
            pub const fn name(self) -> &'static str {
                match self { $(Kind::$kind => $name,)* }
            }

            /// Size of the payload in bytes, without the header.
            pub const fn payload_size(self) -> usize {
                match self { $(Kind::$kind => size_of::<$payload>(),)* }
            }
        }
    };
}

kinds! {
    /// `luo_session_create` returned.
    1 SessionCreate(SessionOp) "session-create";
    /// `luo_session_retrieve` returned.
    2 SessionRetrieve(SessionOp) "session-retrieve";
    /// `luo_session_release` returned: the last descriptor of a session was closed.
    3 SessionRelease(SessionRelease) "session-release";
    /// `luo_session_deserialize` returned: the incoming sessions exist from here on.
    4 SessionDeserialize(Plain) "session-deserialize";
    /// `luo_session_serialize` returned: after a success every session is frozen.
    5 SessionSerialize(Plain) "session-serialize";

    /// `luo_preserve_file` returned.
    16 FilePreserve(FileOp) "file-preserve";
    /// `luo_retrieve_file` returned.
    17 FileRetrieve(FileOp) "file-retrieve";
    /// `luo_file_unpreserve_files` returned: all files of a session were given back.
    18 FilesUnpreserve(FilesOp) "files-unpreserve";
    /// `luo_file_finish` returned: all files of a session are finished, or none is.
    19 FilesFinish(FilesOp) "files-finish";
    /// `luo_file_freeze` returned, one session's part of the freeze.
    20 FilesFreeze(FilesOp) "files-freeze";
    /// `luo_file_unfreeze` returned, one session's part of a freeze undone.
    21 FilesUnfreeze(FilesOp) "files-unfreeze";
    /// `luo_file_deserialize` returned, one session's files have arrived.
    22 FilesDeserialize(FilesOp) "files-deserialize";
    /// A file handler's callback returned.
    23 FileCallback(FileCallback) "file-callback";

    /// `luo_flb_file_preserve` returned: one more outgoing file uses the handler's FLBs.
    32 FlbPreserve(FlbOp) "flb-file-preserve";
    /// `luo_flb_file_unpreserve` returned: one outgoing file less uses them.
    33 FlbUnpreserve(FlbOp) "flb-file-unpreserve";
    /// `luo_flb_file_finish` returned: one incoming file less uses them.
    34 FlbFinish(FlbOp) "flb-file-finish";
    /// `luo_flb_serialize` returned.
    35 FlbSerialize(Plain) "flb-serialize";
    /// An FLB's callback returned: global state was made, brought back or taken down.
    36 FlbCallback(FlbCallback) "flb-callback";

    /// `kernel_kexec` was entered: `reboot(LINUX_REBOOT_CMD_KEXEC)` is on its way.
    48 KexecEnter(Plain) "kexec-enter";
    /// `liveupdate_reboot` returned: after a success only the jump may follow.
    49 LiveupdateReboot(Plain) "liveupdate-reboot";
    /// `kernel_kexec` returned to its caller, so the jump did not happen.
    50 KexecReturn(Plain) "kexec-return";
}

/// What every event begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// The raw [`Kind`].
    pub kind: u16,
    /// Size of header and payload in bytes.
    pub size: u16,
    /// The CPU the program ran on.
    pub cpu: u32,
    /// Number of this event on its CPU, from 1, without holes: a hole is a loss.
    pub seq: u64,
    /// How many events all CPUs had lost when this one was written. A rise tells of a loss on another CPU before that
    /// CPU sends its next event, so that nothing is ever judged on a record that has an unseen hole.
    pub lost: u64,
    /// `CLOCK_MONOTONIC` in nanoseconds when the event was written: for an operation, its end.
    pub ktime: u64,
    /// Thread id.
    pub pid: u32,
    /// Process id.
    pub tgid: u32,
    /// The thread's name.
    pub comm: Comm,
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Outcome {
    /// 0 or a negative errno; always 0 for functions that return nothing. `can_finish` counts as 0 for yes, `-EBUSY` for no.
    pub result: i64,
    /// Nanoseconds from entry to return; 0 where the entry was not seen.
    pub duration: u64,
}

impl Outcome {
    /// Whether the operation succeeded.
    pub fn is_ok(&self) -> bool {
        self.result >= 0
    }
}

/// Which session an event is about. Mirrors `struct luo_session` in `kernel/liveupdate/luo_internal.h` (7.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SessionRef {
    /// Tells sessions of one boot apart while they live; a later session may get the id of one that is gone. 0: not known.
    pub id: u64,
    /// The session's name; empty: not known.
    pub name: SessionName,
}

/// An operation that has an outcome and no other detail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Plain {
    /// How it ended.
    pub outcome: Outcome,
}

/// Create or retrieve of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SessionOp {
    /// The session; after a failure the name is what was asked for and the id may be 0.
    pub session: SessionRef,
    /// How it ended.
    pub outcome: Outcome,
}

/// [`SessionRelease::direction`]: the session is on its way to the next kernel.
pub const OUTGOING: u32 = 1;
/// [`SessionRelease::direction`]: the session came from the previous kernel.
pub const INCOMING: u32 = 2;

/// The last descriptor of a session was closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SessionRelease {
    /// The session.
    pub session: SessionRef,
    /// [`OUTGOING`], [`INCOMING`], or 0: not known.
    pub direction: u32,
    /// Keeps the next field aligned; 0.
    pub reserved: u32,
    /// How many files it held when the release began.
    pub files: u64,
    /// How it ended.
    pub outcome: Outcome,
}

/// An operation on one file of a session. Mirrors `struct luo_file` in `kernel/liveupdate/luo_file.c` (7.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FileOp {
    /// The session.
    pub session: SessionRef,
    /// The file's token in the session.
    pub token: u64,
    /// The handler's compatible string; empty: not known, or none was found.
    pub handler: Compatible,
    /// The open file; all zero: not known.
    pub object: Object,
    /// The handler's serialized data, as the kernel keeps it; 0: not known or none.
    pub data: u64,
    /// How it ended.
    pub outcome: Outcome,
}

/// An open file, as far as it can be told apart from others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Object {
    /// Equal for two files that are the same object to the kernel, while both live. 0: cannot be told.
    pub identity: u64,
    /// Tells open files of one boot apart while they live. 0: not known.
    pub file: u64,
    /// Inode number.
    pub inode: u64,
    /// Size in bytes; 0 for files without one.
    pub size: u64,
}

/// An operation on all files of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FilesOp {
    /// The session.
    pub session: SessionRef,
    /// How many files the session held: before unpreserve and finish, after deserialize.
    pub files: u64,
    /// How it ended.
    pub outcome: Outcome,
}

/// [`FileCallback::flags`]: the token is known.
pub const TOKEN_KNOWN: u32 = 1;

/// A file handler's callback returned. Mirrors `struct liveupdate_file_op_args` in `include/linux/liveupdate.h` (7.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FileCallback {
    /// The raw [`FileCall`].
    pub call: u32,
    /// [`TOKEN_KNOWN`].
    pub flags: u32,
    /// The session, where the surrounding operation was seen to begin.
    pub session: SessionRef,
    /// The token, if [`TOKEN_KNOWN`].
    pub token: u64,
    /// The handler's compatible string.
    pub handler: Compatible,
    /// Same number as [`Object::file`]; 0 before a file is retrieved.
    pub file: u64,
    /// The handler's serialized data after the call.
    pub data: u64,
    /// What LUO tells the handler of an earlier retrieve: 0 none, 1 done, negative errno: it failed.
    pub retrieve_status: i64,
    /// How it ended.
    pub outcome: Outcome,
}

/// A file joins or leaves the FLBs of its handler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FlbOp {
    /// The handler's compatible string.
    pub handler: Compatible,
    /// How it ended.
    pub outcome: Outcome,
}

/// An FLB's callback returned. Mirrors `struct liveupdate_flb_op_args` in `include/linux/liveupdate.h` (7.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FlbCallback {
    /// The raw [`FlbCall`].
    pub call: u32,
    /// Keeps the next field aligned; 0.
    pub reserved: u32,
    /// Tells FLBs of one boot apart.
    pub flb: u64,
    /// The FLB's compatible string.
    pub name: Compatible,
    /// The handler whose file brought it about, where that was seen; empty: not known.
    pub handler: Compatible,
    /// The kernel's own count of users when the callback began, under the FLB's lock; -1: not known.
    /// It is 0 in a correct preserve, unpreserve and finish.
    pub users: i64,
    /// The FLB's data handle after the call.
    pub data: u64,
    /// How it ended.
    pub outcome: Outcome,
}

/// Declares the callbacks once: raw number and name.
macro_rules! calls {
    ($(#[$doc:meta])* $ty:ident { $($(#[$vdoc:meta])* $value:literal $call:ident $name:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum $ty { $($(#[$vdoc])* $call = $value,)* }

        impl $ty {
            /// The callback of this number, or `None` where this version knows none.
            pub const fn from_raw(raw: u32) -> Option<Self> {
                match raw { $($value => Some($ty::$call),)* _ => None }
            }

            /// The name users see.
            pub const fn name(self) -> &'static str {
                match self { $($ty::$call => $name,)* }
            }
        }
    };
}

calls! {
    /// A file handler's callbacks. Mirrors `struct liveupdate_file_ops` in `include/linux/liveupdate.h` (7.3).
    FileCall {
        /// Save the file's state.
        1 Preserve "preserve";
        /// Give the saved state back.
        2 Unpreserve "unpreserve";
        /// Last touch before the jump.
        3 Freeze "freeze";
        /// The jump is off.
        4 Unfreeze "unfreeze";
        /// Make a file of the saved state in the new kernel.
        5 Retrieve "retrieve";
        /// May the file be finished?
        6 CanFinish "can-finish";
        /// The saved state is no longer needed.
        7 Finish "finish";
    }
}

calls! {
    /// An FLB's callbacks. Mirrors `struct liveupdate_flb_ops` in `include/linux/liveupdate.h` (7.3).
    FlbCall {
        /// The global state is made, for its first user.
        1 Preserve "flb-create";
        /// The outgoing global state is taken down, after its last user.
        2 Unpreserve "flb-destroy";
        /// The global state is brought back in the new kernel.
        3 Retrieve "flb-restore";
        /// The incoming global state is taken down, after its last user.
        4 Finish "flb-finish";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_by_its_own_number() {
        for &kind in Kind::ALL {
            assert_eq!(Kind::from_raw(kind as u16), Some(kind));
        }
        assert_eq!(Kind::from_raw(0), None);
    }

    #[test]
    fn layouts_of_version_1_stay_as_they_are() {
        // A change here breaks journals in the field: payloads only grow at their end.
        assert_eq!(size_of::<Header>(), 56);
        let sizes = [
            (Kind::SessionCreate, 88),
            (Kind::SessionRelease, 104),
            (Kind::SessionSerialize, 16),
            (Kind::FilePreserve, 184),
            (Kind::FilesFinish, 96),
            (Kind::FileCallback, 176),
            (Kind::FlbPreserve, 64),
            (Kind::FlbCallback, 144),
        ];
        for (kind, size) in sizes {
            assert_eq!(kind.payload_size(), size, "{}", kind.name());
        }
    }
}
