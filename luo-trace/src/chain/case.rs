//! Judges recorded boots: each journal's events through the model, exactly as the live agent did, and the boots as a chain.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use luo_trace_common::text::Name;
use serde::Serialize;

use crate::chain::{Boot, Chain, Hosts};
use crate::event::{Body, Event};
use crate::journal::{Events, Header, OpenError, Opened, Summary, Unreadable, each, events};
use crate::model::{Finding, Status, Verdict};

/// What a journal proves.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// The header of the journal's last run.
    pub header: Header,
    /// What the journal held besides its events.
    pub summary: Summary,
    /// How many runs of an agent it holds. Each is judged by itself, since no agent ran between them.
    pub runs: u64,
    /// Whether the record ends in the jump to the next kernel, as far as can be seen from this side.
    pub departed: bool,
    /// All findings, in the order they were made.
    pub findings: Vec<Finding>,
    /// The verdict on every invariant, over all runs.
    pub verdicts: Vec<Verdict>,
}

/// What several journals prove together.
#[derive(Debug)]
pub struct Case {
    /// What each journal proves by itself, in the order the boots ran.
    pub records: Vec<Record>,
    /// What they prove together.
    pub chain: Chain,
    /// Journals of boots of which another journal tells more. They have no part in the judgement.
    pub repeated: Vec<PathBuf>,
    /// Journals of a directory that could not be read. What is in them is not known.
    pub unreadable: Vec<Unreadable>,
}

/// One journal, and what it proves.
#[derive(Clone, Debug)]
pub struct Record {
    /// Where it lies.
    pub journal: PathBuf,
    /// What it proves.
    pub judgement: Judgement,
}

impl Case {
    /// Judges journals, given in any order: as files, directories of them, or serial logs that hold some. `hosts` says what is known of
    /// the machines that they are of.
    ///
    /// # Errors
    /// Where one is no journal that this version can read; of a directory, where none in it is. Damage after its beginning is
    /// no error: it is part of the judgement.
    pub fn of<P: AsRef<Path>>(journals: &[P], hosts: Hosts) -> Result<Self, Unreadable> {
        let (mut read, mut unreadable) = (Vec::new(), Vec::new());
        for (place, path) in journals.iter().enumerate() {
            // A serial log is one machine's, whatever its kernels say.
            let log = path.as_ref().is_file().then_some(place);
            let told = each(path.as_ref(), |source| read.push(Read::of(source, log)))?;
            unreadable.extend(told);
        }
        Ok(Self {
            unreadable,
            ..Self::joined(read, hosts)
        })
    }

    /// Judges what one machine recorded.
    pub fn of_one(journals: Vec<Opened>) -> Self {
        Self::joined(journals.into_iter().map(Read::of_one).collect(), Hosts::One)
    }

    /// Judges together what was read before.
    pub fn joined(read: Vec<Read>, hosts: Hosts) -> Self {
        let (read, repeated) = without_repetition(read);
        let (boots, records): (Vec<_>, Vec<_>) = read.into_iter().map(|read| (read.boot, read.record)).unzip();
        let chain = Chain::join(boots, hosts);
        let mut records: Vec<_> = records.into_iter().map(Some).collect();
        let taken = chain.given.iter().filter_map(|&place| records.get_mut(place)?.take());
        Self {
            records: taken.collect(),
            chain,
            repeated,
            unreadable: Vec::new(),
        }
    }

    /// Everything that was found: in each boot, and over them.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        let boots = self.records.iter().flat_map(|record| &record.judgement.findings);
        boots.chain(&self.chain.findings)
    }

    /// What it comes to.
    pub fn conclusion(&self) -> Conclusion {
        let chain = self.chain.verdicts.iter().map(|verdict| match verdict.status {
            Status::Violated => Conclusion::Violated,
            Status::Unknown if !verdict.is_unwatched() => Conclusion::Inconclusive,
            Status::Unknown | Status::Ok => Conclusion::Held,
        });
        let missing = !self.chain.holes.is_empty() || !self.unreadable.is_empty();
        let holes = missing.then_some(Conclusion::Inconclusive);
        let boots = self.records.iter().map(|record| record.judgement.conclusion());
        boots.chain(chain).chain(holes).max().unwrap_or(Conclusion::Held)
    }

    /// Everything that keeps the chain from being a full proof, a sentence each; of each record, its judgement tells.
    pub fn doubts(&self) -> Vec<String> {
        let mut doubts = self.chain.doubts();
        let unknown = self.chain.verdicts.iter();
        let unknown = unknown.filter(|verdict| verdict.status == Status::Unknown && !verdict.is_unwatched());
        match unknown.count() {
            0 => {}
            unknown => doubts.push(format!("invariants over the updates that cannot be decided: {unknown}")),
        }
        doubts
    }
}

