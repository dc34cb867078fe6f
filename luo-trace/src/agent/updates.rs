//! What the running agent knows of live updates: it joins the journal of the kernel before with its own, as `check` does, whenever
//! something has happened that may change what they say together.
//!
//! A thread of its own reads the journals from the disk, so that no other thread waits for it and its word is `check`'s. It is called by the
//! journal's thread when all that led to the call is written, rests for four times as long as it has worked unless a reader of the
//! status waits for it, and gives way to everything else on the machine.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::agent::live::Live;
use crate::chain::Hosts;
use crate::chain::case::{Case, Pair, Read};
use crate::event::Body;
use crate::host;
use crate::model::{Finding, Invariant, Status, Verdict};
use crate::report::{Report, Row, UpdateOutcome, updates};
use crate::sink::console::tell;

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
    /// The word on the boot with this id and the one before it, with the time since it booted.
    pub fn of(case: &Case, boot_id: &str, deadline: Duration, now_ns: u64) -> Self {
        let chain = &case.chain;
        let own = chain.boots.iter().position(|boot| boot.boot_id == boot_id);
        let before = own.and_then(|own| own.checked_sub(1));
        let rows = updates(&Report::of(case), deadline, now_ns);
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
}

/// What was read of the kernel before, and which files that was: as long as they stay the same they are not read again.
struct Before {
    files: Vec<(PathBuf, u64, Option<SystemTime>)>,
    read: Vec<Read>,
}

impl Judge {
    /// Starts the thread, which judges the journals in `dir` when it is called, and at the deadline; what waits `deadline` after the boot
    /// with this id counts as unclaimed.
    ///
    /// # Errors
    /// Where the system has no thread to give.
    pub fn start(dir: PathBuf, boot_id: String, deadline: Duration, live: Arc<Live>) -> io::Result<Bell> {
        let (caller, called) = sync_channel(1);
        let judge = Self::new(dir, boot_id, deadline, live);
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
        }
    }

    fn run(mut self, called: &Receiver<()>) {
        host::give_way();
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
        let word = Word::of(&case, &self.boot_id, self.deadline, host::monotonic_ns());
        if let Some(update) = word.updates.first() {
            self.tell(update);
        }
        self.live.set_updates(word, call);
        false
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
