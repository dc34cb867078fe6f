//! Whether what left is what arrived.

use std::collections::BTreeMap;

use luo_trace_common::events::{FlbRecord, Keys};
use luo_trace_common::text::{Compatible, SessionName};

use super::ledger::{Account, Breach};
use super::{Attempt, Crossing, Place, SessionLine};
use crate::event::EventId;
use crate::model::{Direction, Evidence, Subject};
use crate::text::errno;

/// Of a session so many differences are told one by one.
const DIFFERENCES_TOLD: usize = 3;

impl Place<'_> {
    /// An event of this boot.
    pub(super) fn evidence(&self, event: EventId) -> Evidence {
        Evidence {
            boot: Some(self.number),
            event,
        }
    }

    /// A session of this boot, from the previous kernel.
    pub(super) fn incoming(&self, session: &SessionLine) -> Subject {
        Subject::Session {
            direction: Direction::Incoming,
            name: session.name,
        }
    }
}

impl Crossing<'_> {
    /// The attempt that departed, where its record tells.
    pub(super) fn attempt(&self) -> Option<&Attempt> {
        self.update.attempt_of(self.from?.boot)
    }

    /// When it was over, by the clock of the later boot.
    pub(super) fn moment(&self) -> u64 {
        let came = |to: Place| to.boot.arrived_at();
        let left = |from: Place| from.boot.freeze.map_or(from.boot.latest, |freeze| freeze.end);
        self.to.map(came).or(self.from.map(left)).unwrap_or(0)
    }

    /// The departure, and the arrival.
    pub(super) fn evidence(&self) -> Vec<Evidence> {
        let departure = self.from.zip(self.attempt().and_then(|attempt| attempt.evidence));
        let handover = self.to.and_then(|to| {
            let handover = to.boot.handover.as_ref().and_then(|handover| handover.evidence);
            Some((to, handover?))
        });
        [departure, handover]
            .into_iter()
            .flatten()
            .map(|(place, id)| place.evidence(id))
            .collect()
    }
}

/// What came, as far as its record tells.
pub(super) struct Came<'a> {
    sessions: Vec<&'a SessionLine>,
    /// Nothing that came is missing.
    pub(super) whole: bool,
}

impl<'a> Came<'a> {
    pub(super) fn of(crossing: &Crossing<'a>, to: Place<'a>) -> Self {
        let boot = to.boot;
        let found = boot.handover.as_ref().is_some_and(|handover| handover.whole);
        let mut sessions = boot.incoming.sorted();
        if found {
            sessions.retain(|session| session.arrived);
        }
        Self {
            sessions,
            whole: crossing.update.knows_what_came(boot),
        }
    }
}

/// The sessions, tokens and handlers that were serialized are those that arrive.
pub(super) fn sessions(crossing: &Crossing, account: &mut Account) {
    let Some(from) = crossing.from else {
        return account.doubt();
    };
    if !account.covers([from]) {
        return;
    }
    let (boot, update) = (from.boot, crossing.update);
    if !boot.knows_outgoing() {
        return account.doubt();
    }
    if update.loses_everything(boot) {
        return all_lost(crossing, account, from);
    }
    let sure = update.knows_what_left(boot);
    let Some(to) = crossing.to else {
        return account.doubt();
    };
    if let Some((result, id)) = to.boot.known.unreadable
        && sure
        && update.direct
        && !boot.outgoing.is_empty()
    {
        return account.violate(Breach {
            object: Subject::Update,
            expected: "the next kernel reads in what was serialized".into(),
            seen: format!(
                "that failed with {}: {} sessions are lost",
                errno::result(result),
                boot.outgoing.len()
            )
            .into(),
            evidence: vec![to.evidence(id)],
            time_ns: to.boot.deserialize.map_or(to.boot.latest, |span| span.end),
        });
    }
    compare(crossing, account, from, to, &Came::of(crossing, to));
}

/// The image that was jumped into takes nothing along.
fn all_lost(crossing: &Crossing, account: &mut Account, from: Place) {
    let sessions = from.boot.outgoing.sorted();
    if sessions.is_empty() {
        account.hold();
    }
    for session in sessions {
        let seen = "the image it jumped into carries nothing";
        account.violate(lost(crossing, from, session, seen.into()));
    }
}

fn lost(crossing: &Crossing, from: Place, session: &SessionLine, seen: String) -> Breach {
    let origin = session.evidence.map(|id| from.evidence(id));
    Breach {
        object: Subject::Session {
            direction: Direction::Outgoing,
            name: session.name,
        },
        expected: format!("it arrives, with its {}", files(session.files.len())).into(),
        seen: seen.into(),
        evidence: origin.into_iter().chain(crossing.evidence()).collect(),
        time_ns: crossing.moment(),
    }
}

fn files(number: usize) -> String {
    format!("{number} file{}", if number == 1 { "" } else { "s" })
}

/// Compares what left with what came, session by session.
fn compare(crossing: &Crossing, account: &mut Account, from: Place, to: Place, came: &Came) {
    // Where the freeze was not seen, what is different may have become so before it; where not all that came is known, after
    // it. What is the same is the same all the same.
    let sure = crossing.update.decides_sessions(from.boot, to.boot);
    let left = from.boot.outgoing.sorted();
    let differs = |account: &mut Account, breach: Breach| match sure {
        true => account.violate(breach),
        false => account.doubt(),
    };
    let mut arrived: BTreeMap<SessionName, &SessionLine> =
        came.sessions.iter().map(|line| (line.name, *line)).collect();
    match left.is_empty() && arrived.is_empty() {
        true if came.whole => account.hold(),
        true => account.doubt(),
        false => {}
    }
    for session in left {
        let Some(there) = arrived.remove(&session.name) else {
            differs(account, lost(crossing, from, session, "it did not".into()));
            continue;
        };
        match differences(session, there) {
            None => account.doubt(),
            Some(differences) if differences.is_empty() => account.hold(),
            Some(differences) => {
                let mut breach = lost(crossing, from, session, tell(&differences));
                breach.evidence.extend(there.evidence.map(|id| to.evidence(id)));
                differs(account, breach);
            }
        }
    }
    for session in arrived.values() {
        let evidence = session.evidence.map(|id| to.evidence(id));
        differs(
            account,
            Breach {
                object: to.incoming(session),
                expected: "what arrives is what left".into(),
                seen: "it arrived, and had not left".into(),
                evidence: crossing.evidence().into_iter().chain(evidence).collect(),
                time_ns: crossing.moment(),
            },
        );
    }
}

