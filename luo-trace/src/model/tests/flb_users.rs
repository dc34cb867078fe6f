use luo_trace_common::events::FlbCall::{Finish, Preserve, Retrieve, Unpreserve};
use luo_trace_common::events::{INCOMING, OUTGOING};

use super::{LONG, doubts, holds, story, violates};
use crate::model::Invariant;
use crate::testing::{MEMFD, Story, session};

const EIO: i64 = 5;

/// The first file comes, and with it the global state.
fn first(s: &mut Story) -> &mut Story {
    s.flb_preserve(MEMFD, |s| {
        s.flb_call(Preserve, "iommu", MEMFD, 0);
    })
}

fn next(s: &mut Story) -> &mut Story {
    s.flb_preserve(MEMFD, |_| ())
}

fn leave(s: &mut Story) -> &mut Story {
    s.flb_unpreserve(MEMFD, |_| ())
}

#[test]
fn global_state_that_a_failed_joining_leaves_behind_is_found() {
    let a = session(1, "a");
    let finding = violates(Invariant::FlbRollback, |s| {
        s.create(a).failing(EIO).flb_preserve(MEMFD, |s| {
            s.flb_call(Preserve, "iommu", MEMFD, 0)
                .failing(EIO)
                .flb_call(Preserve, "pci", MEMFD, 0);
        });
        s.close(a, &[]).wait(LONG).create(session(2, "b"));
    });
    assert_eq!(finding.object.to_string(), "outgoing global state \"iommu\"");
}

#[test]
fn global_state_that_a_failed_joining_takes_down_or_another_file_joined_is_well() {
    let judged = holds(|s| {
        s.failing(EIO).flb_preserve(MEMFD, |s| {
            s.flb_call(Preserve, "iommu", MEMFD, 0)
                .failing(EIO)
                .flb_call(Preserve, "pci", MEMFD, 0)
                .flb_call(Unpreserve, "iommu", MEMFD, 0);
        });
        s.failing(EIO).flb_preserve(MEMFD, |s| {
            s.flb_call(Preserve, "iommu", MEMFD, 0).by(101);
            s.flb_preserve("vfio", |_| ())
                .by(100)
                .failing(EIO)
                .flb_call(Preserve, "pci", MEMFD, 0);
        });
        s.wait(LONG).create(session(1, "a"));
    });
    assert_eq!(judged.verdict(Invariant::FlbRollback).ok, 2);
}

#[test]
fn another_file_that_is_joining_may_keep_what_a_failed_joining_made() {
    let a = session(1, "a");
    let judged = holds(|s| {
        s.create(a);
        let begun = s.now();
        s.failing(EIO).flb_preserve(MEMFD, |s| {
            s.flb_call(Preserve, "iommu", MEMFD, 0)
                .failing(EIO)
                .flb_call(Preserve, "pci", MEMFD, 0);
        });
        s.by(101).since(begun).flb_preserve("vfio", |_| ());
        s.wait(LONG).create(session(2, "b"));
    });
    assert_eq!(judged.verdict(Invariant::FlbRollback).ok, 1);
}

#[test]
fn global_state_that_is_brought_back_twice_is_found_whatever_came_of_it() {
    for errno in [0, EIO] {
        violates(Invariant::FlbRestoreOnce, |s| {
            s.failing(errno)
                .flb_call(Retrieve, "pci", "", 0)
                .flb_call(Retrieve, "pci", "", 0);
        });
    }
    violates(Invariant::FlbRestoreOnce, |s| {
        s.failing(EIO).flb_call(Retrieve, "pci", "", 0).flb_get("pci", INCOMING);
    });
}

#[test]
fn global_state_may_be_got_again_and_its_failure_told_again() {
    holds(|s| {
        s.flb_call(Retrieve, "pci", "", 0)
            .flb_get("pci", INCOMING)
            .flb_get("pci", INCOMING);
        s.failing(EIO)
            .flb_call(Retrieve, "iommu", "", 0)
            .failing(EIO)
            .flb_get("iommu", INCOMING);
    });
}

#[test]
fn global_state_that_is_finished_without_being_brought_back_is_found() {
    violates(Invariant::FlbFinishAfterRestore, |s| {
        s.snapshot(|snapshot| _ = snapshot.flb("pci", 0, 0))
            .flb_call(Finish, "pci", MEMFD, 0);
    });
    violates(Invariant::FlbFinishAfterRestore, |s| {
        s.failing(EIO)
            .flb_call(Retrieve, "pci", "", 0)
            .flb_call(Finish, "pci", MEMFD, 0);
    });
}

#[test]
fn global_state_that_files_leave_and_nobody_brings_back_is_found_once() {
    let finding = violates(Invariant::FlbFinishAfterRestore, |s| {
        s.snapshot(|snapshot| _ = snapshot.flb("pci", 0, 0))
            .flb_finish(MEMFD, |_| ())
            .flb_finish(MEMFD, |_| ());
    });
    assert_eq!(finding.object.to_string(), "incoming global state \"pci\"");
}

