//! Stories of updates, told by the stamps that make a timeline.

use luo_trace_common::OWN_SESSION;
use luo_trace_common::events::{IMAGE_FILE, Outcome, Plain};
use proptest::prelude::*;

use super::*;
use crate::chain::Fate;
use crate::event::Body;
use crate::journal::{Clock, Header};
use crate::testing::{IMAGE, Story, cases, memfd, session};

const MS: u64 = 1_000_000;

/// One update between two boots.
fn of(before: Boot, after: Boot) -> (Axis, Course) {
    only(vec![before, after], Some(0), Some(1))
}

fn only(boots: Vec<Boot>, from: Option<usize>, to: Option<usize>) -> (Axis, Course) {
    let update = Update {
        from,
        to,
        attempt: Some(0),
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
        counter_invariant: Some(true),
    }
}

/// The next operation begins and ends at these times.
fn at(s: &mut Story, start_ms: u64, end_ms: u64) -> &mut Story {
    // An operation of a story takes three steps of a microsecond.
    let time = end_ms * MS - s.now() - 3_000;
    s.wait(time).since(start_ms * MS)
}

/// LUO's part of a `reboot(LINUX_REBOOT_CMD_KEXEC)`.
fn freezes(s: &mut Story, start_ms: u64, end_ms: u64, result: i64) {
    let time = end_ms * MS - s.now();
    let duration = (end_ms - start_ms) * MS;
    let outcome = Outcome { result, duration };
    s.wait(time).push(Body::LiveupdateReboot(Plain { outcome }));
}

/// A boot with this header's clock, and what happened in it.
fn boot(clock: Clock, story: &Story) -> Boot {
    let mut boot = Boot::new(&Header {
        clock,
        ..Header::default()
    });
    story.events.iter().for_each(|event| boot.apply(event));
    boot
}

/// A session at 2 s, its file until 3 s, an image at 3.5 s.
fn prepares() -> Story {
    let (mut story, vm) = (Story::new(), session(1, "vm"));
    at(&mut story, 1_990, 2_000).create(vm);
    at(&mut story, 2_100, 3_000).preserve_with(vm, 1, memfd(1), |_| ());
    at(&mut story, 3_100, 3_500).load_image(IMAGE_FILE, IMAGE);
    story
}

/// The kernel that leaves, frozen from 4.000 to 4.010 s.
fn before() -> Boot {
    let mut story = prepares();
    freezes(&mut story, 4_000, 4_010, 0);
    boot(clock(1_000, 1_000, 50_000), &story)
}

/// The kernel that arrives 500 ms after the freeze: attached at 1.0 s, done at 1.3 s of its own clock.
fn after() -> Boot {
    let (mut story, vm) = (Story::new(), session(1, "vm"));
    at(&mut story, 1_100, 1_105).read_in();
    at(&mut story, 1_190, 1_200).retrieve_again(vm, 1, memfd(1));
    at(&mut story, 1_290, 1_300).finish_files(vm, 1, |_| ());
    comes(&story)
}

/// The kernel that arrives, and what happens in it.
fn comes(story: &Story) -> Boot {
    // Its clock was zero at 4.510 s of the first one.
    let mut boot = boot(clock(1_000, 5_510, 54_510), story);
    boot.userspace = Some(700 * MS);
    boot.started = 900 * MS;
    boot
}

