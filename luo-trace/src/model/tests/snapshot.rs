//! Walks over the kernel's lists: what they teach, and what they contradict.

use luo_trace_common::events::{FileCall, FlbCall, SNAPSHOT_CHANGED, SNAPSHOT_INCOMPLETE};
use luo_trace_common::hooks::Hook::FilesUnpreserve;

use super::{Coverage, LONG, Model, doubts, holds, story, violates};
use crate::event::Body;
use crate::model::{Direction, FileState, Invariant, SessionState, Status};
use crate::testing::{MEMFD, Story, memfd, session};

const EIO: i64 = 5;

fn model(tell: impl FnOnce(&mut Story)) -> Model {
    let mut s = Story::new();
    tell(&mut s);
    let mut model = Model::new(&Coverage::all());
    for event in &s.events {
        assert_eq!(model.apply(event), &[]);
    }
    model
}

/// How many files of a state there are, and their bytes.
fn files(model: &Model, state: FileState) -> (u64, u64) {
    let of = model.counts().files().filter(|count| count.state == state);
    of.fold((0, 0), |sum, count| (sum.0 + count.files, sum.1 + count.bytes))
}

#[test]
fn what_was_there_before_the_record_is_known_after_a_walk() {
    let (a, b) = (session(1, "a"), session(2, "b"));
    let model = model(|s| {
        s.snapshot(|snapshot| {
            snapshot.outgoing(a, &[(1, memfd(1)), (2, memfd(2))]);
            snapshot.incoming(b, true, &[(1, memfd(5), 1), (2, Default::default(), 0)]);
            snapshot.flb("iommu", 3, 0);
        });
    });
    let counts = model.counts();
    assert_eq!(
        (
            counts.outgoing_sessions,
            counts.incoming_sessions,
            counts.pending_sessions
        ),
        (1, 1, 0)
    );
    assert_eq!(files(&model, FileState::Preserved), (2, memfd(1).size + memfd(2).size));
    assert_eq!(files(&model, FileState::Retrieved).0, 1);
    assert_eq!(files(&model, FileState::Pending).0, 1);
    let states: Vec<_> = model.sessions().map(|s| (s.direction(), s.state())).collect();
    assert_eq!(
        states,
        [
            (Direction::Outgoing, SessionState::Open),
            (Direction::Incoming, SessionState::Retrieved)
        ]
    );
    assert_eq!(
        model.flbs().map(|flb| flb.users).collect::<Vec<_>>(),
        [2],
        "files that use it"
    );
}

#[test]
fn what_a_walk_made_known_is_judged_from_then_on() {
    let (a, b) = (session(1, "a"), session(2, "b"));
    violates(Invariant::FileTokenUnique, |s| {
        s.snapshot(|snapshot| _ = snapshot.outgoing(a, &[(1, memfd(1))]))
            .preserve(a, 1, memfd(2));
    });
    violates(Invariant::SessionDirection, |s| {
        s.snapshot(|snapshot| _ = snapshot.incoming(a, true, &[]))
            .preserve(a, 1, memfd(1));
    });
    violates(Invariant::SessionRetrieveOnce, |s| {
        s.snapshot(|snapshot| _ = snapshot.incoming(a, true, &[]))
            .retrieve_session(a);
    });
    violates(Invariant::FileRetrieveOnce, |s| {
        s.snapshot(|snapshot| _ = snapshot.incoming(a, true, &[(1, memfd(1), 1)]))
            .call(FileCall::Retrieve, a, Some(1), memfd(1).file);
    });
    violates(Invariant::FileBalance, |s| {
        s.snapshot(|snapshot| _ = snapshot.outgoing(b, &[(1, memfd(1))]));
        s.release(b, 1, |s| {
            s.unpreserve_files(b, 1, |s| {
                s.unpreserve(b, memfd(1)).unpreserve(b, memfd(1));
            });
        });
    });
    violates(Invariant::FlbDestroyOnLast, |s| {
        s.snapshot(|snapshot| _ = snapshot.outgoing(a, &[(1, memfd(1))]).flb("iommu", 1, 0));
        s.close(a, &[(1, memfd(1))]).wait(LONG).create(b);
    });
}

