//! Where a pipeline's output goes: a terminal, readers at the socket, the journal, and the memory that outlives the kernel.

use std::io;
use std::sync::Arc;

use anyhow::Result;

use crate::agent::carry::Mapping;
use crate::event::Event;
use crate::journal::carry::Recorder;
use crate::model::{Finding, Id};
use crate::policy::tell::Refusal;
use crate::sink::Feed;
use crate::sink::console::{Console, Format};
use crate::sink::control::{Form, Readers, Streams};
use crate::sink::journal::{JournalSink, Records};
use crate::sink::log::{self, Entry, tell};
use crate::sink::push::Push;

/// How many batches may wait for a slow terminal.
const CONSOLE_QUEUE: usize = 256;
/// How many batches of findings may wait for a slow log.
const LOG_QUEUE: usize = 32;
/// How many batches may wait to be written out for the readers at the socket.
const STREAMS_QUEUE: usize = 32;

/// How many findings are kept for a slow terminal.
const FINDINGS_KEPT: usize = 4096;

/// What a terminal shows.
#[derive(Clone)]
pub(super) enum Line {
    Event(Event),
    Finding(Finding),
    /// There were more findings here than are kept.
    LeftOut(u64),
}

/// Lines on their way to a thread that writes them. Where there is no room for them, events are dropped and counted, while
/// findings wait, up to [`FINDINGS_KEPT`]: of more only the number is told.
pub(super) struct Lines {
    feed: Feed<Arc<Vec<Line>>>,
    kept: Arc<Vec<Line>>,
    left_out: u64,
    events_dropped: u64,
}

impl Lines {
    fn new(feed: Feed<Arc<Vec<Line>>>) -> Self {
        Self {
            feed,
            kept: Arc::default(),
            left_out: 0,
            events_dropped: 0,
        }
    }

    pub(super) fn send(&mut self, lines: &Arc<Vec<Line>>) {
        if !self.kept.is_empty() {
            let kept = std::mem::take(&mut self.kept);
            self.kept = self.feed.offer(kept).err().unwrap_or_default();
        }
        if lines.is_empty() || self.kept.is_empty() && self.feed.offer(lines.clone()).is_ok() {
            return;
        }
        for line in lines.iter() {
            match line {
                Line::Event(_) => self.events_dropped += 1,
                _ => self.keep(line),
            }
        }
    }

    fn keep(&mut self, finding: &Line) {
        let kept = Arc::make_mut(&mut self.kept);
        if kept.len() < FINDINGS_KEPT {
            return kept.push(finding.clone());
        }
        self.left_out += 1;
        match kept.last_mut() {
            Some(Line::LeftOut(more)) => *more += 1,
            _ => kept.push(Line::LeftOut(1)),
        }
    }

    /// How many lines were dropped so far.
    pub(super) fn dropped(&self) -> u64 {
        self.events_dropped + self.left_out
    }

    /// Whether there is still a thread that writes them.
    fn is_alive(&self) -> bool {
        self.feed.is_alive()
    }

    /// Waits until everything is written.
    pub(super) fn finish(self) {
        self.feed.finish(self.kept);
    }
}

/// Where a pipeline's output goes.
#[derive(Default)]
pub struct Outputs {
    pub(super) console: Option<Lines>,
    pub(super) log: Option<Lines>,
    pub(super) streams: Option<(Lines, Readers)>,
    pub(super) journal: Option<JournalSink>,
    pub(super) carried: Option<Recorder<Mapping>>,
    pub(super) push: Option<Push>,
    /// Room for a batch that no journal has.
    spare: Records,
}

impl Outputs {
    /// Prints events and findings to stdout.
    ///
    /// # Errors
    /// Where the system has no thread to give.
    pub fn print(&mut self, format: Format) -> Result<()> {
        let mut console = Console::new(io::stdout(), format);
        let consume = move |lines: Arc<Vec<Line>>| {
            let result = lines.iter().try_for_each(|line| match line {
                Line::Event(event) => console.event(event),
                Line::Finding(finding) => console.finding(finding),
                Line::LeftOut(findings) => console.left_out(*findings),
            });
            if let Err(error) = result.and_then(|()| console.flush()) {
                tell(format_args!("stdout failed ({error}); going on without it"));
            }
        };
        self.console = Some(Lines::new(Feed::start("console", CONSOLE_QUEUE, consume)?));
        Ok(())
    }

