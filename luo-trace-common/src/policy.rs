//! What policy may refuse, and how it is decided: the data that the agent lays down for the programs, and the decision
//! itself, which programs and `luo-trace policy test` share.
//!
//! A policy has at most [`RULES`] rules, so that a set of rules is one number. The agent compiles it into one [`Table`] and
//! into maps from a value (a task's name, a user, a control group, a session's name) to the rules that name it. A decision
//! then is some lookups and arithmetic on sets, however many rules there are; nothing waits for the agent.
//!
//! Two tables are kept, told apart by their generation, and so are the entries of all maps: a decision reads one generation
//! and sees one policy.

use core::mem::offset_of;
use core::ptr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::text::{Comm, Name, SessionName};

/// How many rules a policy may have.
pub const RULES: usize = 64;
/// A set of rules, by their place in the policy's file.
pub type RuleSet = u64;
/// How many different numbers the conditions that count something may name in one policy, each.
pub const LIMITS: usize = 8;
/// How many different values a policy may name for each [`Aspect`], in `match` and `unless` together.
pub const VALUES: usize = 1024;
/// How deep control groups may be nested.
pub const CGROUP_DEPTH: usize = 8;
/// How many control groups a policy may name, with all that lie above them.
pub const CGROUP_NODES: usize = VALUES * CGROUP_DEPTH;
/// `LIVEUPDATE_IOCTL_CREATE_SESSION` of `include/uapi/linux/liveupdate.h` (7.3).
pub const CREATE_SESSION: u32 = 0xba00;
/// Command of ioctl(2), on any file, by which the agent finds out whether programs run at all: they count it in
/// [`State::probes`].
pub const PROBE: u32 = 0x6c75_6f3f;
/// Number of the agent's own rule that says no while the host is held.
pub const RULE_HOLD: u32 = RULES as u32;
/// Number of the agent's own rule that says no while the agent is lost and the policy is closed.
pub const RULE_AGENT_LOSS: u32 = RULE_HOLD + 1;
/// No rule applied.
pub const RULE_NONE: u32 = u32::MAX;
/// A number that is not known, or that no rule asked for.
pub const NOT_COUNTED: u64 = u64::MAX;
/// A time that never comes, in nanoseconds.
pub const NEVER: u64 = u64::MAX;

/// A rule's name.
pub type RuleName = Name<48>;
/// The path of a task's control group, cut at its end where it does not fit.
pub type CgroupPath = Name<256>;
/// One component of it.
pub type CgroupName = Name<128>;

/// Declares raw number, name and number of variants once.
macro_rules! choices {
    ($($(#[$doc:meta])* $ty:ident { $($(#[$vdoc:meta])* $value:literal $choice:ident $name:literal;)* })*) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum $ty { $($(#[$vdoc])* $choice = $value,)* }

        impl $ty {
            /// All of them, in the order of their numbers, which begin at 0.
            pub const ALL: &[$ty] = &[$($ty::$choice,)*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The one of this number, or `None` where this version knows none.
            pub const fn from_raw(raw: u32) -> Option<Self> {
                match raw { $($value => Some($ty::$choice),)* _ => None }
            }

            /// The name users see, in policies and in metric labels.
            pub const fn name(self) -> &'static str {
                match self { $($ty::$choice => $name,)* }
            }

            /// The one that users call so.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|choice| choice.name() == name)
            }
        }
    )* };
}

