//! The command line. Everything it does is in the library; see `luo-trace help`.

use std::env;

use clap::{CommandFactory, FromArgMatches};
use luo_trace::commands::{Cli, settings};
use luo_trace::exit::Exit;

fn main() -> Exit {
    let run = || {
        let resolved = settings::resolve(Cli::command(), env::args_os().collect())?;
        Cli::from_arg_matches(&resolved.matches)?.command.run()
    };
    run().unwrap_or_else(|error| match error.downcast::<clap::Error>() {
        Ok(usage) => usage.exit(),
        Err(error) => {
            eprintln!("luo-trace: {error:#}");
            Exit::Error
        }
    })
}
