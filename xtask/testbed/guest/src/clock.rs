//! Readings of the guest's clock that the host can set beside its own.
//!
//! The testbed's kernel writes each to an I/O port whose bytes QEMU passes on at once. The host notes when the first byte
//! comes. What lies between the two moments is never negative, so of a row of readings the one that took least tells best
//! how the two clocks stand.

use std::time::Duration;

/// The port of QEMU's `isa-debugcon`, as `kernel/luo_testbed.c` has it.
pub const PORT: u16 = 0xE9;

/// How many readings make a row.
pub const READINGS: u32 = 50;

/// How far apart they are: a busy host that is late for one of them shall not be late for all.
pub const APART: Duration = Duration::from_millis(3);

/// The guest's clock, in nanoseconds of `CLOCK_MONOTONIC`, in the kernel of this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// 1 for the first kernel, and one more after each kexec.
    pub boot: u32,
    /// What the clock said.
    pub monotonic_ns: u64,
}

impl Reading {
    /// The reading of a line such as `2 123456789`.
    pub fn parse(line: &str) -> Option<Reading> {
        let (boot, monotonic_ns) = line.trim_end().split_once(' ')?;
        Some(Reading {
            boot: boot.parse().ok()?,
            monotonic_ns: monotonic_ns.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_crosses_the_port_and_half_a_one_does_not() {
        let reading = Reading {
            boot: 2,
            monotonic_ns: 123,
        };
        assert_eq!(Reading::parse("2 123\n"), Some(reading));
        assert_eq!(Reading::parse("2"), None);
        assert_eq!(Reading::parse("2 "), None);
    }
}
