//! The command line. Everything it does is in the library; see `luo-trace help`.

use clap::{Parser, Subcommand};
use luo_trace::commands::{agent, check, doctor, hooks, invariants, metrics, report, status, top, watch};
use luo_trace::exit::Exit;

/// Watch Linux live updates from inside the kernel, and say whether they kept their promises
///
/// Exit status: 0 held; 1 violated, denied or an expectation failed; 2 usage or internal error; 3 inconclusive;
/// 4 cannot work here.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Trace this host until told to stop
    Agent(agent::Args),
    /// Were the promises kept, as far as these journals tell
    Check(check::Args),
    /// Can this host be traced, and if not, why and what to do
    Doctor(doctor::Args),
    /// The kernel functions that are traced, and what each tells
    Hooks(hooks::Args),
    /// What is checked, why it matters, and what to do when it is violated
    Invariants(invariants::Args),
    /// What is measured
    Metrics,
    /// Tell the story of a recorded update, over both kernels
    Report(report::Args),
    /// What LUO holds now: sessions, files, global state, memory, verdicts
    Status(status::Args),
    /// The same, live in a terminal
    Top(top::Args),
    /// Events and findings as they happen, one a line
    Watch(watch::Args),
}

fn main() -> Exit {
    let result = match Cli::parse().command {
        Command::Agent(args) => agent::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Hooks(args) => hooks::run(&args),
        Command::Invariants(args) => invariants::run(&args),
        Command::Metrics => metrics::run().map_err(Into::into),
        Command::Report(args) => report::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Top(args) => top::run(&args),
        Command::Watch(args) => watch::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("luo-trace: {error:#}");
        Exit::Error
    })
}
