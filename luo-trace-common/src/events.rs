//! Events as they cross the ring buffer and lie in a journal: a header, then the payload that its kind names.
//!
//! All numbers are in the machine's byte order (little-endian on every supported target). A payload may grow at its end
//! in a later version and never changes otherwise: a reader takes the prefix it knows, and fills with zeros what an older
//! writer left out. Zero is therefore "not known" wherever a field's doc says so.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::hooks::Hook;
pub use crate::policy::{Decision, Operation};
use crate::text::{Comm, Compatible, Name, SessionName};

/// Version of this ABI, written in a journal's header.
pub const ABI_VERSION: u16 = 1;

/// The table of kinds: calls `$callback!` with all of it, so that whatever is different for each kind is made from this one list.
///
/// A row is the raw number, the kind with its payload, and the name shown to users. A payload whose members name a choice by its raw
/// number has them beside it: a record in which one is not known to this version is not decoded. `boxed` is a payload that is some
/// times as long as the others, and that a reader keeps in a place of its own. What is under `losses` is no event: it tells that some
/// are missing.
///
/// The callback has to match
/// `$($(#[$doc:meta])* $value:literal $kind:ident($payload:ident $(, $field:ident: $choice:ident)*) $name:literal $($boxed:ident)?;)*`
/// in `events {}` and in `losses {}`.
#[macro_export]
macro_rules! for_each_kind {
    ($callback:ident) => {
        $callback! {
            events {
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
                /// `luo_open` returned: a process opened `/dev/liveupdate`, or was refused.
                6 DeviceOpen(Plain) "device-open";
                /// `luo_release` returned: `/dev/liveupdate` was closed.
                7 DeviceRelease(Plain) "device-release";

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
                23 FileCallback(FileCallback, call: FileCall) "file-callback";

                /// `luo_flb_file_preserve` returned: one more outgoing file uses the handler's FLBs.
                32 FlbPreserve(FlbOp) "flb-file-preserve";
                /// `luo_flb_file_unpreserve` returned: one outgoing file less uses them.
                33 FlbUnpreserve(FlbOp) "flb-file-unpreserve";
                /// `luo_flb_file_finish` returned: one incoming file less uses them.
                34 FlbFinish(FlbOp) "flb-file-finish";
                /// `luo_flb_serialize` returned.
                35 FlbSerialize(Plain) "flb-serialize";
                /// An FLB's callback returned: global state was made, brought back or taken down.
                36 FlbCallback(FlbCallback, call: FlbCall) "flb-callback";
                /// `liveupdate_flb_get_*` returned: a driver takes a reference on global state, or is refused.
                37 FlbGet(FlbUse) "flb-get";
                /// `liveupdate_flb_put_*` returned to a driver: it gives its reference back. LUO's own puts, one per file, are told by
                /// [`Kind::FlbUnpreserve`] and [`Kind::FlbFinish`] instead.
                38 FlbPut(FlbUse) "flb-put";
                /// One entry that `luo_flb_serialize` wrote for the next kernel; these come before its [`Kind::FlbSerialize`].
                39 FlbRecord(FlbRecord) "flb-record";

                /// `kernel_kexec` was entered: `reboot(LINUX_REBOOT_CMD_KEXEC)` is on its way.
                48 KexecEnter(Kexec) "kexec-enter";
                /// `liveupdate_reboot` returned: after a success only the jump may follow.
                49 LiveupdateReboot(Plain) "liveupdate-reboot";
                /// `kernel_kexec` returned to its caller, so the jump did not happen.
                50 KexecReturn(Plain) "kexec-return";
                /// `kexec_file_load(2)` or `kexec_load(2)` returned: a kernel is armed, replaced or unloaded, or was refused.
                51 ImageLoad(ImageLoad) "image-load";
                /// `kho_fill_kimage` returned: an image that is being loaded was made one that carries preserved memory. Comes before
                /// its [`Kind::ImageLoad`], and is the only moment at which the next kernel's command line can be read.
                52 ImageCarrier(ImageCarrier) "image-carrier" boxed;
                /// `security_kernel_read_file` returned for an image to jump into: this is its file, which the agent may look into.
                53 ImageFile(ImageFile) "image-file";

                /// A function of KHO's interface returned, one that is called once for an object and not once for a page.
                64 KhoOp(KhoOp, call: KhoCall) "kho-op";
                /// What the LUO operation that returns now did to preserved memory; comes before the operation's own event, and only
                /// under `--kho keys`.
                65 KhoBalance(KhoBalance) "kho-balance";
                /// KHO was asked for what cannot be right; only under `--kho keys`.
                66 KhoAnomaly(KhoAnomaly) "kho-anomaly";

                /// What follows until [`Kind::SnapshotEnd`] is what the kernel's own lists hold, as a walk over them found it.
                80 SnapshotBegin(SnapshotBegin) "snapshot-begin";
                /// A session that exists.
                81 SnapshotSession(SnapshotSession) "snapshot-session";
                /// A file that exists; follows its session.
                82 SnapshotFile(SnapshotFile) "snapshot-file";
                /// A registered FLB, with the users of either direction.
                83 SnapshotFlb(SnapshotFlb) "snapshot-flb";
                /// A registered file handler.
                84 SnapshotHandler(SnapshotHandler) "snapshot-handler";
                /// An FLB that a handler's files use; follows its handler.
                85 SnapshotLink(SnapshotLink) "snapshot-link";
                /// The walk is over.
                86 SnapshotEnd(SnapshotEnd) "snapshot-end";

                /// A session that the previous kernel serialized, found in the memory it left, before anybody read it in. Records of
                /// this kind and the next two come before the [`Kind::Handover`] that they belong to.
                96 ArrivedSession(ArrivedSession) "arrived-session";
                /// A file that the previous kernel serialized; follows its session.
                97 ArrivedFile(ArrivedFile) "arrived-file";
                /// A global state that the previous kernel serialized.
                98 ArrivedFlb(FlbRecord) "arrived-flb";
                /// What the previous kernel left was looked through, as far as it could be.
                99 Handover(Handover) "handover";

                /// The agent has looked into an image that was loaded. Its own record, too.
                113 ImageVerdict(ImageVerdict) "image-verdict" boxed;
                /// Policy, or an operator's order, changed. Its own record, too.
                114 PolicyChange(PolicyChange) "policy-change" boxed;
                /// Which hooks see nothing from here on, although they are attached. The agent's own record, too: it comes before every
                /// event that may lack what they would have told, and after the last such event when they see again.
                115 HooksBlind(HooksBlind) "hooks-blind";

                /// Policy was asked about a call, and decided. Comes before the call's own event, which a refused call may not have.
                120 PolicyDecision(PolicyDecision, operation: Operation, decision: Decision) "policy-decision" boxed;
            }
            losses {
                /// Programs were skipped by the kernel. No program can tell that, so this record is the agent's own: it comes before
                /// every event that may depend on it, with the time up to which that may be.
                112 Missed(Missed) "missed";
            }
        }
    };
}

