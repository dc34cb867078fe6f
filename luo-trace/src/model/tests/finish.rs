use luo_trace_common::events::{FileCall, SessionRef};

use super::{doubts, holds, violates};
use crate::model::Invariant;
use crate::testing::{MEMFD, Story, memfd, session};

const EBUSY: i64 = 16;
const EIO: i64 = 5;

/// A session of three files arrives, and two of them are retrieved.
fn retrieved(s: &mut Story, a: SessionRef) -> &mut Story {
    s.arrive(a, 3)
        .retrieve_session(a)
        .retrieve(a, 1, memfd(1))
        .retrieve(a, 2, memfd(2))
}

fn ask(s: &mut Story, a: SessionRef, file: u64) -> &mut Story {
    s.told(1).call(FileCall::CanFinish, a, None, memfd(file).file)
}

fn finish(s: &mut Story, a: SessionRef, file: u64) -> &mut Story {
    s.told(1).call(FileCall::Finish, a, None, memfd(file).file)
}

#[test]
fn files_that_are_asked_first_and_finished_in_reverse_are_well() {
    let a = session(1, "a");
    let judged = holds(|s| {
        retrieved(s, a).failing(EBUSY).finish_files(a, 3, |s| {
            ask(ask(s, a, 1).failing(EBUSY), a, 2);
        });
        s.finish_files(a, 3, |s| {
            ask(ask(s, a, 1), a, 2);
            // The third one's handler is not asked.
            finish(finish(s.call(FileCall::Finish, a, Some(3), 0), a, 2), a, 1);
        });
    });
    assert_eq!(judged.verdict(Invariant::FileFinishOnce).ok, 2);
    assert_eq!(judged.verdict(Invariant::FileFinishTruth).ok, 6);
}

#[test]
fn a_file_that_is_finished_though_another_refused_is_found_once() {
    let a = session(1, "a");
    let finding = violates(Invariant::FileFinishOnce, |s| {
        retrieved(s, a).failing(EBUSY).finish_files(a, 3, |s| {
            ask(ask(s, a, 1).failing(EBUSY), a, 2);
            finish(finish(s, a, 2), a, 1);
        });
    });
    assert_eq!(finding.object.to_string(), "file 0x2 of session \"a\"");
}

#[test]
fn a_session_that_is_finished_though_a_file_refused_is_found() {
    let a = session(1, "a");
    violates(Invariant::FileFinishOnce, |s| {
        retrieved(s, a).finish_files(a, 3, |s| {
            ask(s.failing(EBUSY), a, 1);
        });
    });
}

#[test]
fn a_file_that_is_finished_twice_is_found() {
    let a = session(1, "a");
    violates(Invariant::FileFinishOnce, |s| {
        retrieved(s, a).finish_files(a, 3, |s| {
            finish(finish(s, a, 2), a, 2);
        });
    });
    // Also where it cannot be told from the others: by the number.
    violates(Invariant::FileFinishOnce, |s| {
        s.arrive(a, 1).retrieve_session(a).finish_files(a, 1, |s| {
            s.call(FileCall::Finish, a, None, 0).call(FileCall::Finish, a, None, 0);
        });
    });
}

#[test]
fn files_that_were_not_retrieved_may_look_alike() {
    let a = session(1, "a");
    holds(|s| {
        s.arrive(a, 2).retrieve_session(a).finish_files(a, 2, |s| {
            s.call(FileCall::Finish, a, None, 0).call(FileCall::Finish, a, None, 0);
        });
    });
}

#[test]
fn files_that_are_finished_in_the_order_of_the_list_are_found() {
    let a = session(1, "a");
    violates(Invariant::FileFinishOnce, |s| {
        retrieved(s, a).finish_files(a, 3, |s| {
            ask(ask(s, a, 1), a, 2);
            finish(finish(s, a, 1), a, 2);
        });
    });
}

