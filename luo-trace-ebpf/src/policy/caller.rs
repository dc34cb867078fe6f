//! Who calls: the system call that the current task is in, and its control group.

use core::ffi::{c_long, c_void};

use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_loop, bpf_task_pt_regs};
use luo_trace_common::fields::Field;
use luo_trace_common::policy::{CGROUP_DEPTH, CgroupKey, CgroupName, CgroupPath, Selected};
use luo_trace_common::text::Name;

use super::decide::CGROUPS;
use crate::kernel::{Address, Trusted, read_string};

/// `LINUX_REBOOT_MAGIC1` of `include/uapi/linux/reboot.h` (7.3).
const REBOOT_MAGIC: u32 = 0xfee1_dead;
/// `LINUX_REBOOT_CMD_KEXEC` of the same.
const REBOOT_KEXEC: u32 = 0x4558_4543;
/// `KEXEC_ON_CRASH` of `include/uapi/linux/kexec.h` (7.3).
const KEXEC_ON_CRASH: u64 = 1;
/// `KEXEC_FILE_ON_CRASH` of the same.
const KEXEC_FILE_ON_CRASH: u64 = 2;

/// Numbers of system calls, and the registers of their arguments. What stands first is of 64-bit callers, what follows of 32-bit
/// ones.
#[cfg(bpf_target_arch = "x86_64")]
mod arch {
    use super::Field;

    pub const CALL: Field = Field::RegsCall;
    /// `__X32_SYSCALL_BIT` of `arch/x86/include/uapi/asm/unistd.h` (7.3): callers with 32-bit pointers in 64-bit mode.
    pub const ABI_BITS: u32 = 0x4000_0000;
    pub const REBOOT: [u32; 2] = [169, 88];
    pub const REBOOT_MAGIC: [(Field, u32); 2] = [(Field::RegsArg1, 0), (Field::RegsArg1Ia32, 0)];
    pub const REBOOT_COMMAND: [(Field, u32); 2] = [(Field::RegsArg3, 0), (Field::RegsArg3, 0)];
    pub const KEXEC_LOAD: [u32; 3] = [246, 283, 528];
    pub const KEXEC_SEGMENTS: [(Field, u32); 3] =
        [(Field::RegsArg2, 0), (Field::RegsArg2Ia32, 0), (Field::RegsArg2, 0)];
    pub const KEXEC_FLAGS: [(Field, u32); 3] = [(Field::RegsArg4, 0), (Field::RegsArg2, 0), (Field::RegsArg4, 0)];
    pub const KEXEC_FILE_LOAD: u32 = 320;
    pub const KEXEC_FILE_FLAGS: (Field, u32) = (Field::RegsArg5, 0);
}

/// See the one for x86-64. All arguments lie one after the other, in the same registers for all callers.
#[cfg(bpf_target_arch = "aarch64")]
mod arch {
    use super::Field;

    pub const CALL: Field = Field::RegsCallArm;
    pub const ABI_BITS: u32 = 0;
    pub const REBOOT: [u32; 2] = [142, 88];
    pub const REBOOT_MAGIC: [(Field, u32); 2] = [(Field::RegsArg1Arm, 0); 2];
    pub const REBOOT_COMMAND: [(Field, u32); 2] = [(Field::RegsArgsArm, 16); 2];
    pub const KEXEC_LOAD: [u32; 2] = [104, 347];
    pub const KEXEC_SEGMENTS: [(Field, u32); 2] = [(Field::RegsArgsArm, 8); 2];
    pub const KEXEC_FLAGS: [(Field, u32); 2] = [(Field::RegsArgsArm, 24); 2];
    pub const KEXEC_FILE_LOAD: u32 = 294;
    pub const KEXEC_FILE_FLAGS: (Field, u32) = (Field::RegsArgsArm, 32);
}

/// The registers that the current task came into the kernel with.
pub struct Registers(Trusted);

impl Registers {
    #[inline(always)]
    pub fn of_current() -> Self {
        // SAFETY: helpers without preconditions; the first gives a task that the second takes.
        Self(Trusted(unsafe {
            bpf_task_pt_regs(bpf_get_current_task_btf()) as *const u8
        }))
    }

    /// Whether the task is in reboot(2), and wants to jump into the image that is loaded.
    #[inline(always)]
    pub fn reboots_by_kexec(&self) -> bool {
        let Some(i) = self.which(&arch::REBOOT) else {
            return false;
        };
        self.argument::<u32>(arch::REBOOT_MAGIC[i]) == Some(REBOOT_MAGIC)
            && self.argument::<u32>(arch::REBOOT_COMMAND[i]) == Some(REBOOT_KEXEC)
    }

    /// Whether the task loads an image for a crash by kexec_file_load(2).
    #[inline(always)]
    pub fn loads_for_crash_by_file(&self) -> bool {
        self.call() == Some(arch::KEXEC_FILE_LOAD)
            && self
                .argument::<u64>(arch::KEXEC_FILE_FLAGS)
                .is_some_and(|flags| flags & KEXEC_FILE_ON_CRASH != 0)
    }

    /// Whether the task loads one by kexec_load(2), or takes one away.
    #[inline(always)]
    pub fn unloads_or_loads_for_crash(&self) -> bool {
        let Some(i) = self.which(&arch::KEXEC_LOAD) else {
            return false;
        };
        self.argument::<u64>(arch::KEXEC_SEGMENTS[i]) == Some(0)
            || self
                .argument::<u64>(arch::KEXEC_FLAGS[i])
                .is_some_and(|flags| flags & KEXEC_ON_CRASH != 0)
    }

    /// Which of these system calls the task is in.
    #[inline(always)]
    fn which(&self, calls: &[u32]) -> Option<usize> {
        let call = self.call()?;
        calls.iter().position(|&number| number == call)
    }

    /// The kernel takes the lower half of the register for the number.
    #[inline(always)]
    fn call(&self) -> Option<u32> {
        self.0.load::<u32>(arch::CALL).map(|call| call & !arch::ABI_BITS)
    }

    #[inline(always)]
    fn argument<T: Copy>(&self, (register, further): (Field, u32)) -> Option<T> {
        self.0.load_further(register, further)
    }
}

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
    key.generation = generation;
    key.parent = 0;
    for below in 1..=CGROUP_DEPTH as u64 {
        let Some(name) = cgroup.name(below) else { break };
        key.name = CgroupName::EMPTY;
        let read = read_string(name.0, &mut key.name);
        if read <= 0 || is_longer(name, read) {
            break;
        }
        // SAFETY: an entry that is removed, since its policy is not in force, is kept as long as a program may read it.
        let Some(entry) = (unsafe { CGROUPS.get(&*key) }) else {
            break;
        };
        *selected = selected.or(entry.selected);
        key.parent = entry.node;
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
