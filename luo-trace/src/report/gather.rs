//! Gathers what a report says from the records.

use std::collections::{BTreeMap, BTreeSet};

use luo_trace_common::text::{Compatible, Name, SessionName};

use super::json::{
    Clock, Durations, File, Finding, Flb, Kernel, Phase, Policy, Refused, Report, Session, SessionFate, Stretch,
    Update, Verdict,
};
use crate::chain::case::{Case, Record};
use crate::chain::timeline::{Axis, Course, Timeline, blackout};
use crate::chain::{self, Boot, Chain, Fate, FileFate, FileLine, SessionLine, Sessions, Span};
use crate::event::{Event, is_usual_refusal};
use crate::model::{self, Id, Invariant, Status};
use crate::policy::tell::{self, Refusal};
use crate::text::errno;

impl Report {
    /// The report of a case.
    pub fn of(case: &Case) -> Self {
        let timeline = Timeline::of(&case.chain);
        let axis = &timeline.axis;
        let updates = case.chain.updates.iter().zip(&timeline.updates);
        let kernels = case.chain.boots.iter().zip(&case.records).enumerate();
        Self {
            result: case.conclusion(),
            kernels: kernels
                .map(|(place, (boot, record))| kernel(&case.chain, axis, place, boot, record))
                .collect(),
            updates: updates
                .map(|(update, course)| gather(&case.chain, axis, update, course))
                .collect(),
            doubts: case.doubts(),
            repeated: case
                .repeated
                .iter()
                .map(|path| clean(path.as_os_str().as_encoded_bytes()))
                .collect(),
            unreadable: case
                .unreadable
                .iter()
                .map(|unreadable| clean(unreadable.to_string()))
                .collect(),
            findings: findings(case),
            verdicts: verdicts(case),
        }
    }
}

/// A time as it is told: whatever the clocks of a journal say, it is cut to what fits.
fn at(axis: &Axis, place: usize, time: u64) -> i64 {
    short(axis.at(place, time))
}

fn short(time: i128) -> i64 {
    i64::try_from(time).unwrap_or(if time < 0 { i64::MIN } else { i64::MAX })
}

/// Text that comes from a file, with what could mislead a reader escaped.
fn clean(text: impl AsRef<[u8]>) -> String {
    Name::<1024>::new(text).to_string()
}

fn kernel(chain: &Chain, axis: &Axis, place: usize, boot: &Boot, record: &Record) -> Kernel {
    let judgement = &record.judgement;
    let departed = |update: &chain::Update| update.from == Some(place) && update.fate != Fate::Aborted;
    let taken = chain.updates.iter().any(departed);
    let alive = others(&boot.outgoing).into_iter().filter(|_| !taken);
    let closed = boot.outgoing.abandoned.iter().filter(|line| !line.is_own());
    let told = |line| session(axis, Known::of(Some((place, boot)), Some(line)), None);
    Kernel {
        host: clean(&boot.host.name),
        host_id: boot.host.first_id().map(clean),
        release: clean(&boot.release),
        boot_id: clean(&boot.boot_id),
        update_number: boot.update_number,
        start_ns: at(axis, place, 0),
        start_unix_ns: short(boot.clock.zero_unix_ns()),
        journal: clean(record.journal.as_os_str().as_encoded_bytes()),
        agent_version: clean(&judgement.header.agent_version),
        events: boot.events,
        lost: boot.lost,
        ending: judgement.ending(),
        doubts: judgement.doubts(),
        sessions: alive.chain(closed).map(told).collect(),
        policy: boot
            .policy
            .events
            .iter()
            .filter_map(|event| policy(axis, place, &boot.boot_id, event))
            .collect(),
        policy_more: boot.policy.more,
    }
}

fn policy(axis: &Axis, place: usize, boot_id: &str, event: &Event) -> Option<Policy> {
    let since_boot = event.header.ktime;
    let (what, text) = tell::line(event)?;
    let refused = Refusal::of(event).is_some();
    Some(Policy {
        time_ns: at(axis, place, since_boot),
        id: refused.then(|| Id::of_refusal(boot_id, event.id(), since_boot)),
        since_boot,
        what,
        text,
    })
}

