//! A decision: what is known of a call, what the rules say to it, and the event that tells of it.
//!
//! Nothing here waits for the agent, and nothing but the event can fail for want of memory.

use core::ptr;

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, ArrayOfMaps, HashMap, LpmTrie};
use aya_ebpf::helpers::generated::bpf_get_current_comm;
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_current_uid_gid, bpf_ktime_get_ns};
use aya_ebpf::macros::btf_map;
use luo_trace_common::events::{IMAGE_FILE, IMAGE_LEGACY, IMAGE_NONE, Image, Kind, PolicyDecision};
use luo_trace_common::fields::Field;
use luo_trace_common::policy::{
    Aspect, CGROUP_NODES, CgroupKey, CgroupNode, CommKey, Condition, Decision, Facts, ImageBits, NEVER, NOT_COUNTED,
    Operation, Orders, RULES, RuleName, RuleSet, Ruling, Selected, SessionKey, State, Table, UidKey, VALUES, own_rule,
};
use luo_trace_common::text::Comm;

use super::cgroup::{Cgroup, select_cgroup, write_path};
use super::sessions::{Count, count, incoming_is_unfinished};
use crate::emit::{add_one, count_loss, emit, has_room};
use crate::image::read_image;
use crate::kernel::read_string;

/// What the agent and the programs tell each other, which both have in their memory.
#[btf_map]
pub static STATE: Array<State, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// The table of each generation, the one in force at its lowest bit. The agent has them in its memory, too.
#[btf_map]
static TABLES: Array<Table, 2, { BPF_F_MMAPABLE as usize }> = Array::new();

/// The rules' names, first those of even generations, then those of odd ones.
#[btf_map]
static RULE_NAMES: Array<RuleName, { 2 * RULES }> = Array::new();

/// The rules that name a task's name. The maps have room for two policies, and take memory only for what is in them.
#[btf_map]
static COMMS: HashMap<CommKey, Selected, { 2 * VALUES }, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

/// The rules that name a user.
#[btf_map]
static UIDS: HashMap<UidKey, Selected, { 2 * VALUES }, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

/// The rules that name a control group.
#[btf_map]
pub static CGROUPS: HashMap<CgroupKey, CgroupNode, { 2 * CGROUP_NODES }, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// The rules that name a session, or the beginning of its name.
#[btf_map]
static SESSIONS: LpmTrie<SessionKey, Selected, { 2 * VALUES }> = LpmTrie::new();

/// Holds nothing. When the agent writes to a map of this kind, the kernel waits until no program runs that began before
/// (`maybe_wait_bpf_programs` in `kernel/bpf/syscall.c`, 7.3).
#[btf_map]
static FENCE: ArrayOfMaps<Array<u64, 1>, 1> = ArrayOfMaps::new();

/// The calls that are being decided, by thread: more than a program's stack has room for, and a CPU's own memory is shared with
/// whoever preempts. Nobody waits while deciding, so that there are hardly more at a time than CPUs.
#[btf_map]
static CALLS: HashMap<u32, Call, 512> = HashMap::new();

/// One of which nothing is known.
#[btf_map]
static BLANK_CALL: Array<Call, 1> = Array::new();

/// What a call is about.
#[derive(Clone, Copy, Default)]
pub struct About {
    /// Address of the session; 0: none, or one that is being made.
    pub session: u64,
    /// Address of the session's name in the kernel; 0: not known.
    pub name: u64,
    /// Whether it loads an image that carries nothing over.
    pub legacy: bool,
}

/// Whether a call is refused.
#[inline(always)]
pub fn decide(operation: Operation, about: About) -> bool {
    decision(operation, about.session, about.name, about.legacy)
}