choices! {
    /// What a rule is about (`on`). There is none for retrieve, finish and closing: refusing those would leak preserved memory.
    Operation {
        /// A session is made.
        0 SessionCreate "session-create";
        /// A file is preserved into a session.
        1 FilePreserve "file-preserve";
        /// An image to jump into is loaded. Images for a crash, and unloading, are never asked about.
        2 KexecLoad "kexec-load";
        /// `reboot(LINUX_REBOOT_CMD_KEXEC)`.
        3 KexecReboot "kexec-reboot";
    }

    /// What a rule tells calls apart by (`match` and `unless`).
    Aspect {
        /// The calling thread's name, which every program chooses for itself.
        0 Comm "comm";
        /// The caller's real user id.
        1 Uid "uid";
        /// The caller's control group (version 2), or one that it lies in.
        2 Cgroup "cgroup";
        /// The session's name; of an image and a reboot: the name of any session that is preserved.
        3 Session "session";
        /// Of an image and a reboot: the handler of any file that is preserved.
        4 Handler "handler";
    }

    /// What must be so for a rule to apply (`when`).
    Condition {
        /// The image is, or is being, loaded by `kexec_load(2)`, which carries nothing over.
        0 LegacyImage "legacy-image";
        /// The kernel in the loaded image cannot take what is preserved.
        1 TargetIncompatible "target-incompatible";
        /// The loaded image's command line does not switch LUO on.
        2 CmdlineMissingLiveupdate "cmdline-missing-liveupdate";
        /// There are more outgoing sessions than so many, without the recorder's own.
        3 SessionsOver "sessions-over";
        /// They have more files than so many.
        4 FilesOver "files-over";
        /// An invariant of at least this severity is violated.
        5 InvariantViolated "invariant-violated";
        /// There are incoming sessions that no process has finished.
        6 IncomingUnfinished "incoming-unfinished";
        /// An operator holds the host.
        7 Held "held";
        /// The agent has shown no sign of life for longer than `stale_after`.
        8 AgentStale "agent-stale";
    }

    /// What a policy does at all (`mode`).
    Mode {
        /// Nothing: no program is asked.
        0 Off "off";
        /// It counts and tells what it would refuse.
        1 Audit "audit";
        /// It refuses.
        2 Enforce "enforce";
    }

    /// What became of a call that policy was asked about.
    Decision {
        /// No rule applied.
        0 Pass "pass";
        /// A rule applied that only looks.
        1 Audit "audit";
        /// A rule would have refused it, were the mode `enforce`.
        2 WouldDeny "would-deny";
        /// Refused, with `EPERM`.
        3 Deny "deny";
        /// A rule would have refused it, but for an operator's allowance.
        4 Allowed "allowed";
    }
}

impl Decision {
    /// Whether a rule says no, whatever became of the call.
    pub const fn is_no(self) -> bool {
        matches!(self, Decision::WouldDeny | Decision::Deny | Decision::Allowed)
    }
}

/// The rules that name a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Selected {
    /// In `match`.
    pub matched: RuleSet,
    /// In `unless`.
    pub excepted: RuleSet,
}

impl Selected {
    /// The rules that name this value or that one.
    #[inline(always)]
    pub fn or(self, other: Self) -> Self {
        Self {
            matched: self.matched | other.matched,
            excepted: self.excepted | other.excepted,
        }
    }
}

/// The rules whose condition is that there are more than so many of something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Limit {
    /// So many.
    pub over: u64,
    /// The rules; none where the place is not used.
    pub rules: RuleSet,
}

/// A policy in the form in which it is decided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Table {
    /// Which policy of this agent, from 1; entries of the maps have the same.
    pub generation: u64,
    /// The raw [`Mode`].
    pub mode: u32,
    /// Whether agent loss refuses images and reboots (`on_agent_loss = "closed"`): 1, else 0.
    pub closed: u32,
    /// For how long the agent may show no sign of life, in nanoseconds.
    pub stale_after: u64,
    /// The rules about each [`Operation`].
    pub on: [RuleSet; Operation::COUNT],
    /// The rules that refuse; the others look.
    pub deny: RuleSet,
    /// The rules with this [`Aspect`] in `match`.
    pub matches: [RuleSet; Aspect::COUNT],
    /// The rules with this [`Aspect`] in `unless`.
    pub unless: [RuleSet; Aspect::COUNT],
    /// The rules with each [`Condition`].
    pub when: [RuleSet; Condition::COUNT],
    /// The rules that do not apply to an [`Operation`] where one of their conditions is not known.
    pub unknown_passes: [RuleSet; Operation::COUNT],
    /// For [`Condition::SessionsOver`].
    pub sessions_over: [Limit; LIMITS],
    /// For [`Condition::FilesOver`].
    pub files_over: [Limit; LIMITS],
    /// For [`Condition::InvariantViolated`], by [`severity`](State::violated) from 1: the rules that ask for that much.
    pub violated: [RuleSet; SEVERITIES],
    /// The rules that name a session or a handler of what is preserved at this moment, by [`Aspect`]: the agent keeps it up to
    /// date for images and reboots. The other places are not used.
    pub preserved: [Selected; Aspect::COUNT],
}

/// How many severities there are: 1 warning, 2 error, 3 critical.
pub const SEVERITIES: usize = 3;