/// A journal that was read: what it tells of the chain, and what it proves by itself.
#[derive(Clone, Debug)]
pub struct Read {
    boot: Boot,
    record: Record,
}

impl Read {
    /// Reads one to its end; `log` is the log of several that it lies in, as in [`Boot::log`].
    fn of(source: Opened, log: Option<usize>) -> Self {
        Self::by(source, log, |events, boot| judge(events, |event| boot.apply(event)))
    }

    /// The same where `read` takes in the events.
    fn by(
        Opened { name, events }: Opened,
        log: Option<usize>,
        read: impl FnOnce(Events<Box<dyn io::Read>>, &mut Boot) -> Judgement,
    ) -> Self {
        let mut boot = Boot::new(events.header());
        boot.log = log;
        let judgement = read(events, &mut boot);
        boot.late_clock = judgement.summary.clock;
        boot.resume(&judgement.header);
        let journal = name;
        Self {
            boot,
            record: Record { journal, judgement },
        }
    }

    /// Reads one that is of the same machine as all that it is joined with.
    pub fn of_one(source: Opened) -> Self {
        Self::of(source, Some(0))
    }

    /// Reads so many of its events, for what they tell of the chain alone.
    pub fn beginning(source: Opened, events: usize) -> Self {
        Self::by(source, Some(0), |read, boot| account(read, boot, events))
    }

    /// Reads the journals at these paths to their ends. One that cannot be read is left out: it may be gone since it was found.
    pub fn all(journals: &[PathBuf]) -> Vec<Self> {
        Self::each(journals, |source| Self::of(source, None))
    }

    /// The same for what they tell of the chain alone: nothing is judged that one boot proves.
    pub fn accounts(journals: &[PathBuf]) -> Vec<Self> {
        let read = |events: Events<Box<dyn io::Read>>, boot: &mut Boot| account(events, boot, usize::MAX);
        Self::each(journals, |source| Self::by(source, None, read))
    }

    fn each(journals: &[PathBuf], mut read: impl FnMut(Opened) -> Self) -> Vec<Self> {
        let mut all = Vec::new();
        for path in journals {
            _ = each(path, |source| all.push(read(source)));
        }
        all
    }

    /// Whether its journal was read up to a place where something is wrong with it, as where it is being written.
    pub fn is_damaged(&self) -> bool {
        self.record.judgement.summary.damaged > 0
    }
}

/// Shows so many events to the account of a boot, and judges nothing.
fn account(mut events: Events<Box<dyn io::Read>>, boot: &mut Boot, most: usize) -> Judgement {
    events.by_ref().take(most).for_each(|event| boot.apply(&event));
    Judgement {
        header: events.header().clone(),
        summary: events.summary().clone(),
        runs: events.run(),
        departed: boot.departs(),
        findings: Vec::new(),
        verdicts: Vec::new(),
    }
}

/// The journals in a directory that tell of one boot, and of the one before it on the same machine: by what they begin with, which
/// takes little time however long they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pair {
    /// Those of the boot itself.
    pub own: Vec<PathBuf>,
    /// Those of the boot before; none: there is no record of it.
    pub before: Vec<PathBuf>,
}

