//! `luo-trace metrics`: the metrics, from the table the agent uses.

use std::io;

use crate::exit::Exit;
use crate::sink::metrics;

/// Prints the table.
///
/// # Errors
/// Where stdout cannot be written.
pub fn run() -> io::Result<Exit> {
    metrics::print(&mut super::stdout())?;
    Ok(Exit::Held)
}
