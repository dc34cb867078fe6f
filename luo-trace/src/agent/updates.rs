//! What the running agent knows of live updates: it joins the journal of the kernel before with its own, as `check` does, whenever
//! something has happened that may change what they say together.
//!
//! A thread of its own reads the journals from the disk, so that no other thread waits for it and its word is `check`'s. It is called by the
//! journal's thread when all that led to the call is written, rests for four times as long as it has worked unless a reader of the
//! status waits for it, and gives way to everything else on the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;

use crate::agent::ledger;
use crate::agent::live::Live;
use crate::chain::Hosts;
use crate::chain::case::{Case, Pair, Read};
use crate::event::Body;
use crate::host;
use crate::model::{Finding, Id, Invariant, Status, Verdict};
use crate::report::{Report, Row, UpdateOutcome, otlp, updates};
use crate::sink::log::{self, Entry, tell};
use crate::sink::push::Push;

/// The shortest rest between two judgements.
const REST: Duration = Duration::from_millis(200);
/// How many times longer than a judgement took the rest after it is, ...
const RESTS: u32 = 4;
/// ... up to this: what is told is never much older.
const LONGEST_REST: Duration = Duration::from_secs(30);
/// So many updates are told, the newest.
const MOST_UPDATES: usize = 16;
/// How often a journal is read again that was being written while it was read.
const MOST_TRIES: u32 = 5;

/// What the records of this kernel and of the one before say together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Word {
    /// The updates that this kernel or the one before has tried, and the one that brought it; the newest first.
    pub updates: Vec<Row>,
    /// The verdicts that take both kernels to see, on the update between them; none where there was none.
    pub verdicts: Vec<Verdict>,
    /// What was found over the updates.
    pub findings: Vec<Finding>,
    /// How often each invariant was violated in the kernel before, and over the update that had brought that one.
    pub before: Vec<(Invariant, u64)>,
}

impl Word {
    /// The word on the boot with this id and the one before it, with the time since it booted; `report` is the one of the case.
    pub fn of(case: &Case, report: &Report, boot_id: &str, deadline: Duration, now_ns: u64) -> Self {
        let chain = &case.chain;
        let own = chain.boots.iter().position(|boot| boot.boot_id == boot_id);
        let before = own.and_then(|own| own.checked_sub(1));
        let rows = updates(report, deadline, now_ns);
        // Of the update that brought the kernel before, only that one's agent saw both sides.
        let is_older = |to: Option<usize>| before.is_some() && to == before;
        let mut rows: Vec<_> = rows.into_iter().zip(&chain.updates).collect();
        rows.retain(|(_, update)| !is_older(update.to));
        let verdicts = rows.iter().rev().map(|(_, update)| &update.verdicts);
        let verdicts = verdicts.filter(|verdicts| !verdicts.is_empty()).map(Vec::clone).next();
        let found = before.and_then(|before| case.records.get(before));
        let found = found.into_iter().flat_map(|record| &record.judgement.findings);
        let left = chain.updates.iter().filter(|update| is_older(update.to));
        let left = left
            .flat_map(|update| &update.verdicts)
            .filter(|verdict| verdict.status == Status::Violated);
        let mut counts: Vec<(Invariant, u64)> = Vec::new();
        let violated = found.map(|finding| (finding.invariant, 1));
        for (invariant, violations) in violated.chain(left.map(|verdict| (verdict.invariant, verdict.violated))) {
            match counts.iter_mut().find(|(known, _)| *known == invariant) {
                Some((_, count)) => *count += violations,
                None => counts.push((invariant, violations)),
            }
        }
        Self {
            updates: rows.into_iter().rev().map(|(row, _)| row).take(MOST_UPDATES).collect(),
            verdicts: verdicts.unwrap_or_default(),
            findings: chain.findings.clone(),
            before: counts,
        }
    }
}

/// Whether this may change what the records say of an update.
pub fn is_a_milestone(body: &Body) -> bool {
    matches!(
        body,
        Body::Handover(_)
            | Body::SnapshotEnd(_)
            | Body::FilesDeserialize(_)
            | Body::SessionRetrieve(_)
            | Body::FileRetrieve(_)
            | Body::FilesFinish(_)
            | Body::LiveupdateReboot(_)
            | Body::KexecReturn(_)
    )
}

