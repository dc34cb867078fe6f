//! `luo-trace agent`: trace this host until told to stop.

use std::env;
use std::fs;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args as ClapArgs, ValueEnum};
use luo_trace_common::hooks::KhoDetail;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::carry::{Carry, Way};
use crate::exit::Exit;
use crate::host;
use crate::journal::serial::Serial;
use crate::journal::{Header, Tty, Writer};
use crate::kernel::preflight::{self, VMLINUX_BTF};
use crate::kernel::{Ring, Tracer};
use crate::live::Live;
use crate::pipeline::{self, Outputs, Pipeline};
use crate::sink::console::{self, tell};
use crate::sink::control::{self, Control, Refusal, Request, Streams};
use crate::sink::journal::{JournalSink, KEPT, QUEUE};
use crate::sink::policy::Loaded;
use crate::target::Target;

mod policy;

/// How often counts that no event brings up to date are looked at.
const TICK: Duration = Duration::from_secs(1);
/// How long the ring is watched without rest once the machine is about to jump: the jump comes within this time, or not
/// at all.
const WATCH: Duration = Duration::from_secs(5);
/// How long the ring is left alone after it was emptied: a wake-up for each event costs more than anything else here.
const REST: Duration = Duration::from_millis(5);
/// How long readers at the socket may take for the last lines.
const FAREWELL: Duration = Duration::from_secs(1);

/// How many ticks to wait at most, after walks over LUO's lists that were disturbed, before the next try.
const LONGEST_WAIT: u32 = 64;

