//! `luo-trace replay`: a recording as if it happened now, with the agent's lines, its metrics and its page.

mod backfill;
mod judge;
mod rules;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow, bail};
use clap::Args as ClapArgs;

use self::backfill::Samples;
use self::judge::Judge;
use self::rules::Rules;
use super::Deadline;
use crate::agent::live::Live;
use crate::event::Event;
use crate::exit::Exit;
use crate::journal::{Clock, Opened, each};
use crate::model::Finding;
use crate::sink;
use crate::sink::console::{Console, Format};
use crate::sink::log::tell;
use crate::sink::web::{self, Access, Port};
use crate::status::Status;

/// How often the time of the recording goes on where nothing happens in it.
const TICK: Duration = Duration::from_millis(100);
/// How long there has to be nothing new for before it is judged what became of an update.
const LULL: Duration = Duration::from_secs(1);

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
    #[command(flatten)]
    samples: Samples,
}

fn speed(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(times) if (0.001..=1e9).contains(&times) => Ok(times),
        _ => Err("a number from 0.001 to 1000000000 is needed: 1 is as fast as it happened".into()),
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
    match &args.samples.openmetrics {
        Some(path) => recording.backfill(path, &args.samples)?,
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
        self.each_event(|agent, event| {
            let live = &agent.live;
            let shown = match event {
                Some(event) => {
                    stage.shows(live);
                    if pace.left(&agent.clock, event.header.ktime) > LULL {
                        agent.judge.judge(live, event.header.ktime)?;
                    }
                    pace.wait(live, &agent.clock, event.header.ktime);
                    live.is_now(event.header.ktime);
                    console.event(event)
                }
                None => Ok(()),
            };
            let findings = match event {
                Some(event) => agent.takes(event),
                None => agent.live.finish(),
            };
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

    /// Shows every event to `each`, and at the end of an agent's run that there are no more, with that agent as it was before. When a
    /// boot's last run ends its agent knows what became of the update that brought it.
    fn each_event(&self, mut each: impl FnMut(&mut Agent, Option<&Event>) -> Result<()>) -> Result<()> {
        for (place, mut journal) in self.journals()?.into_iter().enumerate() {
            let mut run = 0;
            let mut agent = None;
            while let Some(event) = journal.events.next() {
                if run != journal.events.run() {
                    run = journal.events.run();
                    if let Some(agent) = &mut agent {
                        each(agent, None)?;
                    }
                    let judge = match agent.take() {
                        None => Judge::new(self, place, &journal.events.header().boot_id),
                        Some(Agent { judge, .. }) => judge.of_another_run(),
                    };
                    agent = Some(Agent::new(&journal, judge)?);
                }
                if let Some(agent) = &mut agent {
                    each(agent, Some(&event))?;
                    agent.judge.sees(&event);
                }
            }
            if let Some(agent) = &mut agent {
                agent.judge.ends(&agent.live)?;
                each(agent, None)?;
            }
        }
        Ok(())
    }

    /// Its journals, those of older boots first.
    fn journals(&self) -> Result<Vec<Opened>> {
        in_order((self.open)()?)
    }
}

/// An agent that ran once, as far as its recording was shown.
struct Agent<'a> {
    live: Arc<Live>,
    /// How the clocks of its boot stood when it began.
    clock: Clock,
    judge: Judge<'a>,
    rules: Rules,
}

impl<'a> Agent<'a> {
    fn new(journal: &Opened, judge: Judge<'a>) -> Result<Self> {
        let header = journal.events.header();
        Ok(Self {
            live: Arc::new(Live::recorded(header)?),
            clock: header.clock,
            judge,
            rules: Rules::default(),
        })
    }

    /// Takes in an event; gives what it proves.
    fn takes(&mut self, event: &Event) -> Vec<Finding> {
        self.rules.takes(&self.live.metrics, event);
        self.live.apply(event)
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
    clock.zero_unix_ns() + i128::from(monotonic.max(clock.monotonic_ns))
}

/// The other way round.
fn monotonic(clock: &Clock, unix: i128) -> u64 {
    u64::try_from(unix - clock.zero_unix_ns()).unwrap_or(clock.monotonic_ns)
}

/// When what was recorded comes.
struct Pace {
    /// The beginning of the recording, in nanoseconds since 1970.
    from: i128,
    began: Instant,
    speed: f64,
}

impl Pace {
    /// How long it is until this time of a boot's `CLOCK_MONOTONIC`.
    fn left(&self, clock: &Clock, time: u64) -> Duration {
        let due = (unix(clock, time) - self.from) as f64 / self.speed;
        Duration::from_nanos(due.max(0.0) as u64).saturating_sub(self.began.elapsed())
    }

    /// Waits until it is this time of a boot's `CLOCK_MONOTONIC`, which goes on meanwhile.
    fn wait(&mut self, live: &Live, clock: &Clock, time: u64) {
        loop {
            let left = self.left(clock, time);
            if left.is_zero() {
                return;
            }
            let passed = self.began.elapsed().as_nanos() as f64 * self.speed;
            live.is_now(monotonic(clock, self.from + passed as i128).min(time));
            thread::sleep(left.min(TICK));
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