    /// Tells findings in the log.
    ///
    /// # Errors
    /// Where the system has no thread to give.
    pub fn log(&mut self) -> Result<()> {
        let consume = |lines: Arc<Vec<Line>>| {
            for line in lines.iter() {
                match line {
                    Line::Event(_) => {}
                    Line::Finding(finding) => log::write(&Entry::finding(finding)),
                    Line::LeftOut(findings) => tell(format_args!(
                        "{findings} findings more: these lines were taken too slowly. The journal and the metrics have them all"
                    )),
                }
            }
        };
        self.log = Some(Lines::new(Feed::start("log", LOG_QUEUE, consume)?));
        Ok(())
    }

    /// Sends events and findings to the readers of the streams; while none does, it costs nothing.
    ///
    /// # Errors
    /// Where the system has no thread to give.
    pub fn stream(&mut self, mut streams: Streams) -> Result<()> {
        let readers = streams.readers();
        let consume = move |lines: Arc<Vec<Line>>| {
            for form in Form::ALL
                .into_iter()
                .filter(|&form| streams.is_read(form))
                .collect::<Vec<_>>()
            {
                let text = write_out(&lines, form);
                streams.send(form, text, lines.len() as u64);
            }
        };
        self.streams = Some((Lines::new(Feed::start("streams", STREAMS_QUEUE, consume)?), readers));
        Ok(())
    }

    /// Records everything.
    pub fn record(&mut self, journal: JournalSink) {
        self.journal = Some(journal);
    }

    /// Pushes findings and refusals to a collector.
    pub fn push(&mut self, push: Push) {
        self.push = Some(push);
    }

    /// Keeps the end of the record in memory that outlives the kernel, as soon as it is known and before anything else.
    pub fn carry(&mut self, recorder: Recorder<Mapping>) {
        self.carried = Some(recorder);
    }
}

impl Outputs {
    /// Room for the records of a batch: that of an earlier one, where it is back.
    pub(super) fn room(&mut self) -> Records {
        if let Some(journal) = &mut self.journal
            && self.spare.capacity() == 0
        {
            return journal.room();
        }
        std::mem::take(&mut self.spare)
    }

    /// Takes back room that no journal needs.
    pub(super) fn give_back(&mut self, mut room: Records) {
        room.clear();
        self.spare = room;
    }

    /// Whether lines are shown anywhere.
    pub(super) fn show(&self) -> bool {
        self.console.is_some() || self.streams.as_ref().is_some_and(|(_, readers)| readers.any())
    }

    /// Shows lines, wherever they are.
    pub(super) fn send(&mut self, lines: Vec<Line>) {
        if !self.show() {
            return;
        }
        let lines = Arc::new(lines);
        if let Some((streams, readers)) = &mut self.streams
            && readers.any()
        {
            streams.send(&lines);
        }
        if let Some(console) = &mut self.console {
            console.send(&lines);
        }
    }

    /// Tells of findings, where they go besides the lines.
    pub(super) fn found(&mut self, findings: &[Finding]) {
        if let Some(push) = &self.push {
            findings.iter().for_each(|finding| push.finding(finding));
        }
        if let Some(log) = &mut self.log
            && !(findings.is_empty() && log.kept.is_empty())
        {
            log.send(&Arc::new(findings.iter().cloned().map(Line::Finding).collect()));
        }
    }

    /// Tells of a call to which a rule of policy said no, where that is pushed.
    pub(super) fn refused(&self, boot_id: &str, event: &Event) {
        if let Some(push) = &self.push
            && let Some(refusal) = Refusal::of(event)
        {
            push.refusal(Id::of_refusal(boot_id, event.id(), event.header.ktime), refusal);
        }
    }

