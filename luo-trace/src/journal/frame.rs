//! The bytes of a journal: the preamble and the frame around every payload.

use serde::Serialize;

/// Version of the format that this code writes. It reads every version up to this one.
pub const VERSION: u32 = 2;
/// Version of a journal's first file, which every reader understands.
pub(super) const HEAD_VERSION: u32 = 1;

/// No payload is longer, in bytes: a length above this is damage.
pub const MAX_PAYLOAD: usize = 1 << 20;

/// Kinds of frames.
pub mod kind {
    /// The journal's [`Header`](super::super::Header), always the first frame.
    pub const HEADER: u16 = 1;
    /// One kernel record, as it came through the ring.
    pub const EVENT: u16 = 2;
    /// [`Lost`](super::super::Lost): records are missing here.
    pub const LOST: u16 = 3;
    /// A later [`Clock`](super::super::Clock) reading.
    pub const CLOCK: u16 = 4;
    /// [`End`](super::super::End): the recording ended as it should.
    pub const END: u16 = 5;
    /// A new [`Header`](super::super::Header): another agent took the recording up again in the same boot.
    pub const RESUMED: u16 = 6;
    /// The journal goes on in another file; the payload is its number, as JSON. Readers that do not know of it see the record stop.
    pub const CONTINUED: u16 = 7;
}

const MAGIC: [u8; 8] = *b"LUOJRNL\n";
pub(super) const PREAMBLE: usize = 16;
/// Bytes of a frame before its payload.
pub(super) const HEAD: usize = 6;
/// Bytes of a frame after its payload.
pub(super) const TAIL: usize = 4;

/// What every file of a journal begins with that is in this version of the format.
pub fn preamble(version: u32) -> [u8; PREAMBLE] {
    let mut bytes = [0; PREAMBLE];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&version.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..12]);
    bytes[12..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// What a file's first bytes say.
pub(super) enum Preamble {
    /// A journal of this version.
    Version(u32),
    /// A journal whose preamble is damaged.
    Damaged,
    /// Something else.
    Foreign,
}

impl Preamble {
    pub(super) fn of(bytes: &[u8; PREAMBLE]) -> Self {
        if bytes[..8] != MAGIC {
            Self::Foreign
        } else if number(&bytes[12..]) != crc32fast::hash(&bytes[..12]) {
            Self::Damaged
        } else {
            Self::Version(number(&bytes[8..]))
        }
    }
}

/// Appends one frame. A payload that is too long leaves `out` as it was and gives `false`.
pub(super) fn put(out: &mut Vec<u8>, kind: u16, payload: &[u8]) -> bool {
    if payload.len() > MAX_PAYLOAD {
        return false;
    }
    let start = out.len();
    out.extend((payload.len() as u32).to_le_bytes());
    out.extend(kind.to_le_bytes());
    out.extend(payload);
    let crc = crc32fast::hash(&out[start..]);
    out.extend(crc.to_le_bytes());
    true
}

/// Appends one frame whose payload is `value` as JSON.
pub(super) fn put_json(out: &mut Vec<u8>, kind: u16, value: &impl Serialize) -> std::io::Result<()> {
    let json = serde_json::to_vec(value)?;
    if put(out, kind, &json) {
        return Ok(());
    }
    let why = format!(
        "a journal frame of {} bytes is longer than the format's {MAX_PAYLOAD}",
        json.len()
    );
    Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, why))
}

/// Length and kind, from a frame's first bytes.
pub(super) fn head(bytes: [u8; HEAD]) -> (usize, u16) {
    (number(&bytes) as usize, u16::from_le_bytes([bytes[4], bytes[5]]))
}

/// The first four bytes as a number; bytes that are not there count as zero.
pub(super) fn number(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .take(4)
        .rev()
        .fold(0, |sum, &byte| sum << 8 | u32::from(byte))
}
