//! `luo-trace agent`: trace this host until told to stop.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args as ClapArgs, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use crate::exit::Exit;
use crate::host;
use crate::journal::{Header, Writer};
use crate::kernel::preflight::{self, VMLINUX_BTF};
use crate::kernel::{Ring, Tracer};
use crate::live::Live;
use crate::pipeline::{self, Outputs, Pipeline};
use crate::sink::console::{self, tell};
use crate::sink::journal::{JournalSink, QUEUE};

/// How many records are taken from the ring before they are handed on.
const BATCH: usize = 1024;
/// How often counts that no event brings up to date are looked at.
const TICK: Duration = Duration::from_secs(1);
/// How long the ring is watched without rest once the machine is about to jump: the jump comes within this time, or not
/// at all.
const WATCH: Duration = Duration::from_secs(5);

/// How many ticks to wait at most, after walks over LUO's lists that were disturbed, before the next try.
const LONGEST_WAIT: u32 = 64;

/// Options of `luo-trace agent`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Record everything into DIR/<boot-id>.luoj
    #[arg(long, value_name = "DIR", env = "LUO_TRACE_JOURNAL")]
    journal: Option<PathBuf>,
    /// Serve metrics and a page for people at this address
    #[arg(long, value_name = "ADDR", env = "LUO_TRACE_LISTEN")]
    listen: Option<SocketAddr>,
    /// Create this file when every hook is attached and LUO's lists are known, and remove it at the end
    #[arg(long, value_name = "FILE", env = "LUO_TRACE_READY_FILE")]
    ready_file: Option<PathBuf>,
    /// How to print events and findings
    #[arg(long, value_enum, default_value_t, env = "LUO_TRACE_FORMAT")]
    format: Format,
    /// Size of the ring buffer in KiB; a power of two, at least 4
    #[arg(long, value_name = "KIB", default_value_t = 8192, env = "LUO_TRACE_RING_KIB")]
    ring_kib: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
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
    runtime.block_on(trace(args, ring_bytes))
}

fn ring_bytes(kib: u32) -> Option<u32> {
    (kib.is_power_of_two() && (4..=1 << 20).contains(&kib)).then_some(kib * 1024)
}

async fn trace(args: &Args, ring_bytes: u32) -> Result<Exit> {
    // The handlers come first: a signal during the start-up must end the agent in order, too.
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let mut look_again = signal(SignalKind::user_defined1()).context("cannot wait for SIGUSR1")?;

    let started = host::clock();
    let btf = fs::read(VMLINUX_BTF).with_context(|| format!("cannot read {VMLINUX_BTF}"))?;
    let mut tracer = Tracer::attach(&btf, ring_bytes)?;
    drop(btf);
    let mut ring = tracer.ring()?;
    let clock = host::clock_since(&started);
    let header = Header {
        clock,
        attach_ns: clock.monotonic_ns.saturating_sub(started.monotonic_ns),
        hooks: tracer.hooks().to_vec(),
        ring_bytes: ring_bytes.into(),
        ..host::header()?
    };
    let live = Arc::new(Live::new(&header)?);
    let mut pipeline = Pipeline::new(live.clone(), outputs(args, &header)?, clock.monotonic_ns);
    let mut looks = Looks::begin(&mut tracer, &mut ring, &mut pipeline);
    if let Some(address) = args.listen {
        pipeline::serve(live, address).await;
    }
    let ready = args.ready_file.as_deref().map(ReadyFile::create).transpose()?;

    let mut tick = tokio::time::interval(TICK);
    let reason = loop {
        tokio::select! {
            _ = terminate.recv() => break "SIGTERM",
            _ = interrupt.recv() => break "SIGINT",
            result = ring.readable() => {
                result.context("the ring buffer cannot be waited for any longer")?;
                drain(&mut ring, &mut pipeline);
                if pipeline.jump_is_near() {
                    watch(&mut ring, &mut pipeline);
                }
            }
            _ = look_again.recv() => looks.look(&mut tracer, &mut ring, &mut pipeline),
            _ = tick.tick() => {
                tracer.print_log();
                pipeline.tick(ring.lost());
                looks.tick(&mut tracer, &mut ring, &mut pipeline);
            }
        }
    };
    looks.look(&mut tracer, &mut ring, &mut pipeline);

    // Detach first, so that what is drained then is the whole record.
    drop(tracer);
    drain(&mut ring, &mut pipeline);
    drop(ready);
    pipeline.finish(reason, ring.lost())?;
    Ok(Exit::Held)
}

fn outputs(args: &Args, header: &Header) -> Result<Outputs> {
    let mut outputs = Outputs::default();
    match args.format {
        Format::Text => outputs.print(console::Format::text(&io::stdout()))?,
        Format::Json => outputs.print(console::Format::Json)?,
        Format::None => {}
    }
    if let Some(dir) = &args.journal {
        // Somebody who asked for a record must know at once that there will be none.
        let (writer, path) = Writer::open(dir, header).with_context(|| {
            format!(
                "cannot write a journal in {}: choose another --journal directory",
                dir.display()
            )
        })?;
        tell(format_args!("recording into {}", path.display()));
        outputs.record(JournalSink::start(writer, QUEUE, tell)?);
    }
    Ok(outputs)
}

/// Hands on everything that is in the ring.
fn drain(ring: &mut Ring, pipeline: &mut Pipeline) {
    while ring.drain(BATCH, |record| pipeline.record(record)) > 0 {
        pipeline.flush();
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
            drain(ring, pipeline);
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

/// The machine is about to jump: every microsecond counts until it does, and nothing else here matters any more.
fn watch(ring: &mut Ring, pipeline: &mut Pipeline) {
    let deadline = Instant::now() + WATCH;
    while pipeline.jump_is_near() && Instant::now() < deadline {
        drain(ring, pipeline);
        std::thread::yield_now();
    }
}

/// A file that exists while the agent is ready.
struct ReadyFile(PathBuf);

impl ReadyFile {
    fn create(path: &std::path::Path) -> Result<Self> {
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
    use super::ring_bytes;

    #[test]
    fn a_ring_is_a_power_of_two_of_at_least_a_page() {
        assert_eq!(ring_bytes(4), Some(4096));
        assert_eq!(ring_bytes(8192), Some(8 << 20));
        for kib in [0, 1, 5, 1 << 21] {
            assert_eq!(ring_bytes(kib), None, "{kib} KiB");
        }
    }
}
