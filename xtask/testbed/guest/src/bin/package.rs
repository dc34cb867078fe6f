//! A service of a guest with systemd to which luo-trace comes as a package: it has dpkg install, upgrade and downgrade it while a session is
//! preserved, sees it over a live update, and has it removed and purged. On a kernel without LUO it looks at what the unit says of that.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{MemfdFlags, memfd_create};
use testbed_guest::luo::Device;
use testbed_guest::service::{self, JOURNALS, copy_files, output_of, run_program, step};

/// The packages that xtask has made of one agent, and a journal in a format that is not known yet.
const OWN: &str = "/host/boot/own.deb";
const LATER: &str = "/host/boot/later.deb";
const NEWER: &str = "/host/boot/newer.luoj";

/// What an administrator has changed, and with what.
const SETTINGS: &str = "/etc/luo-trace/agent.toml";
const CHANGE: &str = "# An administrator was here.\n";

fn main() {
    service::drive(before, after);
}

fn before() -> Result<()> {
    step("install");
    dpkg("--install", OWN)?;
    // The installation does not wait for the agent.
    run_program(Command::new("systemctl").args(["start", "luo-trace.service"]))?;
    if !fs::exists("/dev/liveupdate")? {
        says_why_it_does_not_run()?;
        return leave_nothing();
    }
    step("store a memfd");
    service::store()?;
    change_versions()?;
    service::jump()
}

/// A host without LUO is no failure, and the agent is not started there again and again.
fn says_why_it_does_not_run() -> Result<()> {
    step("ask why the agent does not run");
    let properties = "--property=ActiveState,NRestarts,ConditionResult";
    let shown = output_of(Command::new("systemctl").args(["show", properties, "luo-trace.service"]))?;
    for expected in ["ActiveState=inactive", "NRestarts=0", "ConditionResult=no"] {
        ensure!(shown.lines().any(|line| line == expected), "no {expected} in {shown}");
    }
    // Of a unit that does not run its exit status is 3.
    let status = Command::new("systemctl")
        .args(["status", "luo-trace.service"])
        .output()?;
    let status = String::from_utf8_lossy(&status.stdout);
    ensure!(
        status.contains("ConditionPathExists=/dev/liveupdate"),
        "the unit does not say why it does not run: {status}"
    );
    Ok(())
}

/// Upgrades and downgrades with a session preserved. Each agent knows of it, what the administrator has changed stays, and so does what a
/// later agent wrote.
fn change_versions() -> Result<()> {
    let mut settings = OpenOptions::new().append(true).open(SETTINGS)?;
    settings.write_all(CHANGE.as_bytes())?;
    let device = Device::open().context("cannot open /dev/liveupdate")?;
    let session = device.create_session(b"vm")?;
    session.preserve(memfd_create("vm", MemfdFlags::CLOEXEC)?, 1)?;
    // systemd needs the device for its own session.
    drop(device);

    step("upgrade");
    let first = service::main_process()?.context("the agent does not run")?;
    dpkg("--install", LATER)?;
    let second = service::another_than(first)?;
    goes_on(2)?;

    step("downgrade");
    let kept = Path::new(JOURNALS).join("newer.luoj");
    fs::copy(NEWER, &kept)?;
    dpkg("--install", OWN)?;
    service::another_than(second)?;
    goes_on(3)?;
    ensure!(
        fs::read(&kept)? == fs::read(NEWER)?,
        "the journal in a newer format is not as it was"
    );
    let log = service::agents_log()?;
    ensure!(
        log.contains("newer.luoj"),
        "the agent does not tell that it leaves a journal alone: {log}"
    );
    fs::remove_file(kept)?;
    drop(session);
    Ok(())
}

/// The agent, which was started so many times, knows the session, its record tells that there was none in between, and the settings are the
/// administrator's.
fn goes_on(runs: u32) -> Result<()> {
    service::goes_on(runs, &["vm"])?;
    ensure!(
        fs::read_to_string(SETTINGS)?.ends_with(CHANGE),
        "what was changed in {SETTINGS} is gone"
    );
    Ok(())
}

fn after() -> Result<()> {
    step("look at the memfd that came back");
    service::retrieved()?;
    step("ask what became of the update");
    run_program(Command::new("systemctl").args(["start", "luo-trace.service"]))?;
    let updates = output_of(Command::new("luo-trace").args(["updates", JOURNALS]))?;
    ensure!(
        updates.contains("completed"),
        "the update is not told as completed: {updates}"
    );
    step("remove");
    dpkg("--remove", "luo-trace")?;
    ensure!(service::main_process()?.is_none(), "the agent runs without its package");
    ensure!(
        Path::new(SETTINGS).exists(),
        "{SETTINGS} went with the package, which was not purged"
    );
    step("collect the journals");
    copy_files(Path::new(JOURNALS), Path::new("/host/journal"))?;
    leave_nothing()
}

/// Purges, and finds no file, no pin and no unit.
fn leave_nothing() -> Result<()> {
    step("purge");
    dpkg("--purge", "luo-trace")?;
    let left = output_of(Command::new("find").args(["/", "/run", "/sys/fs/bpf", "-xdev", "-name", "*luo-trace*"]))?;
    ensure!(left.is_empty(), "a purge leaves something: {left}");
    let unit = output_of(Command::new("systemctl").args(["show", "--property=LoadState", "luo-trace.service"]))?;
    if unit.trim_end() != "LoadState=not-found" {
        bail!("systemd knows the unit of a purged package: {unit}");
    }
    Ok(())
}

fn dpkg(verb: &str, what: &str) -> Result<()> {
    run_program(Command::new("dpkg").args([verb, what]))
}
