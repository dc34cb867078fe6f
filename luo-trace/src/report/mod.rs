//! What `luo-trace report` and `luo-trace updates` tell of live updates.
//!
//! `gather` makes a [`Report`] of what the records hold, and the formats draw it: `text` for a terminal, `html` as one page,
//! `perfetto` and `otlp` for the viewers of traces. `json` is the report itself. `updates` has a line for each update, `hosts` one
//! for each machine, `rows` one for each thing that is told.

mod gather;
mod hosts;
#[cfg(feature = "agent")]
mod html;
pub mod json;
#[cfg(feature = "agent")]
pub mod otlp;
mod perfetto;
pub mod rows;
mod text;
mod updates;

pub use hosts::{HostLine, hosts};
#[cfg(feature = "agent")]
pub use html::html;
pub use json::Report;
pub use perfetto::perfetto;
pub use text::{Style, render};
pub use updates::{ARRIVAL_DEADLINE, Row, UpdateOutcome, table, updates, when};

#[cfg(test)]
mod tests;
