//! lzo: the files of lzop as Linux packs itself with them, and LZO1X inside, written after `Documentation/staging/lzo.rst`.
//!
//! Mirrors `lib/decompress_unlzo.c` and `lib/lzo/lzo1x_decompress_safe.c` (7.3) in what is taken and what is refused. Checksums are
//! passed over, as there.

use std::io::{self, Read};

const MAGIC: &[u8] = &[0x89, b'L', b'Z', b'O', 0, b'\r', b'\n', 0x1a, b'\n'];
/// How large a block may be, in bytes.
const BLOCK_MAX: usize = 256 << 10;
/// The version of lzop from which on there are more fields in the header.
const MORE_FIELDS: u16 = 0x0940;
/// A flag of the header: there is a filter.
const HAS_FILTER: u32 = 0x800;
/// What a run of zeros has at least.
const RUN_MIN: usize = 4;

/// A file of lzop, unpacked block by block.
pub(super) struct Lzo<'a> {
    input: Input<'a>,
    block: Vec<u8>,
    /// How much of the block was read.
    at: usize,
    ended: bool,
}

impl<'a> Lzo<'a> {
    /// Reads the header.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn new(file: &'a [u8]) -> io::Result<Self> {
        let mut input = Input(file);
        if input.take(MAGIC.len())? != MAGIC {
            return Err(damaged("its header is none of lzop's"));
        }
        let version = input.big_endian::<2>()? as u16;
        let is_newer = version >= MORE_FIELDS;
        // The library's version, the one that is needed, the method, and a level.
        input.take(5 + usize::from(is_newer))?;
        if input.big_endian::<4>()? & HAS_FILTER != 0 {
            input.take(4)?;
        }
        // Its mode and times.
        input.take(if is_newer { 12 } else { 8 })?;
        let name = input.big_endian::<1>()? as usize;
        // With a checksum.
        input.take(name + 4)?;
        Ok(Self {
            input,
            block: Vec::new(),
            at: 0,
            ended: false,
        })
    }

    fn next_block(&mut self) -> io::Result<()> {
        let unpacked = self.input.big_endian::<4>()? as usize;
        self.at = 0;
        if unpacked == 0 {
            self.ended = true;
            return Ok(());
        }
        let packed = self.input.big_endian::<4>()? as usize;
        if unpacked > BLOCK_MAX || packed == 0 || packed > unpacked {
            return Err(damaged("a block has an impossible size"));
        }
        // With a checksum.
        self.input.take(4)?;
        let bytes = self.input.take(packed)?;
        self.block.clear();
        match packed == unpacked {
            true => self.block.extend_from_slice(bytes),
            false => unpack(bytes, unpacked, &mut self.block)?,
        }
        Ok(())
    }
}

impl Read for Lzo<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.block.len() && !self.ended {
            self.next_block()?;
            if self.ended {
                self.block.clear();
            }
        }
        let read = (&self.block[self.at..]).read(buffer)?;
        self.at += read;
        Ok(read)
    }
}

fn damaged(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Bytes that are taken from the front.
#[derive(Clone, Copy)]
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> io::Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.0 = rest;
        Ok(taken)
    }

    fn big_endian<const LEN: usize>(&mut self) -> io::Result<u32> {
        let bytes = self.take(LEN)?;
        Ok(bytes.iter().fold(0, |sum, &byte| sum << 8 | u32::from(byte)))
    }

    fn byte(&mut self) -> io::Result<usize> {
        Ok(usize::from(self.take(1)?[0]))
    }

    fn little_endian(&mut self) -> io::Result<usize> {
        let bytes = self.take(2)?;
        Ok(usize::from(bytes[0]) | usize::from(bytes[1]) << 8)
    }

    /// A length whose bits in the instruction are `bits` of `all`: where they are 0, more follows.
    fn length(&mut self, bits: usize, all: usize) -> io::Result<usize> {
        if bits != 0 {
            return Ok(bits);
        }
        let mut length = all;
        loop {
            match self.byte()? {
                // There are as many as the input has bytes: the sum cannot overflow.
                0 => length += 255,
                last => return Ok(length + last),
            }
        }
    }
}

