//! `luo-trace agent`: trace this host until told to stop.

mod aside;
mod carry;
mod descriptors;
mod outputs;
mod policy;
mod port;
mod push;
mod reload;
mod snapshots;
mod wakeups;
mod watchdog;

use std::env;
use std::fs;
use std::future::pending;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytesize::ByteSize;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args as ClapArgs, ValueEnum};
use luo_trace_common::hooks::KhoDetail;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::Deadline;
use crate::agent::carry::Way;
use crate::agent::enforcement::Loaded;
use crate::agent::image_watch::{Look, Target};
use crate::agent::live::Live;
use crate::agent::pipeline::Pipeline;
use crate::agent::updates::{Judge, Pushes};
use crate::exit::Exit;
use crate::host;
use crate::host::files;
use crate::host::lock::{self, Lock, Refusal};
use crate::host::privileges;
use crate::image::Formats;
use crate::image::btf::Btf;
use crate::journal::{Clock, Header, Keep, Limits};
use crate::kernel::preflight::{self, Types};
use crate::kernel::{self, Ring, Tracer};
use crate::sink::control::{self, Control, Request};
use crate::sink::log::{self, tell};
use crate::sink::push::Pusher;
use crate::text::units::bytes;

use carry::Carrying;
use outputs::{Socket, journal, outputs, serial_line};
use reload::Reload;
use snapshots::{Snapshots, handover};
use wakeups::Rest;
use watchdog::Watchdog;

/// How often counts that no event brings up to date are looked at.
const TICK: Duration = Duration::from_secs(1);

/// Options of `luo-trace agent`.
#[derive(Debug, Default, ClapArgs)]
pub struct Args {
    /// Take what neither an option nor the environment says from this file: `luo-trace config show` lists its keys, which are the
    /// options' names [default: /etc/luo-trace/agent.toml, where it is there]
    #[arg(long, value_name = "FILE", env = "LUO_TRACE_CONFIG")]
    config: Option<PathBuf>,
    /// Record everything into DIR/BOOT-ID.luoj, or as lines of text through a serial line: serial:/dev/ttyS1
    #[arg(long, value_name = "DIR|serial:LINE", env = "LUO_TRACE_JOURNAL")]
    journal: Option<PathBuf>,
    /// How large the --journal directory may become. The journals of the oldest boots go first; of a boot that fills a quarter of it
    /// with its own, the middle goes
    #[arg(long, value_name = "SIZE", default_value = JOURNAL_SIZE, value_parser = journal_size, env = "LUO_TRACE_JOURNAL_MAX_SIZE")]
    journal_max_size: u64,
    /// Of how many boots the journals are kept, such as 50, or how long, such as 90d; those of the newest two always are
    #[arg(long, value_name = "BOOTS|AGE", default_value = JOURNAL_KEEP, env = "LUO_TRACE_JOURNAL_KEEP")]
    journal_keep: Option<Keep>,
    /// Which machine this is, for a host without a machine id: what makes its journals one host's
    #[arg(long, value_name = "ID", value_parser = clap::builder::NonEmptyStringValueParser::new(), env = "LUO_TRACE_HOST_ID")]
    host_id: Option<String>,
    #[command(flatten)]
    deadline: Deadline,
    #[command(flatten)]
    port: port::Args,
    #[command(flatten)]
    push: push::Args,
    /// Create this file when every hook is attached and LUO's lists are known, and remove it at the end
    #[arg(long, value_name = "FILE", env = "LUO_TRACE_READY_FILE")]
    ready_file: Option<PathBuf>,
    /// Answer `luo-trace status`, `watch` and `top` at this socket; a lock beside it keeps a second agent away
    #[arg(long, value_name = "PATH", default_value = control::DEFAULT_PATH, value_parser = control::socket_path, env = "LUO_TRACE_CONTROL")]
    control: Option<PathBuf>,
    /// Keep this host by the policy in this file; it is read again on SIGHUP
    #[arg(long, value_name = "FILE", env = "LUO_TRACE_POLICY")]
    policy: Option<PathBuf>,
    /// How to print events and findings
    #[arg(long, value_enum, default_value_t, env = "LUO_TRACE_FORMAT")]
    pub(super) format: Format,
    /// How to tell on stderr what the agent has to say of itself, of findings where --format is none, and of refusals
    #[arg(long, value_enum, default_value_t, env = "LUO_TRACE_LOG_FORMAT")]
    log_format: log::Form,
    /// How closely to watch preserved memory: `keys` tells balance, and nearly doubles what preserving a page takes
    #[arg(long, value_name = "DETAIL", value_parser = kho_detail(), default_value = KhoDetail::default().name(), env = "LUO_TRACE_KHO")]
    kho: KhoDetail,
    /// Size of the ring buffer in KiB; a power of two, at least 4
    #[arg(long, value_name = "KIB", default_value_t = RING_KIB, env = "LUO_TRACE_RING_KIB")]
    ring_kib: u32,
    /// Bring the end of the journal over a kexec without a disk: what came over goes to the --journal directory
    #[arg(long, value_enum, default_value_t, env = "LUO_TRACE_CARRY")]
    carry: Way,
    /// How much of it, in KiB; the memory is taken from the start on
    #[arg(long, value_name = "KIB", default_value_t = CARRY_KIB, value_parser = clap::value_parser!(u32).range(64..=1 << 20), env = "LUO_TRACE_CARRY_KIB")]
    carry_kib: u32,
    #[command(flatten)]
    pub(super) attach: Attach,
}

