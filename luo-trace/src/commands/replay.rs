//! `luo-trace replay`: a recording as if it happened now, with the agent's lines, its metrics and its page.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow, bail};
use clap::Args as ClapArgs;

use super::Deadline;
use crate::agent::live::Live;
use crate::agent::updates::Word;
use crate::chain::case::Case;
use crate::event::Event;
use crate::exit::Exit;
use crate::journal::{Clock, Opened, each};
use crate::sink;
use crate::sink::console::{Console, Format};
use crate::sink::log::tell;
use crate::sink::metrics::Backfill;
use crate::sink::web::{self, Access, Port};
use crate::status::Status;

/// How often the time of the recording goes on where nothing happens in it.
const TICK: Duration = Duration::from_millis(100);

/// Options of `luo-trace replay`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Journals of one host, in any order: files, directories of them, or logs of a serial line that carried some
    #[arg(required = true, value_name = "JOURNAL")]
    journals: Vec<PathBuf>,
    /// Serve metrics and the page at this address, until interrupted
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    #[command(flatten)]
    deadline: Deadline,
    /// How many times as fast as it happened
    #[arg(long, value_name = "TIMES", default_value_t = 1.0, value_parser = speed)]
    speed: f64,
    /// Play nothing, and write the metrics over the time of the recording to this file, for `promtool tsdb create-blocks-from openmetrics`
    #[arg(long, value_name = "FILE", conflicts_with_all = ["listen", "speed"])]
    openmetrics: Option<PathBuf>,
    /// How far apart these are, such as 15s
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = step, requires = "openmetrics")]
    step: Duration,
}

fn speed(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(times) if (0.001..=1e9).contains(&times) => Ok(times),
        _ => Err("a number from 0.001 to 1000000000 is needed: 1 is as fast as it happened".into()),
    }
}

fn step(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(step) if step >= Duration::from_millis(1) => Ok(step),
        Ok(_) => Err("at least 1ms is needed".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// Plays the journals, the older boots first.
///
/// # Errors
/// Where a journal cannot be read, they are of several hosts, or what comes of them cannot be written or served.
pub fn run(args: &Args) -> Result<Exit> {
    let open = || {
        let (mut journals, mut unreadable) = (Vec::new(), Vec::new());
        for path in &args.journals {
            unreadable.extend(each(path, |journal| journals.push(journal))?);
        }
        Ok::<_, Error>((journals, unreadable))
    };
    for unreadable in open()?.1 {
        tell(format_args!("{unreadable}; going on without it"));
    }
    let recording = Recording {
        open: &|| Ok(open()?.0),
        deadline: args.deadline,
    };
    match &args.openmetrics {
        Some(path) => recording.backfill(path, args.step)?,
        None => recording.play(args.listen, args.speed)?,
    }
    Ok(Exit::Held)
}

/// What one host recorded.
pub(super) struct Recording<'a> {
    /// Opens its journals: they are read more than once.
    pub(super) open: &'a dyn Fn() -> Result<Vec<Opened>>,
    /// When what waits counts as unclaimed.
    pub(super) deadline: Deadline,
}

impl Recording<'_> {
    /// Plays it: the lines of an agent go to stdout, and its metrics and its page to `listen`, where they stay until the process is
    /// interrupted.
    pub(super) fn play(&self, listen: Option<SocketAddr>, speed: f64) -> Result<()> {
        let journals = self.journals()?;
        let first = journals.first().context("there is nothing to play")?.events.header();
        let stage = Arc::new(Stage(Mutex::new(Arc::new(Live::recorded(first)?))));
        let mut pace = Pace {
            from: unix(&first.clock, 0),
            began: Instant::now(),
            speed,
        };
        let port = listen.map(|address| serve(address, stage.clone())).transpose()?;
        if let Some(port) = &port {
            tell(format_args!("metrics and the page: http://{}/", port.address()));
        }
        let stdout = io::stdout();
        let format = Format::text(&stdout);
        let mut console = Console::new(stdout.lock(), format);
        self.each_event(|live, clock, event| {
            let shown = match event {
                Some(event) => {
                    stage.shows(live);
                    pace.wait(live, clock, event.header.ktime);
                    live.is_now(event.header.ktime);
                    console.event(event)
                }
                None => Ok(()),
            };
            let findings = event.map_or_else(|| live.finish(), |event| live.apply(event));
            let shown = findings
                .iter()
                .fold(shown, |shown, finding| shown.and(console.finding(finding)));
            shown.and(console.flush()).context("stdout cannot be written")
        })?;
        if port.is_some() {
            tell("the recording has ended; its last state is served until interrupted");
            loop {
                thread::park();
            }
        }
        Ok(())
    }

    /// Writes the metrics as they were, a step apart.
    fn backfill(&self, path: &Path, step: Duration) -> Result<()> {
        let cannot = || format!("cannot write {}", path.display());
        let step = i128::try_from(step.as_nanos()).unwrap_or(i128::MAX);
        let mut backfill = Backfill::default();
        let (mut next, mut last) = (None, 0);
        self.each_event(|live, clock, event| {
            let Some(event) = event else {
                // As the last scrape of a boot would have it, had it come in time.
                live.finish();
                backfill.sample(&web::PageSource::metrics(&**live), last);
                next = None;
                return Ok(());
            };
            last = unix(clock, event.header.ktime);
            let mut at = next.unwrap_or(last);
            while at < last {
                live.is_now(monotonic(clock, at));
                backfill.sample(&web::PageSource::metrics(&**live), at);
                at += step;
            }
            next = Some(at);
            live.is_now(event.header.ktime);
            live.apply(event);
            Ok(())
        })?;
        let mut out = BufWriter::new(File::create(path).with_context(cannot)?);
        backfill.write(&mut out).and_then(|()| out.flush()).with_context(cannot)
    }

    /// Shows every event to `each`, and at the end of an agent's run that there are no more, with what that agent knew before, and how
    /// the clocks of its boot stood. When a boot's last run ends its agent knows what became of the update that brought it.
    fn each_event(&self, mut each: impl FnMut(&Arc<Live>, &Clock, Option<&Event>) -> Result<()>) -> Result<()> {
        for (place, mut journal) in self.journals()?.into_iter().enumerate() {
            let (mut run, mut last) = (0, 0);
            let mut agent: Option<(Arc<Live>, Clock)> = None;
            while let Some(event) = journal.events.next() {
                if run != journal.events.run() {
                    run = journal.events.run();
                    if let Some((live, clock)) = &agent {
                        each(live, clock, None)?;
                    }
                    let header = journal.events.header();
                    agent = Some((Arc::new(Live::recorded(header)?), header.clock));
                }
                last = event.header.ktime;
                if let Some((live, clock)) = &agent {
                    each(live, clock, Some(&event))?;
                }
            }
            if let Some((live, clock)) = &agent {
                let boot = &journal.events.header().boot_id;
                live.set_updates(self.word(place, boot, last)?, 0);
                each(live, clock, None)?;
            }
        }
        Ok(())
    }

    /// What the journals of this boot and of the one before say together.
    fn word(&self, place: usize, boot: &str, now: u64) -> Result<Word> {
        let pair = self
            .journals()?
            .into_iter()
            .take(place + 1)
            .skip(place.saturating_sub(1));
        let case = Case::of_one(pair.collect());
        Ok(Word::of(&case, boot, self.deadline.arrival_deadline, now))
    }

    /// Its journals, those of older boots first.
    fn journals(&self) -> Result<Vec<Opened>> {
        in_order((self.open)()?)
    }
}