/// What an instruction has come to.
enum Step {
    /// A copy of what was unpacked before: how far back, how much, and how many bytes of the input follow it.
    Back(usize, usize, usize),
    /// Zeros: how many, and how many bytes of the input follow them.
    Zeros(usize, usize),
    /// Bytes of the input: how many.
    Literals(usize),
    End,
}

/// Unpacks a block of LZO1X, of version 0 or 1, which has to have this size.
fn unpack(packed: &[u8], size: usize, out: &mut Vec<u8>) -> io::Result<()> {
    const VERSIONED: u8 = 17;
    const SHORTEST: usize = 5;
    let mut input = Input(packed);
    let mut runs = false;
    if packed.len() >= SHORTEST && packed[0] == VERSIONED {
        runs = packed[1] != 0;
        input.take(2)?;
    }
    // How many bytes of the input came last; 4: four or more.
    let mut last = 0;
    if let Some(&first) = input.0.first().filter(|&&first| first > VERSIONED) {
        input.take(1)?;
        let literals = usize::from(first - VERSIONED);
        copy(&mut input, literals, size, out)?;
        last = literals.min(4);
    }
    loop {
        match step(&mut input, last, runs)? {
            Step::End => break,
            Step::Literals(literals) => {
                copy(&mut input, literals, size, out)?;
                last = 4;
            }
            Step::Zeros(zeros, literals) => {
                fits(out, zeros, size)?;
                out.resize(out.len() + zeros, 0);
                copy(&mut input, literals, size, out)?;
                last = literals;
            }
            Step::Back(distance, length, literals) => {
                fits(out, length, size)?;
                let from = out
                    .len()
                    .checked_sub(distance)
                    .ok_or(damaged("it refers to what is before its beginning"))?;
                // What is copied may be part of the copy itself.
                for at in from..from + length {
                    out.push(out[at]);
                }
                copy(&mut input, literals, size, out)?;
                last = literals;
            }
        }
    }
    match out.len() == size && input.0.is_empty() {
        true => Ok(()),
        false => Err(damaged("a block has another size than it says")),
    }
}

/// Reads an instruction.
fn step(input: &mut Input<'_>, last: usize, runs: bool) -> io::Result<Step> {
    let code = input.byte()?;
    Ok(match code {
        0..16 => match last {
            0 => Step::Literals(3 + input.length(code, 15)?),
            1..=3 => Step::Back((input.byte()? << 2) + (code >> 2) + 1, 2, code & 3),
            _ => Step::Back((input.byte()? << 2) + (code >> 2) + 2049, 3, code & 3),
        },
        16..32 => {
            let (mut ahead, high) = (*input, code & 8);
            let word = ahead.little_endian()?;
            if runs && word & 0xfffc == 0xfffc && high != 0 {
                let run = (ahead.byte()? << 3 | code & 7) + RUN_MIN;
                *input = ahead;
                return Ok(Step::Zeros(run, word & 3));
            }
            let length = 2 + input.length(code & 7, 7)?;
            let word = input.little_endian()?;
            match (high << 11) + (word >> 2) {
                0 => Step::End,
                distance => Step::Back(distance + 0x4000, length, word & 3),
            }
        }
        32..64 => {
            let length = 2 + input.length(code & 31, 31)?;
            let word = input.little_endian()?;
            Step::Back((word >> 2) + 1, length, word & 3)
        }
        _ => Step::Back((input.byte()? << 3) + (code >> 2 & 7) + 1, (code >> 5) + 1, code & 3),
    })
}

fn fits(out: &[u8], more: usize, size: usize) -> io::Result<()> {
    match more <= size - out.len() {
        true => Ok(()),
        false => Err(damaged("a block is larger than it says")),
    }
}

fn copy(input: &mut Input<'_>, literals: usize, size: usize, out: &mut Vec<u8>) -> io::Result<()> {
    fits(out, literals, size)?;
    out.extend_from_slice(input.take(literals)?);
    Ok(())
}