/// How hooks are attached, for tests and measurements.
#[derive(Clone, Debug, Default, ClapArgs)]
pub(super) struct Attach {
    /// How to attach the hooks, whatever this kernel has: by links to many functions at once, or one by one
    #[arg(long = "attach", value_name = "WAY", value_parser = way(), env = "LUO_TRACE_ATTACH", hide = true)]
    pub(super) way: Option<kernel::Way>,
}

fn way() -> impl TypedValueParser<Value = kernel::Way> {
    PossibleValuesParser::new(kernel::Way::ALL.map(kernel::Way::name)).map(|name| {
        let [best, other] = kernel::Way::ALL;
        if name == best.name() { best } else { other }
    })
}

/// How large the directory of journals may become unless told otherwise, and of how many boots it has some.
const JOURNAL_SIZE: &str = "1GiB";
const JOURNAL_KEEP: &str = "50";

/// The least that the directory can be told to hold, in bytes: a part of a boot's journal has a thirty-second of it.
const LEAST_JOURNAL_SIZE: u64 = 16 << 20;

/// How much of a journal is carried unless told otherwise, in KiB: some 25,000 events.
const CARRY_KIB: u32 = 4096;

/// The ring's size unless told otherwise, in KiB.
const RING_KIB: u32 = 8192;

/// How events and findings are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// One line each, for a person
    #[default]
    Text,
    /// One JSON object each
    Json,
    /// Nothing
    None,
}

/// Traces until SIGTERM or SIGINT, then drains, detaches, and leaves nothing behind.
///
/// # Errors
/// Where a required hook cannot be attached, or an option makes no sense.
pub fn run(args: &Args) -> Result<Exit> {
    run_until(args, async |_| pending().await)
}

/// The same without a journal, a port or a socket, for a command that traces by itself; it ends when `end` does, too.
///
/// # Errors
/// As for [`run`].
pub(super) fn run_alone(format: Format, end: impl AsyncFnOnce(Arc<Live>)) -> Result<Exit> {
    let args = Args {
        format,
        ring_kib: RING_KIB,
        ..Args::default()
    };
    run_until(&args, end)
}

fn run_until(args: &Args, end: impl AsyncFnOnce(Arc<Live>)) -> Result<Exit> {
    let has_directory = args.directory().is_some();
    let has_service_manager = env::var_os("NOTIFY_SOCKET").is_some();
    args.carry.check(has_directory, has_service_manager)?;
    let file = policy::File::new(args.policy.as_deref());
    let loaded = file.read()?;
    let port = args.port.prepare()?;
    let push = args.push.prepare()?;
    let Some(ring_bytes) = ring_bytes(args.ring_kib) else {
        bail!("--ring-kib {} is not a power of two from 4 to 1048576", args.ring_kib);
    };
    descriptors::raise();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    runtime.block_on(trace(args, ring_bytes, (file, loaded), (port, push), end))
}

impl Args {
    /// The directory of journals, where there is one.
    fn directory(&self) -> Option<&Path> {
        self.journal.as_deref().filter(|place| serial_line(place).is_none())
    }

    /// How much the directory of journals holds; `None` where no option of a journal was read.
    fn limits(&self) -> Option<Limits> {
        let (size, keep) = (self.journal_max_size, self.journal_keep?);
        Some(Limits { size, keep })
    }
}

