//! Makes the kernel misbehave: the testbed's own switches, and allocations that fail.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result};

const SWITCHES: &str = "/sys/kernel/debug/luo_testbed";

/// What lets every allocation fail, and the kernel say nothing of it.
const FAULT_INJECTION: [(&str, &str); 5] = [
    ("failslab/ignore-gfp-wait", "N"),
    ("failslab/verbose", "0"),
    ("fail_page_alloc/ignore-gfp-wait", "N"),
    ("fail_page_alloc/min-order", "0"),
    ("fail_page_alloc/verbose", "0"),
];

/// Sets one of the testbed's switches.
///
/// # Errors
/// The kernel has no such switch, or cannot do what it says.
pub(crate) fn set(name: &str, value: u32) -> Result<()> {
    // One of the faults is an allocation that fails.
    prepare()?;
    fs::write(format!("{SWITCHES}/{name}"), value.to_string()).with_context(|| format!("cannot set the switch {name}"))
}

/// Lets [`nth`] make every allocation fail, also one that may wait for memory.
pub(crate) fn prepare() -> Result<()> {
    for (file, value) in FAULT_INJECTION {
        fs::write(format!("/sys/kernel/debug/{file}"), value).with_context(|| format!("cannot write {file}"))?;
    }
    Ok(())
}

/// Does something, whereby this thread's `n`-th allocation in the kernel from here on fails; also says whether there
/// was such a one.
pub(crate) fn nth<T>(n: u32, work: impl FnOnce() -> T) -> Result<(T, bool)> {
    let path = "/proc/thread-self/fail-nth";
    let nth = OpenOptions::new().read(true).write(true).open(path);
    let nth = nth.with_context(|| format!("cannot open {path}"))?;
    nth.write_all_at(n.to_string().as_bytes(), 0)?;
    let done = work();
    let mut left = [0; 16];
    let length = nth.read_at(&mut left, 0)?;
    nth.write_all_at(b"0", 0)?;
    Ok((done, left[..length].trim_ascii() == b"0"))
}
