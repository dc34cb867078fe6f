use super::{LONG, doubts, holds, story, violates};
use crate::model::{Invariant, Status};
use crate::testing::{memfd, session};

const EEXIST: i64 = 17;
const EINVAL: i64 = 22;
const ENOMEM: i64 = 12;

#[test]
fn two_live_sessions_of_one_name_are_found_when_the_first_is_used_again() {
    let (first, second) = (session(1, "vm"), session(2, "vm"));
    let finding = violates(Invariant::SessionNameUnique, |s| {
        s.create(first).create(second).preserve(first, 1, memfd(1));
        s.close(first, &[(1, memfd(1))]).close(second, &[]);
    });
    assert_eq!(finding.object.to_string(), "outgoing session \"vm\"");
    assert_eq!(finding.evidence.len(), 3);
}

#[test]
fn two_live_sessions_of_one_name_are_found_in_time() {
    violates(Invariant::SessionNameUnique, |s| {
        s.create(session(1, "vm"))
            .create(session(2, "vm"))
            .wait(LONG)
            .create(session(3, "other"));
    });
}

#[test]
fn two_live_sessions_of_one_name_are_found_when_both_are_frozen() {
    let (first, second) = (session(1, "vm"), session(2, "vm"));
    violates(Invariant::SessionNameUnique, |s| {
        s.create(first)
            .create(second)
            .freeze_files(first, 0)
            .freeze_files(second, 0);
    });
}

#[test]
fn a_name_may_be_used_again_before_the_end_of_the_release_is_seen() {
    let (first, second) = (session(1, "vm"), session(2, "vm"));
    holds(|s| {
        // Given a release that is under way and has unlinked its session,
        s.create(first);
        let begun = s.now();
        s.unpreserve_files(first, 0, |_| ());
        // when another thread creates one of the same name before the release returns,
        s.by(101).create(second).by(100);
        // then that is legal.
        s.since(begun)
            .release(first, 0, |_| ())
            .close(second, &[])
            .wait(LONG)
            .create(session(3, "x"));
    });
}

#[test]
fn the_same_name_in_the_other_direction_is_another_session() {
    holds(|s| {
        s.arrive(session(1, "vm"), 0)
            .create(session(2, "vm"))
            .wait(LONG)
            .create(session(3, "x"));
    });
}

#[test]
fn a_refused_name_proves_that_names_are_unique() {
    let judged = holds(|s| {
        s.create(session(1, "vm"))
            .failing(EEXIST)
            .create(session(0, "vm"))
            .wait(LONG)
            .create(session(3, "x"));
    });
    assert_eq!(judged.verdict(Invariant::SessionNameUnique).ok, 3);
}

#[test]
fn a_create_that_failed_leaves_no_session() {
    holds(|s| {
        s.failing(ENOMEM)
            .create(session(1, "vm"))
            .create(session(1, "vm"))
            .wait(LONG)
            .create(session(3, "x"));
    });
}

#[test]
fn a_suspicion_that_the_record_ends_on_is_neither_ok_nor_an_alarm() {
    doubts(Invariant::SessionNameUnique, |s| {
        s.create(session(1, "vm")).create(session(2, "vm"));
    });
}

#[test]
fn a_release_that_does_not_give_back_its_files_is_found() {
    let a = session(1, "a");
    let judged = story(|s| {
        s.create(a).preserve(a, 1, memfd(1)).release(a, 1, |_| ());
    });
    assert_eq!(judged.status(Invariant::SessionBalance), Status::Violated);
    assert_eq!(judged.status(Invariant::FileBalance), Status::Violated);
}

#[test]
fn a_release_that_gives_back_fewer_files_than_were_preserved_is_found() {
    let a = session(1, "a");
    violates(Invariant::SessionBalance, |s| {
        s.create(a).preserve(a, 1, memfd(1)).preserve(a, 2, memfd(2));
        s.release(a, 2, |s| {
            s.unpreserve_files(a, 1, |s| {
                s.unpreserve(a, memfd(2)).unpreserve(a, memfd(1));
            });
        });
    });
}

#[test]
fn a_session_whose_memory_is_used_again_without_a_release_is_found() {
    violates(Invariant::SessionBalance, |s| {
        s.create(session(1, "a"))
            .create(session(1, "b"))
            .wait(LONG)
            .create(session(2, "c"));
    });
}

#[test]
fn the_memory_of_a_session_may_be_used_again_before_the_end_of_its_release_is_seen() {
    let (old, new) = (session(1, "a"), session(1, "a"));
    let judged = holds(|s| {
        s.create(old).preserve(old, 1, memfd(1));
        let begun = s.now();
        s.unpreserve_files(old, 1, |s| {
            s.unpreserve(old, memfd(1));
        });
        s.by(101).create(new).preserve(new, 1, memfd(1)).by(100);
        s.since(begun).release(old, 1, |_| ());
        s.close(new, &[(1, memfd(1))]).wait(LONG).create(session(3, "x"));
    });
    assert_eq!(judged.verdict(Invariant::SessionBalance).ok, 2);
}

#[test]
fn sessions_end_well_by_release_by_serialization_or_alive() {
    let (a, b, c) = (session(1, "a"), session(2, "b"), session(3, "c"));
    let judged = holds(|s| {
        s.create(a).create(b).preserve(b, 7, memfd(1)).close(a, &[]).create(c);
    });
    let verdict = judged.verdict(Invariant::SessionBalance);
    assert_eq!((verdict.ok, verdict.open), (1, 2));
    let judged = holds(|s| {
        s.create(c).reboot();
    });
    assert_eq!(judged.verdict(Invariant::SessionBalance).ok, 1);
}

#[test]
fn a_session_from_before_the_record_is_no_alarm() {
    let old = session(1, "old");
    doubts(Invariant::SessionBalance, |s| {
        s.release(old, 3, |s| {
            s.unpreserve_files(old, 3, |s| {
                s.unpreserve(old, memfd(2))
                    .unpreserve(old, memfd(1))
                    .unpreserve(old, memfd(0));
            });
        });
    });
}

#[test]
fn a_session_that_is_retrieved_twice_is_found() {
    let a = session(1, "a");
    violates(Invariant::SessionRetrieveOnce, |s| {
        s.arrive(a, 1).retrieve_session(a).retrieve_session(a);
    });
}

#[test]
fn a_refused_second_retrieve_proves_that_sessions_are_retrieved_once() {
    let a = session(1, "a");
    let judged = holds(|s| {
        s.arrive(a, 0)
            .retrieve_session(a)
            .failing(EINVAL)
            .retrieve_session(session(0, "a"));
        s.release_incoming(a, 0, |s| {
            s.finish_files(a, 0, |_| ());
        });
    });
    assert_eq!(judged.verdict(Invariant::SessionRetrieveOnce).ok, 2);
}

#[test]
fn a_session_that_was_closed_does_not_count_against_a_later_one() {
    let (a, b) = (session(1, "a"), session(1, "b"));
    holds(|s| {
        s.arrive(a, 0).retrieve_session(a).release_incoming(a, 0, |_| ());
        s.arrive(b, 0).retrieve_session(b);
    });
}

#[test]
fn a_release_that_does_not_say_of_what_leaves_everything_in_doubt() {
    doubts(Invariant::SessionNameUnique, |s| {
        s.create(session(1, "a")).release(session(0, ""), 0, |_| ());
        // session(0, ..) has an id; the real blank has none.
        s.release(Default::default(), 0, |_| ())
            .create(session(2, "a"))
            .wait(LONG)
            .create(session(3, "x"));
    });
}
