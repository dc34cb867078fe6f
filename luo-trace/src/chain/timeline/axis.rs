//! Times of several boots on one axis.

use crate::chain::Boot;
use crate::journal::Clock;

/// What a distance between the times of two boots rests on. The later, the less sure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Basis {
    /// One boot's own `CLOCK_MONOTONIC`.
    Monotonic,
    /// The CPU's counter, which goes on over a kexec.
    Counter,
    /// The wall clock, which a new kernel sets anew from a clock that ticks in seconds.
    Realtime,
}

impl Basis {
    /// The name users see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Monotonic => "monotonic",
            Self::Counter => "counter",
            Self::Realtime => "realtime",
        }
    }
}

/// How one boot's times are told in another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// What it rests on.
    pub basis: Basis,
    /// Whether it is promised: where it is not, the CPU's counter is not known to run at one rate, and the wall clock only
    /// says that it did no worse than a second or two.
    pub promised: bool,
    /// How far off it may be, in nanoseconds, either way.
    pub uncertainty: u64,
}

impl Link {
    /// Times of one boot need no link.
    const OWN: Self = Self {
        basis: Basis::Monotonic,
        promised: true,
        uncertainty: 0,
    };

    /// What it rests on, in words.
    pub const fn describe(self) -> &'static str {
        match (self.basis, self.promised) {
            (Basis::Monotonic, _) => "one kernel's own clock",
            (Basis::Counter, true) => "the CPU's counter, which runs on over the kexec",
            (Basis::Counter, false) => "the CPU's counter, whose rate nothing promises to be constant",
            (Basis::Realtime, _) => "the wall clock, which a new kernel reads to the second",
        }
    }

    /// One link after the other: the weaker basis, and both uncertainties.
    fn then(self, next: Self) -> Self {
        Self {
            basis: self.basis.max(next.basis),
            promised: self.promised && next.promised,
            uncertainty: self.uncertainty.saturating_add(next.uncertainty),
        }
    }
}

/// Nanoseconds since the first boot's `CLOCK_MONOTONIC` was zero, for times of any boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Axis {
    /// For each boot, what to add to its `CLOCK_MONOTONIC`.
    shifts: Vec<i128>,
    /// For each boot but the first, how it is joined to the one before.
    links: Vec<Link>,
}

/// Two counters are taken for the same one if their rates differ by no more than one part in this many.
const RATE_TOLERANCE: u64 = 500;
/// How far apart the clocks of one reading may have been read, in nanoseconds: they are read one after the other.
const READING: u64 = 10_000;
/// How far off the wall clock may be over a kexec, in nanoseconds: the new kernel reads it from one that ticks in seconds.
const WALL_CLOCK: u64 = 1_000_000_000;
const BILLION: u128 = 1_000_000_000;

impl Axis {
    /// An axis for boots in the order they ran. Each is joined to the one before it by the best clock that both have.
    pub fn of(boots: &[Boot]) -> Self {
        let mut axis = Self {
            shifts: boots.first().map(|_| 0).into_iter().collect(),
            links: Vec::new(),
        };
        for pair in boots.windows(2) {
            let (step, link) = by_counter(&pair[0], &pair[1]).unwrap_or_else(|| by_wall_clock(&pair[0], &pair[1]));
            axis.shifts.push(axis.shifts.last().unwrap_or(&0) + step);
            axis.links.push(link);
        }
        axis
    }

    /// A time of one boot on the axis.
    pub fn at(&self, boot: usize, monotonic_ns: u64) -> i128 {
        i128::from(monotonic_ns) + self.shifts.get(boot).copied().unwrap_or(0)
    }

    /// How times of the boot `from` and of the later boot `to` are compared.
    pub fn link(&self, from: usize, to: usize) -> Link {
        let links = self.links.get(from..to).unwrap_or_default();
        links.iter().copied().fold(Link::OWN, Link::then)
    }
}

/// The reading of a boot's clocks that lies nearest to its end.
fn latest(boot: &Boot) -> &Clock {
    boot.late_clock.as_ref().unwrap_or(&boot.clock)
}

/// When the clock of `after` was zero on the clock of `before`, by the wall clock.
fn by_wall_clock(before: &Boot, after: &Boot) -> (i128, Link) {
    let link = Link {
        basis: Basis::Realtime,
        promised: true,
        uncertainty: WALL_CLOCK,
    };
    (after.clock.zero_unix_ns() - latest(before).zero_unix_ns(), link)
}

/// When the clock of `after` was zero on the clock of `before`, by the CPU's counter; `None` where that cannot be told.
fn by_counter(before: &Boot, after: &Boot) -> Option<(i128, Link)> {
    let (last, first) = (latest(before), &after.clock);
    let rate = Rate::of(before, after)?;
    let ticks = u128::from(first.tsc?.checked_sub(last.tsc?)?);
    let elapsed = ticks.checked_mul(rate.ns)? / rate.ticks;
    let uncertainty = elapsed * rate.error / BILLION + 2 * u128::from(READING);
    // The new kernel began after the old one was last heard of, unless the counter began anew.
    let since_zero = u128::from(first.monotonic_ns);
    let zero = i128::try_from(elapsed).ok()? - i128::try_from(since_zero).ok()?;
    (elapsed + uncertainty >= since_zero).then_some(())?;
    let invariant = [before, after].map(|boot| boot.clock.counter_invariant);
    if invariant.contains(&Some(false)) {
        return None;
    }
    let zero = zero + i128::from(last.monotonic_ns);
    let promised = invariant == [Some(true); 2];
    let apart = (by_wall_clock(before, after).0 - zero).unsigned_abs();
    (promised || apart <= u128::from(2 * WALL_CLOCK)).then_some(())?;
    let link = Link {
        basis: Basis::Counter,
        promised,
        uncertainty: u64::try_from(uncertainty).ok()?,
    };
    Some((zero, link))
}

/// How fast the counter runs.
struct Rate {
    /// So many nanoseconds are
    ns: u128,
    /// so many ticks.
    ticks: u128,
    /// How far off that may be, in parts of a billion.
    error: u128,
}

impl Rate {
    /// The better one of what the kernels say, as sure as they agree, and of what one boot's own readings tell.
    fn of(before: &Boot, after: &Boot) -> Option<Self> {
        let (khz, other) = (before.clock.tsc_khz?, after.clock.tsc_khz?);
        let difference = khz.abs_diff(other);
        if khz == 0 || difference > khz / RATE_TOLERANCE {
            return None;
        }
        let told = Self {
            ns: 1_000_000,
            ticks: khz.into(),
            error: (u128::from(difference) + 1) * BILLION / u128::from(khz),
        };
        let measured = measured(before).filter(|rate| rate.error < told.error && rate.agrees(khz));
        Some(measured.unwrap_or(told))
    }

    fn agrees(&self, khz: u64) -> bool {
        let measured = self.ticks * 1_000_000 / self.ns;
        measured.abs_diff(khz.into()) <= u128::from(khz / RATE_TOLERANCE)
    }
}

/// The counter's rate between two readings of one boot's clocks.
fn measured(boot: &Boot) -> Option<Rate> {
    let late = boot.late_clock?;
    let ns = u128::from(late.monotonic_ns.checked_sub(boot.clock.monotonic_ns)?);
    let ticks = u128::from(late.tsc?.checked_sub(boot.clock.tsc?)?);
    (ns > 0 && ticks > 0).then(|| Rate {
        ns,
        ticks,
        error: 2 * u128::from(READING) * BILLION / ns,
    })
}
