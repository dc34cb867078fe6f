//! What a PID 1 does to the machine: mounts, limits, the console, the next kernel, the end.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result, bail};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use rustix::net::{AddressFamily, SocketType, socket};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::system::{RebootCommand, reboot};
pub(crate) use testbed_guest::protocol::say;
use testbed_guest::scenario::Kexec;

/// The word that [`load_next_kernel`] adds to the second kernel's command line.
const SECOND_BOOT: &str = "luo_testbed.boot=2";

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

/// Which kernel of the scenario this is: 1, or 2 after the kexec.
pub(crate) fn boot_number() -> Result<u32> {
    Ok(if command_line()?.split_whitespace().any(|word| word == SECOND_BOOT) {
        2
    } else {
        1
    })
}

/// This kernel's release.
pub(crate) fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Loads an image to be jumped into by [`jump`]: by `kexec_file_load(2)` the kernel and the initramfs that this one
/// came from, their command line without some words; by `kexec_load(2)` one that cannot run.
pub(crate) fn load_next_kernel(how: Kexec, without: &[String]) -> Result<()> {
    match how {
        Kexec::File => load_file(without),
        Kexec::Legacy => load_legacy(),
        Kexec::None => bail!("there is no image to load with kexec = \"none\""),
    }
}

fn load_file(without: &[String]) -> Result<()> {
    let kernel = File::open("/host/boot/kernel").context("cannot open the second kernel's image")?;
    let initrd = File::open("/host/boot/initrd").context("cannot open the second kernel's initramfs")?;
    let command_line = command_line()?;
    let words = command_line.split_whitespace();
    let words: Vec<_> = words.filter(|word| !without.iter().any(|out| out == word)).collect();
    let command_line = CString::new(format!("{} {SECOND_BOOT}", words.join(" ")))?;
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
        _ => Err(std::io::Error::last_os_error()).context("kexec_file_load refused the second kernel"),
    }
}

/// `struct kexec_segment` of `include/uapi/linux/kexec.h`.
#[repr(C)]
struct Segment {
    from: *const u8,
    from_size: usize,
    to: usize,
    to_size: usize,
}

/// An image of one page of zeroes: to be loaded, never to be jumped into.
fn load_legacy() -> Result<()> {
    const PAGE: usize = 4096;
    /// Free memory on every machine that this runs on.
    const ADDRESS: usize = 0x0400_0000;
    let page = [0_u8; PAGE];
    let segment = Segment {
        from: page.as_ptr(),
        from_size: PAGE,
        to: ADDRESS,
        to_size: PAGE,
    };
    // SAFETY: the kernel reads one segment, and the page that it points to; both live through the call.
    let result = unsafe { libc::syscall(libc::SYS_kexec_load, ADDRESS, 1, &raw const segment, 0) };
    match result {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()).context("kexec_load refused the image"),
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
