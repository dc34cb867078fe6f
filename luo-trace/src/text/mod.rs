//! Words and numbers as people read and write them.

pub mod errno;
pub(crate) mod parse;
pub mod units;
