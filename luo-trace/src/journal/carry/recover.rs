//! Reading what another kernel's agent left, wherever it was stopped.

use std::fmt;

use super::{BEGINNING, FIXED, HEAD_AT, MAGIC, NUMBER, TAIL_AT, VERSION, ring_after};
use crate::journal::Lost;
use crate::journal::frame::{self, HEAD, MAX_PAYLOAD, TAIL, kind};

/// A journal out of a memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Its bytes, as a file would have them. Records that are missing are told in it at their place.
    pub journal: Vec<u8>,
    /// How many records are in it.
    pub records: u64,
    /// How many were overwritten by later ones.
    pub lost: u64,
    /// Whether an entry was damaged, and with it all after it.
    pub damaged: bool,
}

/// Why a memory gives no journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It does not begin as it should: another program made it, or its making was not finished.
    Foreign,
    /// Another version of luo-trace made it.
    Version(u32),
    /// What it says of its own layout cannot be.
    Damaged,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign => f.write_str("it holds no journal of luo-trace"),
            Self::Version(version) => write!(
                f,
                "its layout has version {version}, and this luo-trace reads {VERSION}: run the same luo-trace in both kernels"
            ),
            Self::Damaged => f.write_str("it came over damaged"),
        }
    }
}

impl std::error::Error for Unreadable {}

/// Makes a journal of what a [`Recorder`](super::Recorder) left.
///
/// # Errors
/// Where it left nothing that can be understood.
pub fn recover(memory: &[u8]) -> Result<Recovered, Unreadable> {
    if memory.get(..MAGIC.len()) != Some(&MAGIC[..]) {
        return Err(Unreadable::Foreign);
    }
    let number = |at: usize| memory.get(at..).map_or(0, frame::number);
    let fixed = memory.get(..FIXED).ok_or(Unreadable::Damaged)?;
    if number(FIXED) != crc32fast::hash(fixed) {
        return Err(Unreadable::Damaged);
    }
    if number(8) != VERSION {
        return Err(Unreadable::Version(number(8)));
    }
    let beginning = number(12) as usize;
    let journal = memory.get(BEGINNING..).and_then(|rest| rest.get(..beginning));
    let journal = journal.ok_or(Unreadable::Damaged)?;
    let ring_len = usize::try_from(word(memory, 16)).map_err(|_| Unreadable::Damaged)?;
    let ring = memory
        .get(ring_after(beginning)..)
        .and_then(|rest| rest.get(..ring_len));
    let ring = ring.filter(|ring| !ring.is_empty()).ok_or(Unreadable::Damaged)?;
    let mut recovered = Recovered {
        journal: journal.to_vec(),
        ..Recovered::default()
    };
    Entries {
        ring,
        at: word(memory, TAIL_AT),
        end: word(memory, HEAD_AT),
    }
    .copy(&mut recovered);
    Ok(recovered)
}

/// The number in 8 bytes; bytes that are not there count as zero.
fn word(memory: &[u8], at: usize) -> u64 {
    let bytes = memory.get(at..).and_then(|rest| rest.first_chunk());
    u64::from_le_bytes(bytes.copied().unwrap_or_default())
}

/// The entries from the tail to the head.
struct Entries<'a> {
    ring: &'a [u8],
    at: u64,
    end: u64,
}

impl Entries<'_> {
    fn copy(mut self, to: &mut Recovered) {
        if self
            .end
            .checked_sub(self.at)
            .is_none_or(|len| len > self.ring.len() as u64)
        {
            to.damaged = true;
        }
        let mut expected = 0;
        let mut entry = Vec::new();
        while !to.damaged && self.at < self.end {
            let Some((number, kind)) = self.next(&mut entry).filter(|&(number, _)| number >= expected) else {
                to.damaged = true;
                break;
            };
            if number > expected {
                to.lost += number - expected;
                tell(
                    to,
                    number - expected,
                    "later ones took their place in what was carried over the kexec",
                );
            }
            let is_record = u64::from(kind == kind::EVENT);
            to.records += is_record;
            expected = number + is_record;
            to.journal.extend(entry.get(NUMBER..).unwrap_or_default());
        }
        if to.damaged {
            tell(to, 1, "what was carried over the kexec is damaged from here on");
        }
    }

    /// Reads the next entry: how many records came before it, and its kind. `None`: it is not whole.
    fn next(&mut self, entry: &mut Vec<u8>) -> Option<(u64, u16)> {
        let mut head = [0; NUMBER + HEAD];
        self.read(&mut head)?;
        let (number, head) = head.split_first_chunk::<NUMBER>()?;
        let (len, kind) = frame::head(head.try_into().ok()?);
        if len > MAX_PAYLOAD {
            return None;
        }
        let whole = NUMBER + HEAD + len + TAIL;
        entry.clear();
        entry.resize(whole, 0);
        self.read(entry)?;
        let (frame, crc) = entry.get(NUMBER..)?.split_at(HEAD + len);
        if crc32fast::hash(frame) != frame::number(crc) {
            return None;
        }
        self.at += whole as u64;
        Some((u64::from_le_bytes(*number), kind))
    }

    /// Copies what lies next; `None` where that is less.
    fn read(&self, bytes: &mut [u8]) -> Option<()> {
        if self.end - self.at < bytes.len() as u64 {
            return None;
        }
        let at = (self.at % self.ring.len() as u64) as usize;
        let (first, rest) = bytes.split_at_mut(bytes.len().min(self.ring.len() - at));
        first.copy_from_slice(&self.ring[at..at + first.len()]);
        rest.copy_from_slice(&self.ring[..rest.len()]);
        Some(())
    }
}

fn tell(to: &mut Recovered, records: u64, why: &str) {
    let lost = Lost {
        records,
        why: why.into(),
    };
    // A frame of this size always fits.
    _ = frame::put_json(&mut to.journal, kind::LOST, &lost);
}
