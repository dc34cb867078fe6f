//! A service of a guest with systemd, in both kernels of a scenario: it has systemd's fd store keep a memfd over the
//! kexec, looks at what came back, makes the agent's journal stick and sees it started anew, and tells the host how far it is, as `init` does in the other scenarios.
//!
//! `workload set-aside` runs before the agent, and takes away what the previous kernel's agent left on the disk: a journal
//! of that kernel that is there afterwards has come over the kexec in memory.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, reboot};
use testbed_guest::content;
use testbed_guest::halt::Halted;
use testbed_guest::luo::Device;
use testbed_guest::protocol::{Message, say};

/// Where the shipped unit has the agent write its journals.
const JOURNALS: &str = "/var/lib/luo-trace";

/// Where the previous kernel's journal goes, as it was on the disk.
const FROM_DISK: &str = "/var/lib/from-disk";

/// How long systemd waits for the agent's beat, by `systemd/watchdog.conf`.
const WATCHDOG: Duration = Duration::from_secs(10);

/// How long the agent may take until it is ready again.
const PATIENCE: Duration = Duration::from_secs(300);

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
    outlast_a_stuck_agent()?;
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

/// Halts the thread of the agent that writes the journal, and waits until systemd has started the agent anew. The new one knows the
/// session that was there before, and the one that was made meanwhile.
fn outlast_a_stuck_agent() -> Result<()> {
    let device = Device::open().context("cannot open /dev/liveupdate")?;
    let memfd = File::from(memfd_create("before", MemfdFlags::CLOEXEC)?);
    memfd.set_len(SIZE as u64)?;
    let before = device.create_session(b"before")?;
    before.preserve(&memfd, 1)?;
    let first = main_process()?.context("the agent does not run")?;
    step("halt a thread of the agent");
    let stuck = Halted::named(first, "journal")?;
    let begun = Instant::now();
    let meanwhile = device.create_session(b"meanwhile")?;
    // systemd needs the device for its own session.
    drop(device);
    stuck
        .wait_for_its_end(2 * WATCHDOG)
        .context("systemd did not end the agent, whose journal is stuck")?;
    step(&format!(
        "wait for the agent, which was ended after {:?}",
        begun.elapsed()
    ));
    while main_process()?.is_none_or(|process| process == first) {
        if begun.elapsed() > PATIENCE {
            bail!("systemd did not start the agent anew within {PATIENCE:?}");
        }
        // No verb of systemctl waits for what systemd does by itself.
        thread::sleep(Duration::from_millis(200));
    }
    step(&format!(
        "ask the new agent, which was ready after {:?}",
        begun.elapsed()
    ));
    let log = output_of(Command::new("journalctl").args(["--no-pager", "--unit=luo-trace.service"]))?;
    if !log.contains("Watchdog timeout") {
        bail!("the agent ended for another reason than the watchdog: {log}");
    }
    let status = output_of(Command::new("luo-trace").arg("status"))?;
    for name in ["before", "meanwhile"] {
        if !status.contains(name) {
            bail!("the new agent does not know the session {name:?}: {status}");
        }
    }
    // What the first agent had not written yet is gone with it, and the record says that there was none for a while.
    let report = output_of(Command::new("luo-trace").args(["report", JOURNALS]))?;
    if !report.contains("the agent ran 2 times, and no agent ran in between") {
        bail!("the journal does not tell that the agent was started anew: {report}");
    }
    drop((before, meanwhile));
    Ok(())
}

/// The agent's process, where it is ready.
fn main_process() -> Result<Option<u32>> {
    let mut show = Command::new("systemctl");
    show.args(["show", "--property=ActiveState,MainPID", "luo-trace.service"]);
    let shown = output_of(&mut show)?;
    let is_ready = shown.lines().any(|line| line == "ActiveState=active");
    let process = shown.lines().find_map(|line| line.strip_prefix("MainPID="));
    let process = process.and_then(|process| process.parse().ok());
    Ok(process.filter(|_| is_ready))
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
    output_of(command).map(drop)
}

/// Runs a program that must succeed, and gives what it printed.
fn output_of(command: &mut Command) -> Result<String> {
    let done = command.output().with_context(|| format!("cannot start {command:?}"))?;
    if !done.status.success() {
        let stderr = String::from_utf8_lossy(&done.stderr);
        bail!("{command:?} failed ({}): {}", done.status, stderr.trim());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
