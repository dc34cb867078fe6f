use luo_trace_common::events::FileCall;
use luo_trace_common::hooks::Hook;

use super::{LONG, doubts, holds, judge_with, story, violates};
use crate::model::{Coverage, Invariant, Status};
use crate::testing::{Story, memfd, session};

const EEXIST: i64 = 17;
const EBUSY: i64 = 16;
const EIO: i64 = 5;

#[test]
fn a_token_that_is_used_twice_is_found() {
    let a = session(1, "a");
    let finding = violates(Invariant::FileTokenUnique, |s| {
        s.create(a).preserve(a, 7, memfd(1)).preserve(a, 7, memfd(2));
    });
    assert_eq!(finding.object.to_string(), "file 0x7 of session \"a\"");
}

#[test]
fn a_token_may_be_used_in_each_session_and_again_when_it_was_refused() {
    let (a, b) = (session(1, "a"), session(2, "b"));
    let judged = holds(|s| {
        s.create(a).create(b).preserve(a, 7, memfd(1)).preserve(b, 7, memfd(2));
        s.failing(EEXIST).preserve_with(a, 7, Default::default(), |_| ());
        s.failing(EIO)
            .preserve_with(a, 8, Default::default(), |_| ())
            .preserve(a, 8, memfd(3));
    });
    assert_eq!(judged.verdict(Invariant::FileTokenUnique).ok, 4);
}

#[test]
fn an_object_in_two_sessions_is_found() {
    let (a, b) = (session(1, "a"), session(2, "b"));
    let finding = violates(Invariant::FileObjectUnique, |s| {
        s.create(a).create(b).preserve(a, 1, memfd(1)).preserve(b, 2, memfd(1));
    });
    assert!(finding.seen.contains("file 0x2 of session \"b\""), "{finding}");
}

#[test]
fn an_object_twice_in_one_session_is_found() {
    let a = session(1, "a");
    violates(Invariant::FileObjectUnique, |s| {
        s.create(a).preserve(a, 1, memfd(1)).preserve(a, 2, memfd(1));
    });
}

#[test]
fn a_refused_object_proves_that_objects_are_preserved_once() {
    let (a, b) = (session(1, "a"), session(2, "b"));
    let judged = holds(|s| {
        s.create(a).create(b).preserve(a, 1, memfd(1));
        s.failing(EBUSY).preserve_with(b, 1, Default::default(), |_| ());
    });
    assert_eq!(judged.verdict(Invariant::FileObjectUnique).ok, 2);
}

#[test]
fn an_object_may_be_preserved_again_as_soon_as_its_handler_gave_it_back() {
    let (a, b) = (session(1, "a"), session(2, "b"));
    holds(|s| {
        s.create(a).create(b).preserve(a, 1, memfd(1)).preserve(a, 2, memfd(2));
        s.release(a, 2, |s| {
            s.unpreserve_files(a, 2, |s| {
                s.unpreserve(a, memfd(2));
                s.by(101).preserve(b, 5, memfd(2)).by(100);
                s.unpreserve(a, memfd(1));
            });
        });
    });
}

/// A file of a handler whose callbacks are not seen.
fn unseen(s: &mut Story, session: luo_trace_common::events::SessionRef, token: u64, file: u64) {
    s.preserve_with(session, token, memfd(file), |_| ());
}

#[test]
fn without_callbacks_an_object_may_move_while_its_session_is_given_back_however_long_that_takes() {
    let (a, b) = (session(1, "a"), session(2, "b"));
    holds(|s| {
        s.create(a).create(b);
        unseen(s, a, 1, 1);
        s.release(a, 1, |s| {
            s.unpreserve_files(a, 1, |s| {
                s.by(101);
                unseen(s, b, 1, 1);
                s.wait(LONG).create(session(3, "c")).by(100);
            });
        });
    });
}

#[test]
fn without_callbacks_an_object_in_two_sessions_is_found_when_the_first_is_used_again() {
    let (a, b) = (session(1, "a"), session(2, "b"));
    violates(Invariant::FileObjectUnique, |s| {
        s.create(a).create(b);
        unseen(s, a, 1, 1);
        unseen(s, b, 1, 1);
        unseen(s, a, 2, 2);
    });
}

#[test]
fn a_file_that_is_not_unpreserved_is_found() {
    let a = session(1, "a");
    let finding = violates(Invariant::FileBalance, |s| {
        s.create(a).preserve(a, 1, memfd(1)).preserve(a, 2, memfd(2));
        s.release(a, 2, |s| {
            s.unpreserve_files(a, 2, |s| {
                s.unpreserve(a, memfd(2));
            });
        });
    });
    assert_eq!(finding.object.to_string(), "file 0x1 of session \"a\"");
}

#[test]
fn a_file_that_is_unpreserved_twice_is_found() {
    let a = session(1, "a");
    violates(Invariant::FileBalance, |s| {
        s.create(a).preserve(a, 1, memfd(1));
        s.release(a, 1, |s| {
            s.unpreserve_files(a, 1, |s| {
                s.unpreserve(a, memfd(1))
                    .call(FileCall::Unpreserve, a, None, memfd(1).file);
            });
        });
    });
}

#[test]
fn files_that_are_unpreserved_in_the_order_of_their_preserve_are_found() {
    let a = session(1, "a");
    let finding = violates(Invariant::FileBalance, |s| {
        s.create(a).preserve(a, 1, memfd(1)).preserve(a, 2, memfd(2));
        s.close(a, &[(2, memfd(2)), (1, memfd(1))]);
    });
    assert!(finding.seen.contains("before file 0x2"), "{finding}");
}

