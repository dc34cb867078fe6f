//! What a PID 1 does to the machine: mounts, limits, the console, the next kernel, the end.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
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
use testbed_guest::scenario::{Kexec, changed_words};

use crate::legacy;

/// The word that [`load_next_kernel`] puts before the number of the next kernel, on its command line.
const BOOT: &str = "luo_testbed.boot=";

/// What the next kernel is loaded from.
const NEXT_KERNEL: &str = "/host/boot/next-kernel";
const INITRD: &str = "/host/boot/initrd";

/// Source, target, type, and options of everything that is mounted, in order.
const MOUNTS: [(&str, &str, &str, &str); 10] = [
    ("devtmpfs", "/dev", "devtmpfs", ""),
    ("proc", "/proc", "proc", ""),
    ("sysfs", "/sys", "sysfs", ""),
    ("debugfs", "/sys/kernel/debug", "debugfs", ""),
    ("tracefs", "/sys/kernel/tracing", "tracefs", ""),
    ("securityfs", "/sys/kernel/security", "securityfs", ""),
    ("bpf", "/sys/fs/bpf", "bpf", ""),
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

/// Loads the kernel to be jumped into by [`jump`], with this one's initramfs and its command line with some changes.
pub(crate) fn load_next_kernel(how: Kexec, changes: &[String]) -> Result<()> {
    let boot = boot_number()?;
    let mut changes = changes.to_vec();
    changes.extend([format!("!{BOOT}{boot}"), format!("{BOOT}{}", boot + 1)]);
    let line = changed_words(&command_line()?, &changes);
    match how {
        Kexec::File => load_file(&line),
        Kexec::Legacy => legacy::load(NEXT_KERNEL, INITRD, &line),
        Kexec::None => bail!("there is no kernel to load with kexec = \"none\""),
    }
}

/// By `kexec_file_load(2)`.
fn load_file(command_line: &str) -> Result<()> {
    let kernel = File::open(NEXT_KERNEL).context("cannot open the next kernel's image")?;
    let initrd = File::open(INITRD).context("cannot open the next kernel's initramfs")?;
    let command_line = CString::new(command_line)?;
    // SAFETY: both descriptors are open, and the length is that of the string with its NUL.
    let result = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            kernel.as_raw_fd(),
            initrd.as_raw_fd(),
            command_line.as_bytes_with_nul().len(),
            command_line.as_ptr(),
            0,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()).context("kexec_file_load refused the next kernel"),
    }
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