macro_rules! kinds {
    ($($group:ident {
        $($(#[$doc:meta])* $value:literal $kind:ident($payload:ident $(, $field:ident: $choice:ident)*) $name:literal $($boxed:ident)?;)*
    })*) => {
        /// What an event tells, as the raw `u16` of [`Header::kind`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum Kind { $($($(#[$doc])* $kind = $value,)*)* }

        impl Kind {
            /// Every kind, in the order of the table.
            pub const ALL: &[Kind] = &[$($(Kind::$kind,)*)*];

            /// The length of a table that has a place for each kind: one more than the highest.
            pub const SPAN: usize = {
                let mut span = 0;
                $($(if span <= $value { span = $value + 1; })*)*
                span
            };

            /// The kind of this number, or `None` where this version knows none.
            pub const fn from_raw(raw: u16) -> Option<Self> {
                match raw { $($($value => Some(Kind::$kind),)*)* _ => None }
            }

            /// The name users see, in output and in metric labels.
            pub const fn name(self) -> &'static str {
                match self { $($(Kind::$kind => $name,)*)* }
            }

            /// Size of the payload in bytes, without the header.
            pub const fn payload_size(self) -> usize {
                match self { $($(Kind::$kind => size_of::<$payload>(),)*)* }
            }
        }
    };
}

for_each_kind!(kinds);

/// What payloads of every kind tell of themselves, where they have it.
pub trait Payload {
    /// How the operation ended; `None` for what is no operation: a record, a snapshot of the kernel's lists.
    fn outcome(&self) -> Option<&Outcome> {
        None
    }

    /// The session it is about, where it is about one; which one may not be known.
    fn session(&self) -> Option<&SessionRef> {
        None
    }
}

/// Says which members of a payload are its [`Payload::outcome`] and its [`Payload::session`].
macro_rules! payload {
    ($payload:ident { $($part:ident: $type:ident),* }) => {
        impl Payload for $payload {
            $(#[inline]
            fn $part(&self) -> Option<&$type> {
                Some(&self.$part)
            })*
        }
    };
}

// The macro is there for what stands below it.
mod policy;

pub use policy::{
    ImageFile, ImageVerdict, POLICY_ADOPTED, POLICY_ALLOW, POLICY_CLEAR, POLICY_EXPIRED, POLICY_HOLD, POLICY_LOADED,
    POLICY_OFF, PolicyChange, PolicyDecision, VERDICT_CARRIES, VERDICT_LOSES, VERDICT_PANICS, VERDICT_UNKNOWN, fails,
};

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

payload!(Plain { outcome: Outcome });

/// Create or retrieve of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SessionOp {
    /// The session; after a failure the name is what was asked for and the id may be 0.
    pub session: SessionRef,
    /// How it ended.
    pub outcome: Outcome,
}

