//! luo-trace
