//! Times of several boots on one axis.

use crate::journal::Clock;

/// What the common axis rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// One boot: its own `CLOCK_MONOTONIC`.
    Monotonic,
    /// The CPU's counter, which goes on over a kexec: good to microseconds.
    Counter,
    /// The wall clock, which a new kernel may set anew from a clock that ticks in seconds.
    Realtime,
}

impl Basis {
    /// How sure a distance between two boots is, in words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Monotonic => "one kernel's own clock",
            Self::Counter => "the CPU's counter, which runs on over the kexec",
            Self::Realtime => "the wall clock; over the kexec it may be off by a second",
        }
    }
}

/// Nanoseconds since the first boot's `CLOCK_MONOTONIC` was zero, for times of any boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Axis {
    /// What it rests on.
    pub basis: Basis,
    /// For each boot, what to add to its `CLOCK_MONOTONIC`.
    shifts: Vec<i128>,
}

/// Two counters are taken for the same one if their rates differ by no more than one part in this many.
const RATE_TOLERANCE: u64 = 500;

impl Axis {
    /// An axis for boots whose clocks stood like this, in the order they ran.
    pub fn of(clocks: &[Clock]) -> Self {
        let Some(first) = clocks.first() else {
            return Self {
                basis: Basis::Monotonic,
                shifts: Vec::new(),
            };
        };
        let by_counter: Option<Vec<i128>> = clocks.iter().map(|clock| counter_shift(first, clock)).collect();
        let (basis, shifts) = match by_counter {
            _ if clocks.len() == 1 => (Basis::Monotonic, vec![0]),
            Some(shifts) => (Basis::Counter, shifts),
            None => (
                Basis::Realtime,
                clocks.iter().map(|clock| zero(clock) - zero(first)).collect(),
            ),
        };
        Self { basis, shifts }
    }

    /// A time of one boot on the axis.
    pub fn at(&self, boot: usize, monotonic_ns: u64) -> i128 {
        i128::from(monotonic_ns) + self.shifts.get(boot).copied().unwrap_or(0)
    }
}

/// When a boot's monotonic clock was zero, by the wall clock.
fn zero(clock: &Clock) -> i128 {
    i128::from(clock.realtime_ns) - i128::from(clock.monotonic_ns)
}

/// How far a boot's monotonic clock lags behind the first boot's, by the CPU's counter; `None` where that cannot be told.
fn counter_shift(first: &Clock, clock: &Clock) -> Option<i128> {
    let khz = first.tsc_khz.filter(|&khz| khz > 0)?;
    let rate = clock.tsc_khz?;
    let ticks = i128::from(clock.tsc?) - i128::from(first.tsc?);
    if khz.abs_diff(rate) > khz / RATE_TOLERANCE || ticks < 0 {
        return None;
    }
    let elapsed = ticks * 1_000_000 / i128::from(khz);
    Some(elapsed + i128::from(first.monotonic_ns) - i128::from(clock.monotonic_ns))
}
