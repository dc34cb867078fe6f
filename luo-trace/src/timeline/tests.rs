//! Stories of updates, told by the stamps that make a timeline.

use proptest::prelude::*;

use super::*;
use crate::chain::{Fate, Span};
use crate::journal::Clock;

const MS: u64 = 1_000_000;

/// One update between two boots.
fn of(before: Boot, after: Boot) -> (Axis, Course) {
    only(vec![before, after], Some(0), Some(1))
}

fn only(boots: Vec<Boot>, from: Option<usize>, to: Option<usize>) -> (Axis, Course) {
    let update = Update {
        from,
        to,
        ..Update::new(None, Fate::Completed)
    };
    let updates = vec![update];
    let timeline = Timeline::of(&Chain {
        boots,
        updates,
        ..Chain::default()
    });
    (timeline.axis, timeline.updates.into_iter().next().unwrap())
}

/// The phases with their lengths in milliseconds.
fn told(course: &Course) -> Vec<(String, u64)> {
    let phases = course.phases.iter();
    phases.map(|phase| (phase.name(), phase.duration() / MS)).collect()
}

/// A counter of 1 GHz that began with the first boot.
fn clock(monotonic_ms: u64, counter_ms: u64, realtime_ms: u64) -> Clock {
    Clock {
        monotonic_ns: monotonic_ms * MS,
        realtime_ns: realtime_ms * MS,
        boottime_ns: monotonic_ms * MS,
        tsc: Some(counter_ms * MS),
        tsc_khz: Some(1_000_000),
        ..Clock::default()
    }
}

fn span(start_ms: u64, end_ms: u64) -> Option<Span> {
    Some(Span {
        start: start_ms * MS,
        end: end_ms * MS,
        ok: true,
    })
}

/// The kernel that leaves: sessions at 2 s, files until 3 s, frozen from 4.000 to 4.010 s.
fn before() -> Boot {
    Boot {
        clock: clock(1_000, 1_000, 50_000),
        started: 500 * MS,
        attached: 1_000 * MS,
        first_create: Some(2_000 * MS),
        last_preserve: Some(3_000 * MS),
        freeze: span(4_000, 4_010),
        ..Boot::default()
    }
}

/// The kernel that arrives 500 ms after the freeze: attached at 1.0 s, done at 1.3 s of its own clock.
fn after() -> Boot {
    Boot {
        // Its clock was zero at 4.510 s of the first one.
        clock: clock(1_000, 5_510, 54_000),
        userspace: Some(700 * MS),
        started: 900 * MS,
        attached: 1_000 * MS,
        deserialize: span(1_100, 1_105),
        last_retrieve: Some(1_200 * MS),
        last_finish: Some(1_300 * MS),
        ..Boot::default()
    }
}

/// The same, one update later.
fn later() -> Boot {
    Boot {
        clock: clock(1_000, 15_510, 64_000),
        ..after()
    }
}

#[test]
fn an_update_is_told_from_its_first_session_to_its_last_finish() {
    let (_, course) = of(before(), after());
    let phases = [
        ("preserve", 1_000),
        ("load", 0),
        ("arm", 1_000),
        ("freeze", 10),
        ("shutdown", 500),
        ("boot", 700),
        ("init", 200),
        ("attach", 100),
        ("wait", 100),
        ("deserialize", 5),
        ("retrieve", 95),
        ("finish", 100),
    ];
    assert_eq!(told(&course), phases.map(|(name, ms)| (name.to_owned(), ms)));
    // From the first session at 2.0 s to the last finish at 4.510 + 1.3 s.
    assert_eq!(course.whole(), Some(3_810 * MS));
    assert_eq!(course.phase("shutdown"), Some(500 * MS));
}

#[test]
fn the_blackout_is_from_the_freeze_to_the_last_file_brought_back() {
    let (_, course) = of(before(), after());
    assert_eq!(course.link.map(|link| link.basis), Some(Basis::Counter));
    assert_eq!(course.blackout, Some((510 + 1_200) * MS));
}

#[test]
fn a_moment_that_is_not_known_joins_the_phases_on_both_its_sides() {
    let mut after = after();
    (after.userspace, after.last_retrieve) = (None, None);
    let (_, course) = of(before(), after);
    assert_eq!(course.blackout, None);
    let told = told(&course);
    assert_eq!(told[5], ("boot…init".to_owned(), 900));
    assert_eq!(told.last(), Some(&("retrieve…finish".to_owned(), 195)));
    assert_eq!(course.phase("boot"), None, "no phase is invented");
    assert_eq!(course.whole(), Some(3_810 * MS), "and no time is lost");
}

#[test]
fn what_has_no_end_is_left_out() {
    let mut after = after();
    (after.last_retrieve, after.last_finish) = (None, None);
    let (_, course) = of(before(), after);
    assert_eq!(course.phases.last().map(Phase::name).as_deref(), Some("deserialize"));
}

