//! Something for each name that events have, found by a number and not by comparing names.

use luo_trace_common::events::{FileCall, FlbCall, Kind};

use super::{Body, Event};

/// A table by [`Event::name`]. What no event has come for is not in it.
#[derive(Clone, Debug, Default)]
pub struct ByName<T>(Vec<Option<(&'static str, T)>>);

impl<T: Default> ByName<T> {
    /// What belongs to this event's name.
    pub fn of(&mut self, event: &Event) -> &mut T {
        let place = place(&event.body);
        if self.0.len() <= place {
            self.0.resize_with(place + 1, || None);
        }
        let (_, value) = self.0[place].get_or_insert_with(|| (event.name(), T::default()));
        value
    }

    /// The names that came, and what belongs to each, in no order of meaning.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &T)> {
        self.0.iter().flatten().map(|(name, value)| (*name, value))
    }
}

/// A number that is the same for events of one name, and for no others.
fn place(body: &Body) -> usize {
    const FILE: usize = Kind::SPAN;
    const FLB: usize = FILE + FileCall::SPAN;
    const KHO: usize = FLB + FlbCall::SPAN;
    match body {
        Body::FileCallback(call, _) => FILE + *call as usize,
        // They have one name.
        Body::FlbCallback(FlbCall::Finish | FlbCall::Unpreserve, _) => FLB + FlbCall::Unpreserve as usize,
        Body::FlbCallback(call, _) => FLB + *call as usize,
        Body::KhoOp(call, _) => KHO + *call as usize,
        // No kind has the number 0.
        body => body.kind().map_or(0, |kind| kind as usize),
    }
}

#[cfg(test)]
mod tests {
    use luo_trace_common::events::Header;
    use zerocopy::{FromZeros, IntoBytes};

    use super::*;
    use crate::event::decode::Decoder;

    /// An event of each kind and of each of its calls.
    fn all() -> Vec<Event> {
        let events = Kind::ALL.iter().flat_map(|&kind| {
            (0..64_u32).filter_map(move |call| {
                let mut payload = vec![0; kind.payload_size()];
                payload
                    .iter_mut()
                    .zip(call.to_le_bytes())
                    .for_each(|(byte, of)| *byte = of);
                let header = Header {
                    kind: kind as u16,
                    size: (size_of::<Header>() + payload.len()) as u16,
                    ..Header::new_zeroed()
                };
                Decoder::default().event(&[header.as_bytes(), &payload].concat()).ok()
            })
        });
        events.collect()
    }

    #[test]
    fn events_have_one_place_where_they_have_one_name() {
        let events = all();
        let mut table = ByName::<u64>::default();
        events.iter().for_each(|event| *table.of(event) += 1);
        for event in &events {
            let same = events.iter().filter(|other| other.name() == event.name()).count() as u64;
            assert_eq!(*table.of(event), same, "{}", event.name());
        }
        assert_eq!(table.iter().map(|(_, count)| count).sum::<u64>(), events.len() as u64);
        assert!(table.iter().any(|(name, _)| name == "file-freeze") && table.iter().any(|(name, _)| name == "gap"));
    }
}