#[test]
fn a_preserve_that_failed_after_its_handler_saved_the_file_is_found() {
    let a = session(1, "a");
    violates(Invariant::FileBalance, |s| {
        s.create(a).failing(EIO).preserve_with(a, 1, Default::default(), |s| {
            s.call(FileCall::Preserve, a, Some(1), memfd(1).file);
        });
    });
}

#[test]
fn a_preserve_that_failed_in_its_handler_or_was_taken_back_leaves_nothing() {
    let a = session(1, "a");
    holds(|s| {
        s.create(a).failing(EIO).preserve_with(a, 1, Default::default(), |s| {
            s.failing(EIO).call(FileCall::Preserve, a, Some(1), memfd(1).file);
        });
        s.failing(EIO).preserve_with(a, 1, Default::default(), |s| {
            s.call(FileCall::Preserve, a, Some(1), memfd(1).file)
                .call(FileCall::Unpreserve, a, None, memfd(1).file);
        });
        s.close(a, &[]);
    });
}

#[test]
fn files_end_well_given_back_serialized_or_alive() {
    let (a, b, c) = (session(1, "a"), session(2, "b"), session(3, "c"));
    let judged = holds(|s| {
        s.create(a)
            .create(b)
            .preserve(a, 1, memfd(1))
            .preserve(a, 2, memfd(2))
            .preserve(b, 1, memfd(3));
        s.close(a, &[(1, memfd(1)), (2, memfd(2))]).create(c);
    });
    let verdict = judged.verdict(Invariant::FileBalance);
    assert_eq!((verdict.ok, verdict.open), (2, 1));
    let judged = holds(|s| {
        s.create(c).preserve(c, 1, memfd(4)).reboot();
    });
    assert_eq!(judged.verdict(Invariant::FileBalance).ok, 1);
}

#[test]
fn without_the_callbacks_hook_the_number_of_files_decides() {
    let coverage = Coverage::all().without(Hook::FileCallback);
    let a = session(1, "a");
    for (given_back, status) in [(2, Status::Ok), (1, Status::Violated)] {
        let mut s = Story::new();
        s.create(a);
        unseen(&mut s, a, 1, 1);
        unseen(&mut s, a, 2, 2);
        s.release(a, 2, |s| {
            s.unpreserve_files(a, given_back, |_| ());
        });
        let judged = judge_with(&coverage, &s.events);
        assert_eq!(judged.status(Invariant::FileBalance), status);
    }
}

#[test]
fn a_handler_that_is_asked_twice_is_found_whatever_it_answered() {
    let a = session(1, "a");
    for first in [0, EIO] {
        violates(Invariant::FileRetrieveOnce, |s| {
            s.arrive(a, 1)
                .retrieve_session(a)
                .failing(first)
                .retrieve(a, 1, memfd(1));
            s.failing(EIO).retrieve(a, 1, memfd(1));
        });
    }
}

#[test]
fn a_retrieve_that_succeeds_after_it_failed_is_found() {
    let a = session(1, "a");
    violates(Invariant::FileRetrieveOnce, |s| {
        s.arrive(a, 1)
            .retrieve_session(a)
            .failing(EIO)
            .retrieve(a, 1, Default::default());
        s.retrieve_again(a, 1, memfd(1));
    });
}

#[test]
fn a_second_retrieve_that_gives_another_file_is_found() {
    let a = session(1, "a");
    violates(Invariant::FileRetrieveOnce, |s| {
        s.arrive(a, 1)
            .retrieve_session(a)
            .retrieve(a, 1, memfd(1))
            .retrieve_again(a, 1, memfd(2));
    });
}

#[test]
fn later_retrieves_may_give_the_same_file_or_the_same_failure() {
    let a = session(1, "a");
    let judged = holds(|s| {
        s.arrive(a, 2)
            .retrieve_session(a)
            .retrieve(a, 1, memfd(1))
            .retrieve_again(a, 1, memfd(1));
        s.failing(EIO)
            .retrieve(a, 2, Default::default())
            .failing(EIO)
            .retrieve_again(a, 2, Default::default());
        s.failing(2).retrieve_again(a, 3, Default::default());
        s.finish_files(a, 2, |_| ()).release_incoming(a, 0, |s| {
            s.finish_files(a, 0, |_| ());
        });
    });
    assert_eq!(judged.verdict(Invariant::FileRetrieveOnce).ok, 2);
}

#[test]
fn a_token_of_another_session_is_another_file() {
    let (a, b) = (session(1, "a"), session(2, "b"));
    holds(|s| {
        s.arrive(a, 1).arrive(b, 1).retrieve_session(a).retrieve_session(b);
        s.retrieve(a, 1, memfd(1)).retrieve(b, 1, memfd(2));
    });
}

#[test]
fn a_file_from_before_the_record_is_no_alarm() {
    let a = session(1, "a");
    doubts(Invariant::FileBalance, |s| {
        s.preserve(a, 1, memfd(1)).close(a, &[(0, memfd(0)), (1, memfd(1))]);
    });
    doubts(Invariant::FileRetrieveOnce, |s| {
        s.retrieve(a, 1, memfd(1)).finish_files(a, 3, |_| ());
    });
}

#[test]
fn a_file_preserved_in_a_session_from_before_the_record_is_still_judged() {
    let a = session(1, "a");
    let judged = story(|s| {
        s.preserve(a, 1, memfd(1))
            .preserve(a, 2, memfd(2))
            .close(a, &[(2, memfd(2)), (1, memfd(1))]);
    });
    assert_eq!(judged.status(Invariant::FileBalance), Status::Violated);
}