#[test]
fn a_session_that_is_finished_in_part_is_found() {
    let a = session(1, "a");
    violates(Invariant::FileFinishOnce, |s| {
        retrieved(s, a).failing(EIO).finish_files(a, 3, |s| {
            finish(s, a, 2);
        });
    });
}

#[test]
fn a_refusal_before_a_loss_may_have_been_taken_back() {
    let a = session(1, "a");
    doubts(Invariant::FileFinishOnce, |s| {
        retrieved(s, a).finish_files(a, 3, |s| {
            ask(s.failing(EBUSY), a, 2).gap();
            finish(s, a, 1);
        });
    });
}

#[test]
fn a_handler_that_is_told_wrongly_of_the_retrieve_is_found() {
    let a = session(1, "a");
    for status in [0, -EIO] {
        let finding = violates(Invariant::FileFinishTruth, |s| {
            retrieved(s, a).finish_files(a, 3, |s| {
                s.told(status).call(FileCall::Finish, a, None, memfd(2).file);
            });
        });
        assert_eq!(finding.object.to_string(), "file 0x2 of session \"a\"");
    }
}

/// A file's retrieve fails, and its handler is told this of it. The callback names it by its data.
fn failed(s: &mut Story, a: SessionRef, status: i64) {
    s.arrive(a, 1)
        .retrieve_session(a)
        .failing(EIO)
        .retrieve(a, 1, Default::default());
    s.finish_files(a, 1, |s| {
        s.told(status).call(FileCall::Finish, a, Some(1), 0);
    });
}

#[test]
fn a_handler_that_is_not_told_of_a_failed_retrieve_is_found() {
    let a = session(1, "a");
    for status in [1, -EBUSY] {
        violates(Invariant::FileFinishTruth, |s| failed(s, a, status));
    }
    holds(|s| failed(s, a, -EIO));
}

#[test]
fn a_kernel_that_knows_no_failed_retrieve_tells_it_like_none() {
    let a = session(1, "a");
    doubts(Invariant::FileFinishTruth, |s| failed(s.orderly(), a, 0));
    // One that has global state has an errno for it.
    violates(Invariant::FileFinishTruth, |s| {
        s.flb_preserve(MEMFD, |_| ());
        failed(s, a, 0);
    });
}

#[test]
fn a_preserve_that_fails_and_stays_a_user_of_global_state_is_found() {
    let a = session(1, "a");
    let finding = violates(Invariant::FileErrorAtomic, |s| {
        s.create(a).failing(EIO).preserve_with(a, 1, memfd(1), |s| {
            s.flb_preserve(MEMFD, |_| ())
                .failing(EIO)
                .call(FileCall::Preserve, a, Some(1), memfd(1).file);
        });
    });
    assert_eq!(finding.object.to_string(), "file 0x1 of session \"a\"");
}

#[test]
fn a_preserve_that_fails_may_leave_what_others_use() {
    let a = session(1, "a");
    let judged = holds(|s| {
        s.create(a).failing(EIO).preserve_with(a, 1, memfd(1), |s| {
            s.flb_preserve(MEMFD, |_| ())
                .failing(EIO)
                .call(FileCall::Preserve, a, Some(1), memfd(1).file)
                .flb_unpreserve(MEMFD, |_| ());
        });
        // The one before it leaves nothing in doubt for one that is refused at once.
        s.failing(EBUSY).preserve_with(a, 1, memfd(1), |_| ());
    });
    assert_eq!(judged.verdict(Invariant::FileErrorAtomic).ok, 2);
}

#[test]
fn a_count_of_files_that_is_not_theirs_is_found_at_freeze_and_finish() {
    let a = session(1, "a");
    violates(Invariant::FileCount, |s| {
        s.create(a).preserve(a, 1, memfd(1)).freeze_files(a, 2);
    });
    violates(Invariant::FileCount, |s| {
        s.arrive(a, 2).retrieve_session(a).finish_files(a, 1, |_| ());
    });
    doubts(Invariant::FileCount, |s| {
        s.orderly().preserve(a, 1, memfd(1)).freeze_files(a, 5);
    });
}