/// Options of `luo-trace agent`.
#[derive(Debug, Default, ClapArgs)]
pub struct Args {
    /// Record everything into DIR/<boot-id>.luoj, or as lines of text through a serial line: serial:/dev/ttyS1
    #[arg(long, value_name = "DIR|serial:LINE", env = "LUO_TRACE_JOURNAL")]
    journal: Option<PathBuf>,
    /// Serve metrics and a page for people at this address
    #[arg(long, value_name = "ADDR", env = "LUO_TRACE_LISTEN")]
    listen: Option<SocketAddr>,
    /// Create this file when every hook is attached and LUO's lists are known, and remove it at the end
    #[arg(long, value_name = "FILE", env = "LUO_TRACE_READY_FILE")]
    ready_file: Option<PathBuf>,
    /// Answer `luo-trace status`, `watch` and `top` at this socket; a lock beside it keeps a second agent away
    #[arg(long, value_name = "PATH", default_value = control::DEFAULT_PATH, env = "LUO_TRACE_CONTROL")]
    control: Option<PathBuf>,
    /// Keep this host by the policy in this file; it is read again on SIGHUP
    #[arg(long, value_name = "FILE", env = "LUO_TRACE_POLICY")]
    policy: Option<PathBuf>,
    /// How to print events and findings
    #[arg(long, value_enum, default_value_t, env = "LUO_TRACE_FORMAT")]
    pub(super) format: Format,
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
}

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
    let has_directory = args
        .journal
        .as_deref()
        .is_some_and(|place| serial_line(place).is_none());
    let has_service_manager = env::var_os("NOTIFY_SOCKET").is_some();
    args.carry.check(has_directory, has_service_manager)?;
    let file = policy::File::new(args.policy.as_deref());
    let loaded = file.read()?;
    if let Some(obstacle) = preflight::obstacle() {
        tell(obstacle);
        return Ok(Exit::CannotWork);
    }
    let Some(ring_bytes) = ring_bytes(args.ring_kib) else {
        bail!("--ring-kib {} is not a power of two from 4 to 1048576", args.ring_kib);
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    runtime.block_on(trace(args, ring_bytes, file, loaded, end))
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
    mut file: policy::File,
    loaded: Option<Loaded>,
    end: impl AsyncFnOnce(Arc<Live>),
) -> Result<Exit> {
    // The handlers come first: a signal during the start-up must end the agent in order, too.
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let mut look_again = signal(SignalKind::user_defined1()).context("cannot wait for SIGUSR1")?;
    let mut read_again = signal(SignalKind::hangup()).context("cannot wait for SIGHUP")?;

    let control = match args.control.as_deref().map(Control::open).transpose() {
        Ok(control) => control,
        Err(Refusal::Taken(pid)) => {
            tell(runs_already(pid));
            return Ok(Exit::CannotWork);
        }
        Err(Refusal::Unusable(why)) => {
            tell(format_args!(
                "{why:#}; going on without it: choose another with --control"
            ));
            None
        }
    };
    let started = host::clock();
    let btf = fs::read(VMLINUX_BTF).with_context(|| format!("cannot read {VMLINUX_BTF}"))?;
    let mut tracer = Tracer::attach(&btf, ring_bytes, args.kho)?;
    drop(btf);
    let brake = match &loaded {
        Some(loaded) => match policy::attach(&mut tracer, loaded)? {
            Ok(attached) => Some(attached),
            Err(exit) => return Ok(exit),
        },
        None => None,
    };
    let mut ring = tracer.ring()?;
    let clock = host::clock_since(&started);
    let mut header = Header {
        clock,
        attach_ns: clock.monotonic_ns.saturating_sub(started.monotonic_ns),
        hooks: tracer.hooks().to_vec(),
        ring_bytes: ring_bytes.into(),
        ..host::header()?
    };
    if let Err(error) = tracer.describe(&mut header) {
        tell(format_args!(
            "the record will not say which live update this is: {error:#}"
        ));
    }
    let live = Arc::new(Live::new(&header)?);
    let mut outputs = outputs(args, &header)?;
    let (orders, taken) = control::orders();
    let kept_beside = control.as_ref().and(args.control.as_deref());
    let socket = control
        .map(|control| Socket::serve(control, live.clone(), orders, &mut outputs))
        .transpose()?;
    let mut orders = Some(taken);
    let mut carrying = Carrying::begin(args, &header, live.clone(), &mut outputs)?;
    let mut pipeline = Pipeline::new(live.clone(), outputs, clock.monotonic_ns);
    let (looks, mut looked_into) = mpsc::unbounded_channel();
    pipeline.look_into_images(Target::new(looks));
    arrive(&mut tracer, &mut ring, &mut pipeline);
    let mut looks = Looks::begin(&mut tracer, &mut ring, &mut pipeline);
    if let Some((attached, loaded)) = brake.zip(loaded) {
        policy::begin(
            attached,
            loaded,
            kept_beside,
            live.clone(),
            &header.boot_id,
            &mut pipeline,
        )?;
    }
    // Only now that everything is watched: this may be what has LUO read in what the previous kernel left.
    carrying.attempt(&pipeline);
    pipeline.drain(&mut ring);
    if let Some(address) = args.listen {
        pipeline::serve(live.clone(), address).await;
    }
    let mut end = pin!(end(live));
    let ready = args.ready_file.as_deref().map(ReadyFile::create).transpose()?;
    // These go nowhere unless a service manager wants to know.
    _ = sd_notify::notify(&[NotifyState::Ready]);

    let mut tick = tokio::time::interval(TICK);
    let mut rest = Rest::default();
    let reason = loop {
        tokio::select! {
            _ = terminate.recv() => break "SIGTERM",
            _ = interrupt.recv() => break "SIGINT",
            () = &mut end => break "asked to end",
            result = ring.readable() => {
                result.context("the ring buffer cannot be waited for any longer")?;
                rest.attend(&mut ring, &mut pipeline);
            }
            () = rest.over(), if rest.is_on() => rest.attend(&mut ring, &mut pipeline),
            Some(look) = looked_into.recv() => pipeline.looked_into(look),
            _ = look_again.recv() => looks.look(&mut tracer, &mut ring, &mut pipeline),
            _ = read_again.recv() => file.read_again(),
            // A change of policy takes its time, and a jump has none to give.
            read = file.again(), if file.is_read() && !pipeline.jump_is_near() => policy::swap(read, &mut pipeline),
            request = policy::next(&mut orders) => policy::carry_out(request, &mut pipeline),
            _ = tick.tick() => {
                tracer.print_log();
                pipeline.tick(&mut ring);
                looks.tick(&mut tracer, &mut ring, &mut pipeline);
                carrying.tick(&pipeline);
            }
        }
        // Formats that the kernel does not tell are not known.
        pipeline.judge_image(|| tracer.formats().unwrap_or_default());
    };
    _ = sd_notify::notify(&[NotifyState::Stopping]);
    // What LUO gives up now is still recorded.
    drop(carrying);
    looks.look(&mut tracer, &mut ring, &mut pipeline);
    policy::end(&mut pipeline);

    // Detach first, so that what is drained then is the whole record.
    drop(tracer);
    pipeline.drain(&mut ring);
    drop(ready);
    pipeline.finish(reason, &mut ring)?;
    if let Some(socket) = socket {
        socket.finish().await;
    }
    Ok(Exit::Held)
}