impl Pair {
    /// Finds those of the boot with this id, and of the one before it.
    pub fn find(dir: &Path, boot_id: &str) -> Self {
        let mut boots: Vec<Boot> = Vec::new();
        let mut journals: Vec<(String, PathBuf)> = Vec::new();
        // What cannot be read from its beginning does not say which boot it is of.
        _ = each(dir, |Opened { name, events }| {
            let boot = Boot::new(events.header());
            journals.push((boot.boot_id.clone(), name));
            if boots.iter().all(|known| known.boot_id != boot.boot_id) {
                boots.push(boot);
            }
        });
        let chain = Chain::join(boots, Hosts::Told);
        let own = chain.boots.iter().position(|boot| boot.boot_id == boot_id);
        let before = own.and_then(|own| Some(chain.boots.get(chain.before(own)?)?.boot_id.as_str()));
        let of = |wanted: Option<&str>| {
            let of_it = journals.iter().filter(|(id, _)| Some(id.as_str()) == wanted);
            of_it.map(|(_, path)| path.clone()).collect()
        };
        Self {
            own: of(Some(boot_id)),
            before: of(before),
        }
    }
}

/// Of several journals of one boot the one that tells the most, and the others' paths.
fn without_repetition(mut read: Vec<Read>) -> (Vec<Read>, Vec<PathBuf>) {
    read.sort_by_key(|Read { boot, .. }| (Reverse(boot.departs()), boot.lost, Reverse(boot.events)));
    let mut seen = BTreeSet::new();
    let (kept, repeated): (Vec<_>, Vec<_>) = read
        .into_iter()
        .partition(|Read { boot, .. }| boot.boot_id.is_empty() || seen.insert(boot.boot_id.clone()));
    (kept, repeated.into_iter().map(|read| read.record.journal).collect())
}

/// What a judgement comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Conclusion {
    /// Every promise was kept.
    Held,
    /// None was seen broken, and something is missing that could tell.
    Inconclusive,
    /// At least one was broken.
    Violated,
}

impl Conclusion {
    /// The name users see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Inconclusive => "inconclusive",
            Self::Violated => "violated",
        }
    }
}

/// Judges the journal at `path`.
///
/// # Errors
/// Where it is no journal that this version can read. Damage after its beginning is no error: it is part of the judgement.
pub fn journal(path: &Path) -> Result<Judgement, OpenError> {
    Ok(judge(events(path)?, |_| {}))
}

/// Judges what `events` still has to give, and shows every event to `each` as well.
pub fn judge<R: std::io::Read>(mut events: Events<R>, mut each: impl FnMut(&Event)) -> Judgement {
    let mut findings = Vec::new();
    let mut verdicts: Vec<Verdict> = Vec::new();
    let mut departed = false;
    let mut run = events.run();
    let mut current = events.header().model();
    while let Some(event) = events.next() {
        each(&event);
        if events.run() != run {
            // The gap that begins a run is no loss to a model that has seen nothing.
            run = events.run();
            findings.extend_from_slice(current.finish());
            merge(&mut verdicts, current.verdicts());
            current = events.header().model();
            continue;
        }
        departed = departs(&event, departed);
        findings.extend_from_slice(current.apply(&event));
    }
    findings.extend_from_slice(current.finish());
    merge(&mut verdicts, current.verdicts());
    Judgement {
        header: events.header().clone(),
        summary: events.summary().clone(),
        runs: run,
        departed,
        findings,
        verdicts,
    }
}

/// Whether only the jump can follow `event`.
fn departs(event: &Event, before: bool) -> bool {
    match &event.body {
        Body::LiveupdateReboot(reboot) => reboot.outcome.is_ok(),
        Body::KexecReturn(_) | Body::KexecEnter(_) => false,
        _ => before,
    }
}

/// Joins the verdicts of two runs: the worse one counts.
fn merge(all: &mut Vec<Verdict>, more: Vec<Verdict>) {
    for verdict in more {
        let Some(sum) = all.iter_mut().find(|sum| sum.invariant == verdict.invariant) else {
            all.push(verdict);
            continue;
        };
        sum.status = match (sum.status, verdict.status) {
            (Status::Violated, _) | (_, Status::Violated) => Status::Violated,
            (Status::Unknown, _) | (_, Status::Unknown) => Status::Unknown,
            (Status::Ok, Status::Ok) => Status::Ok,
        };
        sum.ok += verdict.ok;
        sum.violated += verdict.violated;
        sum.undecidable += verdict.undecidable;
        sum.open += verdict.open;
        for (hooks, more) in [
            (&mut sum.missing_hooks, verdict.missing_hooks),
            (&mut sum.switched_off_hooks, verdict.switched_off_hooks),
        ] {
            hooks.extend(more);
            hooks.sort_unstable();
            hooks.dedup();
        }
    }
}

