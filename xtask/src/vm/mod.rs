//! Boots a kernel in QEMU and runs a scenario on it, over a real kexec where it has one, or over several.
//!
//! A scenario's output directory ends up with everything there is to look at afterwards; its files are
//! listed in `xtask/testbed/README.md`.

mod blackout;
mod check;
mod console;
mod expect;
pub(crate) mod guest;
mod initramfs;
mod last_word;
mod policy;
mod product;
mod pushed;
mod qemu;
pub(crate) mod scenario;
pub(crate) mod stages;
mod systemd;
mod upstream;

use std::fs::{self, File};
use std::io::{self, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use luo_trace::journal::serial::Log;
use testbed_guest::scenario::{Root, Scenario, changed_words};

use crate::cache;
use crate::kernel::{self, Flavour, Kernel};
use crate::setup::{self, Need};

use console::{End, Watch};
use expect::Compared;
pub(crate) use guest::{Agent, Guest};
use initramfs::Initramfs;
pub(crate) use qemu::Accel;
use qemu::{ConsoleLine, Machine, Qemu};
use stages::{Stage, Stages, Stopwatch};

/// The kernel's command line, which a scenario can add to and take words from.
const CMDLINE: [&str; 7] = [
    "console=ttyS0",
    "kho=on",
    "liveupdate=on",
    // A panic resets the machine, and QEMU exits instead.
    "panic=-1",
    // On a busy host QEMU's timer ticks too late for the kernel's check of it, which ends in a panic.
    "no_timer_check",
    // The guest's init speaks through /dev/kmsg, which is rate limited otherwise.
    "printk.devkmsg=on",
    // QEMU's devices shut down in microseconds, where real ones leave userspace some time to write.
    "luo_testbed.grace_ms=2000",
];

/// The example of a VMM, among what a scenario's guest needs; all else there are the kernel's selftests.
const VMM: &str = "vmm";

/// What a kernel that checks itself has besides: its account of its memory comes before KHO's scratch memory, which by default is
/// twice of all that was reserved before.
const DEBUG_CMDLINE: &str = "kho_scratch=64M,64M,448M";

/// What comes through the guest's second serial port, in the output directory.
pub(crate) const SERIAL: &str = "serial.log";

/// After a trouble's first line, the silence that says that its last one has come.
const TROUBLE_ENDS: Duration = Duration::from_secs(1);

/// After so long a silence of a first kernel that has not come to its init, the machine is started anew: once in some hundred boots both
/// CPUs spin for good where the kernel changes its clock, under QEMU's translation on a busy host. Nothing of luo-trace has run by then.
const BOOT_HANGS: Duration = Duration::from_secs(120);

/// How often a machine is started at most.
const STARTS: usize = 3;

/// The options of `cargo xtask vm`.
#[derive(clap::Args, Clone, Debug)]
#[group(id = "vm")]
pub(crate) struct Args {
    /// The name of a file in xtask/testbed/scenarios, without .toml, or the path of any such file, with it; left out, all of them are
    /// listed
    scenario: Option<String>,
    #[command(flatten)]
    kernel: kernel::Args,
    /// How QEMU executes the guest
    #[arg(long, default_value_t, value_enum)]
    accel: Accel,
    /// Leave console, journals and logs in this directory, which must be empty or absent [default: below target/vm]
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Take this static agent instead of building one
    #[arg(long, value_name = "PATH")]
    agent: Option<PathBuf>,
    /// Run it so many times, as long as it passes
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "keep")]
    times: u32,
}

/// How a scenario is to be run.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The programs for the guest.
    pub guest: Guest,
    /// How QEMU executes the guest.
    pub accel: Accel,
    /// The guest's memory in MiB.
    pub memory_mib: u64,
    /// How many CPUs the guest has.
    pub cpus: u32,
    /// More files for the initramfs: each one's path in the guest, and where it is now.
    pub files: Vec<(String, PathBuf)>,
    /// Where everything is left; an empty directory.
    pub output: PathBuf,
    /// Whether to say on standard error what the guest is doing.
    pub talk: bool,
}

impl Options {
    /// The programs for the guest, an empty directory for the output, and else what every scenario is run with.
    pub(crate) fn new(guest: Guest, output: PathBuf) -> Self {
        Self {
            guest,
            output,
            accel: Accel::default(),
            memory_mib: 1024,
            cpus: 2,
            files: Vec::new(),
            talk: false,
        }
    }
}

