//! One file per subcommand.

pub mod agent;
pub mod check;
pub mod doctor;
pub mod hooks;
pub mod invariants;
pub mod metrics;
pub mod report;
pub mod status;
pub mod top;
pub mod watch;

use std::path::PathBuf;

use crate::sink::control;

/// Where a running agent is asked.
#[derive(Debug, clap::Args)]
struct Socket {
    /// The running agent's socket
    #[arg(long = "control", value_name = "PATH", default_value = control::DEFAULT_PATH, env = "LUO_TRACE_CONTROL")]
    path: PathBuf,
}