/// What an operator ordered, what the agent knows, and what the programs note. Each member is read and written by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct State {
    /// The generation in force; 0: none, everything passes.
    pub generation: u64,
    /// When the agent last showed a sign of life, in nanoseconds of `CLOCK_MONOTONIC`; [`NEVER`]: it ended in order.
    pub heartbeat: u64,
    /// Until when an operator holds the host, in nanoseconds of `CLOCK_MONOTONIC`; 0: not, [`NEVER`]: until it is cleared.
    pub held_until: u64,
    /// Until when an operator lets everything pass; 0: not.
    pub allowed_until: u64,
    /// The number of the newest load of a file. Written by the programs, after the [`Load`] itself.
    pub loads: u64,
    /// The newest load and the one before it, each at the lowest bit of its number. Written by the programs.
    pub load: [Load; 2],
    /// What is known of the image that is loaded: a [`ImageBits`] as a number.
    pub verdict: u64,
    /// [`Image::id`](crate::events::Image::id) of the image that the verdict is about.
    pub judged: u64,
    /// The worst severity of an invariant that is violated: 1 warning, 2 error, 3 critical; 0: none is.
    pub violated: u64,
    /// How often the agent asked whether the programs run at all. Counted by the programs.
    pub probes: u64,
}

/// Tells layouts of [`State`] apart, which is what an agent takes over from the one before it.
pub const ABI: u64 = {
    let layout = [
        size_of::<State>(),
        offset_of!(State, generation),
        offset_of!(State, heartbeat),
        offset_of!(State, held_until),
        offset_of!(State, allowed_until),
        offset_of!(State, loads),
        offset_of!(State, load),
        size_of::<Load>(),
        offset_of!(State, verdict),
        offset_of!(State, judged),
        offset_of!(State, violated),
        offset_of!(State, probes),
        ImageBits::BITS as usize,
    ];
    // Fowler, Noll and Vo's hash, by words.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut i = 0;
    while i < layout.len() {
        hash = (hash ^ layout[i] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        i += 1;
    }
    hash
};

/// A load of a file, as the programs note it when the kernel begins to read it: by that they know which load the image in place
/// came by, whatever becomes of this one.
///
/// The kernel has one load of a file under way at a time (`kexec_trylock` in `SYSCALL_DEFINE5(kexec_file_load, ...)`,
/// `kernel/kexec_file.c`, 7.3), and asks the programs under that lock, after it has checked that the caller may load at all. So
/// nothing here is changed by a process that may not load, the load before has ended when the next begins, and an image of a file
/// that was not in place when the newest load began came by that one: what is in place lives, and shares its address with nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Load {
    /// Its number, from 1; 0: none has begun.
    pub number: u64,
    /// [`Image::id`](crate::events::Image::id) of the image that was in place when it began; 0: none was, [`UNREAD`]: not known.
    pub before: u64,
    /// The number of the load that this image came by; 0: not known.
    pub before_number: u64,
}

/// [`Load::before`]: it could not be read which image was in place.
pub const UNREAD: u64 = u64::MAX;

/// The number of the load that an image came by which a set of programs took over from the one before it. No load is counted up to
/// it.
pub const INHERITED: u64 = u32::MAX as u64;

impl Load {
    /// The load that begins now, after this one, with this image in place; `None`: that could not be read.
    #[inline(always)]
    pub const fn next(self, image: Option<u64>) -> Load {
        let (before, before_number) = match image {
            Some(image) => (image, self.number_of(image)),
            None => (UNREAD, 0),
        };
        Load {
            number: self.number + 1,
            before,
            before_number,
        }
    }

    /// The number of the load that the image in place came by, one of a file; 0: not known. `self` is the newest load.
    #[inline(always)]
    pub const fn number_of(self, image: u64) -> u64 {
        if image == 0 || self.before == UNREAD {
            0
        } else if image == self.before {
            self.before_number
        } else {
            self.number
        }
    }
}

impl State {
    /// Takes over a verdict from the state of the programs before, which still counted their own loads when it was read: the image
    /// that it is about is in place when the next load begins, or it is void. Gives the verdict as it counts from here on, and what
    /// stands for the load before the first.
    pub const fn inherited(old: &State) -> Option<(ImageBits, Load)> {
        let verdict = ImageBits(old.verdict);
        let newest = old.load[(old.loads & 1) as usize];
        if verdict.load() == 0 || newest.number != old.loads || newest.number_of(old.judged) != verdict.load() {
            return None;
        }
        let load = Load {
            number: 0,
            before: old.judged,
            before_number: INHERITED,
        };
        Some((
            ImageBits::new(INHERITED, verdict.incompatible(), verdict.lacks_liveupdate()),
            load,
        ))
    }
}

/// What is known of an image, as one number, so that it is read as a whole: which load it came by, and some bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImageBits(pub u64);

impl ImageBits {
    const JUDGED: u64 = 1;
    const INCOMPATIBLE: u64 = 2;
    const LINE_KNOWN: u64 = 4;
    const LINE_LACKS: u64 = 8;
    const BITS: u32 = 8;