/// Reads the value of `--journal-max-size`.
fn journal_size(text: &str) -> Result<u64, String> {
    let size: ByteSize = text.parse()?;
    match size.as_u64() {
        size if size >= LEAST_JOURNAL_SIZE => Ok(size),
        _ => Err(format!("journals need at least {}", bytes(LEAST_JOURNAL_SIZE))),
    }
}

/// Reads the value of `--kho`.
pub(super) fn kho_detail() -> impl TypedValueParser<Value = KhoDetail> {
    let details = [KhoDetail::Off, KhoDetail::Count, KhoDetail::Keys];
    PossibleValuesParser::new(details.map(KhoDetail::name)).map(move |name| {
        let is_named = |detail: &KhoDetail| detail.name() == name;
        details.into_iter().find(is_named).unwrap_or_default()
    })
}

fn ring_bytes(kib: u32) -> Option<u32> {
    (kib.is_power_of_two() && (4..=1 << 20).contains(&kib)).then_some(kib * 1024)
}

async fn trace(
    args: &Args,
    ring_bytes: u32,
    (file, loaded): (policy::File, Option<Loaded>),
    (port, push): (Option<port::Prepared>, Option<push::Prepared>),
    end: impl AsyncFnOnce(Arc<Live>),
) -> Result<Exit> {
    let types = Types::read();
    let btf = types.btf();
    if let Some(obstacle) = preflight::obstacle_to(btf.as_ref().ok()) {
        tell(obstacle);
        return Ok(Exit::CannotWork);
    }
    // The handlers come first: a signal during the start-up must end the agent in order, too.
    let signals = Signals::take()?;
    let control = match args.control.as_deref().map(Control::open).transpose() {
        Ok(control) => control,
        Err(Refusal::Taken(pid)) => {
            tell(runs_already(pid, ""));
            return Ok(Exit::CannotWork);
        }
        Err(Refusal::Unusable(why)) => {
            tell(format_args!(
                "{why:#}; going on without it: choose another with --control"
            ));
            None
        }
    };
    // A command that only watches has no socket, and shares the kernel with an agent.
    let _kernel = match args.control.as_ref().map(|_| Lock::take(Path::new(lock::KERNEL))) {
        Some(Err(Refusal::Taken(pid))) => {
            tell(runs_already(pid, " at another socket"));
            return Ok(Exit::CannotWork);
        }
        Some(Err(Refusal::Unusable(why))) => {
            tell(format_args!("{why:#}; nothing keeps an agent with another socket away"));
            None
        }
        taken => taken,
    };
    let mut agent = match Agent::begin(args, ring_bytes, btf?, file, loaded, control, push)? {
        Ok(agent) => agent,
        Err(exit) => return Ok(exit),
    };
    drop(types);
    // It is served until the record has ended.
    let _port = port.and_then(|port| port.open(agent.live.clone()));
    let end = end(agent.live.clone());
    let ready = args.ready_file.as_deref().map(ReadyFile::create).transpose()?;
    // These go nowhere unless a service manager wants to know.
    _ = sd_notify::notify(&[NotifyState::Ready]);
    let reason = agent.attend(signals, end).await?;
    _ = sd_notify::notify(&[NotifyState::Stopping]);
    agent.finish(reason, ready).await?;
    Ok(Exit::Held)
}

/// What the agent is told from outside.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    snapshot: Signal,
    read_again: Signal,
}

impl Signals {
    fn take() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?,
            snapshot: signal(SignalKind::user_defined1()).context("cannot wait for SIGUSR1")?,
            read_again: signal(SignalKind::hangup()).context("cannot wait for SIGHUP")?,
        })
    }
}

/// An agent whose hooks are attached, and which knows what was there before.
struct Agent {
    live: Arc<Live>,
    pipeline: Pipeline,
    ring: Ring,
    tracer: Tracer,
    snapshots: Snapshots,
    looked_into: mpsc::UnboundedReceiver<Look>,
    carrying: Carrying,
    /// What this kernel writes for the next one, as far as it told.
    formats: Formats,
    file: policy::File,
    left: policy::Left,
    orders: Option<mpsc::Receiver<Request>>,
    socket: Option<Socket>,
    pusher: Option<Pusher>,
}

