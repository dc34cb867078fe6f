//! The control group that the current task is in.

use core::ffi::{c_long, c_void};

use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_loop};
use luo_trace_common::fields::Field;
use luo_trace_common::policy::{CGROUP_DEPTH, CgroupKey, CgroupName, CgroupPath, Selected};
use luo_trace_common::text::Name;

use super::decide::CGROUPS;
use crate::emit::zero;
use crate::kernel::{Address, read_string};

/// How deep control groups are believed to nest.
const NESTED: u32 = 64;
/// Where a component may begin in a path, so that there is room for it whatever its length.
const LAST_BEGIN: usize = size_of::<CgroupPath>() / 2 - 1;

/// The control group of version 2 that the current task is in.
#[repr(C)]
pub struct Cgroup {
    /// Addresses of the directories next to the root, each at its distance from the leaf, modulo their number.
    nodes: [u64; CGROUP_DEPTH],
    /// How many there are below the root, also of those that have no room.
    depth: u64,
    /// Address of the one that is visited next; 0: the root was visited.
    next: u64,
}

impl Cgroup {
    /// Finds it; gives false where this kernel does not tell.
    #[inline(always)]
    pub fn find(&mut self) -> bool {
        // SAFETY: helper without preconditions.
        let task = Address(unsafe { bpf_get_current_task_btf() } as u64);
        let node = task
            .follow(Field::TaskCgroups)
            .and_then(|groups| groups.follow(Field::CgroupsDefault))
            .and_then(|group| group.follow(Field::CgroupNode));
        let Some(node) = node else { return false };
        self.next = node.0;
        let mut this = &raw mut *self;
        // SAFETY: the callback has the signature that the helper calls, and its context, which has to lie on the stack, is ours
        // until the helper returns.
        unsafe { bpf_loop(NESTED, climb as *mut c_void, (&raw mut this).cast(), 0) };
        self.next == 0
    }

    /// The name of the directory so many steps below the root; `None` below the leaf.
    #[inline(always)]
    fn name(&self, below: u64) -> Option<Address> {
        let from_leaf = self.depth.checked_sub(below)?;
        Address(self.nodes[from_leaf as usize % CGROUP_DEPTH]).follow(Field::NodeName)
    }
}

/// Takes one step towards the root.
#[inline(never)]
extern "C" fn climb(_index: u32, context: *mut c_void) -> c_long {
    // SAFETY: see `Cgroup::find`.
    let cgroup = unsafe { &mut **context.cast::<*mut Cgroup>() };
    let node = cgroup.next;
    let Some(above) = Address(node).read::<u64>(Field::NodeParent) else {
        return 1;
    };
    cgroup.next = above;
    if above == 0 {
        return 1;
    }
    cgroup.nodes[cgroup.depth as usize % CGROUP_DEPTH] = node;
    cgroup.depth += 1;
    0
}

/// Adds the rules that name a control group, or one that it lies in. `key` is room to work in.
#[inline(always)]
pub fn select_cgroup(cgroup: &Cgroup, generation: u64, key: &mut CgroupKey, selected: &mut Selected) {
    let mut parent = 0;
    for below in 1..=CGROUP_DEPTH as u64 {
        let Some(name) = cgroup.name(below) else { break };
        // SAFETY: an exclusive reference is valid for writing, and zeros are a key.
        unsafe { zero(key) };
        key.generation = generation;
        key.parent = parent;
        let read = read_string(name.0, &mut key.name);
        if read <= 0 || is_longer(name, read) {
            break;
        }
        // SAFETY: an entry that is removed, since its policy is not in force, is kept as long as a program may read it.
        let Some(entry) = (unsafe { CGROUPS.get(&*key) }) else {
            break;
        };
        *selected = selected.or(entry.selected);
        parent = entry.node;
    }
}

/// Whether the kernel has more of a name than was read, where this many bytes were.
#[inline(always)]
fn is_longer(name: Address, read: i64) -> bool {
    let last = size_of::<CgroupName>() as u64 - 1;
    read as u64 > last && Address(name.0 + last).read_here::<u8>() != Some(0)
}

/// Writes the path of a control group, as far as there is room.
#[inline(always)]
pub fn write_path(cgroup: &Cgroup, path: &mut CgroupPath) {
    let to = path.0.as_mut_ptr();
    let mut at = 0;
    path.0[0] = b'/';
    for below in 1..=CGROUP_DEPTH as u64 {
        let Some(name) = cgroup.name(below).filter(|_| at <= LAST_BEGIN) else {
            break;
        };
        // SAFETY: it begins in the first half, and the rest fits into the second.
        let read = unsafe {
            let to = to.add(at & LAST_BEGIN);
            *to = b'/';
            read_string(name.0, &mut *to.add(1).cast::<Name<LAST_BEGIN>>())
        };
        if read <= 0 {
            break;
        }
        at += read as usize;
    }
}
