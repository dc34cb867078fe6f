use luo_trace_common::events::{
    FileCall, FlbCall, KhoAnomaly, KhoCall, KhoOp, OUTGOING, Outcome, PRESERVED_IN_SCRATCH, RESTORE_OF_UNPRESERVED,
    SessionRef,
};
use luo_trace_common::hooks::Hook::{FilePreserve, FilesUnpreserve};
use luo_trace_common::text::Compatible;

use super::{LONG, doubts, holds, story, violates};
use crate::event::Body;
use crate::model::Invariant;
use crate::testing::{MEMFD, Story, memfd, session};

const EIO: i64 = 5;
const EINVAL: i64 = 22;

/// A file is preserved, and with it the pages of these keys.
fn preserve(s: &mut Story, a: SessionRef, file: u64, keys: &[u64]) {
    s.preserve_with(a, file, memfd(file), |s| {
        s.flb_preserve(MEMFD, |_| ())
            .call(FileCall::Preserve, a, Some(file), memfd(file).file)
            .pages(FilePreserve, a, keys, &[]);
    });
}

/// A session of one file is closed, and the pages of these keys are given back.
fn close(s: &mut Story, a: SessionRef, file: u64, keys: &[u64]) {
    s.release(a, 1, |s| {
        s.unpreserve_files(a, 1, |s| {
            s.unpreserve(a, memfd(file)).pages(FilesUnpreserve, a, &[], keys);
        });
    });
}

#[test]
fn pages_that_are_all_given_back_balance() {
    let (a, b) = (session(1, "a"), session(2, "b"));
    let judged = holds(|s| {
        s.create(a).create(b);
        preserve(s, a, 1, &[1, 2, 3]);
        preserve(s, b, 2, &[4]);
        close(s, a, 1, &[3, 1, 2]);
        close(s, b, 2, &[4]);
    });
    assert_eq!(
        judged.verdict(Invariant::KhoBalance).ok,
        3,
        "each session, and all of it"
    );
}

#[test]
fn a_page_that_is_not_given_back_is_found_once() {
    let a = session(1, "a");
    let finding = violates(Invariant::KhoBalance, |s| {
        s.create(a);
        preserve(s, a, 1, &[1, 2, 3]);
        close(s, a, 1, &[1, 2]);
    });
    assert_eq!(finding.object.to_string(), "outgoing session \"a\"");
    assert!(
        finding.seen.contains("3 pages were preserved and 2 given back"),
        "{finding}"
    );
}

#[test]
fn another_page_that_is_given_back_is_found() {
    let a = session(1, "a");
    violates(Invariant::KhoBalance, |s| {
        s.create(a);
        preserve(s, a, 1, &[1, 2]);
        close(s, a, 1, &[1, 7]);
    });
}

#[test]
fn a_session_from_before_the_record_may_give_back_more_than_was_seen() {
    let (a, b) = (session(1, "a"), session(2, "b"));
    doubts(Invariant::KhoBalance, |s| {
        s.create(b);
        close(s, a, 1, &[1, 2]);
        s.close(b, &[]);
    });
}

/// One session makes global state, which keeps a page, and another takes it down.
fn shared(s: &mut Story, given_back: &[u64]) {
    let (a, b) = (session(1, "a"), session(2, "b"));
    s.create(a).create(b);
    s.preserve_with(a, 1, memfd(1), |s| {
        s.flb_preserve(MEMFD, |s| _ = s.flb_call(FlbCall::Preserve, "iommu", MEMFD, 0))
            .call(FileCall::Preserve, a, Some(1), memfd(1).file)
            .pages(FilePreserve, a, &[1, 100], &[]);
    });
    preserve(s, b, 2, &[2]);
    close(s, a, 1, &[1]);
    s.release(b, 1, |s| {
        s.unpreserve_files(b, 1, |s| {
            s.call(FileCall::Unpreserve, b, None, memfd(2).file)
                .flb_unpreserve(MEMFD, |s| _ = s.flb_call(FlbCall::Unpreserve, "iommu", MEMFD, 0))
                .pages(FilesUnpreserve, b, &[], given_back);
        });
    });
}

#[test]
fn global_state_may_be_given_back_by_another_session_than_made_it() {
    holds(|s| shared(s, &[2, 100]));
    let finding = violates(Invariant::KhoBalance, |s| shared(s, &[2]));
    assert_eq!(finding.object.to_string(), "preserved memory");
}

#[test]
fn global_state_that_goes_with_a_drivers_last_reference_gives_memory_back_that_no_file_tells_of() {
    // Given global state whose file is gone, and that a driver holds,
    let (a, b) = (session(1, "a"), session(2, "b"));
    let judged = story(|s| {
        s.orderly().create(a).preserve_with(a, 1, memfd(1), |s| {
            s.flb_preserve(MEMFD, |s| _ = s.flb_call(FlbCall::Preserve, "iommu", MEMFD, 0))
                .call(FileCall::Preserve, a, Some(1), memfd(1).file)
                .pages(FilePreserve, a, &[1, 100], &[]);
        });
        s.flb_get("iommu", OUTGOING).create(b);
        close(s, a, 1, &[1]);
        // when the driver gives it back, and another session goes,
        let before = s.now();
        s.by(200).since(before).flb_put("iommu", OUTGOING, |s| {
            s.by(200).flb_call(FlbCall::Unpreserve, "iommu", MEMFD, 0);
        });
        s.close(b, &[]);
    });
    // then nobody misses the state's page.
    assert_eq!(judged.findings, []);
}

