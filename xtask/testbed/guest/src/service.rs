//! What a service of a guest with systemd drives a scenario by: it tells the host how far it is, as `init` does in the other scenarios,
//! has systemd's fd store keep a memfd over the kexec, and looks at what came back.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, reboot};

use crate::content;
use crate::protocol::{Message, say};

/// Where the shipped unit has the agent write its journals.
pub const JOURNALS: &str = "/var/lib/luo-trace";

/// How long the agent may take until it is ready again.
const PATIENCE: Duration = Duration::from_secs(300);

/// What the second kernel's line has besides: which it is, and the agent before systemd, which takes its own session first of all.
const SECOND_BOOT: &str = "luo_testbed.boot=2";
const EARLY_AGENT: &str = "init=/usr/lib/luo-trace/early-init";

/// What the memfd is called in the fd store, and what is in it.
const KEPT: &str = "kept";
const SEED: u64 = 262;
const SIZE: usize = 64 << 10;

/// Does this kernel's part: `before` ends with systemd on its way into the next kernel, or powers off where there is none; `after` is what the
/// next kernel does.
pub fn drive(before: fn() -> Result<()>, after: fn() -> Result<()>) {
    let end = match run(before, after) {
        Ok(false) => return,
        Ok(true) => Message::Done,
        Err(error) => Message::Failed {
            why: format!("{error:#}"),
        },
    };
    // What systemd and the agent had to say is of no use on a disk that goes with the guest.
    if let Err(error) = collect_logs() {
        eprintln!("the logs stay in the guest: {error:#}");
    }
    say(&end);
    if let Err(error) = reboot(RebootCommand::PowerOff) {
        eprintln!("cannot power off: {error}");
    }
}

/// Whether all is done, and no kernel follows.
fn run(before: fn() -> Result<()>, after: fn() -> Result<()>) -> Result<bool> {
    mount_host()?;
    let line = command_line()?;
    let second = line.split_whitespace().any(|word| word == SECOND_BOOT);
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    say(&Message::Boot {
        boot: if second { 2 } else { 1 },
        release,
    });
    if second {
        after()?;
    } else {
        before()?;
    }
    Ok(second || !is_loaded()?)
}

/// Loads the same kernel, with the agent before systemd, and has systemd jump into it.
///
/// # Errors
/// It is not loaded, or systemd does not jump.
pub fn jump() -> Result<()> {
    step("load the next kernel");
    let line = command_line()?;
    run_program(Command::new("kexec").args([
        "-s",
        "-l",
        "/host/boot/kernel",
        &format!("--command-line={} {SECOND_BOOT} {EARLY_AGENT}", line.trim_end()),
    ]))?;
    say(&Message::Kexec);
    run_program(Command::new("systemctl").arg("kexec"))
}

/// The line that this kernel was given.
///
/// # Errors
/// It cannot be read.
pub fn command_line() -> Result<String> {
    fs::read_to_string("/proc/cmdline").context("cannot read the kernel's command line")
}

fn is_loaded() -> Result<bool> {
    let loaded = fs::read_to_string("/sys/kernel/kexec_loaded").context("cannot read whether a kernel is loaded")?;
    Ok(loaded.trim_end() == "1")
}

/// The agent's process, where it is ready.
///
/// # Errors
/// systemd cannot be asked.
pub fn main_process() -> Result<Option<u32>> {
    let mut show = Command::new("systemctl");
    show.args(["show", "--property=ActiveState,MainPID", "luo-trace.service"]);
    let shown = output_of(&mut show)?;
    let is_ready = shown.lines().any(|line| line == "ActiveState=active");
    let process = shown.lines().find_map(|line| line.strip_prefix("MainPID="));
    let process = process.and_then(|process| process.parse().ok());
    Ok(process.filter(|_| is_ready))
}

/// Waits until the agent is ready, as another process than this one.
///
/// # Errors
/// It is not within some minutes.
pub fn another_than(first: u32) -> Result<u32> {
    let begun = Instant::now();
    loop {
        match main_process()? {
            Some(process) if process != first => return Ok(process),
            _ if begun.elapsed() > PATIENCE => bail!("systemd did not start the agent anew within {PATIENCE:?}"),
            // No verb of systemctl waits for what systemd does by itself.
            _ => thread::sleep(Duration::from_millis(200)),
        }
    }
}

/// Sees that the agent, which was started so many times, knows these sessions, and that its record tells that none ran in between: what the
/// one before had not written yet is gone with it.
///
/// # Errors
/// It does not, or does not answer.
pub fn goes_on(runs: u32, sessions: &[&str]) -> Result<()> {
    let status = output_of(Command::new("luo-trace").arg("status"))?;
    for name in sessions {
        ensure!(
            status.contains(name),
            "the new agent does not know the session {name:?}: {status}"
        );
    }
    let report = output_of(Command::new("luo-trace").args(["report", JOURNALS]))?;
    ensure!(
        report.contains(&format!("the agent ran {runs} times, and no agent ran in between")),
        "the journal does not tell that the agent was started anew: {report}"
    );
    Ok(())
}

/// What the agent, and systemd of it, has logged in this boot.
///
/// # Errors
/// systemd's journal cannot be read.
pub fn agents_log() -> Result<String> {
    output_of(Command::new("journalctl").args(["--no-pager", "--unit=luo-trace.service"]))
}

/// Has systemd keep a memfd, and waits until it has it.
///
/// # Errors
/// The memfd cannot be made, or systemd does not take it.
pub fn store() -> Result<()> {
    // Not closed on exec: the program that hands it over inherits it.
    let mut memfd = File::from(memfd_create(KEPT, MemfdFlags::empty())?);
    let mut contents = vec![0; SIZE];
    content::fill(SEED, 0, &mut contents);
    memfd.write_all(&contents)?;
    let fd = format!("--fd={}", memfd.as_raw_fd());
    run_program(Command::new("systemd-notify").args([&fd, &format!("--fdname={KEPT}"), "--ready"]))
}

/// Compares what systemd gave back with what was stored.
///
/// # Errors
/// It gave back nothing, something else, or other bytes.
pub fn retrieved() -> Result<()> {
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

/// Copies the files of a directory into another one, which is made.
///
/// # Errors
/// One cannot be read, or not be written.
pub fn copy_files(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name())).with_context(|| format!("cannot copy {entry:?}"))?;
    }
    Ok(())
}

/// Tells the host what is done next.
pub fn step(doing: &str) {
    say(&Message::Step { doing: doing.into() });
}

/// Runs a program that must succeed.
///
/// # Errors
/// It cannot be started, or fails.
pub fn run_program(command: &mut Command) -> Result<()> {
    output_of(command).map(drop)
}

/// Runs a program that must succeed, and gives what it printed.
///
/// # Errors
/// It cannot be started, or fails: with its status, and what it had to say.
pub fn output_of(command: &mut Command) -> Result<String> {
    let done = command.output().with_context(|| format!("cannot start {command:?}"))?;
    if !done.status.success() {
        let stderr = String::from_utf8_lossy(&done.stderr);
        bail!("{command:?} failed ({}): {}", done.status, stderr.trim());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
