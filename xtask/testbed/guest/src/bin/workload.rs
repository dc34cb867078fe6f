//! A service of a guest with systemd, in both kernels of a scenario: it has systemd's fd store keep a memfd over the
//! kexec, looks at what came back, and tells the host how far it is, as `init` does in the other scenarios.
//!
//! `workload set-aside` runs before the agent, and takes away what the previous kernel's agent left on the disk: a journal
//! of that kernel that is there afterwards has come over the kexec in memory.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, reboot};
use testbed_guest::content;
use testbed_guest::protocol::{Message, say};

/// Where the shipped unit has the agent write its journals.
const JOURNALS: &str = "/var/lib/luo-trace";

/// Where the previous kernel's journal goes, as it was on the disk.
const FROM_DISK: &str = "/var/lib/from-disk";

/// The words that the second kernel gets besides the first one's: which it is, and the agent before systemd.
const SECOND_BOOT: &str = "luo_testbed.boot=2";
const EARLY_AGENT: &str = "init=/usr/lib/luo-trace/early-init";

/// What the memfd is called in the fd store, and what is in it.
const KEPT: &str = "kept";
const SEED: u64 = 262;
const SIZE: usize = 64 << 10;

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|verb| verb == "set-aside") {
        return match set_aside() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    drive();
    ExitCode::SUCCESS
}

fn drive() {
    let why = match run() {
        Ok(End::Kexec) => return,
        Ok(End::Done) => Message::Done,
        Err(error) => Message::Failed {
            why: format!("{error:#}"),
        },
    };
    // What systemd and the agent had to say is of no use on a disk that goes with the guest.
    if let Err(error) = collect_logs() {
        eprintln!("the logs stay in the guest: {error:#}");
    }
    say(&why);
    if let Err(error) = reboot(RebootCommand::PowerOff) {
        eprintln!("cannot power off: {error}");
    }
}

/// How this kernel's part ends.
enum End {
    /// systemd is on its way into the next kernel.
    Kexec,
    /// All is done.
    Done,
}

fn run() -> Result<End> {
    mount_host()?;
    let command_line = fs::read_to_string("/proc/cmdline").context("cannot read the kernel's command line")?;
    let second = command_line.split_whitespace().any(|word| word == SECOND_BOOT);
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    say(&Message::Boot {
        boot: if second { 2 } else { 1 },
        release,
    });
    if second {
        after().map(|()| End::Done)
    } else {
        before(command_line.trim_end()).map(|()| End::Kexec)
    }
}

fn before(command_line: &str) -> Result<()> {
    step("store a memfd");
    store()?;
    step("load the next kernel");
    run_program(Command::new("kexec").args([
        "-s",
        "-l",
        "/host/boot/kernel",
        &format!("--command-line={command_line} {SECOND_BOOT} {EARLY_AGENT}"),
    ]))?;
    say(&Message::Kexec);
    run_program(Command::new("systemctl").arg("kexec"))
}

fn after() -> Result<()> {
    step("look at the memfd that came back");
    retrieved()?;
    step("stop the agent");
    run_program(Command::new("systemctl").args(["stop", "luo-trace.service"]))?;
    step("collect the journals");
    copy_files(Path::new(JOURNALS), Path::new("/host/journal"))?;
    if fs::read_dir(FROM_DISK)?.next().is_none() {
        bail!("the first kernel's agent left no journal on the disk");
    }
    copy_files(Path::new(FROM_DISK), Path::new("/host/from-disk"))
}

/// Takes the journals of other boots than this one out of the agent's sight.
fn set_aside() -> Result<()> {
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    fs::create_dir_all(JOURNALS)?;
    fs::create_dir_all(FROM_DISK)?;
    for entry in fs::read_dir(JOURNALS)? {
        let journal = entry?;
        if !journal.file_name().to_string_lossy().starts_with(boot_id.trim_end()) {
            fs::rename(journal.path(), Path::new(FROM_DISK).join(journal.file_name()))?;
        }
    }
    Ok(())
}

/// Has systemd keep a memfd, and waits until it has it.
fn store() -> Result<()> {
    // Not closed on exec: the program that hands it over inherits it.
    let mut memfd = File::from(memfd_create(KEPT, MemfdFlags::empty())?);
    let mut contents = vec![0; SIZE];
    content::fill(SEED, 0, &mut contents);
    memfd.write_all(&contents)?;
    let fd = format!("--fd={}", memfd.as_raw_fd());
    run_program(Command::new("systemd-notify").args([&fd, &format!("--fdname={KEPT}"), "--ready"]))
}

/// Compares what systemd gave back with what was stored.
fn retrieved() -> Result<()> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    if names != KEPT {
        bail!("systemd gave back {names:?} instead of {KEPT:?}");
    }
    // The first descriptor that a service is given is number 3.
    let contents = fs::read("/proc/self/fd/3").context("cannot read the memfd that came back")?;
    if contents.len() != SIZE {
        bail!("the memfd came back with {} bytes instead of {SIZE}", contents.len());
    }
    match content::first_difference(SEED, 0, &contents) {
        None => Ok(()),
        Some(at) => bail!("the memfd came back with another byte at {at}"),
    }
}

fn mount_host() -> Result<()> {
    fs::create_dir_all("/host")?;
    let options = CString::new("trans=virtio,version=9p2000.L,msize=512000,cache=none")?;
    mount("host", "/host", "9p", MountFlags::empty(), options.as_c_str()).context("cannot mount the host's directory")
}

/// The log of each boot, as far as it is on the disk, and the agent's part of it.
fn collect_logs() -> Result<()> {
    for (boot, number) in [("-1", 1), ("0", 2)] {
        for (log, of) in [("system", None), ("agent", Some("--unit=luo-trace.service"))] {
            let log = File::create(format!("/host/{log}-{number}.log"))?;
            let mut journalctl = Command::new("journalctl");
            journalctl.args(["--no-pager", "--output=cat", "--boot", boot]).args(of);
            // In the first kernel there is no boot before it, which is no failure.
            journalctl.stdout(log).status().context("cannot start journalctl")?;
        }
    }
    Ok(())
}

fn copy_files(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name())).with_context(|| format!("cannot copy {entry:?}"))?;
    }
    Ok(())
}

fn step(doing: &str) {
    say(&Message::Step { doing: doing.into() });
}

fn run_program(command: &mut Command) -> Result<()> {
    let done = command.output().with_context(|| format!("cannot start {command:?}"))?;
    if !done.status.success() {
        let stderr = String::from_utf8_lossy(&done.stderr);
        bail!("{command:?} failed ({}): {}", done.status, stderr.trim());
    }
    Ok(())
}