#[test]
fn what_a_walk_made_known_may_end_well() {
    let (a, b) = (session(1, "a"), session(2, "b"));
    let judged = story(|s| {
        s.snapshot(|snapshot| {
            snapshot.outgoing(a, &[(1, memfd(1)), (2, memfd(2))]);
            snapshot.incoming(b, false, &[(1, Default::default(), 0)]);
        });
        s.close(a, &[(1, memfd(1)), (2, memfd(2))]);
        s.retrieve_session(b).retrieve(b, 1, memfd(7));
        s.release_incoming(b, 1, |s| _ = s.finish_files(b, 1, |_| ()));
    });
    assert_eq!(judged.findings, []);
    for (invariant, ok) in [
        (Invariant::SessionBalance, 1),
        (Invariant::FileBalance, 2),
        (Invariant::SessionRetrieveOnce, 1),
        (Invariant::FileRetrieveOnce, 1),
    ] {
        let verdict = judged.verdict(invariant);
        assert_eq!(
            (verdict.ok, verdict.undecidable, verdict.open),
            (ok, 0, 0),
            "{verdict:?}"
        );
    }
}

#[test]
fn a_second_walk_teaches_nothing_new() {
    let a = session(1, "a");
    let judged = story(|s| {
        for _ in 0..3 {
            s.snapshot(|snapshot| _ = snapshot.outgoing(a, &[(1, memfd(1))]).flb("iommu", 1, 0));
        }
    });
    assert_eq!(judged.findings, []);
    assert_eq!(judged.verdict(Invariant::SessionBalance).open, 1);
    assert_eq!(judged.verdict(Invariant::FileBalance).open, 1);
    assert_eq!(judged.verdict(Invariant::FlbDestroyOnLast).open, 1);
}

#[test]
fn after_a_loss_a_walk_makes_everything_known_again() {
    let (a, b, c) = (session(1, "a"), session(2, "b"), session(3, "c"));
    // Given two sessions, of which one went and a third one came while events were lost,
    let model = model(|s| {
        s.create(a)
            .preserve(a, 1, memfd(1))
            .create(b)
            .preserve(b, 1, memfd(2))
            .gap();
        s.snapshot(|snapshot| _ = snapshot.outgoing(b, &[(1, memfd(2)), (2, memfd(3))]).outgoing(c, &[]));
    });
    // then the counts are the kernel's,
    assert_eq!(model.counts().outgoing_sessions, 2);
    assert_eq!(files(&model, FileState::Preserved), (2, memfd(2).size + memfd(3).size));
    // and what is known is judged, while what was lost stays lost.
    let judged = story(|s| {
        s.create(a).preserve(a, 1, memfd(1)).gap();
        s.snapshot(|snapshot| _ = snapshot.outgoing(a, &[(1, memfd(1))]))
            .preserve(a, 1, memfd(2));
    });
    assert_eq!(judged.status(Invariant::FileTokenUnique), Status::Violated);
    assert_eq!(judged.verdict(Invariant::SessionBalance).undecidable, 1);
    assert_eq!(judged.status(Invariant::SessionBalance), Status::Unknown);
}

#[test]
fn a_walk_that_events_were_lost_of_or_that_was_disturbed_teaches_nothing() {
    let (a, b) = (session(1, "a"), session(2, "b"));
    for flag in [SNAPSHOT_CHANGED, SNAPSHOT_INCOMPLETE] {
        let judged = story(|s| {
            s.create(a)
                .snapshot(|snapshot| _ = snapshot.flags(flag))
                .wait(LONG)
                .preserve(a, 1, memfd(1));
        });
        assert_eq!(judged.findings, []);
        // It shows what nobody else tells of.
        let model = model(|s| _ = s.snapshot(|snapshot| _ = snapshot.outgoing(b, &[(1, memfd(1))]).flags(flag)));
        assert_eq!(
            (model.counts().outgoing_sessions, files(&model, FileState::Preserved).0),
            (1, 1)
        );
    }
    let mut s = Story::new();
    s.create(a)
        .snapshot(|snapshot| _ = snapshot.outgoing(b, &[(1, memfd(1))]));
    let end = s.events.pop();
    s.push(crate::event::Body::Gap { lost: 1 });
    s.events.extend(end);
    let mut model = Model::new(&Coverage::all());
    s.events.iter().for_each(|event| assert_eq!(model.apply(event), &[]));
    assert_eq!(model.counts().outgoing_sessions, 1, "what was known stays as it was");
}