impl Judgement {
    /// What it comes to.
    pub fn conclusion(&self) -> Conclusion {
        if !self.findings.is_empty() || self.with(Status::Violated).next().is_some() {
            Conclusion::Violated
        } else if self.doubts().is_empty() {
            Conclusion::Held
        } else {
            Conclusion::Inconclusive
        }
    }

    /// How the record ends, in a few words; `None` where it just stops.
    pub fn ending(&self) -> Option<String> {
        // The text comes from the file, so what could mislead a terminal is escaped.
        let end = self.summary.end.as_ref();
        let clean = end.map(|end| Name::<128>::new(&end.reason).to_string());
        clean.or_else(|| self.departed.then(|| "jump to the next kernel".into()))
    }

    /// Everything that keeps the record from being a full proof, a sentence each.
    pub fn doubts(&self) -> Vec<String> {
        let mut doubts = self.gaps();
        let unwatched = |verdict: &&Verdict| verdict.is_unwatched();
        let unknown = self.with(Status::Unknown).filter(|verdict| !unwatched(verdict)).count();
        if unknown > 0 {
            doubts.push(format!("invariants that cannot be decided: {unknown}"));
        }
        doubts
    }

    /// What is missing from the record, a sentence each.
    pub fn gaps(&self) -> Vec<String> {
        let summary = &self.summary;
        let mut doubts = Vec::new();
        if summary.lost > 0 {
            doubts.push(format!("events lost: {}", summary.lost));
        }
        // The reason comes from the file, as the end's does.
        let reasons = summary.losses.iter();
        doubts.extend(reasons.map(|lost| format!("of these {}: {}", lost.records, Name::<256>::new(&lost.why))));
        if summary.errors > 0 {
            doubts.push(format!(
                "records that this version does not understand: {}",
                summary.errors
            ));
        }
        doubts.extend(summary.damage.iter().map(|damage| format!("damage: {damage}")));
        if summary.damaged > summary.damage.len() as u64 {
            doubts.push(format!("damaged places in all: {}", summary.damaged));
        }
        if self.runs > 1 {
            doubts.push(format!(
                "the agent ran {} times, and no agent ran in between",
                self.runs
            ));
        }
        if self.ending().is_none() {
            doubts.push(
                "the record just stops: the agent was killed, or the machine went down without a live update".into(),
            );
        }
        doubts
    }

    /// The verdicts with this status.
    pub fn with(&self, status: Status) -> impl Iterator<Item = &Verdict> {
        self.verdicts.iter().filter(move |verdict| verdict.status == status)
    }
}

#[cfg(test)]
mod tests {
    use luo_trace_common::events::{self as abi, Kexec, Outcome, Plain, SessionOp, SessionRef};
    use luo_trace_common::hooks::Hook;
    use luo_trace_common::text::SessionName;
    use zerocopy::FromZeros;

    use super::*;
    use crate::event::decode::encode;
    use crate::journal::{End, HookState, Writer};

    const DONE: Plain = Plain {
        outcome: Outcome {
            result: 0,
            duration: 10,
        },
    };

    fn header(hooks: &[Hook]) -> Header {
        let state = |hook: &Hook| HookState {
            id: hook.id().into(),
            attached: true,
            ..HookState::default()
        };
        let hooks = hooks.iter().map(state).collect();
        Header {
            boot_id: "b".into(),
            kernel_release: "7.3.4".into(),
            hooks,
            ..Header::default()
        }
    }

    fn create(name: &str) -> Body {
        let session = SessionRef {
            id: 1,
            name: SessionName::new(name),
        };
        Body::SessionCreate(SessionOp {
            session,
            outcome: DONE.outcome,
        })
    }

