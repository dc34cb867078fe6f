//! What can be done in a random story, by numbers that mean the same whatever else the story has: so deeds can be left out.

use testbed_guest::luo::NAME_MAX;
use testbed_guest::scenario::{SessionName, Stranger};

/// One deed, and who does it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Act {
    /// 0: the driver alone. 1 and up: a thread beside the others, or [`MEANWHILE`]; neighbours with such a number are done together.
    pub(super) thread: u8,
    /// What is done.
    pub(super) deed: Deed,
}

/// One deed. What makes no sense where it comes, such as closing a session that is not open, is left out then.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Deed {
    Create(Name),
    /// A name that has no byte, or one too many.
    CreateMisnamed {
        long: bool,
    },
    Close(Name),
    /// Makes a file and preserves it.
    Preserve {
        session: Name,
        token: Token,
        file: u32,
        made: Made,
    },
    /// Preserves a file that there is already.
    PreserveAgain {
        session: Name,
        token: Token,
        file: u32,
    },
    PreserveOther {
        session: Name,
        token: Token,
        what: Stranger,
    },
    Refill {
        file: u32,
        seed: u32,
    },
    RetrieveSession(Name),
    Retrieve {
        session: Name,
        token: Token,
    },
    Finish(Name),
    /// Does a deed whereby an allocation fails, and once more if that made it fail.
    Failing {
        nth: u32,
        deed: Box<Deed>,
    },
    /// Does a deed while a handler misbehaves as it may.
    While {
        handler: Handler,
        deed: Box<Deed>,
    },
    /// Calls `reboot(KEXEC)` while the handler of a file, after so many others, cannot freeze.
    FreezeFails {
        passes: u32,
        errno: &'static str,
    },
    /// The same with no image to jump into, if there is none.
    RebootToNothing,
    Load,
    LoadWhatIsNoKernel,
    /// By the system call that carries nothing, and out again.
    LoadLegacy,
    Unload,
    OpenTwice,
    Shut,
    Status,
    Snapshot,
    StopAgent,
    KillAgent,
    StartAgent,
    /// Has the kernel break a promise, as a scenario of the testbed does: its place among those.
    Tamper(usize),
}

/// How a handler misbehaves, which LUO has to cope with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Handler {
    /// Its `preserve` fails.
    CannotPreserve(&'static str),
    /// The `preserve` of the handler's global state fails, after so many.
    CannotMakeFlb(u32, &'static str),
    /// Its `retrieve` fails.
    CannotRetrieve(&'static str),
    /// Its `can_finish` says no.
    RefusesToFinish,
}

/// A session's name, by its number.
pub(super) type Name = u8;

/// How many names there are.
pub(super) const NAMES: Name = 9;

/// The threads beside each other: each has the names whose number leaves its own when divided by this.
pub(super) const THREADS: u8 = 3;

/// Who sees to the agent while the threads go on.
pub(super) const MEANWHILE: u8 = THREADS + 1;

/// The thread that a name belongs to, where there are several.
pub(super) fn owner(name: Name) -> u8 {
    name % THREADS + 1
}

/// A name: plain ones, and such that are hard for whoever prints them.
pub(super) fn name(number: Name) -> SessionName {
    let text = match number {
        0 => "web".into(),
        1 => "db".into(),
        2 => "a session with spaces: \"and\" 'quotes' <&>".into(),
        3 => "hex:fffefdc328a0a1808180".into(),
        4 => "hex:1b5b33316d0a0d072573097f".into(),
        5 => "x".repeat(NAME_MAX),
        6 => format!("{}y", "x".repeat(NAME_MAX - 1)),
        7 => "ぬぬぬ-ß-💩".into(),
        _ => format!("guest-{number}"),
    };
    // Every one of them is a name, as a test sees.
    SessionName::try_from(text).unwrap_or_else(|why| unreachable!("{why}"))
}

/// A token, by its number.
pub(super) type Token = u8;

/// The tokens; a scenario's file can name none above the greatest signed number.
pub(super) const TOKENS: [u64; 7] = [0, 1, 2, 0x10, 0xFFFF_FFFF, 0x1_0000_0000, i64::MAX as u64];

/// How a file is made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Made {
    Memfd { size: u64, sealed: bool, holes: bool },
    Device { node: usize, size: u64 },
}

/// A device of the testbed.
pub(super) struct Device {
    pub(super) node: &'static str,
    /// The global state that its files use, as `luo_testbed_handlers.c` has it, in that order.
    pub(super) flbs: &'static [&'static str],
    /// How much can be written to a file of it.
    pub(super) room: u64,
}

/// The devices, by their numbers.
pub(super) const DEVICES: [Device; 5] = [
    Device {
        node: "vfio",
        flbs: &["iommu-v1", "pci-v1"],
        room: 4096,
    },
    Device {
        node: "iommufd",
        flbs: &["iommu-v1"],
        room: 4096,
    },
    Device {
        node: "kvm",
        flbs: &[],
        room: 4096,
    },
    Device {
        node: "hugetlb",
        flbs: &["hugetlb-v1"],
        room: 4096 * (1 + 8 + 512),
    },
    Device {
        node: "nvme",
        flbs: &[],
        room: 4096,
    },
];
