//! Policies as operators write them, well and badly.

mod deciding;
mod lint;
mod reading;
mod replay;
