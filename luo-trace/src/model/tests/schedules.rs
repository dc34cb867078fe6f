//! Random schedules: legal ones give no finding, wherever the record stops; one broken rule gives the right finding; and a
//! record with losses never says more than the whole one.

use std::cell::Cell;
use std::collections::BTreeSet;

use luo_trace_common::events::{FileCall, FlbCall, IMAGE_LEGACY, INCOMING, OUTGOING};
use luo_trace_common::hooks::Hook;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::{Coverage, Model, judge};
use crate::event::{Body, Event};
use crate::model::{FileCount, Invariant, Status, Subject};
use crate::testing::{Deed, Fault, Lists, Plan, cases, with_change, with_losses, with_misses};

fn deed() -> impl Strategy<Value = Deed> {
    let fault = prop_oneof![8 => Just(Fault::None), 1 => Just(Fault::Handler), 1 => (0u8..2).prop_map(Fault::Flb)];
    let (session, name, token, file) = (0u8..3, 0u8..3, 0u8..4, 0u8..6);
    prop_oneof![
        4 => name.prop_map(|name| Deed::Create { name }),
        12 => (session.clone(), token.clone(), file, fault.clone())
            .prop_map(|(session, token, file, fault)| Deed::Preserve { session, token, file, fault }),
        4 => (0u8..2).prop_map(|name| Deed::RetrieveSession { name }),
        6 => (session.clone(), token, fault.clone())
            .prop_map(|(session, token, fault)| Deed::Retrieve { session, token, fault }),
        1 => (session.clone(), fault.clone()).prop_map(|(session, fault)| Deed::Finish { session, fault }),
        4 => session.prop_map(|session| Deed::Close { session }),
        1 => fault.prop_map(|fault| Deed::Reboot { fault }),
        2 => Just(Deed::Open),
        2 => Just(Deed::Shut),
        1 => (0u8..2).prop_map(|flb| Deed::Get { flb }),
        2 => (0u8..2).prop_map(|flb| Deed::Put { flb }),
        1 => Just(Deed::Snapshot),
    ]
}

pub(super) fn plan() -> impl Strategy<Value = Plan> {
    let incoming = prop::collection::vec(0u8..4, 0..3);
    let tasks = prop::collection::vec(prop::collection::vec(deed(), 0..10), 1..4);
    let order = prop::collection::vec(any::<u8>(), 1..60);
    (incoming, tasks, order, any::<bool>()).prop_map(|(incoming, tasks, order, snapshot)| Plan {
        incoming,
        tasks,
        order,
        snapshot,
    })
}

/// What is violated, of what.
fn broken(events: &[Event]) -> BTreeSet<(Invariant, String)> {
    let findings = judge(events).findings;
    findings
        .into_iter()
        .map(|f| (f.invariant, f.object.to_string()))
        .collect()
}

/// The same, of files by their sessions only: the token may be told by an event that is lost.
fn broken_at_large(events: &[Event]) -> BTreeSet<(Invariant, String)> {
    let at_large = |object| match object {
        Subject::File { session, .. } => Subject::File { session, token: None },
        other => other,
    };
    let findings = judge(events).findings;
    findings
        .into_iter()
        .map(|f| (f.invariant, at_large(f.object).to_string()))
        .collect()
}

fn places(events: &[Event], of: impl Fn(&Body) -> bool) -> Vec<usize> {
    (0..events.len()).filter(|&place| of(&events[place].body)).collect()
}

/// A quiet end: time passes, and something else happens.
fn later(events: &mut Vec<Event>) {
    if let Some(mut last) = events.last().cloned() {
        last.header.ktime += super::LONG;
        last.header.seq += 1;
        last.body = Body::SessionDeserialize(Default::default());
        events.push(last);
    }
}

proptest! {
    #![proptest_config(cases(10_000))]

    #[test]
    fn a_legal_schedule_gives_no_finding(plan in plan()) {
        let events = plan.run();
        prop_assert_eq!(broken(&events), BTreeSet::new());
    }
}