impl Agent {
    /// Attaches the hooks, looks at what is there, and puts the policy in force. Of a host on which it is of no use, gives how to
    /// end.
    fn begin(
        args: &Args,
        ring_bytes: u32,
        btf: Btf<'_>,
        file: policy::File,
        loaded: Option<Loaded>,
        control: Option<Control>,
        push: Option<push::Prepared>,
    ) -> Result<Result<Self, Exit>> {
        let started = host::clock();
        let mut tracer = Tracer::attach(&btf, ring_bytes, args.kho, args.attach.way)?;
        drop(btf);
        let lsm = match &loaded {
            Some(loaded) => match policy::attach(&mut tracer, loaded)? {
                Ok(attached) => Some(attached),
                Err(exit) => return Ok(Err(exit)),
            },
            None => None,
        };
        let mut ring = tracer.ring()?;
        let own = host::header(args.host_id.as_deref())?;
        let header = header(own, &mut tracer, &started, ring_bytes);
        log::begin(args.log_format, header.host.name.clone(), header.boot_id.clone());
        let live = Arc::new(Live::labelled(&header, args.push.labels())?);
        let journal = args
            .journal
            .as_deref()
            .map(|place| journal(place, &header, args.limits()));
        let journal = journal.transpose()?;
        // Before the first thread is started, which has what this one has. What was opened stays open.
        if let Err(error) = privileges::keep_needed() {
            tell(format_args!(
                "the agent goes on with all its privileges, which cannot be dropped: {error}"
            ));
        }
        let mut outputs = outputs(args, journal)?;
        let about = args.push.about(&header);
        let pusher = push.map(|push| push.start(&header, &about, live.clone(), args.directory()));
        let pusher = pusher.transpose()?;
        if let Some(pusher) = &pusher {
            outputs.push(pusher.push());
        }
        let (orders, taken) = control::orders();
        let kept_beside = control.as_ref().and(args.control.as_deref());
        let socket = control
            .map(|control| Socket::serve(control, live.clone(), orders, &mut outputs))
            .transpose()?;
        let mut carrying = Carrying::begin(args, &header, live.clone(), &mut outputs)?;
        let mut pipeline = Pipeline::new(live.clone(), outputs, header.clock.monotonic_ns);
        let (looks, looked_into) = mpsc::unbounded_channel();
        pipeline.look_into_images(Target::new(looks, host::namespace::is_foreign()));
        handover(&mut tracer, &mut ring, &mut pipeline);
        let snapshots = Snapshots::begin(&mut tracer, &mut ring, &mut pipeline);
        if let Some((attached, loaded)) = lsm.zip(loaded) {
            let (live, boot) = (live.clone(), &header.boot_id);
            policy::begin(attached, loaded, kept_beside, live, boot, &mut pipeline)?;
        }
        let mut left = policy::Left::new(live.clone(), kept_beside);
        left.look(&mut pipeline);
        // Only now that everything is watched: this may be what has LUO read in what the previous kernel left.
        carrying.attempt(&pipeline);
        if let Some(dir) = args.directory() {
            let (boot, deadline) = (header.boot_id.clone(), args.deadline.arrival_deadline);
            let pushes = pusher.as_ref().map(|pusher| Pushes::new(pusher.push(), about));
            let judge = Judge::start(dir.to_owned(), boot, deadline, live.clone(), pushes);
            pipeline.judge_updates(judge.context("cannot start")?);
        }
        pipeline.drain(&mut ring);
        Ok(Ok(Self {
            live,
            pipeline,
            ring,
            tracer,
            snapshots,
            looked_into,
            carrying,
            formats: Formats {
                luo: header.luo_format,
                kho: header.kho_format,
            },
            file,
            left,
            orders: Some(taken),
            socket,
            pusher,
        }))
    }