#[test]
fn a_preserve_that_fails_and_keeps_a_page_is_found() {
    let a = session(1, "a");
    let fails = |s: &mut Story, removed: &[u64]| {
        s.create(a).failing(EIO).preserve_with(a, 1, memfd(1), |s| {
            s.failing(EIO).pages(FilePreserve, a, &[1, 2], removed);
        });
        // It is not told again when its session goes.
        s.close(a, &[]);
    };
    violates(Invariant::FileErrorAtomic, |s| fails(s, &[2]));
    holds(|s| fails(s, &[2, 1]));
}

#[test]
fn what_an_earlier_preserve_did_to_memory_is_not_laid_to_one_that_fails() {
    // Given a preserve whose end was lost, but not what it did to memory,
    let a = session(1, "a");
    let judged = story(|s| {
        s.create(a).gap().pages(FilePreserve, a, &[1, 2], &[]).wait(LONG);
        // when its task's next one fails, and did nothing to memory, then that one left nothing behind.
        s.failing(EIO).preserve_with(a, 2, memfd(2), |_| ());
    });
    assert_eq!(judged.findings, []);
}

#[test]
fn a_preserve_that_fails_may_take_down_what_another_made() {
    let a = session(1, "a");
    holds(|s| {
        s.create(a).failing(EIO).preserve_with(a, 1, memfd(1), |s| {
            s.flb_preserve(MEMFD, |_| ())
                .flb_unpreserve(MEMFD, |s| _ = s.flb_call(FlbCall::Unpreserve, "iommu", MEMFD, 0))
                .failing(EIO)
                .pages(FilePreserve, a, &[], &[100]);
        });
    });
}

fn anomaly(s: &mut Story, what: u32, result: i64) {
    let outcome = Outcome { result, duration: 0 };
    s.push(Body::KhoAnomaly(KhoAnomaly {
        what,
        within: 0,
        address: 0x1000,
        pages: 4,
        outcome,
    }));
}

#[test]
fn a_range_that_is_asked_back_twice_is_found() {
    let finding = violates(Invariant::KhoRestoreOnce, |s| {
        anomaly(s, RESTORE_OF_UNPRESERVED, -EINVAL)
    });
    assert!(finding.seen.contains("4 pages at 0x1000"), "{finding}");
}

#[test]
fn memory_in_scratch_that_is_preserved_is_found_unless_it_was_refused() {
    violates(Invariant::KhoNoScratch, |s| anomaly(s, PRESERVED_IN_SCRATCH, 0));
    let judged = holds(|s| anomaly(s, PRESERVED_IN_SCRATCH, -EINVAL));
    assert_eq!(judged.verdict(Invariant::KhoNoScratch).ok, 1);
}

fn call(s: &mut Story, call: KhoCall, name: &str, inner_failures: u32, result: i64) {
    s.wait(10).push(Body::KhoOp(
        call,
        KhoOp {
            call: call as u32,
            inner_failures,
            address: 0xb10b,
            name: Compatible::new(name),
            outcome: Outcome { result, duration: 5 },
            ..KhoOp::default()
        },
    ));
}

#[test]
fn an_inner_failure_that_is_hidden_is_found_once() {
    let a = session(1, "a");
    let preserve = |s: &mut Story, failures: u64, result: i64| {
        s.create(a).preserve_with(a, 1, memfd(1), |s| {
            call(s, KhoCall::PreserveVmalloc, "", failures as u32, result);
            s.pages(FilePreserve, a, &[1], &[]);
            if let Some(Body::KhoBalance(p)) = s.events.last_mut().map(|e| &mut e.body) {
                p.failures = failures;
            }
        });
    };
    violates(Invariant::KhoErrorAgree, |s| preserve(s, 2, 0));
    // Where the call fails and the preserve goes on, it is the preserve that hides it.
    violates(Invariant::KhoErrorAgree, |s| preserve(s, 2, -EINVAL));
    holds(|s| preserve(s, 0, 0));
}

#[test]
fn two_subtrees_of_one_name_are_found() {
    let finding = violates(Invariant::KhoSubtree, |s| {
        call(s, KhoCall::AddSubtree, "LUO", 0, 0);
        call(s, KhoCall::AddSubtree, "LUO", 0, 0);
        s.wait(LONG).create(session(1, "a"));
    });
    assert_eq!(finding.object.to_string(), "KHO subtree \"LUO\"");
}

#[test]
fn a_subtree_may_be_added_again_when_it_was_removed_or_refused() {
    let judged = holds(|s| {
        for _ in 0..2 {
            call(s, KhoCall::AddSubtree, "LUO", 0, 0);
            call(s, KhoCall::AddSubtree, "LUO", 0, -17);
            call(s, KhoCall::RemoveSubtree, "", 0, 0);
        }
        call(s, KhoCall::AddSubtree, "memblock", 0, 0);
        s.wait(LONG).create(session(1, "a"));
    });
    assert_eq!(judged.verdict(Invariant::KhoSubtree).ok, 5);
}
