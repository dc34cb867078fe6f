//! Policies as operators write them, well and badly.

mod lint;
mod reading;
mod replay;
