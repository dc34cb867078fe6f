//! A service of a guest with systemd, in both kernels of a scenario: it has systemd's fd store keep a memfd over the
//! kexec, looks at what came back, makes the agent's journal stick and sees it started anew.
//!
//! `workload set-aside` runs before the agent, and takes away what the previous kernel's agent left on the disk: a journal
//! of that kernel that is there afterwards has come over the kexec in memory.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{MemfdFlags, memfd_create};
use testbed_guest::halt::Halted;
use testbed_guest::luo::Device;
use testbed_guest::service::{self, JOURNALS, copy_files, run_program, step};

/// Where the previous kernel's journal goes, as it was on the disk.
const FROM_DISK: &str = "/var/lib/from-disk";

/// How long systemd waits for the agent's beat, by `systemd/watchdog.conf`.
const WATCHDOG: Duration = Duration::from_secs(10);

/// How large a file of a session is.
const SIZE: u64 = 64 << 10;

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
    service::drive(before, after);
    ExitCode::SUCCESS
}

fn before() -> Result<()> {
    step("store a memfd");
    service::store()?;
    outlast_a_stuck_agent()?;
    service::jump()
}

/// Halts the thread of the agent that writes the journal, and waits until systemd has started the agent anew. The new one knows the
/// session that was there before, and the one that was made meanwhile.
fn outlast_a_stuck_agent() -> Result<()> {
    let device = Device::open().context("cannot open /dev/liveupdate")?;
    let memfd = File::from(memfd_create("before", MemfdFlags::CLOEXEC)?);
    memfd.set_len(SIZE)?;
    let before = device.create_session(b"before")?;
    before.preserve(&memfd, 1)?;
    let first = service::main_process()?.context("the agent does not run")?;
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
    service::another_than(first)?;
    step(&format!(
        "ask the new agent, which was ready after {:?}",
        begun.elapsed()
    ));
    let log = service::agents_log()?;
    if !log.contains("Watchdog timeout") {
        bail!("the agent ended for another reason than the watchdog: {log}");
    }
    service::goes_on(2, &["before", "meanwhile"])?;
    drop((before, meanwhile));
    Ok(())
}

fn after() -> Result<()> {
    step("look at the memfd that came back");
    service::retrieved()?;
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