/// One copy for all programs.
#[inline(never)]
fn decision(operation: Operation, session: u64, name: u64, legacy: bool) -> bool {
    let Some((state, table)) = in_force() else {
        return false;
    };
    let orders = orders(state, table);
    if !table.asks(operation, orders) {
        return false;
    }
    let thread = bpf_get_current_pid_tgid() as u32;
    let Some(call) = begin(thread) else {
        // So many decide at this moment that there is no room for one more: nothing is known of this one.
        count_loss();
        let ruling = table.rule(operation, table.applying_to_unknown(operation), orders);
        return matches!(ruling.decision, Decision::Deny);
    };
    let orders = forget(&mut call.orders, orders);
    call.session = session;
    call.name = name;
    call.legacy = legacy;
    call.facts.sessions = NOT_COUNTED;
    call.facts.files = NOT_COUNTED;
    read_image(&mut call.image);
    call.cgroup_known = call.cgroup.find();
    call.select(operation, table);
    call.look_at_conditions(operation, state, table, orders);
    let ruling = table.rule(operation, applying(operation, table, &call.facts), orders);
    let ruling = forget(&mut call.ruling, ruling);
    call.tell(operation, state, table, ruling);
    _ = CALLS.remove(thread);
    matches!(ruling.decision, Decision::Deny)
}

/// A function of its own, for the sake of the stack.
#[inline(never)]
fn applying(operation: Operation, table: &Table, facts: &Facts) -> RuleSet {
    table.applying(operation, facts)
}

/// Gives the value again, by way of a map's memory: the verifier forgets what it knew of it, and looks at what follows once
/// instead of once for each value.
#[inline(always)]
fn forget<T: Copy>(room: &mut T, value: T) -> T {
    // SAFETY: an exclusive reference is valid for reading and writing.
    unsafe {
        ptr::write_volatile(room, value);
        ptr::read_volatile(room)
    }
}

/// Room for one call.
#[inline(always)]
fn begin(thread: u32) -> Option<&'static mut Call> {
    CALLS.insert(thread, BLANK_CALL.get(0)?, 0).ok()?;
    // SAFETY: a map's value that only this thread uses, until it removes it.
    CALLS.get_ptr_mut(thread).map(|call| unsafe { &mut *call })
}

/// Tells the agent that programs run.
#[inline(always)]
pub fn note_probe() {
    // A map that no program reads is not in the object.
    core::hint::black_box(FENCE.get(0).is_some());
    if let Some(state) = STATE.get_ptr_mut(0) {
        // SAFETY: the map's only slot; programs change this member by this function alone.
        unsafe { add_one(&raw mut (*state).probes) };
    }
}

/// Reads a member of the state, at once, since others write it.
macro_rules! now {
    ($state:expr, $member:ident) => {
        // SAFETY: the map's only slot, whose members are written at once.
        unsafe { ptr::read_volatile(&raw const (*$state).$member) }
    };
}

/// The policy in force. It stays what it is as long as a program runs that has seen it.
#[inline(always)]
fn in_force() -> Option<(*const State, &'static Table)> {
    let state = STATE.get_ptr(0)?;
    let generation = now!(state, generation);
    if generation == 0 {
        return None;
    }
    let table = TABLES.get((generation & 1) as u32)?;
    Some((state, table))
}

#[inline(always)]
fn orders(state: *const State, table: &Table) -> Orders {
    // SAFETY: helper without preconditions.
    let time = unsafe { bpf_ktime_get_ns() };
    let heartbeat = now!(state, heartbeat);
    Orders {
        held: time < now!(state, held_until),
        allowed: time < now!(state, allowed_until),
        stale: heartbeat != NEVER && time.saturating_sub(heartbeat) > table.stale_after,
    }
}

/// A call that policy is asked about. Zeros are one of which nothing is known.
#[repr(C)]
struct Call {
    facts: Facts,
    orders: Orders,
    ruling: Ruling,
    legacy: bool,
    cgroup_known: bool,
    session: u64,
    name: u64,
    /// The image that is loaded now.
    image: Image,
    cgroup: Cgroup,
    count: Count,
    cgroup_key: CgroupKey,
    session_key: Key<SessionKey>,
}