fn gather(chain: &Chain, axis: &Axis, update: &chain::Update, course: &Course) -> Update {
    let side = |place: Option<usize>| Some((place?, chain.boots.get(place?)?));
    let (from, to) = (side(update.from), side(update.to));
    let sessions = match update.fate {
        // They live on, and are told where they leave, or where the record ends.
        Fate::Aborted => Vec::new(),
        _ => sessions(axis, from, to, &Decided::of(update, from, to)),
    };
    let phase = |phase: &crate::chain::timeline::Phase| Phase {
        name: phase.name(),
        start_ns: short(phase.start),
        duration_ns: phase.duration(),
        kernel: if phase.is_after_jump() { update.to } else { update.from },
        blackout: phase.is_blackout(),
    };
    Update {
        number: update.number,
        fate: update.fate,
        from: update.from,
        to: update.to,
        clock: course.link.map(|link| Clock {
            basis: link.basis.name(),
            describe: link.describe(),
            promised: link.promised,
            uncertainty_ns: link.uncertainty,
        }),
        phases: course.phases.iter().map(phase).collect(),
        whole_ns: course.whole(),
        blackout_ns: course.blackout,
        agent_ns: course.phase("attach"),
        last_heard_ns: course.last_heard.map(short),
        durations: durations(&sessions),
        verdicts: worst(&update.verdicts),
        carries_nothing: from.is_some_and(|(_, from)| update.carries_nothing(from)),
        recorded_ns: to.map(|(_, to)| to.late_clock.map_or(0, |clock| clock.monotonic_ns).max(to.latest)),
        sessions,
        flbs: match update.fate {
            Fate::Aborted => Vec::new(),
            _ => flbs(from.map(|(_, boot)| boot), to.map(|(_, boot)| boot)),
        },
    }
}

/// All sessions by name, but for the recorder's own.
fn others(sessions: &Sessions) -> Vec<&SessionLine> {
    let mut sessions = sessions.sorted();
    sessions.retain(|session| !session.is_own());
    sessions
}

type Side<'a> = Option<(usize, &'a Boot)>;

/// What is certain of an update, so that nothing is called lost of which the chain's judgement is in doubt.
struct Decided {
    /// All that left is lost: the image carried nothing, which tells so even where no agent looked.
    nothing: bool,
    /// What left and did not come is lost.
    sessions: bool,
    /// What became of the files that came.
    files: bool,
}

impl Decided {
    fn of(update: &chain::Update, from: Side<'_>, to: Side<'_>) -> Self {
        let both = from.zip(to);
        Self {
            nothing: from.is_some_and(|(_, from)| update.loses_everything(from)),
            sessions: both.is_some_and(|((_, from), (_, to))| update.decides_sessions(from, to)),
            files: to.is_some_and(|(_, to)| update.decides_files(to)),
        }
    }

    /// Takes back of what is told of a session, and of its files, what is not certain.
    fn doubt(&self, session: &mut Session) {
        session.fate = match session.fate {
            SessionFate::Missing if !self.sessions => SessionFate::Unknown,
            SessionFate::Lost if !self.files => SessionFate::Unknown,
            fate => fate,
        };
        for file in session.files.iter_mut().filter(|_| !self.files) {
            file.fate = file.fate.filter(|&fate| fate != FileFate::Lost.name());
        }
    }
}

/// The sessions that left or arrived: one that did both is told once.
fn sessions(axis: &Axis, from: Side<'_>, to: Side<'_>, decided: &Decided) -> Vec<Session> {
    let left = from.map(|(_, boot)| others(&boot.outgoing)).unwrap_or_default();
    let mut arrived: BTreeMap<SessionName, Vec<&SessionLine>> = BTreeMap::new();
    for line in to.map(|(_, boot)| others(&boot.incoming)).unwrap_or_default() {
        arrived.entry(line.name).or_default().push(line);
    }
    let mut all = Vec::new();
    for line in left {
        let other = arrived.get_mut(&line.name).and_then(Vec::pop);
        let mut told = session(axis, Known::of(from, Some(line)), Known::of(to, other));
        match decided.nothing && other.is_none() {
            true => told.fate = SessionFate::Missing,
            false => decided.doubt(&mut told),
        }
        all.push((line.name, told));
    }
    for line in arrived.into_values().flatten() {
        let mut told = session(axis, Known::of(from, None), Known::of(to, Some(line)));
        decided.doubt(&mut told);
        all.push((line.name, told));
    }
    all.sort_by_key(|(name, _)| *name);
    all.into_iter().map(|(_, session)| session).collect()
}

/// What one kernel knows of a session.
#[derive(Clone, Copy)]
struct Known<'a> {
    place: usize,
    boot: &'a Boot,
    line: Option<&'a SessionLine>,
}

impl<'a> Known<'a> {
    fn of(side: Side<'a>, line: Option<&'a SessionLine>) -> Option<Self> {
        let (place, boot) = side?;
        Some(Self { place, boot, line })
    }

