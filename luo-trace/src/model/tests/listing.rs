//! What the model says is there.

use luo_trace_common::events::FlbCall;
use luo_trace_common::text::Comm;

use super::LONG;
use crate::model::{Coverage, Direction, FileState, Model, SessionState};
use crate::testing::{MEMFD, Story, memfd, session};

fn model(tell: impl FnOnce(&mut Story)) -> Model {
    let mut story = Story::new();
    tell(&mut story);
    let mut model = Model::new(&Coverage::all());
    story.events.iter().for_each(|event| _ = model.apply(event));
    model
}

/// Files by state, and their bytes.
fn files(model: &Model, state: FileState) -> (u64, u64) {
    let of_state = model.counts().files().filter(|f| f.state == state);
    of_state.fold((0, 0), |sum, f| (sum.0 + f.files, sum.1 + f.bytes))
}

#[test]
fn outgoing_sessions_and_files_are_counted_and_listed() {
    let (a, b) = (session(1, "b"), session(2, "a"));
    let model = model(|s| {
        s.create(a)
            .create(b)
            .preserve(a, 1, memfd(1))
            .preserve(a, 2, memfd(0))
            .preserve(b, 3, memfd(2));
        s.close(b, &[(3, memfd(2))]);
    });
    let counts = model.counts();
    assert_eq!(counts.sessions(Direction::Outgoing), 1);
    assert_eq!(files(&model, FileState::Preserved), (2, 3 * 4096));
    assert_eq!(counts.retired, 2);
    let sessions: Vec<_> = model.sessions().collect();
    assert_eq!(sessions[0].name(), a.name);
    assert_eq!(
        (sessions[0].direction(), sessions[0].state()),
        (Direction::Outgoing, SessionState::Open)
    );
    let listed: Vec<_> = sessions[0]
        .files()
        .map(|f| (f.token, f.handler.to_string(), f.size))
        .collect();
    assert_eq!(listed, [(1, MEMFD.to_string(), 8192), (2, MEMFD.to_string(), 4096)]);
}

#[test]
fn a_session_whose_release_is_not_told_counts_until_that_is_lost_or_overdue() {
    // Given a session whose memory went to another one before its release was seen to end,
    let (old, new) = (session(1, "old"), session(1, "new"));
    let outgoing = |then: fn(&mut Story)| {
        let model = model(|s| then(s.create(old).preserve(old, 1, memfd(1)).create(new)));
        let counts = model.counts();
        (counts.outgoing_sessions, files(&model, FileState::Preserved).0)
    };
    assert_eq!(outgoing(|_| ()), (2, 1));
    // when events are lost, its release's end may be among them; and after a while it does not come any more.
    assert_eq!(outgoing(|s| _ = s.gap()), (1, 0));
    assert_eq!(outgoing(|s| _ = s.wait(2 * LONG).read_in()), (1, 0));
}

#[test]
fn who_took_a_session_and_when_is_told_where_it_was_seen() {
    let (a, b) = (session(1, "a"), session(2, "b"));
    let mut story = Story::new();
    story.by(7).create(a);
    let made = story.now();
    story.preserve(a, 1, memfd(1));
    let preserved = story.now();
    // One that was there before the record is met by what is done with it.
    story.by(8).preserve(b, 1, memfd(2));
    let model = model(|s| s.events = story.events);
    let sessions: Vec<_> = model.sessions().collect();
    assert_eq!(sessions[0].born(), Some(made));
    assert_eq!(sessions[0].taken_by().map(|task| task.pid), Some(7));
    assert_eq!(sessions[0].files().next().unwrap().since, Some(preserved));
    assert_eq!((sessions[1].born(), sessions[1].taken_by()), (None, None));
}

#[test]
fn a_freeze_and_its_undoing_show() {
    let a = session(1, "a");
    let mut story = Story::new();
    story.create(a).preserve(a, 1, memfd(1)).freeze_files(a, 1);
    let mut model = Model::new(&Coverage::all());
    story.events.iter().for_each(|event| _ = model.apply(event));
    assert_eq!(files(&model, FileState::Frozen).0, 1);
    assert_eq!(model.sessions().next().unwrap().state(), SessionState::Frozen);
}

