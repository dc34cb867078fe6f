//! luo-trace
fn main() {}