    fn at(self, axis: &Axis, pick: fn(&SessionLine) -> Option<u64>) -> Option<i64> {
        Some(at(axis, self.place, pick(self.line?)?))
    }

    fn file(self, token: u64) -> Option<&'a FileLine> {
        self.line?.files.get(&token)
    }
}

/// One session as the kernel that left and the one that arrived know it, each where there is a record of it.
fn session<'a>(axis: &Axis, from: Option<Known<'a>>, to: Option<Known<'a>>) -> Session {
    let lines = || from.into_iter().chain(to).filter_map(|known| known.line);
    let tokens: BTreeSet<u64> = lines().flat_map(|line| line.files.keys().copied()).collect();
    let files: Vec<File> = tokens.into_iter().map(|token| file(axis, token, from, to)).collect();
    let freeze = from.and_then(|known| stretch(axis, known.place, known.line?.frozen.filter(|span| span.ok)));
    let side = |known: Option<Known<'a>>| known.and_then(|known| Some((known.place, known.line?)));
    Session {
        name: lines().next().map(|line| line.name).unwrap_or_default().to_string(),
        fate: fate(from, to),
        outgoing: from.is_some_and(|known| known.line.is_some()),
        incoming: to.is_some_and(|known| known.line.is_some()),
        created_ns: from.and_then(|known| known.at(axis, |line| line.created)),
        freeze,
        retrieved_ns: to.and_then(|known| known.at(axis, |line| line.retrieved)),
        finished_ns: to.and_then(|known| known.at(axis, |line| line.finished)),
        blackout_ns: side(from)
            .zip(side(to))
            .and_then(|(left, came)| blackout(axis, left, came)),
        bytes: files.iter().map(|file| file.bytes).fold(0, u64::saturating_add),
        refusals: lines().map(|line| line.refusals).fold(0, u32::saturating_add),
        refused: lines().flat_map(|line| &line.refused).map(refused).collect(),
        files,
    }
}

fn refused(by: &chain::Refused) -> Refused {
    Refused {
        process: format!("{} ({})", by.comm, by.tgid),
        result: errno::result(by.result).into_owned(),
        files: by.files,
        usual: is_usual_refusal(by.tgid, by.result),
    }
}

fn file(axis: &Axis, token: u64, from: Option<Known<'_>>, to: Option<Known<'_>>) -> File {
    let lines = || from.into_iter().chain(to).filter_map(|known| known.file(token));
    let handler = lines().map(|file| file.handler).find(|handler| !handler.is_empty());
    let took = |known: Option<Known<'_>>, pick: fn(&FileLine) -> Option<Span>| {
        let known = known?;
        stretch(axis, known.place, pick(known.file(token)?))
    };
    File {
        token: format!("{token:#x}"),
        handler: handler.unwrap_or_default().to_string(),
        bytes: lines().map(|file| file.size).max().unwrap_or(0),
        fate: to.and_then(|known| Some(known.boot.fate(known.line?, known.file(token)?)?.name())),
        preserve: took(from, |file| file.preserve),
        freeze: took(from, |file| file.freeze),
        retrieve: took(to, |file| file.retrieve),
        finish: took(to, |file| file.finish),
        failures: lines().map(|file| file.failures).fold(0, u32::saturating_add),
    }
}

fn stretch(axis: &Axis, place: usize, span: Option<Span>) -> Option<Stretch> {
    let span = span?;
    Some(Stretch {
        start_ns: at(axis, place, span.start),
        duration_ns: span.duration(),
    })
}

/// What became of a session. What events would tell that are missing is not known.
fn fate(from: Option<Known<'_>>, to: Option<Known<'_>>) -> SessionFate {
    let Some(to) = to else {
        return match from.and_then(|from| from.line) {
            Some(line) if line.abandoned.is_some() => SessionFate::Abandoned,
            Some(line) if line.frozen.is_some_and(|span| span.ok) => SessionFate::Left,
            _ => SessionFate::Alive,
        };
    };
    let Some(line) = to.line else {
        let looked = to.boot.handover.as_ref().is_some_and(|handover| handover.whole);
        return if looked {
            SessionFate::Missing
        } else {
            SessionFate::Unknown
        };
    };
    let fates: BTreeSet<_> = line.files.values().map(|file| to.boot.fate(line, file)).collect();
    let all = |fate| fates.len() == 1 && fates.contains(&Some(fate));
    match (line.finished, line.retrieved) {
        (Some(_), _) if all(FileFate::Unclaimed) => SessionFate::Unclaimed,
        (Some(_), _) => SessionFate::Finished,
        (None, _) if fates.contains(&None) => SessionFate::Unknown,
        (None, _) if fates.contains(&Some(FileFate::Lost)) => SessionFate::Lost,
        (None, Some(_)) => SessionFate::Retrieved,
        (None, None) if to.boot.lost == 0 => SessionFate::Pending,
        (None, None) => SessionFate::Unknown,
    }
}

