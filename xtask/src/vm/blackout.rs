//! Holds each blackout that luo-trace tells from the guest's clocks against the host's one clock.
//!
//! A blackout lasts from the start of the freeze, a time on the clock of the kernel that leaves, to the last file
//! brought back, a time on that of the kernel that arrives. luo-trace joins the two clocks by what the agents recorded.
//! The host joins them by itself: near the end of its steps each kernel tells what its clock says, the host notes when
//! that comes, and the reading that took least says what to add to that kernel's clock to have the host's. So the same
//! two moments are told by two ways that share nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use luo_trace::chain::case::Case;
use luo_trace::chain::timeline::Timeline;
use testbed_guest::clock::Reading;

/// One live update's blackout, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Blackout {
    /// As luo-trace tells it.
    told: i128,
    /// By the host's clock.
    host: i128,
    /// How far off luo-trace says that it may be.
    pub(super) uncertainty: i128,
}

impl Blackout {
    /// How far the two are apart, in nanoseconds.
    pub(super) fn error(&self) -> u128 {
        (self.told - self.host).unsigned_abs()
    }
}

impl fmt::Display for Blackout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |ns: i128| ns as f64 / 1e6;
        let Blackout {
            told,
            host,
            uncertainty,
        } = *self;
        write!(
            f,
            "blackout {:.3} ms, sure to {:.3} ms; by the host's clock {:.3} ms, which is {:+.3} ms",
            ms(told),
            ms(uncertainty),
            ms(host),
            ms(host - told)
        )
    }
}

/// For each kernel, what to add to its clock to have the host's, in nanoseconds.
type Offsets = BTreeMap<u32, i128>;

/// The blackouts of all updates that have one.
///
/// # Errors
/// The readings of the guest's clock cannot be read.
pub(super) fn all(case: &Case, output: &Path) -> Result<Vec<Blackout>> {
    let path = output.join("clock.log");
    let readings = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let offsets = offsets(&readings);
    let chain = &case.chain;
    let updates = chain.updates.iter().zip(Timeline::of(chain).updates);
    let blackout = updates.filter_map(|(update, course)| {
        let (from, to) = (update.from?, update.to?);
        let by_host = |place: usize, time: u64| Some(i128::from(time) + offsets.get(&number(place)?)?);
        let frozen = by_host(from, chain.boots[from].freeze?.start)?;
        let retrieved = by_host(to, chain.boots[to].last_retrieve?)?;
        Some(Blackout {
            told: course.blackout?.into(),
            host: retrieved - frozen,
            uncertainty: course.link?.uncertainty.into(),
        })
    });
    Ok(blackout.collect())
}

/// The number of the kernel at a place in the chain.
fn number(place: usize) -> Option<u32> {
    u32::try_from(place + 1).ok()
}

/// Of each kernel's readings, the one that took least.
fn offsets(readings: &str) -> Offsets {
    let mut offsets = Offsets::new();
    for (host, reading) in readings.lines().filter_map(|line| line.split_once(' ')) {
        let (Ok(seconds), Some(reading)) = (host.parse::<f64>(), Reading::parse(reading)) else {
            continue;
        };
        let offset = (seconds * 1e9) as i128 - i128::from(reading.monotonic_ns);
        let least = offsets.entry(reading.boot).or_insert(offset);
        *least = offset.min(*least);
    }
    offsets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reading_that_took_least_tells_how_the_clocks_stand() {
        // Given a kernel that began 2 s after the host's clock, with readings that took 1 ms, 300 us and 7 ms,
        let readings = "2.501000000 1 500000000\n2.600300000 1 600000000\n2.707000000 1 700000000\n";
        // one of a second kernel that began at 10 s, and half a line,
        let readings = format!("{readings}10.100100000 2 100000000\n10.2 2\n");
        // then each kernel has the offset of its best one.
        assert_eq!(
            offsets(&readings),
            Offsets::from([(1, 2_000_300_000), (2, 10_000_100_000)])
        );
    }

    #[test]
    fn the_two_are_apart_whichever_is_longer() {
        let error = |told| {
            let blackout = Blackout {
                told,
                host: 1_000_000,
                uncertainty: 50_000,
            };
            blackout.error()
        };
        assert_eq!((error(900_000), error(1_100_000)), (100_000, 100_000));
    }
}