#[test]
fn an_operation_under_way_may_be_half_of_what_a_walk_finds() {
    let (a, b, c) = (session(1, "a"), session(2, "b"), session(3, "c"));
    let judged = story(|s| {
        // Given a session being made, and a file being preserved into another, when a walk finds both,
        s.snapshot(|snapshot| _ = snapshot.outgoing(a, &[]));
        let begun = s.now();
        s.wait(10).snapshot(|snapshot| {
            _ = snapshot
                .outgoing(a, &[(1, memfd(1))])
                .outgoing(b, &[])
                .flb("iommu", 1, 0)
        });
        // when their ends are seen,
        s.since(begun).create(b).since(begun).preserve(a, 1, memfd(1));
        // then that is no second session, and no second file.
        s.preserve(b, 1, memfd(2)).preserve(a, 2, memfd(3)).wait(LONG).create(c);
    });
    assert_eq!(judged.findings, []);
    // A session that is being released when a walk misses it is no lost one.
    holds(|s| {
        s.create(a);
        let begun = s.now();
        s.unpreserve_files(a, 0, |_| ()).snapshot(|_| ());
        s.since(begun).release(a, 0, |_| ()).wait(LONG).create(b);
    });
}

#[test]
fn a_count_of_sessions_that_is_not_theirs_is_found_in_time() {
    let a = session(1, "a");
    violates(Invariant::SessionCount, |s| {
        s.create(a)
            .snapshot(|snapshot| _ = snapshot.outgoing(a, &[]).miscounts(1, 0));
        s.wait(LONG).preserve(a, 1, memfd(1));
    });
    // A create that was under way explains it.
    holds(|s| {
        let begun = s.now();
        s.create(a)
            .wait(10)
            .snapshot(|snapshot| _ = snapshot.outgoing(a, &[]).miscounts(1, 0));
        s.since(begun)
            .create(session(2, "b"))
            .wait(LONG)
            .create(session(3, "c"));
    });
}

#[test]
fn a_session_that_vanishes_is_found() {
    let (a, b) = (session(1, "a"), session(2, "b"));
    let finding = violates(Invariant::SessionCount, |s| {
        s.create(a).snapshot(|_| ()).wait(LONG).create(b);
    });
    assert_eq!(finding.object.to_string(), "outgoing session \"a\"");
}

#[test]
fn a_count_of_files_that_is_not_theirs_is_found_by_a_walk() {
    let a = session(1, "a");
    violates(Invariant::FileCount, |s| {
        s.create(a)
            .snapshot(|snapshot| _ = snapshot.outgoing(a, &[]).miscounts(0, 1));
        s.wait(LONG).create(session(2, "b"));
    });
    violates(Invariant::FileCount, |s| {
        s.create(a)
            .preserve(a, 1, memfd(1))
            .snapshot(|snapshot| _ = snapshot.outgoing(a, &[]));
        s.wait(LONG).create(session(2, "b"));
    });
    // A preserve that was under way explains it.
    holds(|s| {
        s.create(a);
        let begun = s.now();
        s.wait(10)
            .snapshot(|snapshot| _ = snapshot.outgoing(a, &[]).miscounts(0, 1));
        s.since(begun)
            .preserve(a, 1, memfd(1))
            .wait(LONG)
            .create(session(2, "b"));
    });
}

#[test]
fn what_a_reboot_that_failed_dropped_is_found_by_the_next_walk() {
    let (a, b) = (session(1, "a"), session(2, "b"));
    let fails = |s: &mut Story| {
        s.create(a).preserve(a, 1, memfd(1)).failing(EIO).reboot();
        s.failing(EIO).kexec_returns();
    };
    violates(Invariant::RebootAbortRestores, |s| {
        fails(s);
        s.snapshot(|snapshot| _ = snapshot.outgoing(a, &[]))
            .wait(LONG)
            .create(b);
    });
    violates(Invariant::RebootAbortRestores, |s| {
        fails(s);
        s.snapshot(|_| ()).wait(LONG).create(b);
    });
    let judged = holds(|s| {
        fails(s);
        s.snapshot(|snapshot| _ = snapshot.outgoing(a, &[(1, memfd(1))]))
            .wait(LONG)
            .create(b);
    });
    assert_eq!(judged.verdict(Invariant::RebootAbortRestores).ok, 1);
}

