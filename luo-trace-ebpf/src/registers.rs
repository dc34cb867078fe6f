//! The system call that the current task is in, by the registers that it came into the kernel with. Who calls cannot change them
//! any more.

use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_task_pt_regs};
use luo_trace_common::fields::Field;

use crate::kernel::Trusted;

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