/// Why a second agent does not start.
fn runs_already(pid: Option<u32>) -> String {
    let which = pid.map_or(String::new(), |pid| format!(", as process {pid}"));
    format!(
        "an agent runs on this host already{which}: ask it with `luo-trace status` or `luo-trace watch`, or stop it before \
         another is started"
    )
}

/// The socket while it is served.
struct Socket {
    control: Control,
    server: JoinHandle<io::Result<()>>,
    stop: oneshot::Sender<()>,
}

impl Socket {
    fn serve(control: Control, live: Arc<Live>, orders: mpsc::Sender<Request>, outputs: &mut Outputs) -> Result<Self> {
        let streams = Streams::default();
        let (stop, stopped) = oneshot::channel();
        let server = control.serve(live, orders, &streams, async { _ = stopped.await });
        let server = tokio::spawn(server.context("the socket cannot be served")?);
        outputs.stream(streams)?;
        Ok(Self { control, server, stop })
    }

    /// Lets readers have the last lines, those who take them in time.
    async fn finish(self) {
        _ = self.stop.send(());
        _ = tokio::time::timeout(FAREWELL, self.server).await;
        drop(self.control);
    }
}

fn outputs(args: &Args, header: &Header) -> Result<Outputs> {
    let mut outputs = Outputs::default();
    match args.format {
        Format::Text => outputs.print(console::Format::text(&io::stdout()))?,
        Format::Json => outputs.print(console::Format::Json)?,
        Format::None => {}
    }
    if let Some(place) = &args.journal {
        outputs.record(journal(place, header)?);
    }
    Ok(outputs)
}

/// Opens the journal. Somebody who asked for a record must know at once that there will be none.
fn journal(place: &Path, header: &Header) -> Result<JournalSink> {
    let Some(line) = serial_line(place) else {
        let (writer, path) = Writer::open(place, header).with_context(|| {
            format!(
                "cannot write a journal in {}: choose another --journal directory",
                place.display()
            )
        })?;
        tell(format_args!("recording into {}", path.display()));
        return Ok(JournalSink::start(writer, QUEUE, KEPT, tell)?);
    };
    let context = || {
        format!(
            "cannot record through {}: choose another --journal serial:LINE",
            line.display()
        )
    };
    let tty = Tty::open(line).with_context(context)?;
    let mut writer = Writer::begin(Serial::new(tty), header)?;
    writer.flush_first().with_context(context)?;
    tell(format_args!("recording through {}", line.display()));
    Ok(JournalSink::start(writer, QUEUE, KEPT, tell)?)
}

/// The serial line that `--journal` names, where it names one.
fn serial_line(journal: &Path) -> Option<&Path> {
    journal.to_str()?.strip_prefix("serial:").map(Path::new)
}

/// Looks through what the previous kernel left, before anybody reads it in.
fn arrive(tracer: &mut Tracer, ring: &mut Ring, pipeline: &mut Pipeline) {
    let result = tracer.arrival(|| {
        pipeline.drain(ring);
        !pipeline.jump_is_near()
    });
    if let Err(error) = result {
        tell(format_args!(
            "what the previous kernel left is not known before it is read in: {error:#}"
        ));
    }
}

/// When LUO's lists are walked: at first, at last, on SIGUSR1, and whenever the model may have lost sight of them.
struct Looks {
    possible: bool,
    /// How many ticks there are to the next try, and how many there were.
    left: u32,
    wait: u32,
}

impl Looks {
    /// Looks for the first time.
    fn begin(tracer: &mut Tracer, ring: &mut Ring, pipeline: &mut Pipeline) -> Self {
        let mut looks = Self {
            possible: true,
            left: 0,
            wait: 1,
        };
        looks.look(tracer, ring, pipeline);
        looks
    }

