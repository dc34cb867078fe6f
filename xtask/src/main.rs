//! `cargo xtask`: everything that is done to luo-trace rather than by it.

mod apt;
mod bench;
mod cache;
mod check;
mod dashboards;
mod demo;
mod dist;
mod docs;
mod explore;
mod fleet;
mod fuzz;
mod invariants;
mod kernel;
mod met;
mod plan;
mod preflight;
mod run;
mod setup;
mod tally;
mod test;
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
    /// Show a real live update, traced in both kernels
    Demo(demo::Args),
    /// Build a release: static binary, archive, Debian package, checksums, bill of materials
    Dist(dist::Args),
    /// Measure what luo-trace costs
    Bench(bench::Args),
    /// Feed made-up bytes to everything that reads bytes from outside
    Fuzz(fuzz::Args),
    /// Do random live updates on a real kernel, and hold the kernel and luo-trace against what must come of them
    Explore(explore::Args),
    /// Make up a fleet with known faults, and hold alerts and dashboards against them in real engines
    Fleet(fleet::Args),
    /// Have two engines answer an operator's questions over the tables of a made-up fleet
    Sql(fleet::sql::Args),
    /// Have luo-trace judge real kernels before they are loaded, and files that are none
    Preflight(kernel::Args),
    /// Check the documents, or bring their tables up to date
    Docs(docs::Args),
    /// Which scenario has a real kernel break which invariant
    Invariants(invariants::Args),
    /// Run everything that must hold and needs no virtual machine
    Check(check::Args),
    /// Run everything that must hold: source, tests, and every scenario on real kernels
    Test(test::Args),
}

fn main() -> ExitCode {
    let done = match Verb::parse() {
        Verb::Setup => setup::command(),
        Verb::Kernel(args) => kernel::command(args),
        Verb::Vm(args) => vm::command(args),
        Verb::Demo(args) => demo::command(&args),
        Verb::Dist(args) => dist::command(&args),
        Verb::Bench(args) => bench::command(args),
        Verb::Fuzz(args) => fuzz::command(&args),
        Verb::Explore(args) => explore::command(args),
        Verb::Fleet(args) => fleet::command(&args),
        Verb::Sql(args) => fleet::sql::command(&args),
        Verb::Preflight(args) => preflight::command(args),
        Verb::Docs(args) => docs::command(&args),
        Verb::Invariants(args) => invariants::command(&args),
        Verb::Check(args) => check::command(&args),
        Verb::Test(args) => test::command(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why:#}");
            ExitCode::FAILURE
        }
    }
}
