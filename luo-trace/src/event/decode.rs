//! Bytes to [`Event`]s, or to a counted error. The same for the ring buffer and for a journal.

use std::fmt;

use luo_trace_common::events::{self as abi, Header, Kind, Missed};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::event::{Body, Event};

/// Why a record was not decoded. Each is counted and skipped; none stops the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Shorter than a header.
    Short {
        /// Its length in bytes.
        len: usize,
    },
    /// The header's size is not the record's.
    Size {
        /// What the header says.
        header: u16,
        /// The record's length in bytes.
        len: usize,
    },
    /// A kind or callback that this version does not know: a newer writer's.
    Unknown {
        /// The raw kind.
        kind: u16,
    },
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { len } => write!(f, "record of {len} bytes is shorter than an event's header"),
            Self::Size { header, len } => write!(f, "record of {len} bytes says that it has {header}"),
            Self::Unknown { kind } => {
                write!(
                    f,
                    "event kind {kind} is unknown to this version; a newer luo-trace wrote it"
                )
            }
        }
    }
}

impl std::error::Error for DecodeError {}

/// Turns records into events, and keeps account of what is missing.
#[derive(Debug, Default)]
pub struct Decoder {
    since: u64,
    lost: u64,
    errors: u64,
}

/// What one record gave: at most a gap and an event, in this order.
pub type Decoded = (Option<Event>, Result<Event, DecodeError>);

impl Decoder {
    /// A decoder for a record whose hooks were all attached at this time, in nanoseconds of `CLOCK_MONOTONIC`. An
    /// operation that was under way then was seen in part only, which counts as a loss.
    pub fn since(attached: u64) -> Self {
        Self {
            since: attached,
            ..Self::default()
        }
    }

    /// The same decoder before its first record.
    pub fn anew(&self) -> Self {
        Self::since(self.since)
    }

    /// Decodes one record. Where its header tells of losses not yet told, a [`Body::Gap`] comes before the event.
    pub fn decode(&mut self, record: &[u8]) -> Decoded {
        let result = self.event(record);
        let gap = result.as_ref().ok().and_then(|event| self.gap_before(event));
        (gap, result)
    }

    /// Decodes one record, of whose gap [`Decoder::gap_before`] tells.
    ///
    /// # Errors
    /// Why it cannot be decoded, which is counted.
    #[inline]
    pub fn event(&mut self, record: &[u8]) -> Result<Event, DecodeError> {
        event(record).inspect_err(|_| self.errors += 1)
    }

    /// The gap that comes before this event, which was decoded just now.
    #[inline]
    pub fn gap_before(&mut self, event: &Event) -> Option<Event> {
        self.lost_is_now(event.header.lost, event.header)
            .or_else(|| self.partly_seen(event))
    }

    /// Takes a newer count of lost events, such as the one read from the kernel after the last event, and gives a gap
    /// where it is higher than what was known.
    pub fn lost_is_now(&mut self, lost: u64, header: Header) -> Option<Event> {
        let newly = lost.checked_sub(self.lost).filter(|&n| n > 0)?;
        self.lost = lost;
        Some(Event {
            header,
            body: Body::Gap { lost: newly },
        })
    }

    /// A gap for an operation that began before every hook was attached.
    fn partly_seen(&self, event: &Event) -> Option<Event> {
        // An entry, a record and what a snapshot lists are moments, not operations.
        let moment = matches!(event.body, Body::KexecEnter(_) | Body::KhoAnomaly(_)) || event.outcome().is_none();
        let whole = self.since == 0 || moment || event.start().is_some_and(|start| start >= self.since);
        (!whole).then_some(Event {
            header: event.header,
            body: Body::Gap { lost: 1 },
        })
    }

    /// How many events are known to be lost.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// How many records could not be decoded.
    pub fn errors(&self) -> u64 {
        self.errors
    }
}

