//! What the kernel lets the current task do, found out as the kernel does it.

use aya_ebpf::helpers::generated::bpf_get_current_task_btf;
use luo_trace_common::fields::Field;

use crate::kernel::{Address, Trusted};

/// `CAP_SYS_BOOT` of `include/uapi/linux/capability.h` (7.3).
pub const CAP_SYS_BOOT: u32 = 22;

/// Whether `capable(CAP_SYS_BOOT)` lets the current task through, but for what a security module says: `cap_capable()`,
/// `security/commoncap.c` (7.3), asked about the first user namespace. A task whose rights cannot be read is let through.
#[inline(always)]
pub fn may_boot() -> bool {
    let Some(cred) = address().follow(Field::TaskCred) else {
        return true;
    };
    let has = cred
        .read::<u64>(Field::CredEffective)
        .is_none_or(|set| set >> CAP_SYS_BOOT & 1 != 0);
    has && cred
        .follow(Field::CredUserNamespace)
        .is_none_or(is_first_user_namespace)
}

/// Whether a `struct user_namespace *` is the one that the kernel booted with. One that cannot be read counts as that.
#[inline(always)]
pub fn is_first_user_namespace(namespace: Address) -> bool {
    namespace.read::<u32>(Field::UserNamespaceLevel).unwrap_or(0) == 0
}

/// Whether the current task was made in the first pid namespace. In another one `reboot(2)` never jumps: `reboot_pid_ns()`,
/// `kernel/pid_namespace.c` (7.3).
#[inline(always)]
pub fn is_in_first_pid_namespace() -> bool {
    let pid = address().follow(Field::TaskPid);
    pid.and_then(|pid| pid.read::<u32>(Field::PidLevel)).unwrap_or(0) == 0
}

/// The task that runs, whose type the verifier knows.
#[inline(always)]
pub fn current() -> Trusted {
    // SAFETY: helper without preconditions.
    Trusted(unsafe { bpf_get_current_task_btf() }.cast())
}

#[inline(always)]
fn address() -> Address {
    Address(current().0 as u64)
}