    /// The verdict on the image that came by this load. `None` is what is not known.
    pub const fn new(load: u64, incompatible: Option<bool>, lacks_liveupdate: Option<bool>) -> Self {
        let judged = match incompatible {
            None => 0,
            Some(false) => Self::JUDGED,
            Some(true) => Self::JUDGED | Self::INCOMPATIBLE,
        };
        let line = match lacks_liveupdate {
            None => 0,
            Some(false) => Self::LINE_KNOWN,
            Some(true) => Self::LINE_KNOWN | Self::LINE_LACKS,
        };
        Self(load << Self::BITS | judged | line)
    }

    /// Which load the image came by.
    #[inline(always)]
    pub const fn load(self) -> u64 {
        self.0 >> Self::BITS
    }

    /// Whether the kernel in it cannot take what is preserved; `None`: not known.
    #[inline(always)]
    pub const fn incompatible(self) -> Option<bool> {
        match self.0 & Self::JUDGED {
            0 => None,
            _ => Some(self.0 & Self::INCOMPATIBLE != 0),
        }
    }

    /// Whether its command line does not switch LUO on; `None`: not known.
    #[inline(always)]
    pub const fn lacks_liveupdate(self) -> Option<bool> {
        match self.0 & Self::LINE_KNOWN {
            0 => None,
            _ => Some(self.0 & Self::LINE_LACKS != 0),
        }
    }
}

/// What is known when a decision is due.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts {
    /// The rules that name this call's value of each [`Aspect`].
    pub selected: [Selected; Aspect::COUNT],
    /// The aspects that are not known, by bit.
    pub unselected: u32,
    /// The [`Condition`]s that are so, by bit. Those that count something, or that ask for a severity, are not looked for here.
    pub yes: u32,
    /// The conditions of which that is not known, by bit.
    pub unknown: u32,
    /// How many sessions there are, or [`NOT_COUNTED`].
    pub sessions: u64,
    /// How many files they have, or [`NOT_COUNTED`].
    pub files: u64,
    /// As [`State::violated`].
    pub violated: u64,
}

/// Orders and circumstances that no rule of the file is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// An operator holds the host.
    pub held: bool,
    /// An operator lets everything pass.
    pub allowed: bool,
    /// The agent shows no sign of life.
    pub stale: bool,
}

/// The name of the agent's own rule of this number; `None` where the policy's file names it.
pub const fn own_rule(rule: u32) -> Option<&'static str> {
    match rule {
        RULE_HOLD => Some("hold"),
        RULE_AGENT_LOSS => Some("agent-loss"),
        _ => None,
    }
}

/// What was decided, and by which rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// What.
    pub decision: Decision,
    /// The first rule of the file that refuses; where none does, the first that applies; else [`RULE_NONE`]. An operator's
    /// hold ([`RULE_HOLD`]) and agent loss ([`RULE_AGENT_LOSS`]) come before every rule.
    pub rule: u32,
}

impl Table {
    /// Whether anybody wants to know about an operation.
    #[inline(always)]
    pub fn asks(&self, operation: Operation, orders: Orders) -> bool {
        self.on[operation as usize] != 0 || self.refuses_all(operation, orders) != RULE_NONE
    }

    /// The rules that apply to a call.
    #[inline(always)]
    pub fn applying(&self, operation: Operation, facts: &Facts) -> RuleSet {
        // Sets throughout, and hardly a branch: the kernel looks at every way through a program before it runs it.
        let (mut no, mut unsure) = (Sum(0), Sum(0));
        // Rules are left out by exceptions in full only.
        let (mut not_excepted, mut surely_not_excepted, mut excepting) = (Sum(0), Sum(0), 0);
        for aspect in 0..Aspect::COUNT {
            let (matches, unless) = (self.matches[aspect], self.unless[aspect]);
            let Selected { matched, excepted } = facts.selected[aspect];
            let unknown = all_if(facts.unselected, aspect);
            no.add(matches & !matched & !unknown);
            unsure.add(matches & unknown);
            not_excepted.add(unless & (!excepted | unknown));
            surely_not_excepted.add(unless & !excepted & !unknown);
            excepting |= unless;
        }
        no.add(excepting & !not_excepted.0);
        unsure.add(excepting & not_excepted.0 & !surely_not_excepted.0);
        for condition in 0..Condition::COUNT {
            let when = self.when[condition];
            let (unknown, yes) = (all_if(facts.unknown, condition), all_if(facts.yes, condition));
            unsure.add(when & unknown);
            if is_simple(condition) {
                no.add(when & !unknown & !yes);
            }
        }
        for i in 0..LIMITS {
            no.add(not_over(&self.sessions_over[i], facts.sessions));
            no.add(not_over(&self.files_over[i], facts.files));
        }
        for i in 0..SEVERITIES {
            if facts.violated < i as u64 + 1 {
                no.add(self.violated[i]);
            }
        }
        let (no, unsure) = (no.0, unsure.0);
        let of_unknown = unsure & self.unknown_passes[operation as usize];
        self.on[operation as usize] & !no & !of_unknown
    }

