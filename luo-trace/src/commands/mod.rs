//! One file per subcommand.

pub mod agent;
pub mod bundle;
pub mod check;
pub mod completions;
pub mod config;
pub mod demo;
pub mod doctor;
pub mod drain;
pub mod export;
pub mod hooks;
pub mod invariants;
pub mod man;
pub mod metrics;
pub mod policy;
pub mod preflight;
pub mod replay;
pub mod report;
pub mod settings;
pub mod status;
pub mod top;
pub mod updates;
pub mod watch;

use std::io::{self, Read, StdoutLock, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;

use crate::agent::image_reader;
use crate::chain::Hosts;
use crate::chain::case::Case;
use crate::exit::Exit;
use crate::input;
use crate::report::ARRIVAL_DEADLINE;
use crate::sink::control;

/// Watch Linux live updates from inside the kernel, and say whether they kept their promises
///
/// Exit status: 0 held; 1 violated, denied or an expectation failed; 2 usage or internal error; 3 inconclusive;
/// 4 cannot work here.
#[derive(Debug, Parser)]
#[command(name = "luo-trace", version)]
pub struct Cli {
    /// What is to be done.
    #[command(subcommand)]
    pub command: Command,
}

/// What is to be done.
#[derive(Debug, clap::Subcommand)]
#[allow(missing_docs, reason = "each is documented where users read it")]
pub enum Command {
    /// Trace this host until told to stop
    Agent(agent::Args),
    /// Collect what a maintainer asks for into one file: diagnosis, status, settings, journals
    Bundle(bundle::Args),
    /// Check recorded updates against LUO's invariants
    Check(check::Args),
    /// What a shell needs to complete this command line
    Completions(completions::Args),
    /// The agent's settings: what its file says, and where each value is from
    #[command(subcommand)]
    Config(config::Args),
    /// Show a real live update, from a recording that is built in
    Demo(demo::Args),
    /// Can this host be traced, and if not, why and what to do
    Doctor(doctor::Args),
    /// Drain the records of a journal as an agent drains its ring: for measurements
    #[command(hide = true)]
    Drain(drain::Args),
    /// What journals tell as tables, for engines that ask by SQL
    Export(export::Args),
    /// The kernel functions that are traced, and what each tells
    Hooks(hooks::Args),
    /// What is checked, why it matters, and what to do when it is violated
    Invariants(invariants::Args),
    /// Write the manual pages into a directory: for packages
    #[command(hide = true)]
    Man(man::Args),
    /// What is measured
    Metrics,
    /// What may pass on this host, and what a policy would have refused
    Policy(policy::Args),
    /// Will this kernel take what is preserved here
    Preflight(preflight::Args),
    /// Read the kernel image at standard input, in a process without privilege: for luo-trace itself
    #[command(name = image_reader::COMMAND, hide = true)]
    ReadImage,
    /// Play recorded updates as if they happened now, with metrics and the page
    Replay(replay::Args),
    /// Tell the story of a recorded update, over both kernels
    Report(report::Args),
    /// What LUO holds now: sessions, files, global state, memory, verdicts
    Status(status::Args),
    /// The same, live in a terminal
    Top(top::Args),
    /// Every recorded update of a host, a line each
    Updates(updates::Args),
    /// Events and findings as they happen, one a line
    Watch(watch::Args),
}

/// The journals that a command judges.
#[derive(Debug, Default, clap::Args)]
struct Journals {
    /// Journals, in any order: files, directories of them, or logs of a serial line that carried some
    #[arg(required = true, value_name = "JOURNAL")]
    journals: Vec<PathBuf>,
    /// All of them are of one machine, whatever they say of it
    #[arg(long)]
    one_host: bool,
}

impl Journals {
    /// Judges them.
    fn case(&self) -> Result<Case> {
        case(&self.journals, self.one_host)
    }
}

/// Judges journals, of `one_host` or of as many as they say.
fn case(journals: &[PathBuf], one_host: bool) -> Result<Case> {
    let hosts = match one_host {
        true => Hosts::One,
        false => Hosts::Told,
    };
    Ok(Case::of(journals, hosts)?)
}

impl Command {
    /// Does it.
    ///
    /// # Errors
    /// As the subcommand.
    pub fn run(&self) -> Result<Exit> {
        match self {
            Self::Agent(args) => agent::run(args),
            Self::Bundle(args) => bundle::run(args),
            Self::Check(args) => check::run(args),
            Self::Completions(args) => completions::run(args),
            Self::Config(args) => config::run(args),
            Self::Demo(args) => demo::run(args),
            Self::Doctor(args) => doctor::run(args),
            Self::Drain(args) => drain::run(args),
            Self::Export(args) => export::run(args),
            Self::Hooks(args) => hooks::run(args),
            Self::Invariants(args) => invariants::run(args),
            Self::Man(args) => man::run(args),
            Self::Metrics => metrics::run().map_err(Into::into),
            Self::Policy(args) => policy::run(args),
            Self::Preflight(args) => preflight::run(args),
            Self::ReadImage => image_reader::run().map(|()| Exit::Held),
            Self::Replay(args) => replay::run(args),
            Self::Report(args) => report::run(args),
            Self::Status(args) => status::run(args),
            Self::Top(args) => top::run(args),
            Self::Updates(args) => updates::run(args),
            Self::Watch(args) => watch::run(args),
        }
    }
}

/// How what a command says is printed, where there is nothing more to tell of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For a person
    #[default]
    Text,
    /// For a program
    Json,
}

/// How long what arrived may wait.
#[derive(Clone, Copy, Debug, clap::Args)]
struct Deadline {
    /// How long after its boot what arrived may wait to be asked for: then it is unclaimed
    #[arg(long, value_name = "DURATION", default_value = "10min", value_parser = humantime::parse_duration, env = "LUO_TRACE_ARRIVAL_DEADLINE")]
    arrival_deadline: Duration,
}

impl Default for Deadline {
    fn default() -> Self {
        Self {
            arrival_deadline: ARRIVAL_DEADLINE,
        }
    }
}

/// Where a running agent is asked.
#[derive(Debug, clap::Args)]
struct Socket {
    /// The running agent's socket
    #[arg(long = "control", value_name = "PATH", default_value = control::DEFAULT_PATH, env = "LUO_TRACE_CONTROL")]
    path: PathBuf,
}

/// Standard output. Where its reader has seen enough and is gone, the rest goes nowhere, and the exit status is what it would have
/// been: `luo-trace check ... | head` says what was found out.
fn stdout() -> Stdout {
    Stdout(io::stdout().lock())
}

struct Stdout(StdoutLock<'static>);

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(bytes.len()),
            written => written,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.0.flush() {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            flushed => flushed,
        }
    }
}

/// The text of a file that a user wrote for us. `what` is what it should be, as in "a policy".
fn read_text(path: &Path, most: u64, what: &str) -> Result<String> {
    let context = || format!("cannot read {what} from {}", path.display());
    let mut bytes = Vec::new();
    let file = input::open(path).with_context(context)?;
    file.take(most + 1).read_to_end(&mut bytes).with_context(context)?;
    if bytes.len() as u64 > most {
        bail!("{} is longer than {most} bytes: is it {what}?", path.display());
    }
    String::from_utf8(bytes).with_context(context)
}