    /// Looks now. Where it cannot be done that is told once, and nothing else suffers.
    fn look(&mut self, tracer: &mut Tracer, ring: &mut Ring, pipeline: &mut Pipeline) {
        if !self.possible || pipeline.jump_is_near() {
            return;
        }
        let result = tracer.snapshot(|| {
            pipeline.drain(ring);
            !pipeline.jump_is_near()
        });
        if let Err(error) = result {
            self.possible = false;
            tell(format_args!(
                "what began before the agent is not known, since LUO's lists cannot be walked: {error:#}"
            ));
        }
        self.wait = match pipeline.picture_is_whole() {
            true => 1,
            false => (self.wait * 2).min(LONGEST_WAIT),
        };
        self.left = self.wait;
    }

    /// Time passes: looks again where that is due.
    fn tick(&mut self, tracer: &mut Tracer, ring: &mut Ring, pipeline: &mut Pipeline) {
        self.left = self.left.saturating_sub(1);
        if self.left == 0 && !pipeline.picture_is_whole() {
            self.look(tracer, ring, pipeline);
        }
    }
}

/// Bringing the journal over a kexec, as far as somebody asked for it.
struct Carrying {
    carry: Option<Carry>,
    live: Arc<Live>,
}

impl Carrying {
    fn begin(args: &Args, header: &Header, live: Arc<Live>, outputs: &mut Outputs) -> Result<Self> {
        let dir = args.journal.clone().unwrap_or_default();
        let begun = Carry::begin(args.carry, args.carry_kib as usize * 1024, header, dir)?;
        let carry = begun.map(|(carry, recorder)| {
            outputs.carry(recorder);
            carry
        });
        Ok(Self { carry, live })
    }

    fn attempt(&mut self, pipeline: &Pipeline) {
        if let Some(carry) = &mut self.carry {
            carry.attempt(pipeline.namesake());
            self.live.set_carry_trouble(carry.trouble());
        }
    }

    /// Time passes. Close to a jump LUO may hold its locks for good, and whoever asks it for something then waits for ever.
    fn tick(&mut self, pipeline: &Pipeline) {
        if !pipeline.jump_is_near() && self.carry.as_mut().is_some_and(Carry::is_due) {
            self.attempt(pipeline);
        }
    }
}

/// The machine is about to jump: every microsecond counts until it does, and nothing else here matters any more.
fn watch(ring: &mut Ring, pipeline: &mut Pipeline) {
    let deadline = Instant::now() + WATCH;
    while pipeline.jump_is_near() && Instant::now() < deadline {
        pipeline.drain(ring);
        std::thread::yield_now();
    }
}

/// When the ring is looked at without being called: some milliseconds after something was in it, for as long as there is.
#[derive(Debug, Default)]
struct Rest {
    until: Option<Instant>,
    hushed: bool,
}

impl Rest {
    fn is_on(&self) -> bool {
        self.until.is_some()
    }

    async fn over(&self) {
        if let Some(until) = self.until {
            tokio::time::sleep_until(until.into()).await;
        }
    }

    /// Empties the ring, and rests.
    fn attend(&mut self, ring: &mut Ring, pipeline: &mut Pipeline) {
        // First the hush ends: what comes while the ring is emptied is seen or calls.
        ring.hush(false);
        let busy = pipeline.drain(ring);
        if pipeline.jump_is_near() {
            watch(ring, pipeline);
        }
        self.begin(busy, Instant::now());
        ring.hush(self.hushed);
    }

    /// Rests in a hush where something was in the ring. Where nothing was, one more look follows, for an event that was sent
    /// in a hush which was over.
    fn begin(&mut self, busy: bool, now: Instant) {
        self.until = (busy || self.hushed).then(|| now + REST);
        self.hushed = busy;
    }
}

/// A file that exists while the agent is ready.
struct ReadyFile(PathBuf);

impl ReadyFile {
    fn create(path: &Path) -> Result<Self> {
        fs::write(path, format!("{}\n", std::process::id()))
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
    fn the_ring_is_looked_at_until_it_was_empty_twice() {
        // Given a ring that nobody looks at before it calls,
        let (mut rest, now) = (Rest::default(), Instant::now());
        assert!(!rest.is_on());
        // when something is in it, then events need not call while it rests,
        for _ in 0..2 {
            rest.begin(true, now);
            assert_eq!((rest.until, rest.hushed), (Some(now + REST), true));
        }
        // and when nothing is, then they must, and one more look follows.
        rest.begin(false, now);
        assert_eq!((rest.until, rest.hushed), (Some(now + REST), false));
        rest.begin(false, now);
        assert_eq!((rest.until, rest.hushed), (None, false));
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
