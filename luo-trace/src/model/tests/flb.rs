use luo_trace_common::events::FlbCall::{Finish, Preserve, Retrieve, Unpreserve};

use super::{LONG, doubts, holds, violates};
use crate::model::{Invariant, Status, Subject};
use crate::testing::{MEMFD, Story, session};

const EIO: i64 = 5;

/// The first file comes, and with it the global state.
fn first(s: &mut Story) -> &mut Story {
    s.flb_preserve(MEMFD, |s| {
        s.flb_call(Preserve, "iommu", MEMFD, 0);
    })
}

/// The last file goes, and with it the global state.
fn last(s: &mut Story) -> &mut Story {
    s.flb_unpreserve(MEMFD, |s| {
        s.flb_call(Unpreserve, "iommu", MEMFD, 0);
    })
}

fn next(s: &mut Story) -> &mut Story {
    s.flb_preserve(MEMFD, |_| ())
}

fn leave(s: &mut Story) -> &mut Story {
    s.flb_unpreserve(MEMFD, |_| ())
}

#[test]
fn global_state_that_is_made_once_and_goes_with_its_last_user_is_well() {
    let judged = holds(|s| {
        for _ in 0..3 {
            next(first(s));
            last(leave(s));
        }
        first(s).reboot();
    });
    assert_eq!(judged.verdict(Invariant::FlbCreateOnFirst).ok, 4);
    assert_eq!(judged.verdict(Invariant::FlbDestroyOnLast).ok, 4);
}

#[test]
fn global_state_that_is_created_twice_is_found() {
    let finding = violates(Invariant::FlbCreateOnFirst, |s| {
        first(s);
        first(s);
    });
    assert!(matches!(finding.object, Subject::Flb { .. }));
    assert_eq!(finding.object.to_string(), "outgoing global state \"iommu\"");
}

#[test]
fn global_state_that_is_created_when_the_kernel_counts_users_is_found() {
    violates(Invariant::FlbCreateOnFirst, |s| {
        s.flb_preserve(MEMFD, |s| {
            s.flb_call(Preserve, "iommu", MEMFD, 2);
        });
    });
}

#[test]
fn a_file_that_is_preserved_without_its_global_state_is_found() {
    violates(Invariant::FlbCreateOnFirst, |s| {
        last(first(s));
        next(s);
    });
}

#[test]
fn a_handler_without_this_global_state_needs_none() {
    holds(|s| {
        last(first(s))
            .flb_preserve("other", |_| ())
            .flb_unpreserve("other", |_| ());
        last(first(s));
    });
}

#[test]
fn a_creation_that_failed_may_be_tried_again() {
    holds(|s| {
        s.failing(EIO).flb_preserve(MEMFD, |s| {
            s.failing(EIO).flb_call(Preserve, "iommu", MEMFD, 0);
        });
        last(first(s));
    });
}

#[test]
fn global_state_that_is_destroyed_while_the_kernel_counts_users_is_found() {
    violates(Invariant::FlbDestroyOnLast, |s| {
        next(first(s)).flb_unpreserve(MEMFD, |s| {
            s.flb_call(Unpreserve, "iommu", MEMFD, 1);
        });
    });
}

#[test]
fn global_state_that_a_file_left_after_it_was_destroyed_is_found() {
    violates(Invariant::FlbDestroyOnLast, |s| {
        leave(last(next(first(s))));
    });
}

#[test]
fn global_state_that_was_destroyed_before_its_files_were_serialized_is_found() {
    violates(Invariant::FlbDestroyOnLast, |s| {
        last(next(first(s))).serialize();
    });
}

#[test]
fn global_state_that_is_destroyed_twice_is_found() {
    for (call, users) in [(Unpreserve, 0), (Finish, 0)] {
        violates(Invariant::FlbDestroyOnLast, |s| {
            s.flb_call(call, "iommu", MEMFD, users)
                .flb_call(call, "iommu", MEMFD, users);
        });
    }
}

#[test]
fn global_state_that_outlives_its_last_user_is_found() {
    // At the end of the record, when no session is open,
    violates(Invariant::FlbDestroyOnLast, |s| {
        leave(first(s));
    });
    // in time,
    violates(Invariant::FlbDestroyOnLast, |s| {
        leave(first(s)).wait(LONG).create(session(1, "a"));
    });
    // and when everything is serialized, though a session is open.
    violates(Invariant::FlbDestroyOnLast, |s| {
        leave(first(s.create(session(1, "a")))).serialize();
    });
}

#[test]
fn a_preserve_under_way_may_keep_global_state_without_a_user_in_the_record() {
    let a = session(1, "a");
    let judged = holds(|s| {
        s.create(a);
        first(s);
        // Given a file that has joined, and whose joining has not ended,
        let begun = s.now();
        // when the other one leaves,
        s.by(101);
        leave(s.wait(10));
        s.wait(LONG).create(session(2, "b")).by(100);
        // then the first one's end explains it.
        s.since(begun);
        next(s);
        last(s).wait(LONG).create(session(3, "c"));
    });
    assert_eq!(judged.verdict(Invariant::FlbDestroyOnLast).ok, 1);
}

#[test]
fn a_file_may_be_seen_to_leave_after_another_made_the_state_anew() {
    holds(|s| {
        first(s);
        let begun = s.now();
        s.wait(10).flb_call(Unpreserve, "iommu", MEMFD, 0);
        s.by(101);
        first(s).by(100);
        s.since(begun);
        // then the new state has its user, in time and when all is serialized.
        leave(s).wait(LONG).create(session(1, "a")).reboot();
    });
}

#[test]
fn another_handler_that_may_use_the_state_keeps_it() {
    let judged = holds(|s| {
        first(s).flb_preserve("vfio", |_| ());
        leave(s).wait(LONG).create(session(1, "a"));
    });
    assert_eq!(judged.verdict(Invariant::FlbDestroyOnLast).open, 1);
}

#[test]
fn incoming_state_that_was_brought_back_before_the_record_may_finish() {
    let judged = holds(|s| {
        s.flb_call(Retrieve, "iommu", "", 1);
        s.flb_call(Retrieve, "pci", "", 2).flb_finish(MEMFD, |_| ());
        s.flb_finish(MEMFD, |s| {
            s.flb_call(Finish, "pci", MEMFD, 0).flb_call(Finish, "iommu", MEMFD, 0);
        });
    });
    assert_eq!(judged.verdict(Invariant::FlbDestroyOnLast).ok, 2);
}

#[test]
fn incoming_state_that_a_file_left_after_it_finished_is_found() {
    violates(Invariant::FlbDestroyOnLast, |s| {
        s.flb_finish(MEMFD, |s| {
            s.flb_call(Finish, "iommu", MEMFD, 0);
        });
        s.flb_finish(MEMFD, |_| ());
    });
}

#[test]
fn a_count_that_is_not_known_leaves_the_first_creation_in_doubt() {
    doubts(Invariant::FlbCreateOnFirst, |s| {
        s.flb_preserve(MEMFD, |s| {
            s.flb_call(Preserve, "iommu", MEMFD, -1);
        });
    });
}

#[test]
fn state_from_before_the_record_is_no_alarm() {
    let judged = holds(|s| {
        leave(leave(next(s)));
        last(s);
    });
    assert_eq!(judged.status(Invariant::FlbDestroyOnLast), Status::Ok);
}