#[test]
fn the_last_file_may_bring_global_state_back_itself() {
    let judged = holds(|s| {
        s.snapshot(|snapshot| _ = snapshot.flb("pci", 0, 0))
            .flb_finish(MEMFD, |s| {
                s.flb_call(Retrieve, "pci", MEMFD, 0).flb_call(Finish, "pci", MEMFD, 0);
            });
        // What another handler's files use is no matter.
        s.flb_finish("vfio", |_| ());
    });
    assert_eq!(judged.verdict(Invariant::FlbFinishAfterRestore).ok, 1);
}

#[test]
fn what_became_of_global_state_before_the_record_is_not_known() {
    doubts(Invariant::FlbFinishAfterRestore, |s| {
        s.flb_call(Finish, "pci", MEMFD, 0);
    });
}

#[test]
fn a_reference_that_goes_into_the_next_kernel_is_found() {
    let finding = violates(Invariant::FlbGetPut, |s| {
        first(s).flb_get("iommu", OUTGOING).serialize().flb_record("iommu", 2);
    });
    assert!(finding.seen.contains("1 references"), "{finding}");
}

#[test]
fn an_incoming_reference_that_is_kept_until_the_jump_is_found() {
    violates(Invariant::FlbGetPut, |s| {
        s.orderly().flb_call(Retrieve, "pci", "", 0);
        s.flb_get("pci", INCOMING)
            .flb_get("pci", INCOMING)
            .flb_put("pci", INCOMING, |_| ())
            .wait(LONG)
            .reboot();
    });
}

#[test]
fn references_that_are_given_back_or_count_for_nothing_are_well() {
    let judged = holds(|s| {
        first(s).flb_get("iommu", OUTGOING).flb_put("iommu", OUTGOING, |_| ());
        // A kernel in which taking one is no reference.
        s.flb_get("iommu", OUTGOING).reboot().flb_record("iommu", 1);
    });
    assert_eq!(judged.verdict(Invariant::FlbGetPut).ok, 1);
    assert_eq!(judged.verdict(Invariant::FlbCount).ok, 1);
}

#[test]
fn a_reference_keeps_global_state_after_its_last_file() {
    let judged = holds(|s| {
        first(s).flb_get("iommu", OUTGOING);
        leave(s).wait(LONG).create(session(1, "a")).close(session(1, "a"), &[]);
        s.flb_put("iommu", OUTGOING, |s| {
            s.flb_call(Unpreserve, "iommu", "", 0);
        });
    });
    assert_eq!(judged.verdict(Invariant::FlbDestroyOnLast).ok, 1);
}

#[test]
fn global_state_that_outlives_its_last_reference_is_found() {
    violates(Invariant::FlbDestroyOnLast, |s| {
        first(s).flb_get("iommu", OUTGOING);
        leave(s).flb_put("iommu", OUTGOING, |_| ());
    });
}

#[test]
fn without_the_hooks_on_references_global_state_that_stays_is_no_alarm() {
    use luo_trace_common::hooks::Hook;
    let mut s = Story::new();
    leave(first(&mut s)).wait(LONG).create(session(1, "a"));
    let coverage = crate::model::Coverage::all().without(Hook::FlbGetOutgoing);
    let judged = super::judge_with(&coverage, &s.events);
    assert_eq!(judged.findings, []);
    assert_eq!(
        judged.status(Invariant::FlbDestroyOnLast),
        crate::model::Status::Unknown
    );
}

#[test]
fn a_count_of_users_that_the_next_kernel_is_told_wrongly_is_found() {
    for users in [1, 3] {
        violates(Invariant::FlbCount, |s| {
            next(first(s)).serialize().flb_record("iommu", users);
        });
    }
    let judged = story(|s| _ = next(first(s.orderly())).reboot().flb_record("iommu", 2));
    assert_eq!((judged.findings.len(), judged.verdict(Invariant::FlbCount).ok), (0, 1));
}

#[test]
fn a_count_of_users_that_a_walk_finds_wrong_is_found_in_time() {
    violates(Invariant::FlbCount, |s| {
        next(first(s.orderly()))
            .snapshot(|snapshot| _ = snapshot.flb("iommu", 1, 0))
            .wait(LONG)
            .create(session(1, "a"));
    });
    // A file that was leaving explains it.
    let judged = holds(|s| {
        next(first(s));
        let begun = s.now();
        s.by(101).wait(10).snapshot(|snapshot| _ = snapshot.flb("iommu", 1, 0));
        s.by(100).since(begun);
        leave(s).wait(LONG).create(session(1, "a"));
    });
    assert_eq!(judged.verdict(Invariant::FlbCount).ok, 1);
}