#[test]
fn incoming_sessions_and_files_are_pending_until_they_are_taken() {
    let (a, b) = (session(1, "a"), session(2, "b"));
    let mut story = Story::new();
    story.arrive(a, 2).arrive(b, 1);
    let before = model(|s| s.events = story.events.clone());
    assert_eq!(
        (before.counts().pending_sessions, before.counts().pending_files()),
        (2, 3)
    );
    story
        .retrieve_session(a)
        .retrieve(a, 1, memfd(1))
        .failing(5)
        .retrieve(a, 2, Default::default());
    let taken = model(|s| s.events = story.events.clone());
    assert_eq!(
        (taken.counts().pending_sessions, taken.counts().pending_files()),
        (1, 1)
    );
    assert_eq!(files(&taken, FileState::Retrieved), (1, 8192));
    assert_eq!(files(&taken, FileState::Failed).0, 1);
    story.finish_files(a, 2, |_| ()).release_incoming(a, 0, |_| ());
    let finished = model(|s| s.events = story.events.clone());
    assert_eq!(finished.counts().sessions(Direction::Incoming), 1);
    assert_eq!(files(&finished, FileState::Retrieved), (0, 0));
}

#[test]
fn the_recorders_own_session_is_left_out_of_the_counts_of_others() {
    let (out, own_out) = (session(1, "vm"), session(2, "luo-trace"));
    let (come, own_come) = (session(3, "old"), session(4, "luo-trace"));
    let mut story = Story::new();
    story.arrive(come, 2).arrive(own_come, 1);
    story.create(out).preserve(out, 1, memfd(1));
    let others = story.events.len();
    story.create(own_out).preserve(own_out, 9, memfd(2));
    for event in &mut story.events[others..] {
        event.header.comm = Comm::new("luo-trace");
    }
    let model = model(|s| s.events = story.events);
    assert_eq!(model.counts().sessions(Direction::Outgoing), 2);
    assert_eq!(model.counts().pending_sessions, 2);
    let counts = model.counts_of_others();
    assert_eq!(counts.sessions(Direction::Outgoing), 1);
    assert_eq!(counts.sessions(Direction::Incoming), 1);
    assert_eq!((counts.pending_sessions, counts.pending_files()), (1, 2));
    assert_eq!(counts.retired, model.counts().retired);
    let preserved: u64 = counts.files().map(|f| f.files).sum();
    assert_eq!(preserved, 2 + 1, "two that came, one that goes");
}

#[test]
fn a_session_that_could_not_be_finished_is_stranded() {
    let a = session(1, "a");
    let model = model(|s| {
        s.arrive(a, 1)
            .retrieve_session(a)
            .failing(16)
            .release_incoming(a, 1, |_| ());
    });
    assert_eq!(model.sessions().next().unwrap().state(), SessionState::Stranded);
}

#[test]
fn users_of_global_state_are_counted() {
    let mut story = Story::new();
    story.flb_preserve(MEMFD, |s| {
        s.flb_call(FlbCall::Preserve, "iommu", MEMFD, 0);
    });
    story.flb_preserve(MEMFD, |_| ());
    let two = model(|s| s.events = story.events.clone());
    let flb = two.flbs().next().unwrap();
    assert_eq!((flb.users, flb.alive, flb.direction), (2, true, Direction::Outgoing));
    story.flb_unpreserve(MEMFD, |_| ()).flb_unpreserve(MEMFD, |s| {
        s.flb_call(FlbCall::Unpreserve, "iommu", MEMFD, 0);
    });
    let none = model(|s| s.events = story.events.clone());
    assert_eq!(none.flbs().count(), 0);
    assert_eq!(
        (none.counts().flbs()[0].users, none.counts().flbs()[0].alive),
        (0, false)
    );
}

#[test]
fn memory_stays_bounded_over_many_sessions() {
    let mut model = Model::new(&Coverage::all());
    for round in 0..2000 {
        let mut story = Story::new();
        let a = session(round % 7, &format!("s{round}"));
        story
            .wait(round * 1_000_000)
            .create(a)
            .preserve(a, 1, memfd(round % 5))
            .close(a, &[(1, memfd(round % 5))]);
        story.events.iter().for_each(|event| _ = model.apply(event));
    }
    assert_eq!(model.sessions().count(), 0);
    assert_eq!(model.counts().retired, 4000);
    assert_eq!(model.remembered(), 0);
}