payload!(SessionOp {
    session: SessionRef,
    outcome: Outcome
});

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

payload!(SessionRelease {
    session: SessionRef,
    outcome: Outcome
});

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

payload!(FileOp {
    session: SessionRef,
    outcome: Outcome
});

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

payload!(FilesOp {
    session: SessionRef,
    outcome: Outcome
});

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

payload!(FileCallback {
    session: SessionRef,
    outcome: Outcome
});

/// A file joins or leaves the FLBs of its handler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FlbOp {
    /// The handler's compatible string.
    pub handler: Compatible,
    /// How it ended.
    pub outcome: Outcome,
}

payload!(FlbOp { outcome: Outcome });

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

payload!(FlbCallback { outcome: Outcome });

/// A driver's own reference on global state, outside of any file. Mirrors `liveupdate_flb_{get,put}_{incoming,outgoing}` in
/// `kernel/liveupdate/luo_flb.c` (7.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FlbUse {
    /// Same number as [`FlbCallback::flb`].
    pub flb: u64,
    /// The FLB's compatible string.
    pub name: Compatible,
    /// [`OUTGOING`] or [`INCOMING`].
    pub direction: u32,
    /// Keeps the next field aligned; 0.
    pub reserved: u32,
    /// The kernel's count of users when the call returned; -1: not known.
    pub users: i64,
    /// How it ended; a put always succeeds.
    pub outcome: Outcome,
}

payload!(FlbUse { outcome: Outcome });

/// What the next kernel is told of an FLB. Mirrors `struct luo_flb_ser` in `include/linux/kho/abi/luo.h` (7.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FlbRecord {
    /// The FLB's compatible string.
    pub name: Compatible,
    /// Its data handle.
    pub data: u64,
    /// Its users.
    pub users: u64,
}

payload!(FlbRecord {});

/// [`Image::mode`]: whether an image is loaded is not known.
pub const IMAGE_UNKNOWN: u32 = 0;
/// [`Image::mode`]: none is loaded.
pub const IMAGE_NONE: u32 = 1;
/// [`Image::mode`]: one loaded by `kexec_file_load(2)`.
pub const IMAGE_FILE: u32 = 2;
/// [`Image::mode`]: one loaded by `kexec_load(2)`, which carries nothing.
pub const IMAGE_LEGACY: u32 = 3;

/// The kernel to jump into. Mirrors `struct kimage` in `include/linux/kexec.h` (7.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Image {
    /// Tells images of one boot apart while they live; 0: none.
    pub id: u64,
    /// [`IMAGE_UNKNOWN`], [`IMAGE_NONE`], [`IMAGE_FILE`] or [`IMAGE_LEGACY`].
    pub mode: u32,
    /// Of [`IMAGE_FILE`]: the number of the load that it came by, as policy's programs count loads of files; 0: not known.
    pub load: u32,
    /// Physical address of KHO's tree in it; 0: it carries no preserved memory.
    pub kho: u64,
}