/// The journals, those of older boots first, all of one host.
fn in_order(mut journals: Vec<Opened>) -> Result<Vec<Opened>> {
    let host = |journal: &Opened| journal.events.header().host.clone();
    for kind in crate::journal::Host::KINDS {
        let mut ids = journals.iter().filter_map(|journal| {
            let id = host(journal).id(kind)?.to_owned();
            Some((id, &journal.name))
        });
        if let Some((first, name)) = ids.next()
            && let Some((_, other)) = ids.find(|(id, _)| *id != first)
        {
            bail!(
                "{} and {} are of different hosts: replay the journals of one",
                name.display(),
                other.display()
            );
        }
    }
    journals.sort_by_key(|journal| journal.events.header().clock.realtime_ns);
    Ok(journals)
}

/// When it was this time of a boot's `CLOCK_MONOTONIC`, in nanoseconds since 1970.
fn unix(clock: &Clock, monotonic: u64) -> i128 {
    i128::from(clock.realtime_ns) + i128::from(monotonic.max(clock.monotonic_ns)) - i128::from(clock.monotonic_ns)
}

/// The other way round.
fn monotonic(clock: &Clock, unix: i128) -> u64 {
    let since = unix - i128::from(clock.realtime_ns) + i128::from(clock.monotonic_ns);
    u64::try_from(since).unwrap_or(clock.monotonic_ns)
}

/// When what was recorded comes.
struct Pace {
    /// The beginning of the recording, in nanoseconds since 1970.
    from: i128,
    began: Instant,
    speed: f64,
}

impl Pace {
    /// Waits until it is this time of a boot's `CLOCK_MONOTONIC`, which goes on meanwhile.
    fn wait(&mut self, live: &Live, clock: &Clock, time: u64) {
        let due = unix(clock, time) - self.from;
        loop {
            let passed = self.began.elapsed().as_nanos() as f64 * self.speed;
            let left = (due as f64 - passed) / self.speed;
            if left <= 0.0 {
                return;
            }
            live.is_now(monotonic(clock, self.from + passed as i128).min(time));
            thread::sleep(Duration::from_nanos(left as u64).min(TICK));
        }
    }
}

/// What the port shows: the boot that is played.
struct Stage(Mutex<Arc<Live>>);

impl Stage {
    fn shows(&self, live: &Arc<Live>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = live.clone();
    }

    fn live(&self) -> Arc<Live> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl sink::StatusSource for Stage {
    fn status(&self) -> Status {
        self.live().status()
    }
}

impl web::PageSource for Stage {
    fn metrics(&self) -> String {
        self.live().metrics()
    }

    fn ready(&self) -> Result<(), String> {
        self.live().ready()
    }
}

fn serve(address: SocketAddr, stage: Arc<Stage>) -> Result<Port> {
    let access = Access::open(None).map_err(|error| anyhow!("{error:#}"))?;
    Port::open(address, [], access, stage, tell)
}
