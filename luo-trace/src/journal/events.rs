//! A journal as a stream of events, the same that the ring buffer gave.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use luo_trace_common::events as abi;
use zerocopy::FromZeros;

use super::{Clock, Damage, End, Frame, Header, Lost, OpenError, Reader};
use crate::event::decode::Decoder;
use crate::event::{Body, Event};

/// How many damaged places are described one by one; the rest are only counted.
const DAMAGE_KEPT: usize = 16;

/// How many reasons of losses are told apart; a file may have as many as it likes.
const REASONS_KEPT: usize = 8;

/// The events of the journal at `path`, with a gap wherever some are missing.
pub fn events(path: &Path) -> Result<Events<BufReader<File>>, OpenError> {
    Ok(Events::new(Reader::open(path)?))
}

/// What a journal held besides its events, as far as it has been read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Events given, without gaps.
    pub events: u64,
    /// Events known to be lost, in the kernel or on the way into the journal. Damage may have taken more.
    pub lost: u64,
    /// Those of them for which the journal has a reason, by the first reasons that it gives.
    pub losses: Vec<Lost>,
    /// Records that could not be decoded.
    pub errors: u64,
    /// Frames of an unknown kind.
    pub unknown_frames: u64,
    /// The first damaged places.
    pub damage: Vec<Damage>,
    /// How many damaged places there are.
    pub damaged: u64,
    /// The latest reading of the clocks after the header's.
    pub clock: Option<Clock>,
    /// How the recording ended; `None` where it just stops.
    pub end: Option<End>,
}

impl Summary {
    /// Counts records that the journal says are missing.
    fn lose(&mut self, lost: &Lost) {
        self.lost = self.lost.saturating_add(lost.records);
        if let Some(known) = self.losses.iter_mut().find(|known| known.why == lost.why) {
            known.records = known.records.saturating_add(lost.records);
        } else if self.losses.len() < REASONS_KEPT && !lost.why.is_empty() {
            self.losses.push(lost.clone());
        }
    }
}

/// Iterates over a journal's events. Made by [`events`] or [`Events::new`].
#[derive(Debug)]
pub struct Events<R> {
    reader: Reader<R>,
    decoder: Decoder,
    header: Header,
    run: u64,
    summary: Summary,
    /// An event that waits behind its gap.
    waiting: Option<Event>,
    /// The latest event's header, for gaps that no event reveals.
    last: abi::Header,
    /// Damage was passed, and no event has come since.
    after_damage: bool,
}

impl<R: Read> Events<R> {
    /// The events that `reader` gives.
    pub fn new(reader: Reader<R>) -> Self {
        Self {
            decoder: Decoder::since(reader.header().clock.monotonic_ns),
            header: reader.header().clone(),
            reader,
            run: 1,
            summary: Summary::default(),
            waiting: None,
            last: abi::Header::new_zeroed(),
            after_damage: false,
        }
    }

    /// The header of the run that the latest event belongs to.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Which run of an agent the latest event belongs to, from 1. Each later run begins with a gap, of unknown size: what
    /// happened while no agent looked.
    pub fn run(&self) -> u64 {
        self.run
    }

    /// What the journal held besides, as far as it has been read.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// The gap that an event reveals.
    fn gap_before(decoder: &mut Decoder, event: &Event, after_damage: &mut bool) -> Option<Event> {
        let before = decoder.lost();
        let gap = decoder.gap_before(event);
        // The damaged part may have held the beginning of a new run, whose count of losses starts again at zero. The gap
        // for the damage stands for everything lost before this event.
        if std::mem::take(after_damage) && event.header.lost < before {
            *decoder = decoder.anew();
            decoder.lost_is_now(event.header.lost, event.header);
        }
        gap
    }

    fn gap(&self, lost: u64) -> Event {
        Event {
            header: self.last,
            body: Body::Gap { lost },
        }
    }
}

impl<R: Read> Iterator for Events<R> {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        // Asked first, since taking moves as much where there is nothing.
        if self.waiting.is_some() {
            return self.waiting.take();
        }
        loop {
            let Some(frame) = self.reader.next() else {
                self.summary.unknown_frames = self.reader.unknown();
                return None;
            };
            match frame {
                Frame::Event(record) => {
                    let Ok(event) = self.decoder.event(record) else {
                        self.summary.errors += 1;
                        continue;
                    };
                    let gap = Self::gap_before(&mut self.decoder, &event, &mut self.after_damage);
                    match event.body {
                        Body::Gap { lost } => self.summary.lost = self.summary.lost.saturating_add(lost),
                        _ => self.summary.events += 1,
                    }
                    self.last = event.header;
                    let Some(gap) = gap else { return Some(event) };
                    self.summary.lost = self.summary.lost.saturating_add(lost(&gap));
                    self.waiting = Some(event);
                    return Some(gap);
                }
                Frame::Lost(frame) => {
                    self.summary.lose(&frame);
                    return Some(self.gap(frame.records.max(1)));
                }
                Frame::Clock(clock) => self.summary.clock = Some(clock),
                Frame::End(end) => {
                    let gap = self.decoder.lost_is_now(end.kernel_lost, self.last);
                    self.summary.end = Some(end);
                    if let Some(gap) = gap {
                        self.summary.lost = self.summary.lost.saturating_add(lost(&gap));
                        return Some(gap);
                    }
                }
                Frame::Resumed(header) => {
                    // The new run's programs count from zero again.
                    self.decoder = Decoder::since(header.clock.monotonic_ns);
                    self.after_damage = false;
                    self.header = *header;
                    self.run += 1;
                    self.summary.end = None;
                    return Some(self.gap(1));
                }
                Frame::Damage(damage) => {
                    self.summary.damaged += 1;
                    if self.summary.damage.len() < DAMAGE_KEPT {
                        self.summary.damage.push(damage);
                    }
                    self.after_damage = true;
                    return Some(self.gap(1));
                }
            }
        }
    }
}

fn lost(gap: &Event) -> u64 {
    match gap.body {
        Body::Gap { lost } => lost,
        _ => 0,
    }
}
