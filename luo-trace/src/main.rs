//! The command line. Everything it does is in the library; see `luo-trace help`.

use clap::Parser;
use luo_trace::commands::Command;
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

fn main() -> Exit {
    Cli::parse().command.run().unwrap_or_else(|error| {
        eprintln!("luo-trace: {error:#}");
        Exit::Error
    })
}
