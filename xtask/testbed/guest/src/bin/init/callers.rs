//! System calls by callers that LUO's policy is not asked about as about others: in namespaces of their own, without any right, and by
//! the numbers of another architecture.

use std::arch::asm;
use std::ffi::{CStr, c_long};
use std::io;

use anyhow::{Context as _, Result, bail};
use rustix::io::Errno;
use rustix::process::{Uid, WaitOptions, waitpid};
use rustix::thread::set_thread_res_uid;
use testbed_guest::scenario::Caller;

use crate::system;

/// The user that owns nothing.
const STRANGER: u32 = 65534;
/// `LINUX_REBOOT_MAGIC1`, `LINUX_REBOOT_MAGIC2` and `LINUX_REBOOT_CMD_KEXEC` of `include/uapi/linux/reboot.h`.
const REBOOT: [u32; 3] = [0xfee1_dead, 672_274_793, 0x4558_4543];
/// Numbers of system calls in `arch/x86/entry/syscalls/syscall_32.tbl`.
const REBOOT_I386: u32 = 88;
const KEXEC_LOAD_I386: u32 = 283;
/// `KEXEC_ARCH_386` of `include/uapi/linux/kexec.h`: without it a 32-bit caller is not taken for one that knows what it does.
const ARCH_386: u32 = 3 << 16;
/// A directory that the guest has.
const NEW_ROOT: &CStr = c"/mnt";

/// Calls `reboot(LINUX_REBOOT_CMD_KEXEC)`, as this caller; it must fail. Gives why.
///
/// # Errors
/// Where there is no such caller on this kernel, or the call did not fail.
pub(crate) fn reboot(by: Caller) -> Result<Result<(), Errno>> {
    match by {
        Caller::Root => Ok(system::kexec()),
        Caller::I386 => Ok(i386(REBOOT_I386, [REBOOT[0], REBOOT[1], REBOOT[2], 0])),
        Caller::PidNamespace => in_child(|| {
            unshare(libc::CLONE_NEWPID)?;
            first_in_namespace()
        }),
        Caller::UserNamespace => in_child(|| {
            leave_first_root()?;
            set_thread_res_uid(
                Uid::from_raw(STRANGER),
                Uid::from_raw(STRANGER),
                Uid::from_raw(STRANGER),
            )?;
            unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWPID)?;
            first_in_namespace()
        }),
    }
}

/// Calls `kexec_load(2)` as a 32-bit program does, with so many segments, which lie nowhere.
pub(crate) fn load_by_i386(segments: u32) -> Result<(), Errno> {
    i386(KEXEC_LOAD_I386, [0, segments, 0, ARCH_386])
}

/// Tries to load an image as a user without any right, which must fail.
///
/// # Errors
/// Where it was not turned away.
pub(crate) fn load_as_stranger() -> Result<()> {
    // SAFETY: no file, no command line.
    let result = unsafe { libc::syscall(libc::SYS_kexec_file_load, -1, -1, 0, 0, 0) };
    match (result, system::last_errno()) {
        (-1, Errno::PERM) => Ok(()),
        (_, error) => bail!("a user without any right tried to load an image and got {error} instead of EPERM"),
    }
}

/// Takes every right from the calling thread, for good.
pub(crate) fn become_stranger() -> Result<()> {
    let user = Uid::from_raw(STRANGER);
    set_thread_res_uid(user, user, user).context("cannot become another user")
}

/// The call by the first process of a new pid namespace, which is told here.
fn first_in_namespace() -> Result<(), Errno> {
    // SAFETY: the child does nothing but system calls.
    match unsafe { libc::fork() } {
        0 => exit_with(system::kexec()),
        child if child > 0 => wait(child).unwrap_or(Err(Errno::CHILD)),
        _ => Err(system::last_errno()),
    }
}

/// Does system calls in a child, and gives what came of them.
fn in_child(calls: impl FnOnce() -> Result<(), Errno>) -> Result<Result<(), Errno>> {
    // SAFETY: the child does nothing but system calls.
    match unsafe { libc::fork() } {
        0 => exit_with(calls()),
        child if child > 0 => wait(child),
        _ => Err(io::Error::last_os_error()).context("cannot fork"),
    }
}

fn exit_with(result: Result<(), Errno>) -> ! {
    let status = result.map_or_else(Errno::raw_os_error, |()| 0);
    // SAFETY: ends this process alone, at once.
    unsafe { libc::_exit(status) }
}

/// What a child's exit status says.
fn wait(child: i32) -> Result<Result<(), Errno>> {
    let pid = rustix::process::Pid::from_raw(child).context("a child without a number")?;
    let (_, status) = waitpid(Some(pid), WaitOptions::empty())?.context("the child is gone")?;
    match status.exit_status() {
        Some(0) => Ok(Ok(())),
        Some(error) => Ok(Err(Errno::from_raw_os_error(error))),
        None => bail!("the child was killed: {status:?}"),
    }
}

fn unshare(flags: i32) -> Result<(), Errno> {
    // SAFETY: the flags are of namespaces alone.
    done(unsafe { libc::unshare(flags) }.into())
}

/// A process whose root is the initramfs counts as one in a chroot, which may make no user namespace. So it gets another root.
fn leave_first_root() -> Result<(), Errno> {
    unshare(libc::CLONE_NEWNS)?;
    let null = std::ptr::null();
    // SAFETY: strings that end with a NUL, or none.
    unsafe {
        done(libc::mkdir(NEW_ROOT.as_ptr(), 0o755).into())
            .or_else(|error| if error == Errno::EXIST { Ok(()) } else { Err(error) })?;
        done(
            libc::mount(
                c"none".as_ptr(),
                c"/".as_ptr(),
                null,
                libc::MS_REC | libc::MS_PRIVATE,
                null.cast(),
            )
            .into(),
        )?;
        done(libc::mount(c"none".as_ptr(), NEW_ROOT.as_ptr(), c"tmpfs".as_ptr(), 0, null.cast()).into())?;
        done(libc::chdir(NEW_ROOT.as_ptr()).into())?;
        done(libc::mount(c".".as_ptr(), c"/".as_ptr(), null, libc::MS_MOVE, null.cast()).into())?;
        done(libc::chroot(c".".as_ptr()).into())
    }
}

fn done(result: c_long) -> Result<(), Errno> {
    match result {
        -1 => Err(system::last_errno()),
        _ => Ok(()),
    }
}

/// A system call by its number for i386, whose arguments have 32 bits.
fn i386(number: u32, [first, second, third, fourth]: [u32; 4]) -> Result<(), Errno> {
    let result: u64;
    // SAFETY: the kernel keeps all registers but that of the result and, of 64-bit callers, r8 to r11; what rbx holds, which the
    // compiler keeps for itself, is put back.
    unsafe {
        asm!(
            "xchg {first}, rbx",
            "int 0x80",
            "xchg {first}, rbx",
            first = inout(reg) u64::from(first) => _,
            inlateout("rax") u64::from(number) => result,
            in("rcx") u64::from(second),
            in("rdx") u64::from(third),
            in("rsi") u64::from(fourth),
            out("r8") _,
            out("r9") _,
            out("r10") _,
            out("r11") _,
        );
    }
    match result as u32 as i32 {
        0.. => Ok(()),
        error => Err(Errno::from_raw_os_error(-error)),
    }
}
