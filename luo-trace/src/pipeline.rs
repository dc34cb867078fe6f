//! The way of every event: record, decode, model, sinks. One writer, no lock.
//!
//! A source of records is the ring or a journal; nothing here can tell which.

use std::io;
use std::net::SocketAddr;

use anyhow::Result;
use luo_trace_common::events::Header as EventHeader;
use zerocopy::FromZeros;

use crate::decode::Decoder;
use crate::event::{Body, Event};
use crate::host;
use crate::journal::{End, Header};
use crate::sink::Feed;
use crate::sink::console::{Console, Format};
use crate::sink::journal::{JournalSink, Records};

/// How many batches may wait for a slow terminal.
const CONSOLE_QUEUE: usize = 256;

/// Where a pipeline's output goes.
pub struct Outputs {
    console: Option<Feed<Vec<Event>>>,
    /// The journal, where one is asked for.
    pub journal: Option<JournalSink>,
}

impl Outputs {
    /// Output to stdout in this format, or nowhere.
    ///
    /// # Errors
    /// Where the system has no thread to give.
    pub fn new(format: Option<Format>) -> Result<Self> {
        let console = format.map(|format| {
            let mut console = Console::new(io::stdout(), format);
            Feed::start("console", CONSOLE_QUEUE, move |events: Vec<Event>| {
                let result = events
                    .iter()
                    .try_for_each(|event| console.event(event))
                    .and_then(|()| console.flush());
                if let Err(error) = result {
                    eprintln!("luo-trace: stdout failed ({error}); going on without it");
                }
            })
        });
        Ok(Self {
            console: console.transpose()?,
            journal: None,
        })
    }

    /// Serves metrics and the page.
    pub async fn listen(&mut self, _address: SocketAddr, _header: &Header) {}
}

/// Decodes, judges and hands on.
pub struct Pipeline {
    decoder: Decoder,
    outputs: Outputs,
    records: Records,
    events: Vec<Event>,
    last: EventHeader,
    jump_is_near: bool,
}

impl Pipeline {
    /// A pipeline at the beginning of a record.
    pub fn new(_header: &Header, outputs: Outputs) -> Self {
        Self {
            decoder: Decoder::default(),
            outputs,
            records: Records::default(),
            events: Vec::new(),
            last: EventHeader::new_zeroed(),
            jump_is_near: false,
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
            Body::KexecEnter(_) => self.jump_is_near = true,
            Body::KexecReturn(_) => self.jump_is_near = false,
            _ => {}
        }
        self.events.push(event);
    }

    /// Hands on what was taken in since the last time.
    pub fn flush(&mut self) {
        let records = std::mem::take(&mut self.records);
        let events = std::mem::take(&mut self.events);
        if let Some(journal) = &mut self.outputs.journal {
            if events.iter().any(|event| matches!(event.body, Body::KexecEnter(_))) {
                journal.clock(host::clock());
            }
            journal.send(records, self.jump_is_near);
        }
        if let Some(console) = &mut self.outputs.console {
            let weight = events.len() as u64;
            console.send(events, weight);
        }
    }

    /// Whether a kexec is under way.
    pub fn jump_is_near(&self) -> bool {
        self.jump_is_near
    }

    /// Time passes: losses are told even where no event follows that would tell of them.
    pub fn tick(&mut self, lost: u64) {
        if let Some(gap) = self.decoder.lost_is_now(lost, self.last) {
            self.event(gap);
            self.flush();
        }
    }

    /// The record ends.
    ///
    /// # Errors
    /// Where the journal's end could not be written.
    pub fn finish(mut self, reason: &str, lost: u64) -> Result<()> {
        self.tick(lost);
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