/// `reboot(LINUX_REBOOT_CMD_KEXEC)` begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Kexec {
    /// Always a success that took no time: this is a moment.
    pub outcome: Outcome,
    /// The image that is about to be jumped into.
    pub image: Image,
}

payload!(Kexec { outcome: Outcome });

/// An image was loaded, replaced or unloaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ImageLoad {
    /// [`IMAGE_FILE`] for `kexec_file_load(2)`, [`IMAGE_LEGACY`] for `kexec_load(2)`.
    pub call: u32,
    /// Keeps the next field aligned; 0.
    pub reserved: u32,
    /// What is loaded now; crash images are not told of.
    pub image: Image,
    /// How it ended.
    pub outcome: Outcome,
}

payload!(ImageLoad { outcome: Outcome });

/// The command line of the next kernel, as far as it fits. Mirrors `COMMAND_LINE_SIZE` in
/// `arch/x86/include/asm/setup.h` (7.3).
pub type CommandLine = Name<2048>;

/// An image was prepared to carry preserved memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ImageCarrier {
    /// Same number as [`Image::id`].
    pub image: u64,
    /// Same as [`Image::kho`].
    pub kho: u64,
    /// The command line's length in bytes, with its NUL; 0: there is none.
    pub command_line_len: u64,
    /// The command line.
    pub command_line: CommandLine,
    /// How it ended.
    pub outcome: Outcome,
}

payload!(ImageCarrier { outcome: Outcome });

impl ImageCarrier {
    /// The command line, where all of it is here.
    pub fn whole_command_line(&self) -> Option<&[u8]> {
        let line = self.command_line.as_bytes();
        // The length counts the NUL.
        (self.command_line_len <= line.len() as u64 + 1).then_some(line)
    }
}

/// A call of KHO's interface. Mirrors `include/linux/kexec_handover.h` (7.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct KhoOp {
    /// The raw [`KhoCall`].
    pub call: u32,
    /// How many keys could not be added to KHO's tree during the call; counted under `--kho keys` only.
    pub inner_failures: u32,
    /// What it is about: a physical address for pages, else an address in the kernel; 0: not known.
    pub address: u64,
    /// Pages; 0: none, or not known.
    pub pages: u64,
    /// A subtree's name; empty for other calls.
    pub name: Compatible,
    /// The LUO operation it is part of, as `Hook as u32 + 1`; 0: none.
    pub within: u32,
    /// Keeps the next field aligned; 0.
    pub reserved: u32,
    /// How it ended. Functions that return a pointer count as 0, or the negative errno.
    pub outcome: Outcome,
}

payload!(KhoOp { outcome: Outcome });

/// Keys that went in and out of something, as a multiset: numbers, and sums that tell different multisets apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Keys {
    /// Calls.
    pub calls: u64,
    /// Pages of 4 KiB, or whatever the base page is.
    pub pages: u64,
    /// Wrapping sum over the calls of a mixing function of the key.
    pub sum: u64,
}

/// What one LUO operation did to preserved memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct KhoBalance {
    /// The operation, as `Hook as u32`.
    pub operation: u32,
    /// [`TOKEN_KNOWN`].
    pub flags: u32,
    /// The session, where it is about one.
    pub session: SessionRef,
    /// The token, if [`TOKEN_KNOWN`].
    pub token: u64,
    /// Keys added to KHO's tree.
    pub added: Keys,
    /// Keys removed from it.
    pub removed: Keys,
    /// Ranges restored, keyed by physical address and order.
    pub restored: Keys,
    /// Keys that could not be added.
    pub failures: u64,
    /// How the operation ended.
    pub outcome: Outcome,
}

payload!(KhoBalance {
    session: SessionRef,
    outcome: Outcome
});

/// [`KhoAnomaly::what`]: a range was asked back that is not, or not any more, preserved. The kernel refuses that.
pub const RESTORE_OF_UNPRESERVED: u32 = 1;
/// [`KhoAnomaly::what`]: a range was preserved that lies in scratch memory, where the next kernel would overwrite it.
pub const PRESERVED_IN_SCRATCH: u32 = 2;

