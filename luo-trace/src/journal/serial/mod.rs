//! A journal through a serial line, for guests with no other way out: lines of text that survive among a console's others.
//!
//! ```text
//! @luoj 1c291ca3 0 1/24 7Vpbk5s2FP4r... 8d3f0a12
//! ```
//!
//! | field | what |
//! |---|---|
//! | `@luoj` | the tag, anywhere in a line: what stands before it and after the checksum does not matter |
//! | id | which recording, in hexadecimal: several may share a log |
//! | number | which line of it, from 0 |
//! | piece | which piece of its block it has, from 1, and of how many |
//! | data | that piece, in base64 |
//! | checksum | CRC32 of all of the above, in hexadecimal |
//!
//! A block is some whole frames of the journal, compressed by deflate; the first one is the preamble and the header. A line
//! that is lost or torn costs its block, and the reader puts a [`Lost`] frame in its place.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use miniz_oxide::deflate::compress_to_vec;
use miniz_oxide::inflate::decompress_to_vec_with_limit;

use super::frame::{self, HEAD, MAX_PAYLOAD, PREAMBLE, TAIL, kind};
use super::{Lost, Reader, Store};

const TAG: &str = "@luoj ";
/// Frames are gathered into a block up to so many bytes: the more, the smaller they get, and the more one torn line costs.
const BLOCK: usize = 4 << 10;
/// Bytes of a block in one line.
const PIECE: usize = 96;
/// No line that is longer has to be read.
const LONGEST_LINE: usize = 4 << 10;
/// No block unpacks to more: one frame of the greatest length, with the preamble.
const LONGEST_BLOCK: usize = PREAMBLE + HEAD + MAX_PAYLOAD + TAIL;
/// How hard to compress, of 10: a serial line is slower than that.
const LEVEL: u8 = 6;

/// A store that sends a journal through a serial line. Flushing `W` waits until everything has gone out.
#[derive(Debug)]
pub struct Serial<W> {
    line: W,
    id: Option<u32>,
    next: u64,
    /// The last write failed, maybe in the middle of a line.
    torn: bool,
}

impl<W: Write> Serial<W> {
    /// A store that writes to `line`.
    pub fn new(line: W) -> Self {
        Self {
            line,
            id: None,
            next: 0,
            torn: false,
        }
    }

    /// The lines of one block.
    fn lines(&mut self, block: &[u8], text: &mut String) {
        let packed = compress_to_vec(block, LEVEL);
        // Every recording has another header: it holds the boot and the time. Unpacked, its frame ends in its own CRC32,
        // and the CRC32 of that is always the same.
        let id = *self.id.get_or_insert_with(|| crc32fast::hash(&packed));
        let pieces = packed.len().div_ceil(PIECE);
        for (place, piece) in (1..).zip(packed.chunks(PIECE)) {
            let line = format!("{TAG}{id:08x} {} {place}/{pieces} {}", self.next, BASE64.encode(piece));
            let crc = crc32fast::hash(line.as_bytes());
            text.push_str(&format!("{line} {crc:08x}\n"));
            self.next += 1;
        }
    }
}

impl<W: Write> Write for Serial<W> {
    /// Takes whole frames, as [`Writer`](super::Writer) gives them, and sends all of them or fails.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut text = String::new();
        if self.torn {
            text.push('\n');
        }
        let mut block = 0..0;
        for end in frame_ends(bytes) {
            if !block.is_empty() && end - block.start > BLOCK {
                self.lines(&bytes[block.clone()], &mut text);
                block.start = block.end;
            }
            block.end = end;
        }
        self.lines(&bytes[block], &mut text);
        self.torn = true;
        self.line.write_all(text.as_bytes())?;
        self.torn = false;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.line.flush()
    }
}