impl Call {
    /// Looks up the rules that name what this call has of each aspect, as far as a rule asks.
    #[inline(always)]
    fn select(&mut self, operation: Operation, table: &Table) {
        let on = table.on[operation as usize];
        let generation = table.generation;
        let asked = |aspect: Aspect| (table.matches[aspect as usize] | table.unless[aspect as usize]) & on != 0;
        let facts = &mut self.facts;
        let of = &mut facts.selected;
        if asked(Aspect::Comm) {
            select_comm(generation, &mut of[Aspect::Comm as usize]);
        }
        if asked(Aspect::Uid) {
            select_uid(generation, &mut of[Aspect::Uid as usize]);
        }
        if asked(Aspect::Cgroup) {
            match self.cgroup_known {
                true => select_cgroup(
                    &self.cgroup,
                    generation,
                    &mut self.cgroup_key,
                    &mut of[Aspect::Cgroup as usize],
                ),
                false => facts.unselected |= 1 << Aspect::Cgroup as u32,
            }
        }
        if matches!(operation, Operation::KexecLoad | Operation::KexecReboot) {
            // They are about all that is preserved.
            of[Aspect::Session as usize] = table.preserved[Aspect::Session as usize];
            of[Aspect::Handler as usize] = table.preserved[Aspect::Handler as usize];
            return;
        }
        if asked(Aspect::Session)
            && !select_session(
                generation,
                self.name,
                &mut self.session_key,
                &mut of[Aspect::Session as usize],
            )
        {
            facts.unselected |= 1 << Aspect::Session as u32;
        }
        if asked(Aspect::Handler) {
            // LUO chooses it only after this.
            facts.unselected |= 1 << Aspect::Handler as u32;
        }
    }

    /// Finds out about the conditions that rules ask for.
    #[inline(always)]
    fn look_at_conditions(&mut self, operation: Operation, state: *const State, table: &Table, orders: Orders) {
        let on = table.on[operation as usize];
        let asked = |condition: Condition| table.when[condition as usize] & on != 0;
        if asked(Condition::SessionsOver) || asked(Condition::FilesOver) {
            self.count();
        }
        if asked(Condition::LegacyImage) {
            self.note(Condition::LegacyImage, self.is_legacy(operation));
        }
        let (target, line) = (Condition::TargetIncompatible, Condition::CmdlineMissingLiveupdate);
        if asked(target) || asked(line) {
            let verdict = self.verdict(operation, state);
            if asked(target) {
                self.note(target, verdict.incompatible());
            }
            if asked(line) {
                self.note(line, verdict.lacks_liveupdate());
            }
        }
        if asked(Condition::IncomingUnfinished) {
            let unfinished = incoming_is_unfinished(&mut self.count);
            self.note(Condition::IncomingUnfinished, unfinished);
        }
        if asked(Condition::Held) {
            self.note(Condition::Held, Some(orders.held));
        }
        if asked(Condition::AgentStale) {
            self.note(Condition::AgentStale, Some(orders.stale));
        }
        if asked(Condition::InvariantViolated) {
            let facts = &mut self.facts;
            facts.violated = now!(state, violated);
            facts.yes |= u32::from(facts.violated > 0) << Condition::InvariantViolated as u32;
        }
    }

    /// Notes what is known of a condition.
    #[inline(always)]
    fn note(&mut self, condition: Condition, so: Option<bool>) {
        match so {
            None => self.facts.unknown |= 1 << condition as u32,
            Some(so) => self.facts.yes |= u32::from(so) << condition as u32,
        }
    }

    /// Counts what is preserved.
    #[inline(always)]
    fn count(&mut self) {
        count(Field::GlobalOutgoing, &mut self.count);
        match self.count.known != 0 {
            true => {
                self.facts.sessions = self.count.sessions;
                self.facts.files = self.count.files;
            }
            false => self.facts.unknown |= 1 << Condition::SessionsOver as u32 | 1 << Condition::FilesOver as u32,
        }
    }

    /// Whether the image of the call, or the one that is loaded, carries nothing over.
    #[inline(always)]
    fn is_legacy(&self, operation: Operation) -> Option<bool> {
        match (operation, self.image.mode) {
            (Operation::KexecLoad, _) => Some(self.legacy),
            (_, IMAGE_LEGACY) => Some(true),
            (_, IMAGE_FILE | IMAGE_NONE) => Some(false),
            _ => None,
        }
    }

