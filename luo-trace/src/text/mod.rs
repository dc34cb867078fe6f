//! Words and numbers as people read and write them.

pub mod errno;
pub mod hash;
pub(crate) mod parse;
pub mod units;
