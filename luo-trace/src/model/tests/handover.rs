//! What waits to be read in: it shows, it counts once, and nothing hangs on it.

use luo_trace_common::OWN_SESSION;
use luo_trace_common::events::{HANDOVER_NOTHING, HANDOVER_TOO_LATE, Handover, SNAPSHOT_CHANGED};

use crate::event::Body;
use crate::model::{Coverage, FileState, Model};
use crate::testing::{MEMFD, Story, session};

fn model(tell: impl FnOnce(&mut Story)) -> Model {
    let mut story = Story::new();
    tell(&mut story);
    let mut model = Model::new(&Coverage::all());
    for event in &story.events {
        assert_eq!(model.apply(event), &[]);
    }
    assert_eq!(model.finish(), &[]);
    model
}

/// Sessions and files that are pending, and how many of the sessions wait to be read in.
fn pending(tell: impl FnOnce(&mut Story)) -> (u64, u64, usize) {
    let model = model(tell);
    let counts = model.counts();
    assert_eq!(counts.incoming_sessions, counts.pending_sessions);
    (counts.pending_sessions, counts.pending_files(), model.waiting().count())
}

/// A reading that found nothing, for this reason.
fn nothing_found(flags: u32) -> Body {
    Body::Handover(Handover {
        flags,
        ..Handover::default()
    })
}

/// Two sessions arrive, with three files.
fn two_arrive(story: &mut Story) -> &mut Story {
    story.handover(&[("b", &[7, 8]), ("a", &[7])], &[("iommu", 3)])
}

#[test]
fn what_arrived_is_listed_by_name_with_its_files_before_anybody_reads_it_in() {
    let model = model(|s| _ = two_arrive(s).snapshot(|snapshot| _ = snapshot.unread()));
    let listed: Vec<_> = model
        .waiting()
        .map(|view| {
            let tokens: Vec<_> = view
                .files()
                .map(|f| (f.token, f.handler.to_string(), f.state))
                .collect();
            (view.name().to_string(), tokens)
        })
        .collect();
    let file = |token| (token, MEMFD.to_owned(), FileState::Pending);
    assert_eq!(
        listed,
        [
            ("a".to_owned(), vec![file(7)]),
            ("b".to_owned(), vec![file(7), file(8)])
        ]
    );
    assert_eq!(model.sessions().count(), 0, "LUO knows none of them yet");
}

#[test]
fn what_is_read_in_counts_once() {
    assert_eq!(pending(|s| _ = two_arrive(s)), (2, 3, 2));
    // While the first of two is read in, and when both are.
    assert_eq!(
        pending(|s| {
            two_arrive(s).arrive(session(1, "b"), 2);
        }),
        (1, 2, 0)
    );
    assert_eq!(
        pending(|s| {
            two_arrive(s)
                .arrive(session(1, "b"), 2)
                .arrive(session(2, "a"), 1)
                .read_in();
        }),
        (2, 3, 0)
    );
    // A reading in that fails before the first session: what is left of it nobody knows.
    assert_eq!(pending(|s| _ = two_arrive(s).failing(12).read_in()), (0, 0, 0));
}

#[test]
fn a_look_that_comes_after_the_reading_in_began_shows_nothing() {
    // The reading in was told before the end of the reading, as it may be.
    assert_eq!(pending(|s| _ = two_arrive(s.arrive(session(1, "b"), 2))), (1, 2, 0));
    assert_eq!(
        pending(|s| _ = two_arrive(s).push(nothing_found(HANDOVER_TOO_LATE))),
        (0, 0, 0)
    );
    assert_eq!(pending(|s| _ = s.push(nothing_found(HANDOVER_NOTHING))), (0, 0, 0));
}

#[test]
fn a_second_look_replaces_the_first() {
    assert_eq!(pending(|s| _ = two_arrive(two_arrive(s))), (2, 3, 2));
}

#[test]
fn a_walk_that_finds_the_lists_read_in_ends_the_waiting() {
    // Given that the record lost the reading in,
    let lost = |s: &mut Story| _ = two_arrive(s).gap().wait(1_000_000_000);
    assert_eq!(
        pending(|s| {
            lost(s);
            s.snapshot(|snapshot| {
                snapshot.incoming(session(1, "b"), false, &[]);
            });
        }),
        (1, 0, 0)
    );
    // then a walk that was disturbed tells that, too,
    assert_eq!(
        pending(|s| {
            lost(s);
            s.snapshot(|snapshot| _ = snapshot.flags(SNAPSHOT_CHANGED));
        }),
        (0, 0, 0)
    );
    // and one that finds them unread does not.
    assert_eq!(
        pending(|s| {
            lost(s);
            s.snapshot(|snapshot| _ = snapshot.unread());
        }),
        (2, 3, 2)
    );
}

#[test]
fn what_was_found_in_part_is_shown_as_far_as_it_goes() {
    let partly = |s: &mut Story| {
        s.handover(&[("b", &[7])], &[]);
        match s.events.last_mut().map(|event| &mut event.body) {
            Some(Body::Handover(p)) => p.flags = 0,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(pending(partly), (1, 1, 1));
}

#[test]
fn the_recorders_own_session_is_shown_and_not_counted() {
    let arrive = |s: &mut Story| _ = s.handover(&[(OWN_SESSION, &[1]), ("b", &[7])], &[]);
    assert_eq!(pending(arrive), (1, 1, 2));
    let own: Vec<_> = model(arrive).waiting().map(|view| view.is_own()).collect();
    assert_eq!(own, [false, true]);
    assert_eq!(
        pending(|s| {
            arrive(s);
            s.failing(12).read_in();
        }),
        (0, 0, 0)
    );
}
