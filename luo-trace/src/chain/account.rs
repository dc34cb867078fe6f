//! What became of each file that arrived.

use luo_trace_common::hooks::Hook;
use luo_trace_common::text::{Compatible, SessionName};

use super::conserve::Came;
use super::ledger::{Account, Breach};
use super::{Boot, Crossing, FileFate, FileLine, Place, SessionLine};
use crate::model::{SETTLE_NS, Subject};

/// Of an update so many files are told one by one that no process brought back; of the rest only the number.
const MOST_UNCLAIMED: usize = 256;

/// How many files of an update came to which end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// Retrieved and finished.
    pub finished: u64,
    /// Retrieved, and not finished when the record ends.
    pub retrieved: u64,
    /// Finished without having been retrieved.
    pub unclaimed: u64,
    /// Neither retrieved nor finished when the record ends.
    pub pending: u64,
    /// Pending when their kernel left by another live update, which carries none of them.
    pub lost: u64,
    /// Whatever else: events are missing that would tell.
    pub unknown: u64,
}

/// A file that arrived and that no process brought back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unclaimed {
    /// Its session.
    pub session: SessionName,
    /// Its token.
    pub token: u64,
    /// Its handler; empty: not known.
    pub handler: Compatible,
    /// [`FileFate::Unclaimed`], [`FileFate::Pending`] or [`FileFate::Lost`].
    pub fate: FileFate,
    /// How long it had been waiting when the record, or its session, ended: nanoseconds since it was seen to have arrived.
    pub age_ns: u64,
}

impl Boot {
    /// How a file that arrived ends; `None`: events are missing that would tell.
    pub fn fate(&self, session: &SessionLine, file: &FileLine) -> Option<FileFate> {
        let watched = self.coverage.has(Hook::FileRetrieve) && self.coverage.has(Hook::FilesFinish);
        let sure = watched && self.known.fates && session.missed.is_none();
        match (file.retrieve.is_some(), session.finished.is_some()) {
            (true, true) => Some(FileFate::Finished),
            (true, false) => sure.then_some(FileFate::Retrieved),
            (false, true) => (watched && self.known.gapless).then_some(FileFate::Unclaimed),
            (false, false) if self.departs() => sure.then_some(FileFate::Lost),
            (false, false) => sure.then_some(FileFate::Pending),
        }
    }

    /// When what came was first seen to be there.
    pub(super) fn arrived_at(&self) -> u64 {
        let handover = self.handover.as_ref().and_then(|handover| handover.at);
        let read_in = self.deserialize.map(|span| span.end);
        handover.or(read_in).unwrap_or(self.attached)
    }
}

/// What became of the files that arrived in a boot: how many of each, and the first of those that no process brought back.
pub(super) fn unclaimed(boot: &Boot) -> (Files, Vec<Unclaimed>) {
    let (mut files, mut unclaimed) = (Files::default(), Vec::new());
    let since = boot.arrived_at();
    for session in boot.incoming.sorted() {
        for (&token, file) in &session.files {
            let fate = boot.fate(session, file);
            *files.of(fate) += 1;
            let waiting = matches!(fate, Some(FileFate::Unclaimed | FileFate::Pending | FileFate::Lost));
            if let Some(fate) = fate.filter(|_| waiting && unclaimed.len() < MOST_UNCLAIMED) {
                unclaimed.push(Unclaimed {
                    session: session.name,
                    token,
                    handler: file.handler,
                    fate,
                    age_ns: session.finished.unwrap_or(boot.latest).saturating_sub(since),
                });
            }
        }
    }
    (files, unclaimed)
}

impl Files {
    fn of(&mut self, fate: Option<FileFate>) -> &mut u64 {
        match fate {
            Some(FileFate::Finished) => &mut self.finished,
            Some(FileFate::Retrieved) => &mut self.retrieved,
            Some(FileFate::Unclaimed) => &mut self.unclaimed,
            Some(FileFate::Pending) => &mut self.pending,
            Some(FileFate::Lost) => &mut self.lost,
            None => &mut self.unknown,
        }
    }
}

/// Every file that arrives is retrieved and finished, finished as it was, or still there. What no process asked for is told by
/// [`unclaimed`]; broken is this where a file is gone and nothing finished it, or its kernel left without it.
pub(super) fn files(crossing: &Crossing, account: &mut Account) {
    let Some(to) = crossing.to else {
        return account.doubt();
    };
    let came = Came::of(crossing, to);
    if !account.covers([to]) {
        return;
    }
    if !came.whole {
        return account.doubt();
    }
    // What could not be read in never becomes a file, and is told as lost.
    if to.boot.known.unreadable.is_some() {
        return;
    }
    for session in to.boot.incoming.sorted() {
        if let Some(breach) = gone(&to, session).or_else(|| left_behind(&to, session)) {
            account.violate(breach);
            continue;
        }
        let all = session.listed && session.files.values().all(|file| to.boot.fate(session, file).is_some());
        if all || session.finished.is_some() && to.boot.known.gapless {
            account.hold();
        } else {
            account.doubt();
        }
    }
}

/// The session's files are gone from the kernel's lists, and nothing finished them.
fn gone(to: &Place, session: &SessionLine) -> Option<Breach> {
    let boot = to.boot;
    let missed = session
        .missed
        .filter(|_| session.finished.is_none() && boot.known.gapless)?;
    // The operation that ended it would have come by now.
    if boot.latest < missed.saturating_add(SETTLE_NS) {
        return None;
    }
    Some(Breach {
        object: to.incoming(session),
        expected: "its files are finished, or still there".into(),
        seen: format!(
            "{} of its files are gone, and nothing finished them",
            session.files.len()
        )
        .into(),
        evidence: session.evidence.map(|id| to.evidence(id)).into_iter().collect(),
        time_ns: missed,
    })
}

/// The kernel left by another live update while no process had asked for files of the session.
fn left_behind(to: &Place, session: &SessionLine) -> Option<Breach> {
    let boot = to.boot;
    let lost = |(_, file): &(&u64, &FileLine)| boot.fate(session, file) == Some(FileFate::Lost);
    let tokens: Vec<u64> = session.files.iter().filter(lost).map(|(&token, _)| token).collect();
    let first = *tokens.first()?;
    let attempt = boot.attempts.last()?;
    let object = match tokens.len() {
        1 => Subject::File {
            session: session.name,
            token: Some(first),
        },
        _ => to.incoming(session),
    };
    let evidence = [session.evidence, attempt.evidence].into_iter().flatten();
    Some(Breach {
        object,
        expected: "it is retrieved or finished before its kernel leaves".into(),
        seen: format!(
            "{} of its files were neither when the next live update left, which carries none of them",
            tokens.len()
        )
        .into(),
        evidence: evidence.map(|id| to.evidence(id)).collect(),
        time_ns: attempt.reboot.map_or(boot.latest, |reboot| reboot.end),
    })
}
