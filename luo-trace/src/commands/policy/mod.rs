//! `luo-trace policy`: what may pass on this host.

use std::path::Path;

use anyhow::{Result, anyhow};
use clap::{Args as ClapArgs, Subcommand};

use super::{Format, read_text};
use crate::exit::Exit;
use crate::host;
use crate::kernel::lsm;
use crate::policy::orders::Standing;
use crate::policy::{MAX_FILE, Policy};
use crate::status::policy::Policy as Shown;

mod check;
mod orders;
mod test;

/// Options of `luo-trace policy`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Is this a policy, and does it say what its author can have meant
    Check(check::Args),
    /// What a policy would have decided in recorded updates
    Test(test::Args),
    /// Stop updates on this host: no image is loaded to jump into, and none is jumped into
    Hold(orders::Hold),
    /// Let everything pass for a time, a hold notwithstanding; that ends by itself
    Allow(orders::Allow),
    /// Take hold and allowance back; without an agent that has a policy, remove what one left in force
    Clear(orders::Clear),
    /// How policy stands on this host
    Status(orders::Status),
}

/// Does what the subcommand says.
///
/// # Errors
/// As the subcommand.
pub fn run(args: &Args) -> Result<Exit> {
    match &args.command {
        Command::Check(args) => check::run(args),
        Command::Test(args) => test::run(args),
        Command::Hold(args) => orders::hold(args),
        Command::Allow(args) => orders::allow(args),
        Command::Clear(args) => orders::clear(args),
        Command::Status(args) => orders::status(args),
    }
}

/// A policy that another agent left in force on this host, as a client is told of it. What may not be looked for is not told.
pub(super) fn left_in_force() -> Option<(Shown, Standing)> {
    let left = lsm::left().ok().flatten()?;
    let state = left.state.as_ref().map_err(|error| format!("{error:#}"));
    let place = left.place.display().to_string();
    Some(Shown::left_in_force(&place, state, host::monotonic_ns()))
}

/// The policy in a file.
///
/// # Errors
/// Where the file cannot be read, or holds no policy: every mistake, on a line of its own, with file, line and column.
pub fn read(path: &Path) -> Result<Policy> {
    let text = read_text(path, MAX_FILE, "a policy")?;
    Policy::read(&text).map_err(|problems| {
        let file = path.display();
        let lines = problems.told.iter().map(|problem| format!("\n{file}:{problem}"));
        let more = (problems.more > 0).then(|| format!("\nand {} more", problems.more));
        anyhow!("{file} is no policy:{}", lines.chain(more).collect::<String>())
    })
}
