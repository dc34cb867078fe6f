//! What the agent of a recorded boot knew of the live update that brought it, while it ran.

use anyhow::Result;

use super::Recording;
use crate::agent::live::Live;
use crate::agent::updates::{Word, is_a_milestone};
use crate::chain::Hosts;
use crate::chain::case::{Case, Read};
use crate::event::Event;
use crate::report::Report;

/// Joins the records of a boot and of the one before it, as its agent did.
pub(super) struct Judge<'a> {
    recording: &'a Recording<'a>,
    /// The place of the boot's journal among those of its host.
    place: usize,
    boot_id: String,
    /// What the boot before recorded, once that was read.
    before: Option<Vec<Read>>,
    /// How many events of the boot were shown, and the time of the last.
    seen: usize,
    last: u64,
    /// Up to which time it was judged; `None`: something has come since that may change it.
    judged: Option<u64>,
}

impl<'a> Judge<'a> {
    pub(super) fn new(recording: &'a Recording<'a>, place: usize, boot_id: &str) -> Self {
        Self {
            recording,
            place,
            boot_id: boot_id.into(),
            before: None,
            seen: 0,
            last: 0,
            judged: None,
        }
    }

    /// The same for an agent that was started later in the boot, and knows nothing yet.
    pub(super) fn of_another_run(mut self) -> Self {
        self.judged = None;
        self
    }

    /// An event was shown.
    pub(super) fn sees(&mut self, event: &Event) {
        self.seen += 1;
        self.last = event.header.ktime;
        if is_a_milestone(&event.body) {
            self.judged = None;
        }
    }

    /// Tells `live` what is known at this time of the boot's `CLOCK_MONOTONIC`, where that may be something new.
    pub(super) fn judge(&mut self, live: &Live, now: u64) -> Result<()> {
        let arrival_deadline = self.recording.deadline.arrival_deadline;
        let deadline = u64::try_from(arrival_deadline.as_nanos()).unwrap_or(u64::MAX);
        let stays = |judged: u64| judged >= deadline || now < deadline;
        if self.judged.is_some_and(stays) {
            return Ok(());
        }
        let mut pair: Vec<_> = self.recording.journals()?.into_iter().take(self.place + 1).collect();
        let own = pair.pop().map(|own| Read::beginning(own, self.seen));
        let before = self.before.get_or_insert_with(|| {
            let before = pair.pop().into_iter();
            before.map(Read::of_one).collect()
        });
        let read = before.iter().cloned().chain(own);
        let case = Case::joined(read.collect(), Hosts::One);
        let word = Word::of(&case, &Report::of(&case), &self.boot_id, arrival_deadline, now);
        live.set_updates(word, 0);
        self.judged = Some(now);
        Ok(())
    }

    /// The same at the end of the boot's record.
    pub(super) fn ends(&mut self, live: &Live) -> Result<()> {
        self.judged = None;
        self.judge(live, self.last)
    }
}
