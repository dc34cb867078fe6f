//! Takes from the agent what a scenario wants it to do without, and from nobody else.

use std::ffi::CString;
use std::fs;
use std::io::{self, PipeWriter};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Where the journals go: seen from here, a directory of the host's.
pub(crate) const JOURNALS: &str = "/host/journal";

/// systemd's default for the soft limit of open files.
const FEW: u64 = 1024;

const BTF: &str = "/sys/kernel/btf";

/// The size of a disk that the beginning of a journal fits on, and little more.
const NO_ROOM: &str = "size=16k";
/// The size of one that is large enough.
const ROOM: &str = "size=64m";

/// A filter program's way to refuse a system call with ENOSYS, and its way to allow one.
const REFUSE: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

/// The command will see an empty directory where the kernel's type information lies.
pub(crate) fn btf(command: &mut Command) {
    let hide = || {
        // SAFETY: the process is about to become another program; it has no other thread to share anything with.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
        Ok(mount("tmpfs", BTF, "tmpfs", MountFlags::empty(), None)?)
    };
    // SAFETY: between fork and exec the closure makes two system calls, with strings that need no allocation.
    unsafe { command.pre_exec(hide) };
}

/// The command's `bpf(2)` will answer ENOSYS.
pub(crate) fn bpf(command: &mut Command) {
    // SAFETY: these two do nothing but fill in a struct.
    let filter = unsafe {
        [
            // The number is the first word of what a filter sees.
            libc::BPF_STMT((libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, 0),
            libc::BPF_JUMP(
                (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
                libc::SYS_bpf as u32,
                0,
                1,
            ),
            libc::BPF_STMT((libc::BPF_RET | libc::BPF_K) as u16, REFUSE),
            libc::BPF_STMT((libc::BPF_RET | libc::BPF_K) as u16, ALLOW),
        ]
    };
    let install = move || {
        let mut filter = filter;
        let program = libc::sock_fprog {
            len: filter.len() as u16,
            filter: filter.as_mut_ptr(),
        };
        // SAFETY: `program` and the filter that it points to live through the call, which copies them.
        match unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(install) };
}

/// The command has the limits of open files that systemd gives a service, the hard one being no higher than the soft one.
pub(crate) fn descriptors(command: &mut Command) {
    let limit = || {
        let few = Rlimit {
            current: Some(FEW),
            maximum: Some(FEW),
        };
        Ok(setrlimit(Resource::Nofile, few)?)
    };
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(limit) };
}

/// A pipe that no process reads from.
pub(crate) fn reader() -> io::Result<PipeWriter> {
    io::pipe().map(|(_reader, writer)| writer)
}

/// Puts a disk that is nearly full where the journals go.
pub(crate) fn room() -> Result<()> {
    memory(NO_ROOM).context("cannot mount a small disk")
}

/// Puts memory where the journals go.
pub(crate) fn disk() -> Result<()> {
    memory(ROOM).context("cannot mount memory in a disk's place")
}

fn memory(size: &str) -> Result<()> {
    let size = CString::new(size)?;
    Ok(mount("tmpfs", JOURNALS, "tmpfs", MountFlags::empty(), size.as_c_str())?)
}

/// Makes that disk large enough.
pub(crate) fn make_room() -> Result<()> {
    let size = CString::new(ROOM)?;
    mount_remount(JOURNALS, MountFlags::empty(), size.as_c_str())
        .context("there is no small disk to make room on: the scenario needs agent_without = \"room\"")
}

/// Takes what lies there away, and leaves its journals on the host.
pub(crate) fn bring_journals_home() -> Result<()> {
    let mut journals = Vec::new();
    for entry in fs::read_dir(JOURNALS)? {
        let path = entry?.path();
        journals.push((fs::read(&path)?, path));
    }
    unmount(JOURNALS, UnmountFlags::empty()).context("cannot unmount what holds the journals")?;
    for (journal, path) in journals {
        fs::write(&path, journal).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