proptest! {
    #![proptest_config(cases(1500))]

    #[test]
    fn a_legal_schedule_gives_no_finding_wherever_the_record_stops(plan in plan(), end in any::<prop::sample::Index>()) {
        let events = plan.run();
        let end = end.index(events.len() + 1);
        prop_assert_eq!(broken(&events[..end]), BTreeSet::new());
    }

    #[test]
    fn losses_never_make_a_legal_schedule_look_broken(plan in plan(), lost in prop::collection::vec(prop::bool::weighted(0.1), 1..80)) {
        let events = plan.run();
        let left = with_losses(&events, |place| lost[place % lost.len()]);
        let judged = judge(&left);
        prop_assert_eq!(&judged.findings, &[]);
        if left.iter().any(|e| matches!(e.body, Body::Gap { .. })) {
            prop_assert!(judged.verdicts.iter().all(|v| v.status == Status::Unknown));
        }
    }

    #[test]
    fn programs_that_were_skipped_unseen_never_make_a_legal_schedule_look_broken(
        plan in plan(),
        sizes in prop::collection::vec(1usize..20, 1..40),
        lost in prop::collection::vec(prop::bool::weighted(0.05), 1..80),
    ) {
        let events = plan.run();
        prop_assert_eq!(broken(&with_misses(&events, &sizes, |place| lost[place % lost.len()])), BTreeSet::new());
    }

    #[test]
    fn a_walk_after_losses_is_no_alarm_and_makes_the_counts_those_of_the_kernel(
        plan in plan(),
        lost in prop::collection::vec(prop::bool::weighted(0.2), 1..80),
    ) {
        let (events, walk, lists) = plan.run_with_snapshot();
        let left = with_losses(&events, |place| place < walk && lost[place % lost.len()]);
        let mut model = Model::new(&Coverage::all());
        for event in &left {
            prop_assert_eq!(model.apply(event), &[]);
        }
        let counts = model.counts();
        let sum = |of: fn(&FileCount) -> u64| counts.files().map(|count| of(&count)).sum::<u64>();
        let known = Lists {
            outgoing_sessions: counts.outgoing_sessions,
            incoming_sessions: counts.incoming_sessions,
            files: sum(|count| count.files),
            bytes: sum(|count| count.bytes),
        };
        prop_assert_eq!(known, lists);
    }

    #[test]
    fn losses_never_make_a_broken_record_look_worse(
        plan in plan(),
        change in any::<prop::sample::Index>(),
        what in 0u8..6,
        lost in prop::collection::vec(prop::bool::weighted(0.05), 1..80),
    ) {
        // Given a record that cannot be,
        let mut plan = plan;
        without_walks(&mut plan);
        let mut events = plan.run();
        if events.is_empty() {
            return Ok(());
        }
        let place = change.index(events.len());
        changed(&mut events, place, what);
        later(&mut events);
        // when events are lost, then nothing is found that the whole record does not show, but for which file of a session it is.
        let whole = broken_at_large(&events);
        let left = broken_at_large(&with_losses(&events, |place| lost[place % lost.len()]));
        prop_assert!(left.is_subset(&whole), "left {left:#?}\nwhole {whole:#?}");
    }
}

/// Makes a record one that cannot be: an event left out, told twice, moved, late, of another session, or with another outcome.
fn changed(events: &mut Vec<Event>, place: usize, what: u8) {
    match what {
        0 => _ = events.remove(place),
        1 => events.insert(place, events[place].clone()),
        2 => {
            let event = events.remove(place);
            events.insert(place / 2, event);
        }
        3 => events[place].header.ktime += super::LONG,
        4 => {
            let session = events[place].session().copied();
            let other = events
                .iter()
                .filter_map(|e| e.session())
                .find(|s| Some(**s) != session)
                .copied();
            *events = with_change(events, place, |body| {
                if let (Body::FilePreserve(p) | Body::FileRetrieve(p), Some(other)) = (body, other) {
                    p.session = other;
                }
                true
            });
        }
        _ => {
            *events = with_change(events, place, |body| {
                if let Body::FlbCallback(_, p) = body {
                    p.users = 1;
                }
                if let Body::SessionCreate(p) | Body::SessionRetrieve(p) = body {
                    p.outcome.result = 0;
                }
                true
            })
        }
    }
}

