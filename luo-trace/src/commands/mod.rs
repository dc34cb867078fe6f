//! One file per subcommand.

pub mod agent;
pub mod check;
pub mod doctor;
pub mod hooks;
pub mod invariants;
pub mod metrics;
pub mod report;