impl<W: Write> Store for Serial<W> {
    /// What has gone out cannot be taken back: the reader sees by the numbers that it is not whole.
    fn cut(&mut self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn room(&mut self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.line.flush()
    }
}

/// Where each frame ends; a preamble counts to the frame after it.
fn frame_ends(bytes: &[u8]) -> impl Iterator<Item = usize> {
    let mut at = if bytes.starts_with(&frame::preamble(frame::HEAD_VERSION)) {
        PREAMBLE
    } else {
        0
    };
    std::iter::from_fn(move || {
        let head = bytes.get(at..)?.first_chunk::<HEAD>()?;
        at = (at + HEAD + frame::head(*head).0 + TAIL).min(bytes.len());
        Some(at)
    })
}

/// What a recording in a log consists of.
#[derive(Debug)]
enum Part {
    /// A block, as it was sent.
    Packed(Vec<u8>),
    /// Frames.
    Frames(Vec<u8>),
    /// So many lines are missing here.
    Missing(u64),
}

/// One recording while its lines are read.
#[derive(Debug, Default)]
struct Lines {
    parts: Vec<Part>,
    /// The pieces of a block that has not ended.
    block: Vec<u8>,
    /// Whether a piece of that block is missing.
    broken: bool,
    next: u64,
}

impl Lines {
    fn take(&mut self, line: &Line<'_>) {
        if line.number < self.next {
            // The same line again, as where a log was put together of overlapping ones.
            return;
        }
        self.miss(line.number - self.next);
        self.next = line.number.saturating_add(1);
        if line.piece == 1 {
            self.block.clear();
            self.broken = false;
        }
        match BASE64.decode(line.data) {
            Ok(piece) => self.block.extend(piece),
            Err(_) => self.miss(1),
        }
        if line.piece == line.pieces {
            let block = std::mem::take(&mut self.block);
            if !std::mem::take(&mut self.broken) {
                self.parts.push(Part::Packed(block));
            }
        }
    }

    /// So many lines are missing, and with them the block that they belong to.
    fn miss(&mut self, lines: u64) {
        if lines == 0 {
            return;
        }
        self.broken = true;
        match self.parts.last_mut() {
            Some(Part::Missing(before)) => *before = before.saturating_add(lines),
            _ => self.parts.push(Part::Missing(lines)),
        }
    }

    fn end(mut self) -> Vec<Part> {
        if !self.block.is_empty() && !self.broken {
            self.miss(1);
        }
        self.parts
    }
}

/// One line of a recording, its checksum being right.
struct Line<'a> {
    id: u32,
    number: u64,
    piece: u64,
    pieces: u64,
    data: &'a [u8],
}

impl<'a> Line<'a> {
    /// The line that begins at a tag.
    fn parse(text: &'a [u8]) -> Option<Self> {
        let mut fields = text.splitn(6, |&byte| byte == b' ');
        fields.next()?;
        let (id, number, place, data) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let crc = fields.next()?.get(..8)?;
        let len = TAG.len() + id.len() + number.len() + place.len() + data.len() + 3;
        let hex = |digits: &[u8]| u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
        if hex(crc)? != crc32fast::hash(text.get(..len)?) {
            return None;
        }
        let (piece, pieces) = std::str::from_utf8(place).ok()?.split_once('/')?;
        Some(Self {
            id: hex(id)?,
            number: std::str::from_utf8(number).ok()?.parse().ok()?,
            piece: piece.parse().ok()?,
            pieces: pieces.parse().ok()?,
            data,
        })
    }
}

/// A recording from a serial log, as the journal that it is.
#[derive(Debug)]
pub struct Recording {
    parts: std::vec::IntoIter<Part>,
    /// The bytes of the current part.
    bytes: Vec<u8>,
    read: usize,
}

impl Recording {
    fn new(parts: Vec<Part>) -> Self {
        Self {
            parts: parts.into_iter(),
            bytes: Vec::new(),
            read: 0,
        }
    }
}

impl Read for Recording {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.read == self.bytes.len() {
            let Some(part) = self.parts.next() else { return Ok(0) };
            self.bytes = part.frames();
            self.read = 0;
        }
        let len = (&self.bytes[self.read..]).read(buffer)?;
        self.read += len;
        Ok(len)
    }
}

