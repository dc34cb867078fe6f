//! Measures what tracers cost, by the guest's clock: under QEMU's `-icount` that counts instructions.

mod calls;
mod programs;

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, inotify, memfd_create};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process, pidfd_open, waitid};
use testbed_guest::luo::Device;
use testbed_guest::scenario::{Bench, Cost, How, Measured, Measurement, Operation, ProgramCost, Size, Tracer, Work};

const READY_FILE: &str = "/run/bench.ready";
const SCRIPT: &str = "/run/bench.bt";
const TRACING: &str = "/sys/kernel/tracing";

/// How long a tracer may take for one thing: to get ready, to be done with an operation's events, to stop.
const PATIENCE: Duration = Duration::from_secs(300);

/// A process that has not run for this long has nothing to do.
const IDLE: Duration = Duration::from_millis(20);

/// Does what the plan asks for.
pub(crate) fn run(device: &Device) -> Result<()> {
    let plan = fs::read("/host/bench-plan.json").context("cannot read /host/bench-plan.json")?;
    let bench: Bench = serde_json::from_slice(&plan).context("cannot understand /host/bench-plan.json")?;
    let operations = bench.operations.iter().map(Prepared::new).collect::<Result<Vec<_>>>()?;
    let mut functions = HashMap::new();
    let mut tracers = Vec::new();
    for tracer in &bench.tracers {
        let (measured, traced) = measure(tracer, &operations, device, bench.rounds, &functions)
            .with_context(|| format!("measuring {}", tracer.name))?;
        tracers.push(measured);
        functions.insert(tracer.name.clone(), traced);
    }
    fs::write("/host/bench.json", serde_json::to_vec_pretty(&Measurement { tracers })?)?;
    Ok(())
}

/// What one tracer costs, and the functions that it is attached to. `functions` are those of the tracers before it.
fn measure(
    tracer: &Tracer,
    operations: &[Prepared],
    device: &Device,
    rounds: u32,
    functions: &HashMap<String, Vec<String>>,
) -> Result<(Measured, Vec<String>)> {
    let before = traced_functions()?;
    let start = Instant::now();
    let running = Running::start(tracer, functions)?;
    let attach_ns = nanoseconds(start);
    let mut traced = traced_functions()?;
    traced.retain(|name| !before.contains(name));
    let costs = operations
        .iter()
        .map(|operation| running.cost(operation, device, rounds));
    let costs = costs.collect::<Result<_>>()?;
    let programs = running.programs(operations, device)?;
    let detach_ns = running.stop()?;
    let measured = Measured {
        name: tracer.name.clone(),
        attach_ns,
        detach_ns,
        functions: traced.len() as u64,
        costs,
        programs,
    };
    Ok((measured, traced))
}

/// An operation with what it needs at hand.
enum Prepared {
    Preserve {
        sessions: u32,
        files_each: usize,
        files: Vec<File>,
    },
    Repeat {
        call: calls::Prepared,
        times: u32,
    },
}

impl Prepared {
    fn new(operation: &Operation) -> Result<Self> {
        let prepared = match operation.work {
            Work::Preserve { sessions, files, size } => {
                let made = (0..sessions * files).map(|_| file(size));
                made.collect::<Result<_>>().map(|made| Prepared::Preserve {
                    sessions,
                    files_each: files as usize,
                    files: made,
                })
            }
            Work::Repeat { call, times } => calls::Prepared::new(call).map(|call| Prepared::Repeat { call, times }),
        };
        prepared.with_context(|| format!("cannot make what {} needs", operation.name))
    }

    /// Does it, and returns how long it took; `then` comes before what it made is taken back.
    fn perform(&self, device: &Device, then: impl FnOnce() -> Result<u64>) -> Result<u64> {
        match self {
            Prepared::Preserve {
                sessions,
                files_each,
                files,
            } => preserve(device, *sessions, *files_each, files, then),
            Prepared::Repeat { call, times } => {
                let _meanwhile = call.begin()?;
                let start = Instant::now();
                for _ in 0..*times {
                    call.make()?;
                }
                Ok(nanoseconds(start) + then()?)
            }
        }
    }
}

/// Makes a file of pages that are there.
fn file(size: Size) -> Result<File> {
    let page = [0; 4096];
    let mut file = File::from(memfd_create("bench", MemfdFlags::CLOEXEC)?);
    for _ in 0..size.bytes() / page.len() as u64 {
        file.write_all(&page)?;
    }
    Ok(file)
}

fn preserve(
    device: &Device,
    sessions: u32,
    files_each: usize,
    files: &[File],
    then: impl FnOnce() -> Result<u64>,
) -> Result<u64> {
    let names: Vec<_> = (0..sessions).map(|index| format!("bench-{index}")).collect();
    let mut made = Vec::with_capacity(names.len());
    let mut files = files.iter();
    let start = Instant::now();
    for name in &names {
        let session = device.create_session(name.as_bytes())?;
        for (token, file) in files.by_ref().take(files_each).enumerate() {
            session.preserve(file, token as u64)?;
        }
        made.push(session);
    }
    Ok(nanoseconds(start) + then()?)
}

