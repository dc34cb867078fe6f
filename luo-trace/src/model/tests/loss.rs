//! Loss is never an alarm: what depends on the lost part is unknown.

use luo_trace_common::events::FlbCall;

use super::{LONG, doubts, judge, story};
use crate::event::Body;
use crate::model::{Invariant, Status};
use crate::testing::{MEMFD, memfd, session, with_losses};

#[test]
fn a_gap_leaves_no_invariant_ok() {
    let judged = story(|s| {
        s.create(session(1, "a")).gap();
    });
    for verdict in &judged.verdicts {
        assert_eq!(verdict.status, Status::Unknown, "{verdict:?}");
    }
    assert_eq!(judged.verdict(Invariant::SessionBalance).undecidable, 1);
}

#[test]
fn after_a_gap_nothing_that_was_known_before_is_held_against_anyone() {
    let (a, again) = (session(1, "a"), session(2, "a"));
    doubts(Invariant::SessionNameUnique, |s| {
        s.create(a).gap().create(again).wait(LONG).create(session(3, "x"));
    });
    doubts(Invariant::FileTokenUnique, |s| {
        s.create(a)
            .preserve(a, 1, memfd(1))
            .gap()
            .preserve(a, 1, memfd(2))
            .preserve(a, 2, memfd(1));
    });
    doubts(Invariant::FileBalance, |s| {
        s.create(a).preserve(a, 1, memfd(1)).gap().close(a, &[]);
    });
    doubts(Invariant::SessionRetrieveOnce, |s| {
        s.arrive(a, 0).retrieve_session(a).gap().retrieve_session(a);
    });
    doubts(Invariant::FlbDestroyOnLast, |s| {
        s.flb_preserve(MEMFD, |s| {
            s.flb_call(FlbCall::Preserve, "iommu", MEMFD, 0);
        });
        s.gap().flb_unpreserve(MEMFD, |_| ()).wait(LONG).create(session(3, "x"));
    });
}

#[test]
fn what_begins_after_a_gap_is_judged_again() {
    let a = session(1, "a");
    let judged = story(|s| {
        s.gap().create(a).preserve(a, 1, memfd(1)).preserve(a, 1, memfd(2));
    });
    assert_eq!(judged.status(Invariant::FileTokenUnique), Status::Violated);
}

#[test]
fn an_operation_that_began_before_a_gap_may_miss_what_it_held() {
    let a = session(1, "a");
    doubts(Invariant::FileBalance, |s| {
        s.create(a).preserve(a, 1, memfd(1));
        s.release(a, 1, |s| {
            s.unpreserve_files(a, 1, |s| {
                s.gap();
            });
        });
    });
}

#[test]
fn losing_any_one_event_of_a_live_update_is_never_an_alarm() {
    // Given two records of a whole life: abandoned, and carried over,
    let (a, b) = (session(1, "a"), session(2, "b"));
    let mut s = crate::testing::Story::new();
    s.create(a)
        .preserve(a, 1, memfd(1))
        .preserve(a, 2, memfd(2))
        .close(a, &[(1, memfd(1)), (2, memfd(2))]);
    s.create(a).preserve(a, 1, memfd(1)).reboot();
    s.arrive(b, 1).wait(LONG);
    let events = s.events;
    // when any one event is lost, then nothing is found and nothing is certain.
    for lost in 0..events.len() {
        let judged = judge(&with_losses(&events, |place| place == lost));
        assert!(judged.findings.is_empty(), "event {lost} lost: {:?}", judged.findings);
        assert!(judged.verdicts.iter().all(|v| v.status == Status::Unknown));
    }
}

#[test]
fn a_session_that_was_not_seen_may_be_why_global_state_stays() {
    // Given a session whose create was lost, and whose preserve is still under way at the end,
    doubts(Invariant::FlbDestroyOnLast, |s| {
        s.gap().flb_preserve(MEMFD, |s| {
            s.flb_call(FlbCall::Preserve, "iommu", MEMFD, 0);
        });
        // when the only other user leaves, then its state may stay.
        s.flb_unpreserve(MEMFD, |_| ()).wait(LONG).arrive(session(3, "x"), 0);
    });
}

#[test]
fn the_release_of_a_forgotten_session_is_not_that_of_the_one_that_has_its_memory_now() {
    let (old, new) = (session(1, "old"), session(1, "new"));
    doubts(Invariant::SessionBalance, |s| {
        // Given a session that is known from before a gap, and its release under way,
        s.create(old).preserve(old, 1, memfd(1)).gap();
        let begun = s.now();
        // when another session gets its memory before that release is seen to end,
        s.wait(10).by(101).create(new).preserve(new, 1, memfd(1)).by(100);
        s.since(begun).release(old, 1, |_| ());
        // then the other one lives on.
        s.close(new, &[(1, memfd(1))]);
    });
}

#[test]
fn a_loss_may_be_told_a_moment_before_it_happened() {
    let (a, again) = (session(1, "a"), session(2, "a"));
    doubts(Invariant::SessionNameUnique, |s| {
        // Given a loss that was told before the session came whose release it was,
        s.push(Body::Gap { lost: 1 }).create(a);
        // when its name is used again, then that is no alarm.
        s.create(again).wait(LONG).create(session(3, "x"));
    });
}

#[test]
fn users_that_were_not_all_seen_to_leave_do_not_count() {
    doubts(Invariant::FlbDestroyOnLast, |s| {
        // Given global state with two users, of whom one left in a gap,
        s.flb_preserve(MEMFD, |s| {
            s.flb_call(FlbCall::Preserve, "iommu", MEMFD, 0);
        });
        s.flb_preserve(MEMFD, |_| ()).gap();
        // when it goes with the other one, then no process was left.
        s.flb_unpreserve(MEMFD, |s| {
            s.flb_call(FlbCall::Unpreserve, "iommu", MEMFD, 0);
        });
        s.serialize();
    });
}

#[test]
fn an_operation_whose_beginning_was_not_seen_may_miss_what_it_held() {
    let a = session(1, "a");
    doubts(Invariant::FileBalance, |s| {
        s.create(a).preserve(a, 1, memfd(1)).unpreserve_files(a, 1, |_| ());
        if let Some(Body::FilesUnpreserve(p)) = s.events.last_mut().map(|e| &mut e.body) {
            p.outcome.duration = 0;
        }
    });
}