    /// What is known of the image that is loaded. Of one that is being loaded nothing can be known.
    #[inline(always)]
    fn verdict(&self, operation: Operation, state: *const State) -> ImageBits {
        let verdict = ImageBits(now!(state, verdict));
        match self.image.mode {
            _ if matches!(operation, Operation::KexecLoad) => ImageBits::default(),
            IMAGE_NONE => ImageBits::new(0, Some(false), Some(false)),
            // It carries nothing over, whatever kernel is in it.
            IMAGE_LEGACY => ImageBits::new(0, Some(true), None),
            IMAGE_FILE if self.image.load != 0 && verdict.load() == u64::from(self.image.load) => verdict,
            _ => ImageBits::default(),
        }
    }

    /// Sends the event.
    #[inline(always)]
    fn tell(&self, operation: Operation, state: *const State, table: &Table, ruling: Ruling) {
        // Who is refused can ask again at once, and as often as it likes: that takes no room from what LUO does.
        if matches!(ruling.decision, Decision::Deny) && !has_room() {
            count_loss();
            return;
        }
        let facts = &self.facts;
        // SAFETY: helper without preconditions.
        let at = unsafe { bpf_ktime_get_ns() };
        emit(Kind::PolicyDecision, at, |event: &mut PolicyDecision| {
            event.operation = operation as u32;
            event.decision = ruling.decision as u32;
            event.rule = ruling.rule;
            event.mode = table.mode;
            event.generation = table.generation;
            write_name(table.generation, ruling.rule, &mut event.rule_name);
            event.session.id = self.session;
            if self.name != 0 {
                read_string(self.name, &mut event.session.name);
            }
            event.uid = bpf_get_current_uid_gid() as u32;
            event.unselected = facts.unselected;
            event.yes = facts.yes;
            event.unknown = facts.unknown;
            event.sessions = facts.sessions;
            event.files = facts.files;
            event.loads = now!(state, loads);
            event.image = self.image;
            if self.cgroup_known {
                write_path(&self.cgroup, &mut event.cgroup);
            }
        });
    }
}

/// Writes a rule's name; none, where no rule applied.
#[inline(always)]
fn write_name(generation: u64, rule: u32, to: &mut RuleName) {
    if let Some(name) = own_rule(rule) {
        *to = RuleName::new(name);
    } else if rule < RULES as u32
        && let Some(name) = RULE_NAMES.get((generation & 1) as u32 * RULES as u32 + rule)
    {
        *to = *name;
    }
}

#[inline(always)]
fn select_comm(generation: u64, selected: &mut Selected) {
    let mut key = CommKey {
        generation,
        comm: Comm::EMPTY,
    };
    // SAFETY: the helper writes the name's whole buffer.
    unsafe { bpf_get_current_comm(key.comm.0.as_mut_ptr().cast(), size_of::<Comm>() as u32) };
    // SAFETY: an entry that is removed, since its policy is not in force, is kept as long as a program may read it.
    if let Some(rules) = unsafe { COMMS.get(&key) } {
        *selected = *rules;
    }
}

#[inline(always)]
fn select_uid(generation: u64, selected: &mut Selected) {
    let key = UidKey {
        generation,
        uid: bpf_get_current_uid_gid() as u32,
        reserved: 0,
    };
    // SAFETY: as in `select_comm`.
    if let Some(rules) = unsafe { UIDS.get(&key) } {
        *selected = *rules;
    }
}

/// Gives false where the name is not known.
#[inline(always)]
fn select_session(generation: u64, name: u64, key: &mut Key<SessionKey>, selected: &mut Selected) -> bool {
    if name == 0 {
        return false;
    }
    key.prefix_len = 8 * size_of::<SessionKey>() as u32;
    // What follows the name's NUL stays 0.
    let read = read_string(name, &mut key.data.name);
    // SAFETY: a place in our own memory, wherever it lies.
    unsafe { ptr::write_unaligned(&raw mut key.data.generation, generation) };
    if read <= 0 {
        return false;
    }
    if let Some(rules) = SESSIONS.get(key) {
        *selected = *rules;
    }
    true
}