#[test]
fn an_update_is_told_from_its_first_session_to_its_last_finish() {
    let (_, course) = of(before(), after());
    let phases = [
        ("preserve", 1_000),
        ("load", 500),
        ("arm", 500),
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
    let mut story = Story::new();
    at(&mut story, 1_100, 1_105).read_in();
    at(&mut story, 1_290, 1_300).finish_files(session(1, "vm"), 1, |_| ());
    let mut after = comes(&story);
    after.userspace = None;
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
    let mut story = Story::new();
    at(&mut story, 1_100, 1_105).read_in();
    let (_, course) = of(before(), comes(&story));
    assert_eq!(course.phases.last().map(Phase::name).as_deref(), Some("deserialize"));
}

#[test]
fn where_nothing_is_heard_after_the_freeze_nothing_is_said_of_the_shutdown() {
    let mut before = before();
    // The clocks were read on the way into the freeze.
    before.late_clock = Some(clock(3_999, 3_999, 52_999));
    let (_, course) = only(vec![before], Some(0), None);
    assert_eq!((course.phase("shutdown"), course.last_heard), (None, None));
    assert_eq!(course.phase("freeze"), Some(10 * MS));
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
    (after.clock.tsc, after.clock.realtime_ns) = (None, 54_000 * MS);
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
fn a_counter_that_promises_nothing_is_held_against_the_wall_clock() {
    let link = |promise, counter_ms| {
        let (mut before, mut after) = (before(), after());
        before.clock.counter_invariant = promise;
        after.clock.tsc = Some(counter_ms * MS);
        of(before, after).1.link.unwrap()
    };
    // The wall clock agrees, or says that the counter stood still for five seconds.
    assert_eq!(
        (link(None, 5_510).basis, link(None, 5_510).promised),
        (Basis::Counter, false)
    );
    assert_eq!(link(None, 10_510).basis, Basis::Realtime);
    // Where the counter is known to be constant, the wall clock may have been set.
    assert_eq!(
        (link(Some(true), 10_510).basis, link(Some(true), 10_510).promised),
        (Basis::Counter, true)
    );
    // Where it is known not to be, it is never used.
    assert_eq!(link(Some(false), 5_510).basis, Basis::Realtime);
}

#[test]
fn what_is_preserved_after_the_image_was_loaded_ends_the_loading() {
    let (mut story, vm) = (Story::new(), session(1, "vm"));
    at(&mut story, 1_000, 1_100).load_image(IMAGE_FILE, IMAGE);
    at(&mut story, 1_990, 2_000).create(vm);
    at(&mut story, 2_100, 3_000).preserve_with(vm, 1, memfd(1), |_| ());
    freezes(&mut story, 4_000, 4_010, 0);
    let (_, course) = of(boot(clock(1_000, 1_000, 50_000), &story), after());
    let phase = |name| course.phase(name).map(|ns| ns / MS);
    assert_eq!(
        [phase("preserve"), phase("load"), phase("arm")],
        [Some(1_000), Some(0), Some(1_000)]
    );
}

#[test]
fn an_attempt_that_failed_has_its_own_course_and_no_blackout() {
    // Given a freeze that failed, another file, and a freeze that did not
    let (mut story, vm) = (prepares(), session(1, "vm"));
    freezes(&mut story, 4_000, 4_010, -5);
    at(&mut story, 4_100, 4_500).preserve_with(vm, 2, memfd(2), |_| ());
    freezes(&mut story, 5_000, 5_020, 0);
    let boots = vec![boot(clock(1_000, 1_000, 50_000), &story)];
    // When both are told
    let update = |attempt, fate| Update {
        from: Some(0),
        attempt: Some(attempt),
        ..Update::new(None, fate)
    };
    let updates = vec![update(0, Fate::Aborted), update(1, Fate::Departed)];
    let timeline = Timeline::of(&Chain {
        boots,
        updates,
        ..Chain::default()
    });
    let freeze = |place: usize| timeline.updates[place].phase("freeze");
    // Then each has its freeze, the first ends with it, and what came later is no part of it.
    assert_eq!([freeze(0), freeze(1)], [Some(10 * MS), Some(20 * MS)]);
    assert_eq!(
        timeline.updates[0].phases.last().map(Phase::name).as_deref(),
        Some("freeze")
    );
    assert_eq!(timeline.updates[1].phase("preserve"), Some(2_500 * MS));
    assert_eq!(timeline.updates[0].last_heard, None);
}

#[test]
fn the_recorders_own_session_is_no_part_of_the_update() {
    // Given a recorder that carries its journal over, made first and finished last
    let (mut story, vm, own) = (Story::new(), session(1, "vm"), session(2, OWN_SESSION));
    at(&mut story, 1_500, 1_600).create(own);
    at(&mut story, 1_990, 2_000).create(vm);
    at(&mut story, 2_100, 3_000).preserve_with(vm, 1, memfd(1), |_| ());
    freezes(&mut story, 4_000, 4_010, 0);
    let mut next = Story::new();
    at(&mut next, 1_190, 1_200).retrieve_again(vm, 1, memfd(1));
    at(&mut next, 1_490, 1_500).retrieve_again(own, 1, memfd(2));
    at(&mut next, 1_590, 1_600).finish_files(own, 1, |_| ());
    // When the update is told
    let (axis, course) = of(boot(clock(1_000, 1_000, 50_000), &story), comes(&next));
    // Then it is about the guest alone.
    assert_eq!(course.phases[0].start, axis.at(0, 2_000 * MS));
    assert_eq!(course.blackout, Some((510 + 1_200) * MS));
    assert_eq!(course.phase("finish"), None);
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
    let mut last = after();
    last.clock = clock(1_000, 15_510, 64_510);
    // When they are laid on one axis
    let axis = Axis::of(&[first, after(), last]);
    // Then the later link is as good as it can be, and only what spans both is as weak as the weaker one.
    assert_eq!(axis.link(0, 1).basis, Basis::Realtime);
    assert_eq!(axis.link(1, 2).basis, Basis::Counter);
    assert_eq!(axis.link(0, 2).basis, Basis::Realtime);
    assert!(axis.link(0, 2).uncertainty > axis.link(0, 1).uncertainty);
    assert_eq!(axis.link(1, 1).basis, Basis::Monotonic);
    assert_eq!(axis.at(2, 0) - axis.at(1, 0), i128::from(10_000 * MS));
}

proptest! {
    #![proptest_config(cases(256))]

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