/// How a scenario went.
#[derive(Clone, Debug)]
pub(crate) struct ScenarioResult {
    /// What went wrong; nothing when the scenario passed.
    pub failures: Vec<String>,
    /// Whether it is that the guest was not done in time.
    pub late: bool,
    /// What else is worth telling of it.
    pub notes: Vec<String>,
    /// How often the machine was started: more than once where its first kernel hung before its init ran.
    pub starts: usize,
    /// How long it took, by stages.
    pub stages: Stages,
}

/// `cargo xtask vm`: one scenario, and its verdict for a person to read.
///
/// # Errors
/// The scenario failed, or could not be run.
pub(crate) fn command(args: Args) -> Result<()> {
    let Some(name) = args.scenario else {
        for (name, scenario) in scenario::all()? {
            println!("{name:24} {}", scenario.summary);
        }
        return Ok(());
    };
    let scenario = scenario::find(&name)?;
    setup::ensure(&[Need::Qemu])?;
    let kernel = kernel::ensure(&args.kernel.into())?;
    let agent = match args.agent {
        _ if !scenario.needs_agent() => Agent::None,
        Some(path) => Agent::Ready(path),
        None => Agent::Built,
    };
    let guest = guest::build(&agent)?;
    for _ in 0..args.times {
        let (output, _lock) = match &args.keep {
            Some(directory) => (empty(directory.clone())?, None),
            None => fresh(stem(&name), &kernel).map(|(output, lock)| (output, Some(lock)))?,
        };
        once(
            &name,
            &scenario,
            &kernel,
            Options {
                accel: args.accel,
                talk: true,
                ..Options::new(guest.clone(), output)
            },
        )?;
    }
    Ok(())
}

/// A scenario's name, where its file's path is given.
fn stem(name: &str) -> &str {
    let file = name.rsplit('/').next().unwrap_or(name);
    file.strip_suffix(".toml").unwrap_or(file)
}

/// Runs a scenario for a person who watches.
fn once(name: &str, scenario: &Scenario, kernel: &Kernel, options: Options) -> Result<()> {
    eprintln!("{name} on Linux {kernel}: {}", scenario.summary);
    let outcome = run(scenario, kernel, &options)?;
    let stages = outcome.stages.all();
    let seconds: f64 = stages.iter().map(|(_, seconds)| seconds).sum();
    for (stage, seconds) in stages {
        eprintln!("  {stage:8} {seconds:5.1} s");
    }
    for note in &outcome.notes {
        eprintln!("{note}");
    }
    eprintln!("console, journals and logs: {}", options.output.display());
    if outcome.failures.is_empty() {
        eprintln!("{name} passed in {seconds:.1} s");
        return Ok(());
    }
    bail!("{name} failed in {seconds:.1} s\n{}", outcome.failures.join("\n"))
}

/// Where the last run of a scenario on a kernel has left everything, unless it was told to keep that elsewhere.
pub(crate) fn output_of(scenario: &str, kernel: &Kernel) -> PathBuf {
    guest::workspace()
        .join("target/vm")
        .join(format!("{scenario}-{kernel}"))
}

/// The directory below `target/vm` for a scenario on a kernel, emptied of what an earlier run left, and the lock that keeps another
/// invocation from emptying it.
///
/// # Errors
/// It cannot be emptied or made.
pub(crate) fn fresh(scenario: &str, kernel: &Kernel) -> Result<(PathBuf, File)> {
    let output = output_of(scenario, kernel);
    let (all, name) = (output.with_file_name("lock"), output.file_name().unwrap_or_default());
    fs::create_dir_all(&all).with_context(|| format!("cannot make {}", all.display()))?;
    let lock = cache::lock_at(&all.join(name))?;
    if let Err(error) = fs::remove_dir_all(&output)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error).with_context(|| format!("cannot empty {}", output.display()));
    }
    Ok((empty(output)?, lock))
}

/// A directory that a person has named: made if it is not there, refused if there is something in it.
fn empty(directory: PathBuf) -> Result<PathBuf> {
    let context = || format!("cannot make {}", directory.display());
    fs::create_dir_all(&directory).with_context(context)?;
    if fs::read_dir(&directory).with_context(context)?.next().is_some() {
        bail!(
            "{} is not empty: name another directory, or empty it",
            directory.display()
        );
    }
    directory.canonicalize().with_context(context)
}

