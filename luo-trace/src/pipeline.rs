//! The way of every event: record, decode, model, sinks. One writer.
//!
//! A source of records is the ring or a journal; nothing here can tell which.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use luo_trace_common::events::{Header as EventHeader, SNAPSHOT_CHANGED};
use zerocopy::FromZeros;

use crate::decode::Decoder;
use crate::event::{Body, Event};
use crate::host;
use crate::journal::End;
use crate::live::Live;
use crate::model::Finding;
use crate::sink::Feed;
use crate::sink::console::{Console, Format, tell};
use crate::sink::control::{Form, Readers, Streams};
use crate::sink::journal::{JournalSink, Records};
use crate::sink::web;

/// How many batches may wait for a slow terminal.
const CONSOLE_QUEUE: usize = 256;
/// How many batches may wait to be written out for the readers at the socket.
const STREAMS_QUEUE: usize = 32;

/// What a terminal shows.
enum Line {
    Event(Event),
    Finding(Finding),
}

/// Where a pipeline's output goes.
#[derive(Default)]
pub struct Outputs {
    console: Option<Feed<Arc<Vec<Line>>>>,
    streams: Option<(Feed<Arc<Vec<Line>>>, Readers)>,
    journal: Option<JournalSink>,
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
            });
            if let Err(error) = result.and_then(|()| console.flush()) {
                tell(format_args!("stdout failed ({error}); going on without it"));
            }
        };
        self.console = Some(Feed::start("console", CONSOLE_QUEUE, consume)?);
        Ok(())
    }

    /// Sends events and findings to whoever reads the streams; while nobody does, it costs nothing.
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
        self.streams = Some((Feed::start("streams", STREAMS_QUEUE, consume)?, readers));
        Ok(())
    }

    /// Records everything.
    pub fn record(&mut self, journal: JournalSink) {
        self.journal = Some(journal);
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
        }
    }
    text
}

/// Serves what is known at an address, in the background. An address that cannot be had is told, and nothing else suffers.
pub async fn serve(live: Arc<Live>, address: SocketAddr) {
    match web::bind(address).await {
        Ok(listener) => {
            tokio::spawn(web::serve(listener, live, std::future::pending()));
        }
        Err(error) => tell(format_args!("{error:#}; going on without the port")),
    }
}

/// Decodes, judges and hands on.
pub struct Pipeline {
    decoder: Decoder,
    live: Arc<Live>,
    outputs: Outputs,
    records: Records,
    lines: Vec<Line>,
    last: EventHeader,
    jump_is_near: bool,
    picture_is_whole: bool,
    told: Told,
}

/// What the metrics know already of counts that only ever grow.
#[derive(Default)]
struct Told {
    errors: u64,
    console: u64,
    streams: u64,
    journal: u64,
}

impl Pipeline {
    /// A pipeline at the beginning of a record whose hooks were all attached at this time, in nanoseconds of
    /// `CLOCK_MONOTONIC`.
    pub fn new(live: Arc<Live>, outputs: Outputs, attached: u64) -> Self {
        Self {
            decoder: Decoder::since(attached),
            live,
            outputs,
            records: Records::default(),
            lines: Vec::new(),
            last: EventHeader::new_zeroed(),
            jump_is_near: false,
            picture_is_whole: false,
            told: Told::default(),
        }
    }

    /// Takes in one record. What comes of it goes to the sinks with the next [`Pipeline::flush`].
    pub fn record(&mut self, record: &[u8]) {
        self.records.push(record);
        let (gap, event) = self.decoder.decode(record);
        for event in gap.into_iter().chain(event) {
            self.event(event);
        }
    }

    fn event(&mut self, event: Event) {
        self.last = event.header;
        match event.body {
            Body::KexecEnter(_) => {
                self.jump_is_near = true;
                if let Some(journal) = &mut self.outputs.journal {
                    journal.clock(host::clock());
                }
            }
            Body::KexecReturn(_) => {
                self.jump_is_near = false;
                self.picture_is_whole = false;
            }
            Body::Gap { .. } => self.picture_is_whole = false,
            Body::SnapshotEnd(end) => self.picture_is_whole = end.flags & SNAPSHOT_CHANGED == 0,
            _ => {}
        }
        let findings = self.live.apply(&event);
        if !is_an_item(&event.body) {
            self.lines.push(Line::Event(event));
        }
        self.lines.extend(findings.into_iter().map(Line::Finding));
    }

    /// Hands on what was taken in since the last time.
    pub fn flush(&mut self) {
        let records = std::mem::take(&mut self.records);
        let lines = std::mem::take(&mut self.lines);
        if let Some(journal) = &mut self.outputs.journal {
            journal.send(records, self.jump_is_near);
        }
        let (weight, lines) = (lines.len() as u64, Arc::new(lines));
        if let Some((streams, readers)) = &mut self.outputs.streams
            && weight > 0
            && readers.any()
        {
            streams.send(lines.clone(), weight);
        }
        if let Some(console) = &mut self.outputs.console {
            console.send(lines, weight);
        }
        self.count_losses();
    }

    fn count_losses(&mut self) {
        let live = &self.live;
        let rise = |told: &mut u64, now: u64| std::mem::replace(told, now).abs_diff(now);
        live.undecodable(rise(&mut self.told.errors, self.decoder.errors()));
        if let Some(console) = &self.outputs.console {
            live.dropped("console", rise(&mut self.told.console, console.dropped()));
        }
        if let Some((streams, _)) = &self.outputs.streams {
            live.dropped("streams", rise(&mut self.told.streams, streams.dropped()));
        }
        if let Some(journal) = &self.outputs.journal {
            live.dropped("journal", rise(&mut self.told.journal, journal.dropped()));
        }
    }

    /// Whether a kexec is under way.
    pub fn jump_is_near(&self) -> bool {
        self.jump_is_near
    }

    /// Whether LUO's lists were walked since the last event after which the model may not know them any more.
    pub fn picture_is_whole(&self) -> bool {
        self.picture_is_whole
    }

    /// Time passes: losses are told even where no event follows that would tell of them.
    pub fn tick(&mut self, lost: u64) {
        if let Some(gap) = self.decoder.lost_is_now(lost, self.last) {
            self.event(gap);
        }
        self.flush();
    }

    /// The record ends.
    ///
    /// # Errors
    /// Where the journal's end could not be written.
    pub fn finish(mut self, reason: &str, lost: u64) -> Result<()> {
        self.tick(lost);
        let last = self.live.finish();
        self.lines.extend(last.into_iter().map(Line::Finding));
        self.flush();
        if let Some((streams, _)) = self.outputs.streams {
            streams.finish();
        }
        if let Some(console) = self.outputs.console {
            console.finish();
        }
        if let Some(journal) = self.outputs.journal {
            journal.end(End {
                reason: reason.into(),
                kernel_lost: lost,
            })?;
        }
        Ok(())
    }
}

/// Whether this is one of the many things that a walk over LUO's lists found: a state to know and not an event to show.
fn is_an_item(body: &Body) -> bool {
    matches!(
        body,
        Body::SnapshotSession(_)
            | Body::SnapshotFile(_)
            | Body::SnapshotFlb(_)
            | Body::SnapshotHandler(_)
            | Body::SnapshotLink(_)
            | Body::ArrivedSession(_)
            | Body::ArrivedFile(_)
            | Body::ArrivedFlb(_)
    )
}