/// Calls the judge.
#[derive(Clone, Debug)]
pub struct Bell {
    caller: SyncSender<()>,
    /// Up to which call everything is written.
    written: Arc<AtomicU64>,
}

impl Bell {
    /// Has the judge take in everything up to this call, by its number.
    pub fn ring(&self, call: u64) {
        self.written.fetch_max(call, Ordering::Release);
        // One that was called already has still to look.
        _ = self.caller.try_send(());
    }
}

/// The thread that judges.
pub struct Judge {
    dir: PathBuf,
    boot_id: String,
    deadline: Duration,
    live: Arc<Live>,
    written: Arc<AtomicU64>,
    before: Option<Before>,
    /// How often the own journal was read in vain, one after the other.
    tries: u32,
    told: Option<String>,
    /// The findings that were told.
    found: BTreeSet<Id>,
    pushes: Option<Pushes>,
    /// What the ledger has of each update.
    noted: BTreeMap<String, Row>,
    /// Whether the ledger could not be written, and that was told.
    ledger_fails: bool,
}

/// Where decided updates are pushed.
pub struct Pushes {
    push: Push,
    /// What is said of the host that they are of.
    about: Vec<KeyValue>,
    /// What was pushed of each update, by its id.
    pushed: BTreeMap<String, ExportTraceServiceRequest>,
}

impl Pushes {
    /// Pushes there, and says this of the host.
    pub fn new(push: Push, about: Vec<KeyValue>) -> Self {
        Self {
            push,
            about,
            pushed: BTreeMap::new(),
        }
    }

    /// Pushes the trace of each update that is decided, and again where it is decided otherwise: under the ids that it had.
    fn updates(&mut self, report: &Report, word: &Word) {
        // The rows are those of the last updates, the newest first.
        let mut known = BTreeMap::new();
        for (row, place) in word.updates.iter().zip((0..report.updates.len()).rev()) {
            if row.outcome == UpdateOutcome::Waiting.name() {
                continue;
            }
            let trace = otlp::update(report, place, &self.about);
            // Of an update without a phase there is none.
            if trace.resource_spans.is_empty() {
                continue;
            }
            if self.pushed.get(&row.id) != Some(&trace) {
                self.push.trace(trace.clone());
            }
            known.insert(row.id.clone(), trace);
        }
        self.pushed = known;
    }
}

/// What was read of the kernel before, and which files that was: as long as they stay the same they are not read again.
struct Before {
    files: Vec<(PathBuf, u64, Option<SystemTime>)>,
    read: Vec<Read>,
}

impl Judge {
    /// Starts the thread, which judges the journals in `dir` when it is called, and at the deadline; what waits `deadline` after the boot
    /// with this id counts as unclaimed. Where `pushes` are, what is decided goes there.
    ///
    /// # Errors
    /// Where the system has no thread to give.
    pub fn start(
        dir: PathBuf,
        boot_id: String,
        deadline: Duration,
        live: Arc<Live>,
        pushes: Option<Pushes>,
    ) -> io::Result<Bell> {
        let (caller, called) = sync_channel(1);
        let judge = Self {
            pushes,
            ..Self::new(dir, boot_id, deadline, live)
        };
        let bell = Bell {
            caller,
            written: judge.written.clone(),
        };
        thread::Builder::new()
            .name("updates".into())
            .spawn(move || judge.run(&called))?;
        Ok(bell)
    }

    fn new(dir: PathBuf, boot_id: String, deadline: Duration, live: Arc<Live>) -> Self {
        Self {
            dir,
            boot_id,
            deadline,
            live,
            written: Arc::default(),
            before: None,
            tries: 0,
            told: None,
            found: BTreeSet::new(),
            pushes: None,
            noted: BTreeMap::new(),
            ledger_fails: false,
        }
    }

    fn run(mut self, called: &Receiver<()>) {
        host::give_way();
        self.read_ledger();
        let mut again = false;
        while again || self.is_called(called) {
            let began = Instant::now();
            again = self.judge();
            let rest = (began.elapsed() * RESTS).clamp(REST, LONGEST_REST);
            thread::sleep(REST);
            self.live.rest(rest - REST);
        }
    }