/// Runs a scenario on a kernel.
///
/// # Errors
/// It could not be run. A scenario that ran and failed is an [`ScenarioResult`].
pub(crate) fn run(scenario: &Scenario, kernel: &Kernel, options: &Options) -> Result<ScenarioResult> {
    let first = &kernel.built(scenario.kernel)?;
    let slowness = kernel.flavour.map_or(1, Flavour::slowness);
    let boot = options.output.join("boot");
    fs::create_dir_all(&boot).with_context(|| format!("cannot make {}", boot.display()))?;
    fs::create_dir_all(options.output.join("journal"))?;
    let image = boot.join("kernel");
    link(&first.image, &image)?;
    // The guest's kexec reads kernel and initramfs from here.
    link(&kernel.built(scenario.next.kernel)?.image, &boot.join("next-kernel"))?;
    for &build in &scenario.images {
        link(&kernel.built(build)?.image, &boot.join(build.name()))?;
    }
    let initrd = boot.join("initrd");
    let disk = options.output.join("disk.ext4");
    match scenario.root {
        Root::Init => fs::write(&initrd, pack(scenario, first, options)?)?,
        Root::Systemd => systemd::write_disk(&options.guest, systemd::SERVICE, &disk)?,
        Root::Package => {
            systemd::write_packages(&options.guest, &boot)?;
            systemd::write_disk(&options.guest, systemd::PACKAGE, &disk)?;
        }
    }

    let mut cmdline = CMDLINE.join(" ");
    if scenario.root.is_system() {
        cmdline = format!("{cmdline} {}", systemd::CMDLINE);
    }
    cmdline = changed_words(&cmdline, &scenario.cmdline);
    if slowness > 1 {
        cmdline = format!("{cmdline} {DEBUG_CMDLINE}");
    }
    let serial = options.output.join(SERIAL);
    let mut machine = Machine {
        kernel: &image,
        initrd: (scenario.root == Root::Init).then_some(&initrd),
        disk: scenario.root.is_system().then_some(&disk),
        cmdline: &cmdline,
        share: &options.output,
        accel: options.accel,
        by_turns: !scenario.policies().is_empty(),
        // A kernel that checks itself keeps an account of its memory in the memory.
        memory_mib: options.memory_mib.max(scenario.memory.bytes() >> 20) + 2048 * u64::from(slowness > 1),
        cpus: options.cpus,
        serial: scenario.serial_journal.then_some(&serial),
        log: options.output.join("qemu.log"),
        clock: options.output.join("clock.log"),
    };
    let mut stopwatch = Stopwatch::start(Stage::Boot);
    let mut starts = 1;
    let mut console = Watch::new(scenario);
    let cold = format!("{cmdline} luo_testbed.boot={}", scenario.boots());
    let end = loop {
        match watch(
            scenario,
            &mut console,
            machine.start()?,
            options,
            slowness,
            &mut stopwatch,
        )? {
            None if starts < STARTS => starts += 1,
            None => break End::Late(format!("a kernel hung in {STARTS} boots, before its init ran")),
            Some(End::Crashed) if machine.cmdline == cmdline => machine.cmdline = &cold,
            Some(end) => break end,
        }
    };
    stopwatch.enter(Stage::Judge);

    let late = matches!(end, End::Late(_));
    let compared = match end {
        End::Done => {
            if machine.disk.is_some() {
                fs::remove_file(&disk).with_context(|| format!("cannot remove {}", disk.display()))?;
            }
            if machine.serial.is_some() {
                bring_home(&serial, &options.output.join("journal"))?;
            }
            expect::compare(scenario, options.guest.agent.as_deref(), &options.output)?
        }
        End::Crashed => Compared {
            failures: vec!["the machine ended anew before it had booted cold".into()],
            notes: Vec::new(),
        },
        End::Failed(why) | End::Late(why) => Compared {
            failures: vec![with_agents_last_words(why, scenario.boots(), &options.output)],
            notes: Vec::new(),
        },
    };
    Ok(ScenarioResult {
        failures: compared.failures,
        late,
        notes: compared.notes,
        starts,
        stages: stopwatch.stages(),
    })
}

/// Takes the journals out of what came through the serial port, one file for each boot.
fn bring_home(serial: &Path, journals: &Path) -> Result<()> {
    let context = || format!("cannot take the journals out of {}", serial.display());
    let log = Log::read(BufReader::new(File::open(serial).with_context(context)?)).with_context(context)?;
    for (place, mut recording) in (1..).zip(log.recordings) {
        let mut file = File::create(journals.join(format!("{place}.luoj"))).with_context(context)?;
        io::copy(&mut recording, &mut file).with_context(context)?;
    }
    Ok(())
}

fn link(from: &Path, to: &Path) -> Result<()> {
    fs::hard_link(from, to)
        .or_else(|_| fs::copy(from, to).map(drop))
        .with_context(|| format!("cannot copy {}", from.display()))
}