/// KHO was asked for what cannot be right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct KhoAnomaly {
    /// [`RESTORE_OF_UNPRESERVED`] or [`PRESERVED_IN_SCRATCH`].
    pub what: u32,
    /// The LUO operation it is part of, as `Hook as u32 + 1`; 0: none.
    pub within: u32,
    /// The range's physical address.
    pub address: u64,
    /// The range's pages; 0: not known.
    pub pages: u64,
    /// How the call ended; always known, with no duration.
    pub outcome: Outcome,
}

payload!(KhoAnomaly { outcome: Outcome });

/// A walk over the kernel's lists begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SnapshotBegin {
    /// Which walk, from 1; one that was disturbed is followed by another.
    pub walk: u64,
    /// LUO's own number of this boot in the chain of live updates: 0 after a cold boot, [`u64::MAX`] where it is not known.
    pub update_number: u64,
    /// The image to jump into.
    pub image: Image,
}

payload!(SnapshotBegin {});

impl SnapshotBegin {
    /// LUO's number of this boot, where it is known.
    pub fn known_update_number(&self) -> Option<u64> {
        Some(self.update_number).filter(|&number| number != u64::MAX)
    }
}

/// A session, as the kernel's list has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SnapshotSession {
    /// The session.
    pub session: SessionRef,
    /// [`OUTGOING`] or [`INCOMING`].
    pub direction: u32,
    /// 1: incoming, and a process has retrieved it.
    pub retrieved: u32,
    /// The kernel's own count of its files.
    pub files: u64,
}

payload!(SnapshotSession { session: SessionRef });

/// A file, as its session's list has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SnapshotFile {
    /// Its session's [`SessionRef::id`].
    pub session: u64,
    /// Its token.
    pub token: u64,
    /// Its handler's compatible string.
    pub handler: Compatible,
    /// The open file; all zero for one that no process has retrieved yet.
    pub object: Object,
    /// The handler's serialized data.
    pub data: u64,
    /// What became of its retrieve: 0 none yet, 1 done, negative errno: it failed.
    pub retrieve_status: i64,
}

payload!(SnapshotFile {});

/// A registered FLB. Mirrors `struct luo_flb_private` in `include/linux/liveupdate.h` (7.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SnapshotFlb {
    /// Same number as [`FlbCallback::flb`].
    pub flb: u64,
    /// Its compatible string.
    pub name: Compatible,
    /// Users of the outgoing state; -1: not known.
    pub outgoing_users: i64,
    /// Users of the incoming state; -1: not known.
    pub incoming_users: i64,
    /// Data handle of the outgoing state.
    pub outgoing_data: u64,
    /// Data handle of the incoming state.
    pub incoming_data: u64,
    /// What became of its retrieve: 0 none yet, 1 done, negative errno: it failed.
    pub retrieve_status: i64,
    /// 1: the incoming state is finished.
    pub finished: u64,
}

payload!(SnapshotFlb {});

/// A registered file handler. Mirrors `struct liveupdate_file_handler` in `include/linux/liveupdate.h` (7.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SnapshotHandler {
    /// Tells handlers of one boot apart.
    pub handler: u64,
    /// Its compatible string.
    pub name: Compatible,
}

payload!(SnapshotHandler {});

/// An FLB that a handler's files use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SnapshotLink {
    /// [`SnapshotHandler::handler`].
    pub handler: u64,
    /// [`SnapshotFlb::flb`].
    pub flb: u64,
}

payload!(SnapshotLink {});

/// [`SnapshotEnd::flags`]: the lists changed during the walk, so that what it found may be of different moments.
pub const SNAPSHOT_CHANGED: u32 = 1;
/// [`SnapshotEnd::flags`]: something could not be read, and is missing.
pub const SNAPSHOT_INCOMPLETE: u32 = 2;
/// [`SnapshotEnd::flags`]: the previous kernel's sessions lie in memory that no process has read in yet: nothing is known of
/// incoming sessions.
pub const SNAPSHOT_INCOMING_UNREAD: u32 = 4;

/// A walk is over.
///
/// Without [`SNAPSHOT_CHANGED`] no task was changing sessions or files when it ended. An operation that began before this
/// event and whose own event comes after it is either wholly in what was found, or not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SnapshotEnd {
    /// [`SnapshotBegin::walk`].
    pub walk: u64,
    /// [`SNAPSHOT_CHANGED`], [`SNAPSHOT_INCOMPLETE`] and [`SNAPSHOT_INCOMING_UNREAD`], or none of them.
    pub flags: u32,
    /// Keeps the next field aligned; 0.
    pub reserved: u32,
    /// The kernel's own count of outgoing sessions; -1: not known.
    pub outgoing_sessions: i64,
    /// The kernel's own count of incoming sessions; -1: not known.
    pub incoming_sessions: i64,
}