#[test]
fn without_a_second_record_the_shutdown_ends_at_the_last_sign_of_life() {
    let mut before = before();
    before.late_clock = Some(clock(4_050, 4_050, 53_050));
    let (axis, course) = only(vec![before.clone()], Some(0), None);
    assert_eq!(course.phase("shutdown"), Some(40 * MS));
    assert_eq!(course.last_heard, Some(axis.at(0, 4_050 * MS)));
    assert_eq!((course.blackout, course.link), (None, None));
    // With one, it ends where the next kernel begins, and the last sign of life says how early the jump may have been.
    let (axis, course) = of(before, after());
    assert_eq!(course.phase("shutdown"), Some(500 * MS));
    assert_eq!(course.last_heard, Some(axis.at(0, 4_050 * MS)));
}

#[test]
fn without_a_first_record_the_update_begins_with_the_second_kernel() {
    let (_, course) = only(vec![after()], None, Some(0));
    assert_eq!(course.phases.first().map(Phase::name).as_deref(), Some("boot"));
    assert_eq!(course.blackout, None);
}

#[test]
fn without_a_common_counter_the_wall_clock_serves_and_says_so() {
    let mut after = after();
    after.clock.tsc = None;
    let (_, course) = of(before(), after);
    let link = course.link.unwrap();
    assert_eq!((link.basis, link.uncertainty), (Basis::Realtime, 1_000 * MS));
    // By the wall clock the second boot began at 53 s, the first at 49 s: that is before the freeze ended, which cannot
    // be, and so it is not known when.
    assert_eq!(course.blackout, Some((4_000 + 1_200 - 4_000) * MS));
    assert_eq!(course.phases[4].name(), "shutdown…boot");
}

#[test]
fn a_counter_that_began_anew_is_not_trusted() {
    let basis = |after| of(before(), after).1.link.unwrap().basis;
    let mut smaller = after();
    smaller.clock.tsc = Some(5);
    assert_eq!(basis(smaller), Basis::Realtime);
    // It began anew with the jump, and is larger all the same, since the second kernel ran longer before it was read.
    let mut larger = after();
    larger.clock = clock(2_000, 2_000, 55_000);
    assert_eq!(basis(larger), Basis::Realtime);
    let mut faster = after();
    faster.clock.tsc_khz = Some(1_100_000);
    assert_eq!(basis(faster), Basis::Realtime);
}

#[test]
fn clocks_read_near_the_jump_make_it_surer() {
    let mut before = before();
    // A rate that is told in kHz by two kernels that do not quite agree: one part in 100,000 over 4.5 s is 45 µs.
    let mut after = after();
    after.clock.tsc_khz = Some(1_000_010);
    let rough = of(before.clone(), after.clone()).1.link.unwrap().uncertainty;
    before.late_clock = Some(clock(3_990, 3_990, 52_990));
    let fine = of(before, after).1.link.unwrap().uncertainty;
    assert!((60_000..80_000).contains(&rough), "{rough}");
    assert!((20_000..40_000).contains(&fine), "{fine}");
}

#[test]
fn every_link_of_a_chain_rests_on_its_own_clocks() {
    // Given three boots, of which the second and the third have a counter in common
    let mut first = before();
    first.clock.tsc_khz = None;
    let middle = Boot {
        freeze: span(9_000, 9_010),
        ..after()
    };
    // When they are laid on one axis
    let axis = Axis::of(&[first, middle, later()]);
    // Then the later link is as good as it can be, and only what spans both is as weak as the weaker one.
    assert_eq!(axis.link(0, 1).basis, Basis::Realtime);
    assert_eq!(axis.link(1, 2).basis, Basis::Counter);
    assert_eq!(axis.link(0, 2).basis, Basis::Realtime);
    assert!(axis.link(0, 2).uncertainty > axis.link(0, 1).uncertainty);
    assert_eq!(axis.link(1, 1).basis, Basis::Monotonic);
    assert_eq!(axis.at(2, 0) - axis.at(1, 0), i128::from(10_000 * MS));
}

proptest! {
    #[test]
    fn phases_are_adjacent_and_sum_to_the_whole_for_any_moments(
        moments in proptest::array::uniform13(proptest::option::of(-1_000i64..1_000)),
    ) {
        let moments = moments.map(|moment| moment.map(i128::from));
        let phases = phases::between(&moments);
        for pair in phases.windows(2) {
            prop_assert_eq!(pair[0].end, pair[1].start);
            prop_assert_eq!(pair[0].last + 1, pair[1].first);
        }
        for phase in &phases {
            prop_assert!(phase.end >= phase.start);
            prop_assert_eq!(moments[phase.first], Some(phase.start));
            prop_assert_eq!(moments[phase.last + 1], Some(phase.end));
        }
        let sum: u64 = phases.iter().map(Phase::duration).sum();
        let whole = phases.first().zip(phases.last()).map_or(0, |(first, last)| last.end - first.start);
        prop_assert_eq!(i128::from(sum), whole);
        // Where every moment is known and in order, every phase is there by itself.
        if moments.iter().all(Option::is_some) && moments.is_sorted() {
            prop_assert_eq!(phases.len(), PHASES.len());
        }
    }
}