#[test]
fn a_walk_that_finds_nothing_makes_the_balance_of_memory_known_again() {
    let a = session(1, "a");
    violates(Invariant::KhoBalance, |s| {
        s.gap().snapshot(|_| ()).create(a);
        s.release(a, 0, |s| {
            s.unpreserve_files(a, 0, |s| _ = s.pages(FilesUnpreserve, a, &[], &[1]));
        });
    });
}

#[test]
fn global_state_that_a_walk_found_unused_may_be_made() {
    holds(|s| {
        s.snapshot(|snapshot| _ = snapshot.flb("iommu", 0, 0));
        for _ in 0..2 {
            s.flb_preserve(MEMFD, |s| _ = s.flb_call(FlbCall::Preserve, "iommu", MEMFD, 0));
            s.flb_unpreserve(MEMFD, |s| _ = s.flb_call(FlbCall::Unpreserve, "iommu", MEMFD, 0));
        }
    });
}

#[test]
fn incoming_sessions_that_nobody_read_in_are_not_missing() {
    doubts(Invariant::SessionNameUnique, |s| {
        // (a gap, so that something is unknown)
        s.arrive(session(1, "a"), 1)
            .snapshot(|snapshot| _ = snapshot.unread())
            .gap();
    });
}

#[test]
fn a_file_that_is_on_its_way_out_when_a_walk_finds_it_is_no_later_one() {
    let a = session(1, "a");
    let judged = story(|s| {
        s.create(a).preserve(a, 1, memfd(1)).preserve(a, 2, memfd(2));
        s.release(a, 2, |s| {
            s.unpreserve_files(a, 2, |s| {
                s.unpreserve(a, memfd(2));
                // The handler has given it back, and the kernel still lists it.
                s.snapshot(|snapshot| _ = snapshot.outgoing(a, &[(1, memfd(1)), (2, memfd(2))]));
                s.unpreserve(a, memfd(1));
            });
        });
        s.wait(LONG).create(session(2, "b"));
    });
    assert_eq!(judged.findings, []);
}

#[test]
fn a_loss_that_a_walk_itself_reveals_does_not_spoil_it() {
    let (a, b) = (session(1, "a"), session(2, "b"));
    let model = model(|s| {
        s.create(a).push(crate::event::Body::Gap { lost: 1 });
        s.snapshot(|snapshot| _ = snapshot.outgoing(a, &[]).outgoing(b, &[(1, memfd(1))]));
    });
    assert_eq!(model.counts().outgoing_sessions, 2);
    assert_eq!(files(&model, FileState::Preserved).0, 1);
}

#[test]
fn what_a_session_kept_in_memory_before_a_walk_found_it_is_not_known() {
    let a = session(1, "a");
    let judged = story(|s| {
        s.snapshot(|snapshot| _ = snapshot.outgoing(a, &[(1, memfd(1))]));
        s.release(a, 1, |s| {
            s.unpreserve_files(a, 1, |s| {
                s.unpreserve(a, memfd(1)).pages(FilesUnpreserve, a, &[], &[1, 2]);
            });
        });
    });
    assert_eq!(judged.findings, []);
}

#[test]
fn a_walk_from_before_the_time_up_to_which_something_was_missed_proves_nothing() {
    let a = session(1, "a");
    let missed_until = |s: &mut Story, ns: u64| {
        s.push(Body::Gap { lost: 1 });
        if let Some(gap) = s.events.last_mut() {
            gap.header.ktime += ns;
        }
    };
    let story = |s: &mut Story| {
        // a walk that found all that the kernel counts, and after it a token that is given a second time,
        s.snapshot(|snapshot| _ = snapshot.outgoing(a, &[(1, memfd(1))]));
        s.wait(20_000_000).preserve(a, 1, memfd(2));
    };
    // Given that programs were skipped by a time after
    doubts(Invariant::FileTokenUnique, |s| {
        missed_until(s, 500_000);
        story(s);
    });
    // then that is no finding, as it is where they were skipped before.
    violates(Invariant::FileTokenUnique, |s| {
        missed_until(s, 0);
        story(s.wait(1));
    });
}