    /// Attends to everything that comes, until told to end; gives by what.
    async fn attend(&mut self, mut signals: Signals, end: impl Future<Output = ()>) -> Result<&'static str> {
        let mut reload = Reload::new();
        let Self {
            live,
            pipeline,
            ring,
            tracer,
            snapshots,
            formats,
            file,
            left,
            ..
        } = self;
        let mut end = pin!(end);
        let mut tick = tokio::time::interval(TICK);
        let mut rest = Rest::default();
        let mut watchdog = sd_notify::watchdog_enabled().map(Watchdog::new);
        loop {
            tokio::select! {
                _ = signals.terminate.recv() => return Ok("SIGTERM"),
                _ = signals.interrupt.recv() => return Ok("SIGINT"),
                () = &mut end => return Ok("asked to end"),
                result = ring.readable() => {
                    result.context("the ring buffer cannot be waited for any longer")?;
                    rest.called(ring, pipeline);
                }
                () = rest.over(), if rest.is_on() => rest.attend(ring, pipeline),
                Some(look) = self.looked_into.recv() => pipeline.looked_into(look),
                _ = signals.snapshot.recv() => snapshots.take(tracer, ring, pipeline),
                _ = signals.read_again.recv() => reload.begin(),
                read = reload.again(), if reload.is_read() => reload.take(read, file, live),
                // A change of policy takes its time, and a jump has none to give.
                read = file.again(), if file.is_read() && !pipeline.jump_is_near() => policy::swap(read, pipeline),
                request = policy::next(&mut self.orders) => policy::carry_out(request, left, pipeline),
                _ = tick.tick() => {
                    tracer.print_log();
                    pipeline.tick(ring);
                    snapshots.tick(tracer, ring, pipeline);
                    self.carrying.tick(pipeline);
                    left.look(pipeline);
                    if let Some(watchdog) = &mut watchdog
                        && watchdog.may_beat(pipeline.ping(), Instant::now())
                    {
                        _ = sd_notify::notify(&[NotifyState::Watchdog]);
                    }
                }
            }
            pipeline.judge_image(|| formats.clone());
        }
    }

    /// Ends the record in order; only when nothing more can come is the agent not ready any more.
    async fn finish(mut self, reason: &str, ready: Option<ReadyFile>) -> Result<()> {
        // What LUO gives up now is still recorded.
        drop(self.carrying);
        self.snapshots
            .take(&mut self.tracer, &mut self.ring, &mut self.pipeline);
        policy::end(&mut self.pipeline);

        // The hooks go one after the other: what happens meanwhile some of them tell and others do not, so the record ends before.
        self.pipeline.tick(&mut self.ring);
        self.ring.end();
        drop(self.tracer);
        drop(ready);
        self.pipeline.finish(reason, &mut self.ring)?;
        if let Some(pusher) = self.pusher {
            pusher.finish();
        }
        if let Some(socket) = self.socket {
            socket.finish().await;
        }
        Ok(())
    }
}

/// What a record of this host begins with, by its `own` account, where the hooks were attached since `started`.
fn header(own: Header, tracer: &mut Tracer, started: &Clock, ring_bytes: u32) -> Header {
    let clock = host::clock_since(started);
    let mut header = Header {
        clock,
        attach_ns: clock.monotonic_ns.saturating_sub(started.monotonic_ns),
        hooks: tracer.hooks().to_vec(),
        attach: Some(tracer.way().name().into()),
        ring_bytes: ring_bytes.into(),
        ..own
    };
    if let Err(error) = tracer.describe(&mut header) {
        tell(format_args!(
            "the record will not say which live update this is: {error:#}"
        ));
    }
    header
}

/// Why a second agent does not start.
fn runs_already(pid: Option<u32>, place: &str) -> String {
    let which = pid.map_or(String::new(), |pid| format!(", as process {pid}"));
    format!(
        "an agent runs on this host already{place}{which}: ask it with `luo-trace status` or `luo-trace watch`, or stop it before \
         another is started"
    )
}

/// A file that exists while the agent is ready.
struct ReadyFile(PathBuf);

impl ReadyFile {
    fn create(path: &Path) -> Result<Self> {
        files::replace(path, format!("{}\n", std::process::id()).as_bytes(), 0o644)
            .with_context(|| format!("cannot write the ready file {}", path.display()))?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for ReadyFile {
    fn drop(&mut self) {
        // If it is gone already, that is what was wanted.
        _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_journals_is_in_units_and_not_too_small() {
        assert_eq!(journal_size(JOURNAL_SIZE), Ok(1 << 30));
        assert_eq!(journal_size("16 MiB"), Ok(16 << 20));
        assert!(journal_size("15MiB").unwrap_err().contains("at least 16.0 MiB"));
        assert!(journal_size("large").is_err());
        assert_eq!(JOURNAL_KEEP.parse(), Ok(Keep::Boots(50)));
    }

    #[test]
    fn a_ring_is_a_power_of_two_of_at_least_a_page() {
        assert_eq!(ring_bytes(4), Some(4096));
        assert_eq!(ring_bytes(8192), Some(8 << 20));
        for kib in [0, 1, 5, 1 << 21] {
            assert_eq!(ring_bytes(kib), None, "{kib} KiB");
        }
    }
}