fn event(record: &[u8]) -> Result<Event, DecodeError> {
    let (header, payload) = Header::read_from_prefix(record).map_err(|_| DecodeError::Short { len: record.len() })?;
    if usize::from(header.size) != record.len() {
        return Err(DecodeError::Size {
            header: header.size,
            len: record.len(),
        });
    }
    let body = Kind::from_raw(header.kind).and_then(|kind| read(kind, payload));
    let body = body.ok_or(DecodeError::Unknown { kind: header.kind })?;
    Ok(Event { header, body })
}

macro_rules! read_and_write {
    (events {
        $($(#[$doc:meta])* $value:literal $kind:ident($payload:ident $(, $field:ident: $choice:ident)*) $name:literal $($boxed:ident)?;)*
    } losses { $($losses:tt)* }) => {
        /// Reads the payload of a kind; `None` where it names a choice that this version does not know.
        #[inline]
        fn read(kind: Kind, payload: &[u8]) -> Option<Body> {
            Some(match kind {
                $(Kind::$kind => {
                    let payload: abi::$payload = prefix(payload);
                    Body::$kind($(abi::$choice::from_raw(payload.$field)?,)* payload.into())
                })*
                Kind::Missed => Body::Gap { lost: prefix::<Missed>(payload).programs },
            })
        }

        /// The kind and the payload that [`read`] gives this of; `None` of a gap, which is no record of its own: it shows in the next
        /// event's count of losses.
        fn write(body: &Body) -> Option<(Kind, &[u8])> {
            Some(match body {
                $(Body::$kind(.., payload) => (Kind::$kind, payload.as_bytes()),)*
                Body::Gap { .. } => return None,
            })
        }
    };
}

luo_trace_common::for_each_kind!(read_and_write);

/// Reads what this version knows of a payload: a newer one's tail is left out, an older one's missing tail is zero.
fn prefix<T: FromBytes + IntoBytes>(bytes: &[u8]) -> T {
    if let Ok((value, _)) = T::read_from_prefix(bytes) {
        return value;
    }
    let mut value = T::new_zeroed();
    let target = value.as_mut_bytes();
    let len = bytes.len().min(target.len());
    target[..len].copy_from_slice(&bytes[..len]);
    value
}

/// When a record was written, in nanoseconds of `CLOCK_MONOTONIC`; `None` of what is too short for a record.
pub fn sent_at(record: &[u8]) -> Option<u64> {
    Header::read_from_prefix(record).ok().map(|(header, _)| header.ktime)
}

/// Writes an event as the kernel would have: what a journal holds, and what tests and generators feed in.
pub fn encode(event: &Event) -> Vec<u8> {
    write(&event.body).map_or_else(Vec::new, |(kind, payload)| record(kind, event.header, payload))
}

/// Writes what no program can tell: that this many were skipped by the kernel since it was last told. The header's time is
/// that up to which events may depend on it.
pub fn missed(header: Header, programs: u64) -> Vec<u8> {
    own(Kind::Missed, header, &Missed { programs })
}

/// Writes a record of the agent's own, of a kind that no program sends.
pub fn own(kind: Kind, header: Header, payload: &(impl IntoBytes + Immutable)) -> Vec<u8> {
    record(kind, header, payload.as_bytes())
}

fn record(kind: Kind, header: Header, payload: &[u8]) -> Vec<u8> {
    let size = size_of::<Header>() + payload.len();
    let header = Header {
        kind: kind as u16,
        size: size as u16,
        ..header
    };
    [header.as_bytes(), payload].concat()
}

#[cfg(test)]
mod tests {
    use luo_trace_common::events::{Outcome, SessionOp, SessionRef};
    use luo_trace_common::text::{Comm, SessionName};

    use super::*;

    fn create(seq: u64, lost: u64) -> Event {
        let header = Header {
            kind: Kind::SessionCreate as u16,
            size: 56 + 88,
            cpu: 1,
            seq,
            lost,
            ktime: 1000 + seq,
            pid: 7,
            tgid: 7,
            comm: Comm::new("vmm"),
        };
        let session = SessionRef {
            id: 0xffff_8880_0000_1000,
            name: SessionName::new("vm-web"),
        };
        Event {
            header,
            body: Body::SessionCreate(SessionOp {
                session,
                outcome: Outcome {
                    result: 0,
                    duration: 250,
                },
            }),
        }
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        let event = create(1, 0);
        let (gap, decoded) = Decoder::default().decode(&encode(&event));
        assert_eq!(gap, None);
        assert_eq!(decoded, Ok(event));
    }

    #[test]
    fn every_kind_is_written_as_it_was_read() {
        // All bytes are different, but for the members that name a choice, which stand first.
        let payload = |size: usize| {
            [1, 0, 0, 0, 1, 0, 0, 0]
                .into_iter()
                .chain((8..=u8::MAX).cycle())
                .take(size)
                .collect::<Vec<u8>>()
        };
        for &kind in Kind::ALL {
            let bytes = record(kind, create(1, 0).header, &payload(kind.payload_size()));
            let event = Decoder::default().decode(&bytes).1.expect("every kind is read");
            match event.body.kind() {
                Some(read) => assert_eq!((read, encode(&event)), (kind, bytes)),
                None => assert_eq!((kind, encode(&event)), (Kind::Missed, vec![])),
            }
        }
    }

    #[test]
    fn a_risen_count_of_losses_is_a_gap_before_the_event_and_told_once() {
        let mut decoder = Decoder::default();
        assert_eq!(decoder.decode(&encode(&create(1, 0))).0, None);
        let (gap, event) = decoder.decode(&encode(&create(4, 2)));
        assert_eq!(gap.map(|g| g.body), Some(Body::Gap { lost: 2 }));
        assert_eq!(event, Ok(create(4, 2)));
        assert_eq!(decoder.decode(&encode(&create(5, 2))).0, None);
        assert_eq!(decoder.lost(), 2);
    }

    #[test]
    fn an_operation_that_was_under_way_when_the_hooks_were_attached_was_seen_in_part_only() {
        // Given one that took from 751 to 1001 ns,
        let record = encode(&create(1, 0));
        // when the hooks were attached in between, then something of it may be missing,
        let (gap, event) = Decoder::since(900).decode(&record);
        assert_eq!(gap.map(|g| g.body), Some(Body::Gap { lost: 1 }));
        assert_eq!(event, Ok(create(1, 0)));
        // and when they were attached before, nothing is.
        assert_eq!(Decoder::since(751).decode(&record).0, None);
        // One whose beginning was not seen at all may have begun at any time.
        let mut unseen = create(1, 0);
        if let Body::SessionCreate(p) = &mut unseen.body {
            p.outcome.duration = 0;
        }
        assert!(Decoder::since(1).decode(&encode(&unseen)).0.is_some());
    }

    #[test]
    fn a_longer_payload_of_a_newer_writer_is_read_as_far_as_known() {
        let mut bytes = encode(&create(1, 0));
        bytes.extend([9; 8]);
        let size = bytes.len() as u16;
        bytes[2..4].copy_from_slice(&size.to_le_bytes());
        let decoded = Decoder::default().decode(&bytes).1.expect("decodes");
        assert_eq!(decoded.body, create(1, 0).body);
    }

    #[test]
    fn a_shorter_payload_of_an_older_writer_ends_in_unknowns() {
        let mut bytes = encode(&create(1, 0));
        bytes.truncate(bytes.len() - size_of::<Outcome>());
        let size = bytes.len() as u16;
        bytes[2..4].copy_from_slice(&size.to_le_bytes());
        let decoded = Decoder::default().decode(&bytes).1.expect("decodes");
        assert_eq!(decoded.outcome(), Some(&Outcome::default()));
        assert_eq!(decoded.start(), None);
    }

    #[test]
    fn damage_is_counted_and_never_a_panic() {
        let good = encode(&create(1, 0));
        let mut decoder = Decoder::default();
        for len in 0..good.len() {
            assert!(decoder.decode(&good[..len]).1.is_err());
        }
        let mut newer = good.clone();
        newer[0..2].copy_from_slice(&999u16.to_le_bytes());
        assert_eq!(decoder.decode(&newer).1, Err(DecodeError::Unknown { kind: 999 }));
        assert_eq!(decoder.errors(), good.len() as u64 + 1);
    }
}