    /// A journal of these events, one a millisecond, in a directory that lives as long as the test.
    struct Record {
        dir: tempfile::TempDir,
        seq: u64,
    }

    impl Record {
        fn new() -> Self {
            Self {
                dir: tempfile::tempdir().unwrap(),
                seq: 0,
            }
        }

        /// One run of the agent; `end` says whether it ends as it should.
        fn run(mut self, hooks: &[Hook], bodies: &[Body], lost: u64, end: bool) -> Self {
            let (mut writer, _) = Writer::open(self.dir.path(), &header(hooks)).unwrap();
            for body in bodies.iter().cloned() {
                self.seq += 1;
                let header = abi::Header {
                    seq: self.seq,
                    ktime: self.seq * 1_000_000,
                    lost,
                    ..abi::Header::new_zeroed()
                };
                writer.append([encode(&Event { header, body }).as_slice()]).unwrap();
            }
            if end {
                writer
                    .end(&End {
                        reason: "SIGTERM".into(),
                        kernel_lost: lost,
                    })
                    .unwrap();
            }
            self
        }

        fn judged(&self) -> Judgement {
            journal(&self.dir.path().join("b.luoj")).unwrap()
        }
    }

    #[test]
    fn a_whole_record_of_an_orderly_boot_holds() {
        let judgement = Record::new().run(Hook::ALL, &[create("a")], 0, true).judged();
        assert_eq!((judgement.conclusion(), judgement.doubts()), (Conclusion::Held, vec![]));
        assert_eq!(judgement.ending().as_deref(), Some("SIGTERM"));
    }

    #[test]
    fn a_record_that_stops_is_whole_only_where_the_jump_came_next() {
        let stopped = Record::new().run(Hook::ALL, &[create("a")], 0, false).judged();
        assert_eq!(stopped.conclusion(), Conclusion::Inconclusive);
        assert!(stopped.doubts()[0].contains("just stops"), "{:?}", stopped.doubts());

        let leaving = [Body::KexecEnter(Kexec::default()), Body::LiveupdateReboot(DONE)];
        let left = Record::new().run(Hook::ALL, &leaving, 0, false).judged();
        assert!(left.departed);
        assert_eq!(left.conclusion(), Conclusion::Held, "{:?}", left.doubts());

        let refused = Plain {
            outcome: Outcome {
                result: -16,
                duration: 1,
            },
        };
        let leaving = [Body::KexecEnter(Kexec::default()), Body::LiveupdateReboot(refused)];
        assert!(!Record::new().run(Hook::ALL, &leaving, 0, false).judged().departed);
    }

    #[test]
    fn a_broken_promise_is_violated_however_much_is_missing() {
        let returned = [
            Body::KexecEnter(Kexec::default()),
            Body::LiveupdateReboot(DONE),
            Body::KexecReturn(DONE),
        ];
        let judgement = Record::new().run(Hook::ALL, &returned, 0, false).judged();
        assert_eq!(judgement.conclusion(), Conclusion::Violated);
        assert_eq!(judgement.findings[0].invariant.id(), "freeze-no-return");
    }

    #[test]
    fn losses_and_missing_hooks_leave_it_open() {
        let lost = Record::new().run(Hook::ALL, &[create("a")], 3, true).judged();
        assert_eq!(lost.conclusion(), Conclusion::Inconclusive);
        assert!(lost.doubts().contains(&"events lost: 3".into()), "{:?}", lost.doubts());

        let blind = Record::new()
            .run(&[Hook::SessionCreate], &[create("a")], 0, true)
            .judged();
        assert_eq!(blind.conclusion(), Conclusion::Inconclusive);
        assert!(
            blind
                .with(Status::Unknown)
                .any(|verdict| verdict.missing_hooks.contains(&"kexec"))
        );
    }

