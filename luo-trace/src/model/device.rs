//! Who has `/dev/liveupdate` open, as far as the record tells.

use super::scene::Moment;
use crate::event::{Body, Event, EventId};

#[derive(Debug, Default)]
pub(super) struct Device {
    /// The open that lasts, and its epoch.
    open: Option<(EventId, u32)>,
    /// Opens that were followed by another before their close was seen to end.
    leaving: u32,
}

impl Device {
    /// The open that lasts, where nothing was lost since.
    pub(super) fn open(&self, epoch: u32) -> Option<EventId> {
        self.open.filter(|o| o.1 == epoch).map(|o| o.0)
    }

    pub(super) fn apply(&mut self, event: &Event, moment: Moment) {
        match &event.body {
            Body::DeviceOpen(p) if p.outcome.is_ok() => {
                if self.open(moment.epoch).is_some() {
                    self.leaving = self.leaving.saturating_add(1);
                } else {
                    self.leaving = 0;
                }
                self.open = Some((moment.id, moment.stamp()));
            }
            Body::DeviceRelease(_) if self.leaving > 0 => self.leaving -= 1,
            Body::DeviceRelease(_) => self.open = None,
            _ => {}
        }
    }
}
