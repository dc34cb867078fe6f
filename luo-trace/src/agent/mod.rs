//! The agent that runs on a host: what it does with events, and what it keeps the host by.

pub mod carry;
pub mod enforcement;
pub mod image_reader;
pub mod image_watch;
pub mod keep;
pub mod ledger;
pub mod live;
pub mod pipeline;
pub mod updates;
