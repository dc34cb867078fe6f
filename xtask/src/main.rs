//! `cargo xtask`: everything that is done to luo-trace rather than by it.

mod apt;
mod cache;
mod kernel;
mod run;
mod setup;
mod vm;

use std::process::ExitCode;

use clap::Parser;

/// Build, boot, test and demonstrate luo-trace on real LUO kernels.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
enum Verb {
    /// Get everything that the other verbs need; each of them does its part of this by itself
    Setup,
    /// Build a kernel with LUO for the testbed, or take the cached one
    Kernel(kernel::Args),
    /// Boot the testbed's kernel and run a scenario on it
    Vm(vm::Args),
}

fn main() -> ExitCode {
    let done = match Verb::parse() {
        Verb::Setup => setup::command(),
        Verb::Kernel(args) => kernel::command(args),
        Verb::Vm(args) => vm::command(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why:#}");
            ExitCode::FAILURE
        }
    }
}