impl Part {
    /// Its frames; a [`Lost`] frame for what cannot be had.
    fn frames(self) -> Vec<u8> {
        let (lines, why) = match self {
            Self::Frames(bytes) => return bytes,
            Self::Packed(block) => match decompress_to_vec_with_limit(&block, LONGEST_BLOCK) {
                Ok(bytes) => return bytes,
                Err(_) => (1, "a block of the serial log cannot be unpacked".into()),
            },
            Self::Missing(lines) => (
                lines,
                format!("lines of the serial log that are missing or torn: {lines}"),
            ),
        };
        let mut bytes = Vec::new();
        // A number and a sentence always fit into a frame.
        _ = frame::put_json(&mut bytes, kind::LOST, &Lost { records: lines, why });
        bytes
    }
}

/// What a log holds of recordings.
#[derive(Debug, Default)]
pub struct Log {
    /// The recordings, one for each boot, in the order in which they begin.
    pub recordings: Vec<Recording>,
    /// How many recordings have no beginning here, so that nothing of them can be understood.
    pub headless: u64,
}

impl Log {
    /// Finds the recordings in a log: the output of a serial line, of one boot or of several, between any other lines.
    ///
    /// What is kept in memory is never more than the log's own size.
    ///
    /// # Errors
    /// Where `log` cannot be read.
    pub fn read(mut log: impl BufRead) -> io::Result<Self> {
        let mut found: BTreeMap<u32, Lines> = BTreeMap::new();
        let mut order = Vec::new();
        let mut line = Vec::new();
        while next_line(&mut log, &mut line)? {
            for text in tagged(&line) {
                let Some(line) = Line::parse(text) else { continue };
                let lines = found.entry(line.id).or_insert_with(|| {
                    order.push(line.id);
                    Lines::default()
                });
                lines.take(&line);
            }
        }
        let recordings = order.iter().filter_map(|id| found.remove(id)).map(Lines::end);
        Ok(Self::join(recordings))
    }

    /// Joins what agents recorded one after the other in the same boot.
    fn join(recordings: impl Iterator<Item = Vec<Part>>) -> Self {
        let mut log = Self::default();
        let mut boots: Vec<(String, Vec<Part>)> = Vec::new();
        for mut parts in recordings {
            let Some((boot, first)) = beginning(&mut parts) else {
                log.headless += 1;
                continue;
            };
            match boots.iter_mut().find(|(other, _)| *other == boot) {
                Some((_, before)) => {
                    before.push(Part::Frames(resumed(&first)));
                    before.extend(parts);
                }
                None => {
                    parts.insert(0, Part::Frames(first));
                    boots.push((boot, parts));
                }
            }
        }
        log.recordings = boots.into_iter().map(|(_, parts)| Recording::new(parts)).collect();
        log
    }
}

/// Takes the first block, with preamble and header, and gives it with the boot that it names.
fn beginning(parts: &mut Vec<Part>) -> Option<(String, Vec<u8>)> {
    if !matches!(parts.first(), Some(Part::Packed(_))) {
        return None;
    }
    let first = parts.remove(0).frames();
    let reader = Reader::new(&first[..]).ok()?;
    Some((reader.header().boot_id.clone(), first))
}

/// The beginning of a recording, as that of an agent that goes on with another's.
fn resumed(first: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let rest = first.get(PREAMBLE..).unwrap_or_default();
    let Some(head) = rest.first_chunk::<HEAD>() else {
        return bytes;
    };
    let end = HEAD + frame::head(*head).0;
    frame::put(&mut bytes, kind::RESUMED, rest.get(HEAD..end).unwrap_or_default());
    bytes.extend(rest.get(end + TAIL..).unwrap_or_default());
    bytes
}

/// Reads the next line, and one that is too long in parts. `false`: there is none.
fn next_line(log: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    Ok(log.by_ref().take(LONGEST_LINE as u64).read_until(b'\n', line)? > 0)
}

/// Everything in a line that begins with the tag, each without what begins with the next one.
fn tagged(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let tag = TAG.as_bytes();
    let starts = move |from: usize| {
        let rest = line.get(from..)?;
        Some(from + rest.windows(tag.len()).position(|window| window == tag)?)
    };
    let mut next = starts(0);
    std::iter::from_fn(move || {
        let start = next?;
        next = starts(start + tag.len());
        line.get(start..next.unwrap_or(line.len()))
    })
}

#[cfg(test)]
mod tests;