    /// Waits for a call, or for the deadline; gives whether there is still anyone to call.
    fn is_called(&self, called: &Receiver<()>) -> bool {
        match self.until_the_deadline() {
            Some(left) => called.recv_timeout(left) != Err(RecvTimeoutError::Disconnected),
            None => called.recv().is_ok(),
        }
    }

    /// How long it is to the deadline, where it is still to come.
    fn until_the_deadline(&self) -> Option<Duration> {
        let left = self.deadline.checked_sub(Duration::from_nanos(host::monotonic_ns()))?;
        // One that never comes.
        Some(left.min(Duration::from_secs(1 << 32)))
    }

    /// Judges once; gives whether the journal was written meanwhile, so that its end is not known.
    fn judge(&mut self) -> bool {
        let call = self.written.load(Ordering::Acquire);
        let pair = Pair::find(&self.dir, &self.boot_id);
        // What this boot proves by itself its agent has judged already.
        let own = Read::accounts(&pair.own);
        let damaged = own.iter().any(Read::is_damaged);
        self.tries = if damaged { self.tries + 1 } else { 0 };
        if damaged && self.tries < MOST_TRIES {
            return true;
        }
        let read = self.before(&pair.before).into_iter().chain(own);
        let case = Case::joined(read.collect(), Hosts::Told);
        let report = Report::of(&case);
        let word = Word::of(&case, &report, &self.boot_id, self.deadline, host::monotonic_ns());
        if let Some(update) = word.updates.first() {
            self.tell(update);
        }
        for finding in word.findings.iter().filter(|finding| self.found.insert(finding.id)) {
            log::write(&Entry::finding(finding));
            if let Some(pushes) = &self.pushes {
                pushes.push.finding(finding);
            }
        }
        if let Some(pushes) = &mut self.pushes {
            pushes.updates(&report, &word);
        }
        self.note(&word);
        self.live.set_updates(word, call);
        false
    }

    /// Takes what an agent before has noted.
    fn read_ledger(&mut self) {
        match ledger::read(&self.dir) {
            Ok(read) => {
                if !read.damaged.is_empty() {
                    tell(format_args!(
                        "of the ledger of updates {} lines are damaged, and are left out",
                        read.damaged.len()
                    ));
                }
                self.noted = read.rows.into_iter().map(|row| (row.id.clone(), row)).collect();
            }
            Err(error) => tell(format_args!("the ledger of updates cannot be read: {error}")),
        }
    }

    /// Notes in the ledger what is decided, and what is decided otherwise than before.
    fn note(&mut self, word: &Word) {
        let decided = word
            .updates
            .iter()
            .filter(|row| row.outcome != UpdateOutcome::Waiting.name());
        for row in decided.rev() {
            if self.noted.get(&row.id) == Some(row) {
                continue;
            }
            match ledger::note(&self.dir, row) {
                Ok(()) => {
                    self.ledger_fails = false;
                    self.noted.insert(row.id.clone(), row.clone());
                }
                Err(error) if !self.ledger_fails => {
                    self.ledger_fails = true;
                    tell(format_args!("the ledger of updates cannot be written: {error}"));
                }
                Err(_) => {}
            }
        }
    }

    /// The records of the kernel before, read again where they have changed: what was carried over comes later.
    fn before(&mut self, journals: &[PathBuf]) -> Vec<Read> {
        let file = |path: &PathBuf| {
            let data = fs::metadata(path).ok();
            let (length, time) = (
                data.as_ref().map_or(0, fs::Metadata::len),
                data.and_then(|data| data.modified().ok()),
            );
            (path.clone(), length, time)
        };
        let files: Vec<_> = journals.iter().map(file).collect();
        if let Some(before) = self.before.as_ref().filter(|before| before.files == files) {
            return before.read.clone();
        }
        let read = Read::all(journals);
        self.before = Some(Before {
            files,
            read: read.clone(),
        });
        read
    }

    /// Tells of the last update once it is decided, and whenever it is decided otherwise.
    fn tell(&mut self, update: &Row) {
        let sentence = update.sentence();
        if update.outcome != UpdateOutcome::Waiting.name() && self.told.as_ref() != Some(&sentence) {
            tell(&sentence);
            self.told = Some(sentence);
        }
    }
}

#[cfg(test)]
mod tests;