/// What is under way when a walk teaches something is not judged: with fewer walks, more is found.
fn without_walks(plan: &mut Plan) {
    for deeds in &mut plan.tasks {
        deeds.retain(|deed| *deed != Deed::Snapshot);
    }
}

/// Runs plans, breaks each that has a place for it, and asserts that the findings name this invariant. Plans without one count
/// for nothing until some had one: a few hundred may lack it.
fn every_break_is_found(invariant: Invariant, breaks: impl Fn(&[Event]) -> Option<Vec<Event>>) {
    const FEW: u32 = 3;
    let tried = Cell::new(0);
    let mut runner = TestRunner::new(Config {
        max_global_rejects: 20_000,
        ..cases(800)
    });
    let result = runner.run(&plan(), |mut plan| {
        without_walks(&mut plan);
        let Some(mut events) = breaks(&plan.run()) else {
            prop_assume!(tried.get() >= FEW, "no place for it");
            return Ok(());
        };
        tried.set(tried.get() + 1);
        later(&mut events);
        let found = broken(&events);
        prop_assert!(found.iter().any(|(i, _)| *i == invariant), "found only {found:#?}");
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[test]
fn an_unpreserve_that_is_left_out_is_found() {
    every_break_is_found(Invariant::FileBalance, |events| {
        let place = *places(events, |b| matches!(b, Body::FileCallback(FileCall::Unpreserve, _))).last()?;
        // Only where the session's give-back is seen to end.
        let given = |b: &Body| matches!(b, Body::FilesUnpreserve(p) if p.outcome.duration > 0);
        places(&events[place..], given).first()?;
        Some(with_change(events, place, |_| false))
    });
}

#[test]
fn a_create_that_happens_twice_is_found() {
    every_break_is_found(Invariant::SessionNameUnique, |events| {
        let place = *places(events, |b| matches!(b, Body::SessionCreate(p) if p.outcome.is_ok())).first()?;
        let mut twice = events.to_vec();
        let mut again = events[place].clone();
        again.header.ktime += 1;
        if let Body::SessionCreate(p) = &mut again.body {
            p.session.id = 0x77;
            p.outcome.duration = 1;
        }
        // Only where the first one lives on: nothing more happens.
        twice.truncate(place + 1);
        twice.push(again);
        Some(twice)
    });
}

#[test]
fn global_state_that_is_made_twice_is_found() {
    every_break_is_found(Invariant::FlbCreateOnFirst, |events| {
        let made = |b: &Body| matches!(b, Body::FlbCallback(FlbCall::Preserve, p) if p.outcome.is_ok());
        let place = *places(events, made).first()?;
        let mut twice = events.to_vec();
        twice.insert(place + 1, events[place].clone());
        Some(twice)
    });
}

#[test]
fn global_state_that_is_destroyed_early_is_found() {
    every_break_is_found(Invariant::FlbDestroyOnLast, |events| {
        let gone = |b: &Body| matches!(b, Body::FlbCallback(FlbCall::Unpreserve, _));
        let place = *places(events, gone).first()?;
        Some(with_change(events, place, |body| {
            if let Body::FlbCallback(_, p) = body {
                p.users = 1;
            }
            true
        }))
    });
}

#[test]
fn global_state_that_is_not_destroyed_is_found() {
    every_break_is_found(Invariant::FlbDestroyOnLast, |events| {
        // Given a record that ends with every session closed,
        let gone = |b: &Body| matches!(b, Body::FlbCallback(FlbCall::Unpreserve, _));
        let place = *places(events, gone).last()?;
        if is_rolled_back(events, place) {
            return None;
        }
        let live = |b: &Body| matches!(b, Body::SessionCreate(p) if p.outcome.is_ok());
        let closed = |b: &Body| matches!(b, Body::SessionRelease(p) if p.direction == 1);
        let made = |b: &Body| matches!(b, Body::FlbCallback(FlbCall::Preserve, _) | Body::LiveupdateReboot(_));
        if places(events, live).len() != places(events, closed).len() || !places(&events[place..], made).is_empty() {
            return None;
        }
        Some(with_change(events, place, |_| false))
    });
}

/// Whether this callback of global state is part of a joining that fails.
fn is_rolled_back(events: &[Event], place: usize) -> bool {
    let pid = events[place].header.pid;
    let mut later = events[place..].iter().filter(|e| e.header.pid == pid);
    let end = later.find(|e| matches!(e.body, Body::FlbPreserve(_) | Body::FlbUnpreserve(_)));
    end.is_some_and(|e| matches!(e.body, Body::FlbPreserve(_)))
}

#[test]
fn global_state_that_a_failed_joining_leaves_behind_is_found() {
    // Given a file whose second global state cannot be made, so that the first one is taken down again,
    let (session, token, file) = (0, 0, 0);
    let deeds = vec![
        Deed::Create { name: 0 },
        Deed::Preserve {
            session,
            token,
            file,
            fault: Fault::Flb(1),
        },
        Deed::Close { session },
    ];
    let plan = Plan {
        tasks: vec![deeds],
        ..Plan::default()
    };
    let events = plan.run();
    let gone = |b: &Body| matches!(b, Body::FlbCallback(FlbCall::Unpreserve, _));
    let place = places(&events, gone)[0];
    assert!(is_rolled_back(&events, place));
    // when that does not happen, then it is found.
    let mut left = with_change(&events, place, |_| false);
    later(&mut left);
    let found: Vec<_> = broken(&left).into_iter().map(|(invariant, _)| invariant).collect();
    assert_eq!(found, [Invariant::FlbRollback]);
}

#[test]
fn a_handler_that_is_asked_again_is_found() {
    every_break_is_found(Invariant::FileRetrieveOnce, |events| {
        let place = *places(events, |b| matches!(b, Body::FileCallback(FileCall::Retrieve, _))).first()?;
        let mut twice = events.to_vec();
        twice.insert(place + 1, events[place].clone());
        Some(twice)
    });
}

#[test]
fn a_session_that_is_retrieved_again_is_found() {
    every_break_is_found(Invariant::SessionRetrieveOnce, |events| {
        let place = *places(events, |b| matches!(b, Body::SessionRetrieve(p) if p.outcome.is_ok())).first()?;
        let mut twice = events.to_vec();
        twice.insert(place + 1, events[place].clone());
        Some(twice)
    });
}

#[test]
fn a_token_or_an_object_that_is_preserved_again_is_found() {
    for invariant in [Invariant::FileTokenUnique, Invariant::FileObjectUnique] {
        every_break_is_found(invariant, |events| {
            let place = *places(events, |b| matches!(b, Body::FilePreserve(p) if p.outcome.is_ok())).first()?;
            let mut twice = events.to_vec();
            twice.insert(place + 1, events[place].clone());
            Some(twice)
        });
    }
}

#[test]
fn files_unpreserved_in_the_wrong_order_are_found() {
    every_break_is_found(Invariant::FileBalance, |events| {
        // Given two files of one session that are given back one after the other, when they change places,
        let back = places(events, |b| matches!(b, Body::FileCallback(FileCall::Unpreserve, _)));
        let of = |place: usize| match &events[place].body {
            Body::FileCallback(_, p) => (p.session.id, events[place].header.pid, p.file),
            _ => (0, 0, 0),
        };
        let pair = back
            .windows(2)
            .find(|w| (of(w[0]).0, of(w[0]).1) == (of(w[1]).0, of(w[1]).1))?;
        let (first, second) = (of(pair[0]).2, of(pair[1]).2);
        // (not two sessions that had the same id)
        let between = &events[pair[0]..pair[1]];
        if !places(between, |b| {
            matches!(b, Body::SessionCreate(_) | Body::FilesUnpreserve(_))
        })
        .is_empty()
        {
            return None;
        }
        let mut swapped = events.to_vec();
        for (place, file) in [(pair[0], second), (pair[1], first)] {
            swapped = with_change(&swapped, place, |body| {
                if let Body::FileCallback(_, p) = body {
                    p.file = file;
                }
                true
            });
        }
        Some(swapped)
    });
}

/// The events with another one of the same task after this place, a moment later.
fn twice(events: &[Event], place: usize) -> Vec<Event> {
    let mut twice = events.to_vec();
    twice.insert(place + 1, events[place].clone());
    twice
}

#[test]
fn what_is_opened_restored_or_finished_again_is_found() {
    every_break_is_found(Invariant::FlbRestoreOnce, |events| {
        let place = *places(events, |b| matches!(b, Body::FlbCallback(FlbCall::Retrieve, _))).first()?;
        Some(twice(events, place))
    });
    every_break_is_found(Invariant::FileFinishOnce, |events| {
        let finish = |b: &Body| matches!(b, Body::FileCallback(FileCall::Finish, p) if p.file != 0);
        Some(twice(events, *places(events, finish).first()?))
    });
    every_break_is_found(Invariant::DeviceExclusive, |events| {
        let place = *places(events, |b| matches!(b, Body::DeviceOpen(p) if p.outcome.is_ok())).last()?;
        let closed = |b: &Body| matches!(b, Body::DeviceRelease(_));
        let closed = !places(&events[place..], closed).is_empty();
        (!closed).then(|| twice(events, place))
    });
}

#[test]
fn what_a_handler_is_told_wrongly_is_found() {
    every_break_is_found(Invariant::FileFinishTruth, |events| {
        let finish = |b: &Body| matches!(b, Body::FileCallback(FileCall::Finish, p) if p.file != 0);
        let place = *places(events, finish).first()?;
        Some(with_change(events, place, |body| {
            if let Body::FileCallback(_, p) = body {
                p.retrieve_status = 0;
            }
            true
        }))
    });
}

#[test]
fn a_session_that_is_closed_and_not_finished_is_found() {
    every_break_is_found(Invariant::SessionReleaseFinishes, |events| {
        let release = |b: &Body| matches!(b, Body::SessionRelease(p) if p.direction == INCOMING && p.files > 0);
        let place = *places(events, release).first()?;
        let finish = |b: &Body| matches!(b, Body::FilesFinish(p) if p.outcome.is_ok());
        let pid = events[place].header.pid;
        let finishes = places(&events[..place], finish);
        let finish = finishes.into_iter().rfind(|&place| events[place].header.pid == pid)?;
        Some(with_change(events, finish, |_| false))
    });
}

#[test]
fn a_page_that_is_kept_is_found() {
    every_break_is_found(Invariant::KhoBalance, |events| {
        let hook = Hook::FilePreserve as u32;
        let kept = |b: &Body| matches!(b, Body::KhoBalance(p) if p.operation == hook && p.outcome.is_ok());
        let place = *places(events, kept).first()?;
        let session = events[place].session()?.id;
        // Only where its session is given back, and all others are, before the kernel preserves what it hands over.
        let given = |b: &Body| matches!(b, Body::FilesUnpreserve(p) if p.session.id == session);
        places(&events[place..], given).first()?;
        let live = |b: &Body| matches!(b, Body::SessionCreate(p) if p.outcome.is_ok());
        let closed = |b: &Body| matches!(b, Body::SessionRelease(p) if p.direction == OUTGOING);
        let put = |b: &Body| matches!(b, Body::FlbGet(p) if p.outcome.is_ok());
        if places(events, live).len() != places(events, closed).len() || !places(events, put).is_empty() {
            return None;
        }
        let jump = places(events, |b| matches!(b, Body::KexecEnter(_)));
        if jump
            .first()
            .is_some_and(|jump| places(events, closed).last() > Some(jump))
        {
            return None;
        }
        Some(with_change(events, place, |body| {
            if let Body::KhoBalance(p) = body {
                p.added.sum = p.added.sum.wrapping_add(7);
            }
            true
        }))
    });
    every_break_is_found(Invariant::FileErrorAtomic, |events| {
        let hook = Hook::FilePreserve as u32;
        let failed = |b: &Body| matches!(b, Body::KhoBalance(p) if p.operation == hook && !p.outcome.is_ok());
        // Only where no other file has a part in it, and no global state: its page may be another file's by the end.
        let alone = |p: &Body| matches!(p, Body::KhoBalance(p) if p.added == p.removed && p.added.pages == 1);
        let has_state = |place: usize| {
            let task = events[place].header.pid;
            let its = events[..place].iter().rev().filter(|event| event.header.pid == task);
            let mut within =
                its.take_while(|event| !matches!(event.body, Body::FilePreserve(_) | Body::SessionCreate(_)));
            within.any(|event| matches!(event.body, Body::FlbCallback(..)))
        };
        let place = places(events, failed)
            .into_iter()
            .find(|&place| alone(&events[place].body) && !has_state(place))?;
        Some(with_change(events, place, |body| {
            if let Body::KhoBalance(p) = body {
                p.removed.pages -= 1;
            }
            true
        }))
    });
}

#[test]
fn a_count_that_is_wrong_is_found() {
    every_break_is_found(Invariant::FileCount, |events| {
        let counted = |b: &Body| matches!(b, Body::FilesFreeze(p) | Body::FilesFinish(p) if p.files > 0);
        let place = *places(events, counted).first()?;
        Some(with_change(events, place, |body| {
            if let Body::FilesFreeze(p) | Body::FilesFinish(p) = body {
                p.files += 1;
            }
            true
        }))
    });
    every_break_is_found(Invariant::FlbCount, |events| {
        let place = *places(events, |b| matches!(b, Body::FlbRecord(_))).first()?;
        Some(with_change(events, place, |body| {
            if let Body::FlbRecord(p) = body {
                p.users -= 1;
            }
            true
        }))
    });
    every_break_is_found(Invariant::SessionCount, |events| {
        let end = |b: &Body| matches!(b, Body::SnapshotEnd(_));
        let place = *places(events, end).first()?;
        Some(with_change(events, place, |body| {
            if let Body::SnapshotEnd(p) = body {
                p.incoming_sessions += 1;
            }
            true
        }))
    });
}

#[test]
fn an_image_that_carries_nothing_is_found() {
    every_break_is_found(Invariant::KexecCarrier, |events| {
        let serialized = |b: &Body| matches!(b, Body::SessionSerialize(p) if p.outcome.is_ok());
        let place = *places(events, serialized).first()?;
        // Only where a session is seen to be made before: the end of its create may be told later.
        let live = |b: &Body| matches!(b, Body::SessionCreate(p) if p.outcome.is_ok());
        let closed = |b: &Body| matches!(b, Body::SessionRelease(p) if p.direction == OUTGOING);
        if places(&events[..place], live).len() <= places(events, closed).len() {
            return None;
        }
        let mut events = events.to_vec();
        for event in &mut events {
            if let Body::KexecEnter(p) = &mut event.body {
                (p.image.mode, p.image.id) = (IMAGE_LEGACY, 7);
            }
        }
        Some(events)
    });
}

#[test]
fn a_file_that_comes_after_the_serialization_is_found() {
    every_break_is_found(Invariant::FrozenImmutable, |events| {
        let serialized = |b: &Body| matches!(b, Body::SessionSerialize(p) if p.outcome.is_ok());
        let place = *places(events, serialized).first()?;
        let preserved = *places(events, |b| matches!(b, Body::FilePreserve(p) if p.outcome.is_ok())).first()?;
        let mut late = events[preserved].clone();
        late.header.ktime = events[place].header.ktime + 10;
        let mut events = events.to_vec();
        events.insert(place + 1, late);
        Some(events)
    });
}

#[test]
fn a_session_that_stays_frozen_is_found() {
    // Given two sessions with a file each, and a freeze that fails at the second,
    let preserve = |session| Deed::Preserve {
        session,
        token: 0,
        file: session,
        fault: Fault::None,
    };
    let fault = Fault::Handler;
    let deeds = vec![
        Deed::Create { name: 0 },
        Deed::Create { name: 1 },
        preserve(0),
        preserve(1),
        Deed::Reboot { fault },
    ];
    let plan = Plan {
        tasks: vec![deeds],
        ..Plan::default()
    };
    let events = plan.run();
    let found = |events: &[Event]| {
        broken(events)
            .into_iter()
            .map(|(invariant, _)| invariant)
            .collect::<Vec<_>>()
    };
    assert_eq!(found(&events), []);
    // when the first one's unfreeze is left out, or done twice, then that is found.
    let place = places(&events, |b| matches!(b, Body::FilesUnfreeze(_)))[0];
    assert_eq!(
        found(&with_change(&events, place, |_| false)),
        [Invariant::FreezeRollback]
    );
    assert_eq!(found(&twice(&events, place)), [Invariant::FreezeRollback]);
}

/// Found by the schedules above: one walk in some thousands falls into the middle of a driver's get.
#[test]
fn a_reference_that_is_taken_during_a_walk_leaves_it_open_who_uses_the_state() {
    let preserve = |session, token, file| Deed::Preserve {
        session,
        token,
        file,
        fault: Fault::None,
    };
    let keeper = vec![
        Deed::Create { name: 0 },
        preserve(0, 0, 0),
        preserve(0, 1, 0),
        Deed::Get { flb: 0 },
    ];
    let looker = vec![
        Deed::Create { name: 1 },
        preserve(0, 0, 4),
        Deed::Snapshot,
        Deed::Close { session: 0 },
        Deed::Close { session: 0 },
    ];
    for order in 0..2000u32 {
        let mix = |step: u32| (order.wrapping_mul(0x9E37_79B9).rotate_left(step % 31) ^ step) as u8;
        let plan = Plan {
            tasks: vec![keeper.clone(), looker.clone()],
            order: (0..60).map(mix).collect(),
            ..Plan::default()
        };
        assert_eq!(broken(&plan.run()), BTreeSet::new(), "order {order}");
    }
}

/// Found by the schedules above: what the driver's last reference took down was told with the same task's next session.
#[test]
fn memory_that_a_drivers_reference_gives_back_is_told_of_no_session() {
    let (session, token, file, fault) = (0, 0, 0, Fault::None);
    let close = Deed::Close { session };
    let deeds = [
        Deed::Create { name: 0 },
        Deed::Preserve {
            session,
            token,
            file,
            fault,
        },
        Deed::Get { flb: 0 },
        close,
        Deed::Put { flb: 0 },
        Deed::Create { name: 0 },
        close,
    ];
    let tasks = vec![deeds.to_vec()];
    let plan = Plan {
        tasks,
        ..Plan::default()
    };
    assert_eq!(broken(&plan.run()), BTreeSet::new());
}

/// Found by the schedules above: a walk that falls between the end of its last user and its own finds incoming state unfinished.
#[test]
fn incoming_state_is_finished_when_its_driver_says_so_and_not_before() {
    let closer = vec![Deed::RetrieveSession { name: 0 }, Deed::Close { session: 0 }];
    for steps in 0..60 {
        let plan = Plan {
            incoming: vec![1],
            tasks: vec![closer.clone(), vec![Deed::Snapshot]],
            // The second task waits for so many steps of the first.
            order: (0..60)
                .map(|step| u8::from((steps..steps + 2).contains(&step)))
                .collect(),
            snapshot: false,
        };
        let events = plan.run();
        let walk = places(&events, |b| matches!(b, Body::SnapshotBegin(_)))[0];
        let lost = places(&events, |b| matches!(b, Body::SessionDeserialize(_)))[0];
        let told = with_losses(&events, |place| place == lost);
        assert_eq!(broken(&told), BTreeSet::new(), "walk at {walk}");
    }
}