    #[test]
    fn a_record_tells_why_events_are_missing_where_its_writer_knew() {
        // Given losses for more reasons than a record needs, one of which comes again, and one that would mislead a terminal,
        let record = Record::new();
        let (mut writer, _) = Writer::open(record.dir.path(), &header(Hook::ALL)).unwrap();
        let reasons = ["the disk was full", "a\u{1b}[2J", "the disk was full"].map(str::to_owned);
        let reasons = reasons
            .into_iter()
            .chain((0..20).map(|number| format!("reason {number}")));
        for (records, why) in (1..).zip(reasons) {
            writer.lose(records, &why);
            writer.append([]).unwrap();
        }
        writer.end(&End::default()).unwrap();
        // then all are counted, and the first reasons are told.
        let doubts = record.judged().doubts();
        let (all, told) = doubts.split_at(1);
        assert_eq!(all, ["events lost: 276"]);
        assert_eq!(told[..2], ["of these 4: the disk was full", r"of these 2: a\u{1b}[2J"]);
        let told = told.iter().filter(|doubt| doubt.starts_with("of these"));
        assert_eq!(told.count(), 8);
    }

    #[test]
    fn what_is_switched_off_leaves_nothing_open() {
        let header = |switched_off| Header {
            hooks: Hook::ALL
                .iter()
                .map(|&hook| HookState {
                    id: hook.id().into(),
                    attached: hook != Hook::FlbCallback,
                    switched_off: hook == Hook::FlbCallback && switched_off,
                    ..HookState::default()
                })
                .collect(),
            ..header(&[])
        };
        let judged = |header: &Header| {
            let dir = tempfile::tempdir().unwrap();
            let (mut writer, path) = Writer::open(dir.path(), header).unwrap();
            writer.end(&End::default()).unwrap();
            journal(&path).unwrap()
        };
        assert_eq!(judged(&header(true)).conclusion(), Conclusion::Held);
        assert_eq!(judged(&header(false)).conclusion(), Conclusion::Inconclusive);
    }

    #[test]
    fn the_same_in_two_runs_is_two_findings_and_each_keeps_its_id() {
        // Given two runs of an agent in one boot, whose events have the same numbers and break the same promise,
        let returned = [create("a"), Body::LiveupdateReboot(DONE), Body::KexecReturn(DONE)];
        let run = |record: &mut Record, began: u64| {
            let mut header = header(Hook::ALL);
            header.clock.monotonic_ns = began;
            let (mut writer, _) = Writer::open(record.dir.path(), &header).unwrap();
            for (seq, body) in (1..).zip(returned.clone()) {
                let header = abi::Header {
                    seq,
                    ktime: began + seq * 1_000_000,
                    ..abi::Header::new_zeroed()
                };
                writer.append([encode(&Event { header, body }).as_slice()]).unwrap();
            }
            writer.end(&End::default()).unwrap();
        };
        let mut record = Record::new();
        run(&mut record, 5);
        let ids = |record: &Record| {
            let findings = record.judged().findings;
            findings.iter().map(|finding| finding.id).collect::<Vec<_>>()
        };
        let first = ids(&record);
        run(&mut record, 1_000_000_000);
        // then each is told by an id of its own, and that of the first is the same as before.
        let both = ids(&record);
        assert_eq!((first.len(), both.len()), (1, 2));
        assert_eq!(first[0], both[0]);
        assert_ne!(both[0], both[1]);
    }

    #[test]
    fn each_run_of_the_agent_is_judged_by_itself_and_the_worst_verdict_counts() {
        // Given a promise broken in the first run, and the same session created anew in a second one,
        let returned = [create("a"), Body::LiveupdateReboot(DONE), Body::KexecReturn(DONE)];
        let record = Record::new()
            .run(Hook::ALL, &returned, 0, true)
            .run(Hook::ALL, &[create("a")], 0, true);
        let judgement = record.judged();
        // then the first run's finding stays, and the second run's session is no second one of its name.
        assert_eq!(judgement.runs, 2);
        let found: Vec<_> = judgement
            .findings
            .iter()
            .map(|finding| finding.invariant.id())
            .collect();
        assert_eq!(found, ["freeze-no-return"]);
        let violated: Vec<_> = judgement
            .with(Status::Violated)
            .map(|verdict| verdict.violated)
            .collect();
        assert_eq!(violated, [1], "each run counts its own");
        assert!(judgement.doubts()[0].contains("2 times"), "{:?}", judgement.doubts());
    }
}