/// How the files of a session differ; `None`: those that arrived were not listed.
fn differences(left: &SessionLine, came: &SessionLine) -> Option<Vec<String>> {
    if !came.listed {
        let (before, after) = (left.files.len() as u64, came.says?);
        return (before != after).then(|| vec![format!("{before} files left and {after} arrived")]);
    }
    let mut differences = Vec::new();
    for (token, file) in &left.files {
        match came.files.get(token) {
            None => differences.push(format!("file {token:#x} did not arrive")),
            Some(there) if differ(&file.handler, &there.handler) => differences.push(format!(
                "file {token:#x} left with the handler \"{}\" and arrived with \"{}\"",
                file.handler, there.handler
            )),
            Some(_) => {}
        }
    }
    let extra = came.files.keys().filter(|token| !left.files.contains_key(token));
    differences.extend(extra.map(|token| format!("file {token:#x} arrived and had not left")));
    Some(differences)
}

fn differ(left: &Compatible, came: &Compatible) -> bool {
    !left.is_empty() && !came.is_empty() && left != came
}

fn tell(differences: &[String]) -> String {
    let told = differences.iter().take(DIFFERENCES_TOLD).map(String::as_str);
    let mut told = told.collect::<Vec<_>>().join(", ");
    if differences.len() > DIFFERENCES_TOLD {
        told += &format!(", and {} more differences", differences.len() - DIFFERENCES_TOLD);
    }
    told
}

/// The data handle and the users of a global state arrive unchanged.
pub(super) fn flb_data(crossing: &Crossing, account: &mut Account) {
    let (Some(from), Some(to)) = (crossing.from, crossing.to) else {
        return account.doubt();
    };
    if !account.covers([from]) {
        return;
    }
    let whole = |attempt: &&Attempt| attempt.whole && attempt.departs() && !attempt.carries_nothing();
    let Some(attempt) = crossing.attempt().filter(whole) else {
        // Where nothing is carried at all, it is the sessions that are told as lost.
        if !crossing.attempt().is_some_and(Attempt::carries_nothing) {
            account.doubt();
        }
        return;
    };
    let Some(came) = to
        .boot
        .handover
        .as_ref()
        .filter(|handover| handover.whole && crossing.update.direct)
    else {
        return as_restored(attempt, to, account);
    };
    let mut arrived: BTreeMap<Compatible, FlbRecord> = came.flbs.iter().map(|record| (record.name, *record)).collect();
    let mut violate = |name: Compatible, expected: String, seen: String| {
        let object = Subject::Flb {
            direction: Direction::Incoming,
            name,
        };
        let breach = Breach {
            object,
            expected: expected.into(),
            seen: seen.into(),
            evidence: crossing.evidence(),
            time_ns: crossing.moment(),
        };
        account.violate(breach);
    };
    let mut same = 0;
    for left in &attempt.flbs {
        let show = |record: &FlbRecord| format!("data {:#x} and {} users", record.data, record.users);
        match arrived.remove(&left.name) {
            Some(there) if (there.data, there.users) == (left.data, left.users) => same += 1,
            Some(there) => violate(left.name, format!("{}, as it left", show(left)), show(&there)),
            None => violate(left.name, "it arrives".into(), "it did not".into()),
        }
    }
    for name in arrived.into_keys() {
        violate(
            name,
            "what arrives is what left".into(),
            "it arrived, and had not left".into(),
        );
    }
    for _ in 0..same {
        account.hold();
    }
}

/// Where no agent looked at what came before it was read in, what a state is brought back from shows its data.
fn as_restored(attempt: &Attempt, to: Place, account: &mut Account) {
    for left in &attempt.flbs {
        match to.boot.flb_data.get(&left.name) == Some(&left.data) {
            true => account.hold(),
            false => account.doubt(),
        }
    }
}

/// The pages that were preserved are restored after. Decided only where both kernels' accounts are whole and everything is
/// finished.
pub(super) fn memory(crossing: &Crossing, account: &mut Account) {
    let (Some(from), Some(to)) = (crossing.from, crossing.to) else {
        let watched = crossing
            .from
            .or(crossing.to)
            .is_some_and(|place| account.covers([place]));
        if watched {
            account.doubt();
        }
        return;
    };
    if !account.covers([from, to]) {
        return;
    }
    let (before, after) = (from.boot, to.boot);
    let all_finished = after.incoming.iter().all(|session| session.finished.is_some());
    let whole = before.known.pages && after.known.gapless && all_finished && Came::of(crossing, to).whole;
    let left = minus(before.pages.added, before.pages.removed);
    if whole && left == after.pages.restored {
        account.hold();
    } else {
        account.doubt();
    }
}

fn minus(a: Keys, b: Keys) -> Keys {
    Keys {
        calls: a.calls.wrapping_sub(b.calls),
        pages: a.pages.wrapping_sub(b.pages),
        sum: a.sum.wrapping_sub(b.sum),
    }
}