    /// Why what is handed on does not get where it should: a sentence for each output.
    pub(super) fn troubles(&self) -> Vec<String> {
        let gone = |lines: Option<&Lines>, what: &str| {
            let is_gone = lines.is_some_and(|lines| !lines.is_alive());
            is_gone.then(|| format!("{what} shows nothing any more, since its thread has ended: start the agent anew"))
        };
        let journal = self.journal.as_ref().and_then(JournalSink::trouble);
        let console = gone(self.console.as_ref(), "standard output");
        let log = gone(self.log.as_ref(), "the log");
        let streams = gone(self.streams.as_ref().map(|(lines, _)| lines), "`luo-trace watch`");
        [journal, console, log, streams].into_iter().flatten().collect()
    }
}

fn write_out(lines: &[Line], form: Form) -> String {
    let format = match form {
        Form::Json => Format::Json,
        Form::Text => Format::Text { colour: false },
        Form::Colour => Format::Text { colour: true },
    };
    let mut text = String::new();
    for line in lines {
        match line {
            Line::Event(event) => format.event(&mut text, event),
            Line::Finding(finding) => format.finding(&mut text, finding),
            Line::LeftOut(findings) => format.left_out(&mut text, *findings),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, mpsc};

    use super::*;
    use crate::model::{Invariant, Subject};
    use crate::testing::{Story, session};

    /// A terminal that hangs with its first batch, an empty one, until it is let go.
    fn stuck(shown: &Arc<Mutex<Vec<Line>>>) -> (Lines, mpsc::Sender<()>) {
        let (taken, wait_taken) = mpsc::channel();
        let (let_go, held) = mpsc::channel::<()>();
        let shown = shown.clone();
        let consume = move |lines: Arc<Vec<Line>>| {
            _ = taken.send(());
            _ = held.recv();
            shown.lock().unwrap().extend(lines.iter().cloned());
        };
        let mut feed = Feed::start("stuck", 1, consume).unwrap();
        assert!(feed.offer(Arc::default()).is_ok());
        wait_taken.recv().unwrap();
        (Lines::new(feed), let_go)
    }

    /// A batch of one event and one finding.
    fn batch(event: &Event, number: u64) -> Arc<Vec<Line>> {
        let finding = Finding {
            id: Id::default(),
            invariant: Invariant::FileBalance,
            object: Subject::Update,
            expected: "every file is given back".into(),
            seen: "one is not".into(),
            advice: "look at its handler",
            evidence: Vec::new(),
            time_ns: number,
        };
        Arc::new(vec![Line::Event(event.clone()), Line::Finding(finding)])
    }

    /// Some event.
    fn event() -> Event {
        let mut story = Story::new();
        story.create(session(1, "vm"));
        story.events.remove(0)
    }

    #[test]
    fn a_slow_terminal_costs_events_and_no_finding() {
        // Given a terminal that hangs,
        let shown = Arc::default();
        let (mut lines, let_go) = stuck(&shown);
        let event = event();
        // when many more findings come than its queue holds,
        let many = FINDINGS_KEPT as u64;
        (1..=many).for_each(|number| lines.send(&batch(&event, number)));
        drop(let_go);
        let dropped = lines.dropped();
        lines.finish();
        // then all are shown in their order, and the events that are not are counted.
        let shown = shown.lock().unwrap();
        let numbers = shown.iter().filter_map(|line| match line {
            Line::Finding(finding) => Some(finding.time_ns),
            _ => None,
        });
        assert!(numbers.eq(1..=many));
        let events = shown.iter().filter(|line| matches!(line, Line::Event(_))).count() as u64;
        assert_eq!((events, dropped), (1, many - 1));
    }

    #[test]
    fn of_more_findings_than_are_kept_the_number_is_told() {
        let shown = Arc::default();
        let (mut lines, let_go) = stuck(&shown);
        let event = event();
        let many = FINDINGS_KEPT as u64 + 100;
        (1..=many).for_each(|number| lines.send(&batch(&event, number)));
        drop(let_go);
        lines.finish();
        let shown = shown.lock().unwrap();
        let findings = shown.iter().filter(|line| matches!(line, Line::Finding(_))).count() as u64;
        assert!(
            matches!(shown.last(), Some(Line::LeftOut(99))),
            "nothing tells of what is missing"
        );
        assert_eq!(findings + 99, many);
    }
}