/// A tracer at work.
enum Running {
    Nobody,
    /// It has a process.
    Process {
        child: Child,
        ends_by: Signal,
        keeps: Option<String>,
    },
    Kprobes,
}

impl Running {
    /// Starts it and waits until it is attached.
    fn start(tracer: &Tracer, functions: &HashMap<String, Vec<String>>) -> Result<Running> {
        let like = |name: &String| {
            functions
                .get(name)
                .with_context(|| format!("{name} has to be measured before {}", tracer.name))
        };
        match &tracer.how {
            How::Nobody => Ok(Running::Nobody),
            How::Agent { arguments } => {
                let journal = format!("/run/bench-{}", tracer.name);
                let mut command = Command::new("/luo-trace");
                command.args([
                    "agent",
                    "--format",
                    "none",
                    "--ready-file",
                    READY_FILE,
                    "--journal",
                    &journal,
                ]);
                command.args(arguments);
                Running::process(command, &tracer.name, Signal::TERM, Some(journal))
            }
            How::Bpftrace { like: name } => {
                fs::write(SCRIPT, script(like(name)?))?;
                let mut command = Command::new("/usr/bin/bpftrace");
                command.arg("-c").arg(format!("/ready {READY_FILE}")).arg(SCRIPT);
                Running::process(command, &tracer.name, Signal::INT, None)
            }
            How::Kprobes { like: name } => {
                // One write for each: the kernel takes one probe a line, and no longer text than a page.
                let mut events = OpenOptions::new()
                    .append(true)
                    .open(format!("{TRACING}/kprobe_events"))?;
                for (index, function) in like(name)?.iter().enumerate() {
                    for probe in [
                        format!("p:bench/in{index} {function}\n"),
                        format!("r:bench/out{index} {function}\n"),
                    ] {
                        events
                            .write_all(probe.as_bytes())
                            .with_context(|| format!("a kprobe on {function}"))?;
                    }
                }
                fs::write(format!("{TRACING}/events/bench/enable"), "1")?;
                Ok(Running::Kprobes)
            }
        }
    }

