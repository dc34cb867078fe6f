//! `cargo xtask`: everything that is done to luo-trace rather than by it.
fn main() {}