fn flbs(before: Option<&Boot>, after: Option<&Boot>) -> Vec<Flb> {
    let names = before
        .into_iter()
        .chain(after)
        .flat_map(|boot| boot.flbs.keys().copied());
    let names: BTreeSet<Compatible> = names.collect();
    let flb = |name: Compatible| {
        let old = before.map(|boot| boot.flbs.get(&name).cloned().unwrap_or_default());
        let new = after.map(|boot| boot.flbs.get(&name).cloned().unwrap_or_default());
        Flb {
            name: name.to_string(),
            created: old.as_ref().map(|flb| flb.created),
            users: old.as_ref().map(|flb| flb.joined),
            restored: new.as_ref().map(|flb| flb.restored),
            destroyed: new.as_ref().map(|flb| flb.destroyed),
        }
    };
    names.into_iter().map(flb).collect()
}

/// What the operations on files took, by handler.
fn durations(sessions: &[Session]) -> Vec<Durations> {
    type Pick = fn(&File) -> Option<Stretch>;
    const OPERATIONS: [(&str, Pick); 4] = [
        ("preserve", |file| file.preserve),
        ("freeze", |file| file.freeze),
        ("retrieve", |file| file.retrieve),
        ("finish", |file| file.finish),
    ];
    let mut all: BTreeMap<(&str, usize), Vec<u64>> = BTreeMap::new();
    for file in sessions.iter().flat_map(|session| &session.files) {
        for (place, (_, pick)) in OPERATIONS.iter().enumerate() {
            if let Some(stretch) = pick(file) {
                all.entry((&file.handler, place)).or_default().push(stretch.duration_ns);
            }
        }
    }
    all.into_iter()
        .filter_map(|((handler, place), times)| summary(handler, OPERATIONS[place].0, times))
        .collect()
}

/// The smallest, the largest, and those below which so many lie, by nearest rank; `None` of nothing.
pub(super) fn summary(handler: &str, operation: &'static str, mut times: Vec<u64>) -> Option<Durations> {
    times.sort_unstable();
    let rank = |percent: usize| {
        times
            .get((times.len() * percent).div_ceil(100).saturating_sub(1))
            .copied()
    };
    Some(Durations {
        handler: handler.to_owned(),
        operation,
        count: times.len() as u64,
        min_ns: *times.first()?,
        median_ns: rank(50)?,
        p99_ns: rank(99)?,
        max_ns: *times.last()?,
    })
}

fn findings(case: &Case) -> Vec<Finding> {
    let boots = case.records.iter().enumerate();
    let boots =
        boots.flat_map(|(place, record)| record.judgement.findings.iter().map(move |found| (Some(place), found)));
    let all = boots.chain(case.chain.findings.iter().map(|found| (None, found)));
    all.map(|(kernel, finding)| Finding {
        kernel,
        finding: finding.clone(),
    })
    .collect()
}

/// The worst that is known of each invariant.
fn verdicts(case: &Case) -> Vec<Verdict> {
    let boots = case.records.iter().flat_map(|record| &record.judgement.verdicts);
    worst(boots.chain(&case.chain.verdicts))
}

/// The worst of these verdicts on each invariant.
fn worst<'a>(verdicts: impl IntoIterator<Item = &'a model::Verdict>) -> Vec<Verdict> {
    const STATUS: [&str; 4] = ["ok", "unwatched", "unknown", "violated"];
    let mut worst: BTreeMap<Invariant, usize> = BTreeMap::new();
    for verdict in verdicts {
        let status = match verdict.status {
            Status::Ok => 0,
            Status::Unknown if verdict.is_unwatched() => 1,
            Status::Unknown => 2,
            Status::Violated => 3,
        };
        let known = worst.entry(verdict.invariant).or_default();
        *known = status.max(*known);
    }
    let verdict = |(invariant, status): (Invariant, usize)| Verdict {
        invariant: invariant.id(),
        status: STATUS[status],
        statement: invariant.statement(),
    };
    worst.into_iter().map(verdict).collect()
}
