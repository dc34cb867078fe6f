//! What a PID 1 does to the machine: mounts, limits, the console, the next kernel, the end.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::os::fd::{AsRawFd as _, RawFd};
use std::path::Path;
use std::thread;

use anyhow::{Context as _, Result, bail};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use rustix::net::{AddressFamily, SocketType, socket};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::system::{RebootCommand, reboot};
use testbed_guest::clock::{APART, READINGS};
pub(crate) use testbed_guest::protocol::say;
use testbed_guest::scenario::{Kexec, Load, changed_words};

use crate::legacy;

/// The word that [`load_kernel`] puts before the number of the next kernel, on its command line.
const BOOT: &str = "luo_testbed.boot=";

/// What the next kernel is loaded from.
const NEXT_KERNEL: &str = "/host/boot/next-kernel";
const INITRD: &str = "/host/boot/initrd";

/// Flags of `kexec_file_load(2)` and of `kexec_load(2)`, as `include/uapi/linux/kexec.h` has them.
const FILE_UNLOAD: libc::c_ulong = 1;
const FILE_ON_CRASH: libc::c_ulong = 2;

/// Source, target, type, and options of everything that is mounted, in order.
const MOUNTS: [(&str, &str, &str, &str); 11] = [
    ("devtmpfs", "/dev", "devtmpfs", ""),
    ("proc", "/proc", "proc", ""),
    ("sysfs", "/sys", "sysfs", ""),
    ("debugfs", "/sys/kernel/debug", "debugfs", ""),
    ("tracefs", "/sys/kernel/tracing", "tracefs", ""),
    ("securityfs", "/sys/kernel/security", "securityfs", ""),
    ("bpf", "/sys/fs/bpf", "bpf", ""),
    ("cgroup2", "/sys/fs/cgroup", "cgroup2", ""),
    ("tmpfs", "/run", "tmpfs", ""),
    ("tmpfs", "/tmp", "tmpfs", ""),
    // The output directory on the host. Without a cache, what is written here is there at once.
    (
        "host",
        "/host",
        "9p",
        "trans=virtio,version=9p2000.L,msize=512000,cache=none",
    ),
];

/// Mounts everything. `/dev` comes first: what goes wrong later can be told.
pub(crate) fn mount_all() -> Result<()> {
    for (source, target, kind, options) in MOUNTS {
        let options = CString::new(options)?;
        mount(source, target, kind, MountFlags::empty(), options.as_c_str())
            .with_context(|| format!("cannot mount {kind} on {target}: was this kernel built without it?"))?;
    }
    Ok(())
}

/// Allows as many open files as the kernel does, for scenarios with thousands of sessions.
pub(crate) fn raise_limits() -> Result<()> {
    let most: u64 = fs::read_to_string("/proc/sys/fs/nr_open")?.trim().parse()?;
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(most),
            maximum: Some(most),
        },
    )
    .context("cannot raise the limit of open files")
}

/// Brings `lo` up, for the agent's HTTP port.
pub(crate) fn bring_loopback_up() -> Result<()> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    // SAFETY: `ifreq` is plain data, for which zeroes are a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[..2].copy_from_slice(&[b'l' as libc::c_char, b'o' as libc::c_char]);
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an `ifreq`, and `request` is one that lives through the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error().into()),
    }
}

/// Which kernel of the scenario this is: 1, and one more after each kexec.
pub(crate) fn boot_number() -> Result<u32> {
    let line = command_line()?;
    let number = line.split_whitespace().find_map(|word| word.strip_prefix(BOOT));
    number.map_or(Ok(1), |number| {
        number
            .parse()
            .with_context(|| format!("cannot understand {BOOT}{number}"))
    })
}

/// Has the kernel tell the host, over and over, what its clock says. One that was built without the testbed's own file
/// has no such switch, and tells nothing.
pub(crate) fn tell_clock(boot: u32) -> Result<()> {
    let clock = Path::new("/sys/kernel/debug/luo_testbed/clock");
    if !clock.exists() {
        return Ok(());
    }
    for _ in 0..READINGS {
        fs::write(clock, boot.to_string()).context("the kernel cannot tell its clock")?;
        thread::sleep(APART);
    }
    Ok(())
}

/// This kernel's release.
pub(crate) fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Loads a kernel with this one's initramfs and its command line with some changes, and gives the kernel's answer. Unless
/// it is one for a crash, [`jump`] leads there.
///
/// # Errors
/// A file cannot be read.
pub(crate) fn load_kernel(load: &Load) -> Result<Result<(), Errno>> {
    let boot = boot_number()?;
    let mut changes = load.cmdline.clone();
    changes.extend([format!("!{BOOT}{boot}"), format!("{BOOT}{}", boot + 1)]);
    let line = changed_words(&command_line()?, &changes);
    let kernel = load.image.as_deref().unwrap_or(NEXT_KERNEL);
    match load.how {
        Kexec::File => load_file(kernel, &line, load.crash),
        Kexec::Legacy => legacy::load(kernel, INITRD, &line, load.crash),
        Kexec::Loaded | Kexec::None => bail!("there is no kernel to load"),
    }
}

/// Takes the loaded kernel out, if there is one.
pub(crate) fn unload_kernel(how: Kexec) -> Result<Result<(), Errno>> {
    match how {
        Kexec::File => Ok(kexec_file_load(-1, -1, c"", FILE_UNLOAD)),
        Kexec::Legacy => Ok(legacy::unload()),
        Kexec::Loaded | Kexec::None => bail!("there is no kernel to unload"),
    }
}

/// By `kexec_file_load(2)`.
fn load_file(kernel: &str, command_line: &str, crash: bool) -> Result<Result<(), Errno>> {
    let kernel = File::open(kernel).with_context(|| format!("cannot open the image {kernel}"))?;
    let initrd = File::open(INITRD).context("cannot open the initramfs")?;
    let flags = if crash { FILE_ON_CRASH } else { 0 };
    let command_line = CString::new(command_line)?;
    Ok(kexec_file_load(
        kernel.as_raw_fd(),
        initrd.as_raw_fd(),
        &command_line,
        flags,
    ))
}

fn kexec_file_load(kernel: RawFd, initrd: RawFd, command_line: &CStr, flags: libc::c_ulong) -> Result<(), Errno> {
    let line = command_line.to_bytes_with_nul();
    // SAFETY: the length is that of the string with its NUL, and the kernel checks the descriptors.
    let result = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            kernel,
            initrd,
            line.len(),
            line.as_ptr(),
            flags,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}

/// Why the last system call of this thread failed.
pub(crate) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Jumps into the loaded kernel; returns only with an error.
pub(crate) fn jump() -> Result<()> {
    kexec().context("reboot(LINUX_REBOOT_CMD_KEXEC) failed")?;
    bail!("reboot(LINUX_REBOOT_CMD_KEXEC) came back to userspace without an error")
}

/// Asks for the jump into the loaded kernel.
pub(crate) fn kexec() -> Result<(), Errno> {
    reboot(RebootCommand::Kexec)
}

/// Ends the virtual machine. PID 1 must not return: where powering off fails, the host ends it.
pub(crate) fn power_off() -> ! {
    if let Err(error) = reboot(RebootCommand::PowerOff) {
        eprintln!("cannot power off: {error}");
    }
    loop {
        std::thread::park();
    }
}

fn command_line() -> Result<String> {
    let text = fs::read_to_string("/proc/cmdline").context("cannot read the kernel's command line")?;
    Ok(text.trim_end().to_owned())
}