payload!(SnapshotEnd {});

/// A session as the previous kernel serialized it. Mirrors `struct luo_session_ser` in `include/linux/kho/abi/luo.h` (7.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ArrivedSession {
    /// Its name.
    pub name: SessionName,
    /// How many files the previous kernel says it holds.
    pub files: u64,
}

payload!(ArrivedSession {});

/// A file as the previous kernel serialized it. Mirrors `struct luo_file_ser` in `include/linux/kho/abi/luo.h` (7.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ArrivedFile {
    /// Its session's name.
    pub session: SessionName,
    /// Its token.
    pub token: u64,
    /// Its handler's compatible string.
    pub handler: Compatible,
    /// The handler's serialized data.
    pub data: u64,
}

payload!(ArrivedFile {});

/// [`Handover::flags`]: everything that the previous kernel says is there was read: nothing is missing from what was found.
pub const HANDOVER_WHOLE: u32 = 1;
/// [`Handover::flags`]: a process opened the device before, so that the memory was given back: nothing was looked at.
pub const HANDOVER_TOO_LATE: u32 = 2;
/// [`Handover::flags`]: the previous kernel handed nothing over to LUO.
pub const HANDOVER_NOTHING: u32 = 4;

/// What the previous kernel left for LUO was looked through. Mirrors `struct luo_ser` in `include/linux/kho/abi/luo.h` (7.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Handover {
    /// LUO's own number of this boot in the chain of live updates: 0 after a cold boot, [`u64::MAX`] where it is not known.
    pub update_number: u64,
    /// How many sessions were found.
    pub sessions: u64,
    /// How many files were found, in all sessions.
    pub files: u64,
    /// How many global states were found.
    pub flbs: u64,
    /// [`HANDOVER_WHOLE`], [`HANDOVER_TOO_LATE`] and [`HANDOVER_NOTHING`], or none of them.
    pub flags: u32,
    /// Keeps the size a multiple of its alignment; 0.
    pub reserved: u32,
}

payload!(Handover {});

impl Handover {
    /// LUO's number of this boot, where it is known.
    pub fn known_update_number(&self) -> Option<u64> {
        Some(self.update_number).filter(|&number| number != u64::MAX)
    }
}

/// Programs were skipped by the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Missed {
    /// How often since this was last told.
    pub programs: u64,
}

payload!(Missed {});

/// The agent looks at the ring by itself in a moment, so that events need not wake it.
pub const HUSHED: u64 = 1;

/// An event was sent that the agent must look at now, whatever it meant to do.
pub const URGENT: u64 = 2;

/// [`HooksBlind::cause`]: the kernel's kprobes are switched off, by `kprobes/enabled` in debugfs.
pub const BLIND_KPROBES_OFF: u32 = 1;
/// [`HooksBlind::cause`]: the kernel's function tracing is switched off, by `kernel.ftrace_enabled` before 7.3.
pub const BLIND_FTRACE_OFF: u32 = 2;
/// [`HooksBlind::cause`]: the kernel shut its function tracing down after a fault of its own. Only a boot brings it back.
pub const BLIND_FTRACE_DEAD: u32 = 3;
/// [`HooksBlind::cause`]: their functions do not call any tracer any more, and what undid that is not known.
pub const BLIND_UNPATCHED: u32 = 4;
/// [`HooksBlind::cause`]: they were switched off and on again in between.
pub const BLIND_FOR_A_MOMENT: u32 = 5;

/// Some hooks see nothing, or those that saw nothing see again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HooksBlind {
    /// The hooks that see nothing from here on: the bit of each [`Hook`]'s number. 0: each sees again.
    pub hooks: u64,
    /// One of `BLIND_*`; 0 where all see.
    pub cause: u32,
    /// Keeps the size a multiple of 8; 0.
    pub reserved: u32,
}

payload!(HooksBlind {});

impl HooksBlind {
    /// These hooks, as [`HooksBlind::hooks`] has them.
    pub fn bits(hooks: impl IntoIterator<Item = Hook>) -> u64 {
        hooks.into_iter().fold(0, |bits, hook| bits | 1 << hook as u32)
    }

