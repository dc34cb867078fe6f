//! Stories of updates, told by the stamps that make a timeline.

use super::*;
use crate::chain::Span;
use crate::journal::Clock;

const MS: u64 = 1_000_000;

fn of(boots: Vec<Boot>) -> Timeline {
    Timeline::of(&Chain::join(boots))
}

fn clock(monotonic_ms: u64, tsc: Option<u64>, realtime_ms: u64) -> Clock {
    Clock {
        monotonic_ns: monotonic_ms * MS,
        realtime_ns: realtime_ms * MS,
        boottime_ns: monotonic_ms * MS,
        tsc,
        tsc_khz: tsc.map(|_| 1_000_000),
    }
}

/// The kernel that leaves: sessions at 2 s, files until 3 s, frozen from 4.000 to 4.010 s.
fn before() -> Boot {
    Boot {
        clock: clock(1_000, Some(1_000_000_000), 50_000),
        attached: 1_000 * MS,
        first_create: Some(2_000 * MS),
        last_preserve: Some(3_000 * MS),
        freeze: Some(Span {
            start: 4_000 * MS,
            end: 4_010 * MS,
            ok: true,
        }),
        ..Boot::default()
    }
}

/// The kernel that arrives 500 ms after the freeze: attached at 1.0 s, done at 1.3 s of its own clock.
fn after() -> Boot {
    Boot {
        // Its clock was zero at 4.510 s of the first one, and it reads its counter at 5.510 s.
        clock: clock(1_000, Some(5_510_000_000), 54_000),
        started: 900 * MS,
        attached: 1_000 * MS,
        deserialize: Some(Span {
            start: 1_100 * MS,
            end: 1_105 * MS,
            ok: true,
        }),
        last_retrieve: Some(1_200 * MS),
        last_finish: Some(1_300 * MS),
        ..Boot::default()
    }
}

#[test]
fn phases_are_adjacent_and_sum_to_the_whole() {
    let timeline = of(vec![after(), before()]);
    let names: Vec<_> = timeline.phases.iter().map(|phase| phase.name).collect();
    assert_eq!(
        names,
        [
            "preserve",
            "arm",
            "freeze",
            "jump",
            "boot",
            "attach",
            "wait",
            "deserialize",
            "retrieve",
            "finish"
        ]
    );
    assert!(timeline.phases.windows(2).all(|pair| pair[0].end == pair[1].start));
    let sum: u64 = timeline.phases.iter().map(Phase::duration).sum();
    // From the first session at 2.0 s to the last finish at 4.510 + 1.3 s.
    assert_eq!(sum, 3_810 * MS);
}

#[test]
fn the_blackout_is_from_the_freeze_to_the_last_file_brought_back() {
    let timeline = of(vec![before(), after()]);
    assert_eq!(timeline.axis.basis, Basis::Counter);
    assert_eq!(timeline.blackout, Some((510 + 1_200) * MS));
}

#[test]
fn without_a_common_counter_the_wall_clock_serves_and_says_so() {
    let mut after = after();
    after.clock.tsc = None;
    let timeline = of(vec![before(), after]);
    assert_eq!(timeline.axis.basis, Basis::Realtime);
    // By the wall clock the second boot began at 53 s, the first at 49 s.
    assert_eq!(timeline.blackout, Some((4_000 + 1_200 - 4_000) * MS));
}

#[test]
fn a_counter_that_began_anew_is_not_trusted() {
    let mut after = after();
    after.clock.tsc = Some(5);
    assert_eq!(of(vec![before(), after]).axis.basis, Basis::Realtime);
}

#[test]
fn a_moment_that_is_not_known_leaves_its_phases_out_and_invents_none() {
    let mut after = after();
    after.last_retrieve = None;
    let timeline = of(vec![before(), after]);
    assert_eq!(timeline.blackout, None);
    let names: Vec<_> = timeline.phases.iter().map(|phase| phase.name).collect();
    assert_eq!(
        names.last(),
        Some(&"deserialize"),
        "neither retrieve nor finish can be told"
    );
}

#[test]
fn a_freeze_that_failed_leads_nowhere() {
    let mut before = before();
    before.freeze = Some(Span {
        start: 4_000 * MS,
        end: 4_010 * MS,
        ok: false,
    });
    let timeline = of(vec![before, after()]);
    assert_eq!(timeline.phases.last().map(|phase| phase.name), Some("freeze"));
}