    /// The rules that apply to a call of which nothing is known: those that ask for nothing, and those that an unknown does not let
    /// pass.
    #[inline(always)]
    pub fn applying_to_unknown(&self, operation: Operation) -> RuleSet {
        let mut asking = Sum(0);
        for aspect in 0..Aspect::COUNT {
            asking.add(self.matches[aspect] | self.unless[aspect]);
        }
        for condition in 0..Condition::COUNT {
            asking.add(self.when[condition]);
        }
        self.on[operation as usize] & !(asking.0 & self.unknown_passes[operation as usize])
    }

    /// Decides.
    #[inline(always)]
    pub fn rule(&self, operation: Operation, applying: RuleSet, orders: Orders) -> Ruling {
        let denying = applying & self.deny;
        let own = self.refuses_all(operation, orders);
        let (refuses, rule) = if own != RULE_NONE {
            (true, own)
        } else if denying != 0 {
            (true, denying.trailing_zeros())
        } else if applying != 0 {
            (false, applying.trailing_zeros())
        } else {
            (false, RULE_NONE)
        };
        let decision = match (refuses, rule) {
            (false, RULE_NONE) => Decision::Pass,
            (false, _) => Decision::Audit,
            (true, _) if orders.allowed => Decision::Allowed,
            (true, _) if self.mode == Mode::Enforce as u32 => Decision::Deny,
            (true, _) => Decision::WouldDeny,
        };
        Ruling { decision, rule }
    }

    /// The agent's own rule that refuses an update whatever the file says, or [`RULE_NONE`].
    #[inline(always)]
    fn refuses_all(&self, operation: Operation, orders: Orders) -> u32 {
        match operation {
            Operation::KexecLoad | Operation::KexecReboot if orders.held => RULE_HOLD,
            Operation::KexecLoad | Operation::KexecReboot if orders.stale && self.closed != 0 => RULE_AGENT_LOSS,
            _ => RULE_NONE,
        }
    }
}

/// A set that others are added to, one after the other. A compiler that could put it off until it has them all would need more
/// stack than a program has.
struct Sum(RuleSet);

impl Sum {
    #[inline(always)]
    fn add(&mut self, more: RuleSet) {
        // SAFETY: an exclusive reference is valid for reading and writing.
        unsafe { ptr::write_volatile(&mut self.0, ptr::read_volatile(&self.0) | more) }
    }
}

/// All rules, if this bit is set; else none.
#[inline(always)]
const fn all_if(bits: u32, bit: usize) -> RuleSet {
    0u64.wrapping_sub((bits >> bit & 1) as u64)
}

/// Whether a condition is answered by yes or no, without a number in the policy.
const fn is_simple(condition: usize) -> bool {
    condition != Condition::SessionsOver as usize
        && condition != Condition::FilesOver as usize
        && condition != Condition::InvariantViolated as usize
}

/// The rules of which this number says that they do not apply.
#[inline(always)]
fn not_over(limit: &Limit, number: u64) -> RuleSet {
    match number <= limit.over {
        true => limit.rules,
        false => 0,
    }
}

/// Key of a task's name. `generation` as in [`Table`], here and in the other keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CommKey {
    /// Whose entry it is.
    pub generation: u64,
    /// The name.
    pub comm: Comm,
}

/// Key of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UidKey {
    /// Whose entry it is.
    pub generation: u64,
    /// The user.
    pub uid: u32,
    /// Keeps the size a multiple of its alignment; 0.
    pub reserved: u32,
}

/// Key of a session's name in a trie of prefixes, whose entries hold what all shorter prefixes hold, too. An exact name is one
/// that goes on with its NUL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SessionKey {
    /// Whose entry it is.
    pub generation: u64,
    /// The name, or its beginning. After its NUL there are only more.
    pub name: SessionName,
}

/// Key of a control group: its name in its parent. They are looked up from the root on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CgroupKey {
    /// Whose entry it is.
    pub generation: u64,
    /// [`CgroupNode::node`] of its parent; 0: the root.
    pub parent: u64,
    /// Its name.
    pub name: CgroupName,
}

/// A control group that rules name, or that lies above one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CgroupNode {
    /// Number of this node, from 1.
    pub node: u64,
    /// The rules that name it.
    pub selected: Selected,
}