    /// Whether this hook sees nothing.
    pub fn has(&self, hook: Hook) -> bool {
        self.hooks >> hook as u32 & 1 != 0
    }

    /// The ids of the hooks that see nothing.
    pub fn ids(&self) -> impl Iterator<Item = &'static str> {
        Hook::ALL.iter().filter(|&&hook| self.has(hook)).map(|hook| hook.id())
    }
}

/// Declares the callbacks once: raw number and name.
macro_rules! calls {
    ($(#[$doc:meta])* $ty:ident { $($(#[$vdoc:meta])* $value:literal $call:ident $name:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum $ty { $($(#[$vdoc])* $call = $value,)* }

        impl $ty {
            /// The length of a table that has a place for each: one more than the highest.
            pub const SPAN: usize = {
                let mut span = 0;
                $(if span <= $value { span = $value + 1; })*
                span
            };

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

calls! {
    /// Functions of KHO's interface. Mirrors `kernel/liveupdate/kexec_handover.c` (7.3).
    KhoCall {
        /// `kho_preserve_pages`.
        1 PreservePages "kho-preserve-pages";
        /// `kho_unpreserve_pages`.
        2 UnpreservePages "kho-unpreserve-pages";
        /// `kho_restore_pages`.
        3 RestorePages "kho-restore-pages";
        /// `kho_preserve_vmalloc`.
        4 PreserveVmalloc "kho-preserve-vmalloc";
        /// `kho_unpreserve_vmalloc`.
        5 UnpreserveVmalloc "kho-unpreserve-vmalloc";
        /// `kho_restore_vmalloc`.
        6 RestoreVmalloc "kho-restore-vmalloc";
        /// `kho_alloc_preserve`.
        7 AllocPreserve "kho-alloc-preserve";
        /// `kho_unpreserve_free`.
        8 UnpreserveFree "kho-unpreserve-free";
        /// `kho_restore_free`.
        9 RestoreFree "kho-restore-free";
        /// `kho_add_subtree`.
        10 AddSubtree "kho-add-subtree";
        /// `kho_remove_subtree`.
        11 RemoveSubtree "kho-remove-subtree";
        /// `kho_retrieve_subtree`.
        12 RetrieveSubtree "kho-retrieve-subtree";
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
    fn every_payload_tells_its_outcome_and_its_session() {
        // Whatever member a struct has, the `payload!` beside it names.
        for source in [include_str!("events.rs"), include_str!("events/policy.rs")] {
            for beside in source.split("\npub struct ").skip(1) {
                let (members, rest) = beside.split_once("\n}\n").unwrap();
                let Some(payload) = rest.strip_prefix("\npayload!(") else {
                    continue;
                };
                let named = payload.split_once(");").unwrap().0;
                for part in ["outcome: Outcome", "session: SessionRef"] {
                    let has = members.contains(part);
                    assert_eq!(has, named.contains(part), "{part} of {named}");
                }
            }
        }
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
            (Kind::FlbGet, 88),
            (Kind::FlbRecord, 64),
            (Kind::KexecEnter, 40),
            (Kind::ImageLoad, 48),
            (Kind::ImageCarrier, 2088),
            (Kind::KhoOp, 96),
            (Kind::KhoBalance, 184),
            (Kind::KhoAnomaly, 40),
            (Kind::SnapshotBegin, 40),
            (Kind::SnapshotSession, 88),
            (Kind::SnapshotFile, 112),
            (Kind::SnapshotFlb, 104),
            (Kind::SnapshotHandler, 56),
            (Kind::SnapshotLink, 16),
            (Kind::SnapshotEnd, 32),
            (Kind::ArrivedSession, 72),
            (Kind::ArrivedFile, 128),
            (Kind::ArrivedFlb, 64),
            (Kind::Handover, 40),
            (Kind::Missed, 8),
            (Kind::ImageFile, 32),
            (Kind::ImageVerdict, 528),
            (Kind::PolicyChange, 288),
            (Kind::HooksBlind, 16),
            (Kind::PolicyDecision, 464),
        ];
        for (kind, size) in sizes {
            assert_eq!(kind.payload_size(), size, "{}", kind.name());
        }
    }
}
