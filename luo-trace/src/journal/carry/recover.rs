//! Reading what another kernel's agent left, wherever it was stopped.

use std::fmt;

use super::{
    BEGINNING, FIRST_VERSION, FIXED, HEAD_AT, MAGIC, NUMBER, NUMBER_CRC, TAIL_AT, VERSION, ring_after, unsealed,
};
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
                "its layout has version {version}, and this luo-trace reads up to {VERSION}: run a luo-trace in the next kernel that \
                 is no older than the one before it"
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
    let is_first = match number(8) {
        FIRST_VERSION => true,
        VERSION => false,
        version => return Err(Unreadable::Version(version)),
    };
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
    let count = |at: usize| match is_first {
        true => Some(word(memory, at)),
        false => unsealed(word(memory, at)),
    };
    match count(TAIL_AT).zip(count(HEAD_AT)) {
        Some((at, end)) => Entries {
            ring,
            at,
            end,
            number_crc: if is_first { 0 } else { NUMBER_CRC },
        }
        .copy(&mut recovered),
        None => {
            recovered.damaged = true;
            tell(&mut recovered, 1, "what was carried over the kexec is damaged");
        }
    }
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
    /// Bytes of a number's checksum.
    number_crc: usize,
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
        let mut expected = 0_u64;
        let mut entry = Vec::new();
        while !to.damaged && self.at < self.end {
            // A number that is too small, or that none can follow, is damage as well.
            let after = |number: u64, kind| number.checked_add(u64::from(kind == kind::EVENT));
            let next = self.next(&mut entry);
            let next = next.and_then(|(number, kind)| Some((number.checked_sub(expected)?, after(number, kind)?)));
            let Some((missing, next)) = next else {
                to.damaged = true;
                break;
            };
            if missing > 0 {
                to.lost += missing;
                let why = "later ones took their place in what was carried over the kexec";
                tell(to, missing, why);
            }
            to.records += next - expected - missing;
            expected = next;
            to.journal
                .extend(entry.get(NUMBER + self.number_crc..).unwrap_or_default());
        }
        if to.damaged {
            tell(to, 1, "what was carried over the kexec is damaged from here on");
        }
    }

    /// Reads the next entry: how many records came before it, and its kind. `None`: it is not whole.
    fn next(&mut self, entry: &mut Vec<u8>) -> Option<(u64, u16)> {
        let before = NUMBER + self.number_crc;
        let mut head = [0; NUMBER + NUMBER_CRC + HEAD];
        let head = &mut head[..before + HEAD];
        self.read(head)?;
        let (number, head) = head.split_first_chunk::<NUMBER>()?;
        let (crc, head) = head.split_at(self.number_crc);
        if !crc.is_empty() && crc32fast::hash(number) != frame::number(crc) {
            return None;
        }
        let (len, kind) = frame::head(head.try_into().ok()?);
        if len > MAX_PAYLOAD {
            return None;
        }
        let whole = before + HEAD + len + TAIL;
        entry.clear();
        entry.resize(whole, 0);
        self.read(entry)?;
        let (frame, crc) = entry.get(before..)?.split_at(HEAD + len);
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
