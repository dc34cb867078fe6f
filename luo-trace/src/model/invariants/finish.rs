//! Invariants of finishing files: `luo_file_finish` in `kernel/liveupdate/luo_file.c` (7.3).
//!
//! A session's mutex is held meanwhile, so the callbacks come in the order in which they ran, and their operation's event
//! after them. The kernel asks all handlers that want to be asked in the order of the session's list, and finishes in the
//! reverse of it.

use luo_trace_common::events::{FileCall, FileCallback, FilesOp};

use super::super::court::Court;
use super::super::objects::{Called, File, Finishing, Retrieve, Session};
use super::super::scene::Scene;
use super::super::state::State;
use super::Invariant;
use crate::event::{Body, EventId};

pub(super) fn once(_state: &State, scene: &Scene, court: &mut Court) {
    let Some(session) = scene.session else { return };
    let under_way = session.finishing.as_deref().filter(|f| scene.knows(f.epoch));
    match &scene.event.body {
        Body::FileCallback(FileCall::Finish, p) => {
            if let Some(finishing) = under_way {
                finished(scene, court, session, finishing, (p.file, p.data));
            }
        }
        Body::FilesFinish(p) => ended(scene, court, session, under_way, p),
        _ => {}
    }
}

fn violate(
    scene: &Scene,
    court: &mut Court,
    file: (&Session, Option<u64>),
    expected: &'static str,
    seen: String,
    evidence: &[EventId],
) {
    let object = file.0.file_subject(file.1);
    court.violate(scene.finding(Invariant::FileFinishOnce, object, expected, seen, evidence));
}

fn token(session: &Session, called: Called) -> Option<u64> {
    session.find(called).map(|place| session.files[place].token)
}

fn finished(scene: &Scene, court: &mut Court, session: &Session, finishing: &Finishing, called: Called) {
    let file = (session, token(session, called));
    if let Some(refused) = finishing.refused
        && finishing.done.is_empty()
    {
        let expected = "no file is finished when one refuses";
        return violate(
            scene,
            court,
            file,
            expected,
            "it was finished though a file had refused".into(),
            &[refused],
        );
    }
    // Without an open file it cannot be told from another one.
    let known = called.0 != 0;
    if let Some((_, first)) = finishing.done.iter().find(|(done, _)| known && done.0 == called.0) {
        return violate(
            scene,
            court,
            file,
            "its handler finishes it once",
            "it was finished twice".into(),
            &[*first],
        );
    }
    let place = |called: Called| {
        let mut places = (0..finishing.asked.len()).filter(|&i| finishing.asked[i] == called);
        places.next().filter(|_| places.next().is_none())
    };
    if let Some((before, first)) = finishing.done.last()
        && let (Some(this), Some(before)) = (place(called), place(*before))
        && this > before
    {
        let expected = "files are finished in the reverse order of the session's list";
        violate(
            scene,
            court,
            file,
            expected,
            "it was finished after one that comes before it".into(),
            &[*first],
        );
    }
}

/// More callbacks than files are a file that was finished twice, unless that was seen already.
fn ended(scene: &Scene, court: &mut Court, session: &Session, finishing: Option<&Finishing>, p: &FilesOp) {
    let Some(finishing) = finishing else {
        return match scene.moment.whole {
            true => court.hold(Invariant::FileFinishOnce),
            false => court.undecidable(Invariant::FileFinishOnce),
        };
    };
    let done = finishing.done.len() as u64;
    let twice = |i: usize| {
        finishing.done[..i]
            .iter()
            .any(|(called, _)| called.0 != 0 && *called == finishing.done[i].0)
    };
    let told = done > p.files && (0..finishing.done.len()).any(twice);
    let whole = (session, None);
    match finishing.refused {
        Some(refused) if p.outcome.is_ok() && done == 0 => {
            let expected = "finishing the session fails when one of its files refuses";
            violate(scene, court, whole, expected, "it succeeded".into(), &[refused]);
        }
        Some(_) if done > 0 => {}
        None if !p.outcome.is_ok() && done > 0 => {
            let expected = "all files of a session are finished or none";
            violate(
                scene,
                court,
                whole,
                expected,
                format!("{done} of {} were", p.files),
                &[finishing.done[0].1],
            );
        }
        _ if done > p.files && !told => {
            let seen = format!("{done} were finished of the {} that the session held", p.files);
            violate(
                scene,
                court,
                whole,
                "each file is finished once",
                seen,
                &[finishing.done[0].1],
            );
        }
        _ if done <= p.files && scene.moment.whole => court.hold(Invariant::FileFinishOnce),
        _ => {}
    }
}

pub(super) fn truth(state: &State, scene: &Scene, court: &mut Court) {
    let Body::FileCallback(FileCall::CanFinish | FileCall::Finish, p) = &scene.event.body else {
        return;
    };
    let Some((session, file)) = scene
        .session
        .and_then(|s| Some((s, s.files.get(s.find((p.file, p.data))?)?)))
    else {
        return;
    };
    if !scene.knows(file.asked) {
        return court.undecidable(Invariant::FileFinishTruth);
    }
    match expected(file, p, state.tells_errno) {
        None => court.undecidable(Invariant::FileFinishTruth),
        Some(expected) if expected == p.retrieve_status => court.hold(Invariant::FileFinishTruth),
        Some(expected) => court.violate(scene.finding(
            Invariant::FileFinishTruth,
            session.file_subject(Some(file.token)),
            format!("its handler is told {}", status(expected)),
            format!("it was told {}", status(p.retrieve_status)),
            file.retrieve.event().as_slice(),
        )),
    }
}

/// What a handler must be told. Before 7.0 a failed retrieve was told like none.
fn expected(file: &File, p: &FileCallback, tells_errno: bool) -> Option<i64> {
    match file.retrieve {
        Retrieve::NotAsked => Some(0),
        Retrieve::Gave(..) => Some(1),
        Retrieve::Failed(..) if !tells_errno && p.retrieve_status == 0 => None,
        Retrieve::Failed(errno, _) => Some(errno),
    }
}

fn status(status: i64) -> String {
    match status {
        0 => "that no process retrieved it".into(),
        1 => "that it was retrieved".into(),
        other => format!("that its retrieve failed with {}", crate::text::errno::result(other)),
    }
}