    fn process(mut command: Command, name: &str, ends_by: Signal, keeps: Option<String>) -> Result<Running> {
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC)?;
        // The agent makes its file under another name, and gives it this one when all is in it.
        let appears = inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
        inotify::add_watch(&watch, "/run", appears)?;
        let log = File::create(format!("/host/bench-{name}.log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {:?}", command.get_program()))?;
        let ended = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        let deadline = Instant::now() + PATIENCE;
        while !Path::new(READY_FILE).exists() {
            if let Some(status) = child.try_wait()? {
                bail!("it ended with {status} instead of getting ready: see bench-{name}.log");
            }
            let mut events = [PollFd::new(&watch, PollFlags::IN), PollFd::new(&ended, PollFlags::IN)];
            if poll(&mut events, Some(&time_left(deadline)))? == 0 {
                bail!("it was not ready within {PATIENCE:?}: see bench-{name}.log");
            }
            if events[0].revents().contains(PollFlags::IN) {
                rustix::io::read(&watch, &mut [0; 4096])?;
            }
        }
        Ok(Running::Process { child, ends_by, keeps })
    }

    /// What each of its BPF programs does in one round of the operations.
    fn programs(&self, operations: &[Prepared], device: &Device) -> Result<Vec<ProgramCost>> {
        let _timing = programs::Timing::begin()?;
        for operation in operations {
            self.pause()?;
            operation.perform(device, || self.resume().map(|()| 0))?;
            self.settle()?;
        }
        programs::costs()
    }

    /// What an operation costs under it.
    fn cost(&self, operation: &Prepared, device: &Device, rounds: u32) -> Result<Cost> {
        let mut cost = Cost {
            paused_ns: u64::MAX,
            total_ns: u64::MAX,
            process_ns: u64::MAX,
        };
        for _ in 0..rounds {
            self.pause()?;
            let paused = operation.perform(device, || self.resume().and_then(|()| self.settle()).map(|_| 0))?;
            self.settle()?;
            let before = self.process_time()?;
            let mut after = before;
            let total = operation.perform(device, || {
                let left = self.settle();
                after = self.process_time()?;
                left
            })?;
            self.settle()?;
            cost.process_ns = cost.process_ns.min(after - before);
            cost.paused_ns = cost.paused_ns.min(paused);
            cost.total_ns = cost.total_ns.min(total);
        }
        Ok(cost)
    }

    fn pause(&self) -> Result<()> {
        if let Running::Process { child, .. } = self {
            let pid = Pid::from_child(child);
            kill_process(pid, Signal::STOP)?;
            // The signal is on its way: each of the process's threads has to meet it.
            waitid(WaitId::Pid(pid), WaitIdOptions::STOPPED)?;
        }
        Ok(())
    }

    fn resume(&self) -> Result<()> {
        if let Running::Process { child, .. } = self {
            kill_process(Pid::from_child(child), Signal::CONT)?;
        }
        Ok(())
    }

    /// How long its process has run.
    fn process_time(&self) -> Result<u64> {
        match self {
            Running::Process { child, .. } => cpu_time(child),
            Running::Nobody | Running::Kprobes => Ok(0),
        }
    }

    /// Waits until it has nothing left to do; says how long its process ran until then, in nanoseconds.
    fn settle(&self) -> Result<u64> {
        let Running::Process { child, .. } = self else {
            return Ok(0);
        };
        let before = cpu_time(child)?;
        let deadline = Instant::now() + PATIENCE;
        let mut last = before;
        while Instant::now() < deadline {
            // Nothing tells when a process has become idle, so it is looked at again.
            thread::sleep(IDLE);
            let now = cpu_time(child)?;
            if now == last {
                return Ok(now - before);
            }
            last = now;
        }
        bail!("the tracer is still busy {PATIENCE:?} after the operation")
    }

    /// Stops it; says how long its process took to end, in nanoseconds.
    fn stop(self) -> Result<u64> {
        match self {
            Running::Nobody => Ok(0),
            Running::Process {
                mut child,
                ends_by,
                keeps,
            } => {
                let start = Instant::now();
                kill_process(Pid::from_child(&child), ends_by)?;
                let status = child.wait()?;
                let took = nanoseconds(start);
                if !status.success() {
                    bail!("asked to stop, it ended with {status}");
                }
                _ = fs::remove_file(READY_FILE);
                for file in keeps.map(fs::read_dir).transpose()?.into_iter().flatten() {
                    let path = file?.path();
                    let directory = path.parent().and_then(Path::file_name).unwrap_or_default();
                    fs::copy(&path, Path::new("/host/journal").join(directory).with_extension("luoj"))?;
                }
                Ok(took)
            }
            Running::Kprobes => {
                fs::write(format!("{TRACING}/events/bench/enable"), "0")?;
                // Opening the list to be cut off is what removes the probes.
                drop(File::create(format!("{TRACING}/kprobe_events"))?);
                Ok(0)
            }
        }
    }
}

/// The kernel functions that anything is attached to, by trampoline or by kprobe.
fn traced_functions() -> Result<Vec<String>> {
    let list = fs::read_to_string(format!("{TRACING}/enabled_functions"))?;
    let name = |line: &str| line.split_whitespace().next().map(str::to_owned);
    // What belongs to a function is told in lines of its own, which are indented.
    Ok(list
        .lines()
        .filter(|line| !line.starts_with(char::is_whitespace))
        .filter_map(name)
        .collect())
}

/// A script for bpftrace that counts entries and exits of these functions.
fn script(functions: &[String]) -> String {
    let list = |kind| {
        functions
            .iter()
            .map(|name| format!("{kind}:{name}"))
            .collect::<Vec<_>>()
            .join(",\n")
    };
    format!(
        "{}\n{{ @entered[probe] = count(); }}\n{}\n{{ @left[probe] = count(); }}\n",
        list("kfunc"),
        list("kretfunc")
    )
}

/// How long a process has run, in all its threads, in nanoseconds.
fn cpu_time(child: &Child) -> Result<u64> {
    let mut clock = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it writes a clock's id to `clock`, which lives through the call.
    let result = unsafe { libc::clock_getcpuclockid(child.id() as libc::pid_t, &raw mut clock) };
    // SAFETY: it writes to `time`, which lives through the call; it fails if there is no such clock.
    if result != 0 || unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        bail!("the tracer is gone");
    }
    Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

fn nanoseconds(since: Instant) -> u64 {
    since.elapsed().as_nanos() as u64
}

fn time_left(deadline: Instant) -> Timespec {
    let left = deadline.saturating_duration_since(Instant::now());
    Timespec {
        tv_sec: left.as_secs() as i64,
        tv_nsec: i64::from(left.subsec_nanos()),
    }
}

#[cfg(test)]
mod tests {
    use super::script;

    #[test]
    fn a_script_counts_every_function_once_at_each_end() {
        let script = script(&["luo_open".into(), "luo_release".into()]);
        for probe in [
            "kfunc:luo_open",
            "kfunc:luo_release",
            "kretfunc:luo_open",
            "kretfunc:luo_release",
        ] {
            assert_eq!(
                script
                    .lines()
                    .filter(|line| line.trim_end_matches(',') == probe)
                    .count(),
                1,
                "{script}"
            );
        }
    }
}
