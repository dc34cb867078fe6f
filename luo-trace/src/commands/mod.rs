//! One file per subcommand.

pub mod agent;
pub mod doctor;
pub mod hooks;