fn pack(scenario: &Scenario, kernel: &Kernel, options: &Options) -> Result<Vec<u8>> {
    let guest = &options.guest;
    let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let mut initramfs = Initramfs::new()?;
    initramfs.file("init", &read(&guest.init)?)?;
    initramfs.file("scenario.json", &serde_json::to_vec(scenario)?)?;
    if scenario.agent {
        let agent = guest
            .agent
            .as_deref()
            .context("this scenario needs the agent, and none was built")?;
        initramfs.file("luo-trace", &read(agent)?)?;
        for path in scenario::shipped_policies()? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            initramfs.file_with_parents(&format!("policies/{name}"), &read(&path)?)?;
        }
    }
    if !scenario.payload.is_empty() {
        initramfs.directory("payload")?;
    }
    for name in &scenario.payload {
        let program = match name.as_str() {
            VMM => guest.init.with_file_name(VMM),
            selftest => upstream::program(kernel, selftest)?,
        };
        initramfs.file(&format!("payload/{name}"), &read(&program)?)?;
    }
    for (place, path) in &options.files {
        initramfs.file_with_parents(place, &read(path)?)?;
    }
    initramfs.pack()
}

/// Follows the console to the scenario's end, and keeps every line, with the time it came, in `console.log`.
/// Nothing, where a kernel that the machine boots itself hangs before its init runs. On a kernel that is so many times as slow everything may take as much longer.
fn watch(
    scenario: &Scenario,
    watch: &mut Watch,
    qemu: Qemu,
    options: &Options,
    slowness: u32,
    stopwatch: &mut Stopwatch,
) -> Result<Option<End>> {
    let seconds = scenario.deadline_seconds * u64::from(slowness);
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let log = options.output.join("console.log");
    let mut log = File::options()
        .create(true)
        .append(true)
        .open(log)
        .context("cannot write console.log")?;
    let mut progress = String::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let booting = watch.stage() == Stage::Boot;
        let patience = match () {
            () if watch.in_trouble() => left.min(TROUBLE_ENDS),
            () if booting => left.min(BOOT_HANGS * slowness),
            () => left,
        };
        let end = match qemu.lines().recv_timeout(patience) {
            Ok(line) => {
                keep(&mut log, &line)?;
                let end = watch.line(&line.text);
                stopwatch.enter(watch.stage());
                end
            }
            Err(RecvTimeoutError::Timeout) if watch.in_trouble() => watch.quiet(),
            Err(RecvTimeoutError::Timeout) if booting => return Ok(None),
            Err(RecvTimeoutError::Timeout) => {
                let end = watch.late(seconds);
                return Ok(Some(with(end, "QEMU's threads", &qemu.threads())));
            }
            Err(RecvTimeoutError::Disconnected) => Some(watch.closed()),
        };
        if options.talk && progress != watch.progress() {
            progress = watch.progress().to_owned();
            eprintln!("  {progress}");
        }
        if let Some(end) = end {
            return Ok(Some(with(end, "QEMU says", &qemu.complaints())));
        }
    }
}

/// Writes a line with the host's time, in seconds since 1970.
fn keep(log: &mut File, line: &ConsoleLine) -> Result<()> {
    let at = line.at.duration_since(UNIX_EPOCH).unwrap_or_default();
    writeln!(log, "{}.{:06} {}", at.as_secs(), at.subsec_micros(), line.text).context("cannot write console.log")
}

/// A failure, with what else is known, if anything.
fn with(end: End, title: &str, more: &str) -> End {
    match end {
        End::Failed(why) if !more.is_empty() => End::Failed(format!("{why}\n{title}: {more}")),
        End::Late(why) if !more.is_empty() => End::Late(format!("{why}\n{title}: {more}")),
        end => end,
    }
}

/// A failure, with the end of each agent's log, since the agent is what most failures are about.
fn with_agents_last_words(why: String, boots: u32, output: &Path) -> String {
    (1..=boots).fold(why, |why, boot| {
        let log = fs::read(output.join(format!("agent-{boot}.log"))).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        let last = lines
            .iter()
            .skip(lines.len().saturating_sub(10))
            .map(|line| format!("\n    {line}"));
        if lines.is_empty() {
            why
        } else {
            format!("{why}\nthe end of agent-{boot}.log:{}", last.collect::<String>())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_with_something_in_it_is_not_written_to() {
        let directory = std::env::temp_dir().join(format!("xtask-keep-{}", std::process::id()));
        let made = empty(directory.clone()).unwrap();
        fs::write(made.join("mine"), "precious").unwrap();
        assert!(empty(directory).unwrap_err().to_string().contains("is not empty"));
        fs::remove_dir_all(made).unwrap();
    }
}
