//! bzip2, as Linux packs itself with it. Mirrors `lib/decompress_bunzip2.c` (7.3) in what is taken: one stream, and no blocks that
//! were made random, which bzip2 has not written since 1996.

use std::io::{self, Read};

/// How many bytes a block has for each step of the level, before they are packed.
const STEP: usize = 100_000;
const BLOCK: u64 = 0x3141_5926_5359;
const END: u64 = 0x1772_4538_5090;
/// How long a code may be, in bits.
const CODE_MAX: usize = 20;
/// How many symbols are read with one table.
const GROUP: usize = 50;
/// How many equal bytes come before the number of those that follow.
const RUN: u32 = 4;

/// A stream of bzip2, unpacked block by block.
pub(super) struct Bzip2<'a> {
    bits: Bits<'a>,
    /// How large a block may be.
    block_max: usize,
    /// The block as it was sorted: a byte, and above it where the next one is.
    sorted: Vec<u32>,
    /// Where the next byte of it is, and how many are left.
    at: u32,
    left: usize,
    /// The byte that came last, how often in a row, and how often it is still to be repeated.
    last: Option<u8>,
    row: u32,
    repeat: u32,
    /// The block's checksum as it is said to be, and as it is so far.
    wanted: u32,
    checksum: u32,
    ended: bool,
}

impl<'a> Bzip2<'a> {
    /// Reads the header.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn new(file: &'a [u8]) -> io::Result<Self> {
        let level = match file {
            [b'B', b'Z', b'h', level @ b'1'..=b'9', ..] => usize::from(level - b'0'),
            _ => return Err(damaged("its header is none of bzip2's")),
        };
        Ok(Self {
            bits: Bits::new(&file[4..]),
            block_max: level * STEP,
            sorted: Vec::new(),
            at: 0,
            left: 0,
            last: None,
            row: 0,
            repeat: 0,
            wanted: 0,
            checksum: 0,
            ended: false,
        })
    }

    /// Reads the next block, up to where its bytes can be told one by one.
    fn next_block(&mut self) -> io::Result<()> {
        match u64::from(self.bits.take(24)?) << 24 | u64::from(self.bits.take(24)?) {
            BLOCK => {}
            END => {
                self.ended = true;
                // The checksum of all.
                return self.bits.take(32).map(|_| ());
            }
            _ => return Err(damaged("a block does not begin as one")),
        }
        self.wanted = self.bits.take(32)?;
        if self.bits.take(1)? != 0 {
            return Err(damaged("a block was made random, which is not read"));
        }
        let origin = self.bits.take(24)? as usize;
        let used = self.used()?;
        let symbols = used.len() + 2;
        let (tables, selectors) = self.tables(symbols)?;
        self.read_symbols(&used, &tables, &selectors)?;
        if origin >= self.sorted.len() {
            return Err(damaged("a block begins where it is not"));
        }
        self.link();
        self.at = self.sorted[origin] >> 8;
        self.left = self.sorted.len();
        (self.last, self.row, self.checksum) = (None, 0, u32::MAX);
        Ok(())
    }

    /// The bytes that a block has.
    fn used(&mut self) -> io::Result<Vec<u8>> {
        let rows = self.bits.take(16)?;
        let mut used = Vec::new();
        for row in (0..16_u8).filter(|row| rows << row & 0x8000 != 0) {
            let bytes = self.bits.take(16)?;
            used.extend(
                (0..16_u8)
                    .filter(|byte| bytes << byte & 0x8000 != 0)
                    .map(|byte| row << 4 | byte),
            );
        }
        match used.is_empty() {
            true => Err(damaged("a block has no bytes")),
            false => Ok(used),
        }
    }

    /// The tables of codes, and which of them is for which group of symbols.
    fn tables(&mut self, symbols: usize) -> io::Result<(Vec<Table>, Vec<u8>)> {
        let count = self.bits.take(3)? as u8;
        let groups = self.bits.take(15)? as usize;
        if !(2..=6).contains(&count) || groups == 0 {
            return Err(damaged("a block has an impossible number of tables"));
        }
        let mut order: Vec<u8> = (0..count).collect();
        let mut selectors = Vec::new();
        for _ in 0..groups {
            let mut place = 0;
            while self.bits.take(1)? != 0 {
                place += 1;
                if place >= order.len() {
                    return Err(damaged("a block asks for a table that is not there"));
                }
            }
            order[..=place].rotate_right(1);
            selectors.push(order[0]);
        }
        let tables = (0..count).map(|_| Table::read(&mut self.bits, symbols));
        Ok((tables.collect::<io::Result<_>>()?, selectors))
    }

    /// Reads a block's symbols, and makes bytes of them: runs, and places in a list whose front is what came last.
    fn read_symbols(&mut self, used: &[u8], tables: &[Table], selectors: &[u8]) -> io::Result<()> {
        let mut list = used.to_vec();
        let end = used.len() + 1;
        // A run's length comes in digits of two kinds.
        let (mut run, mut digit) = (0_usize, 1_usize);
        self.sorted.clear();
        for &selector in selectors {
            for _ in 0..GROUP {
                let symbol = tables[usize::from(selector)].decode(&mut self.bits)?;
                if symbol < 2 {
                    // Before it overflows it is larger than any block.
                    run += digit << symbol;
                    digit <<= 1;
                    if run > self.block_max {
                        return Err(damaged("a block is larger than it may be"));
                    }
                    continue;
                }
                let room = self.block_max - self.sorted.len();
                if run > room {
                    return Err(damaged("a block is larger than it may be"));
                }
                self.sorted.resize(self.sorted.len() + run, u32::from(list[0]));
                (run, digit) = (0, 1);
                if symbol == end {
                    return Ok(());
                }
                list[..symbol].rotate_right(1);
                if self.sorted.len() == self.block_max {
                    return Err(damaged("a block is larger than it may be"));
                }
                self.sorted.push(u32::from(list[0]));
            }
        }
        Err(damaged("a block has no end"))
    }

    /// Undoes the sorting: notes above each byte which one comes next.
    fn link(&mut self) {
        let mut starts = [0_u32; 256];
        for &byte in &self.sorted {
            starts[(byte & 0xff) as usize] += 1;
        }
        let mut sum = 0;
        for start in &mut starts {
            sum += std::mem::replace(start, sum);
        }
        for i in 0..self.sorted.len() {
            let start = &mut starts[(self.sorted[i] & 0xff) as usize];
            self.sorted[*start as usize] |= (i as u32) << 8;
            *start += 1;
        }
    }

    /// The next byte; `None`: there is none.
    fn next(&mut self) -> io::Result<Option<u8>> {
        loop {
            if self.repeat > 0 {
                self.repeat -= 1;
                return Ok(self.last);
            }
            if self.left == 0 {
                if self.ended {
                    return Ok(None);
                }
                self.end_of_block()?;
                continue;
            }
            let entry = self.sorted[self.at as usize];
            (self.at, self.left) = (entry >> 8, self.left - 1);
            let byte = entry as u8;
            if self.row == RUN {
                (self.row, self.repeat) = (0, u32::from(byte));
                for _ in 0..self.repeat {
                    self.sum(self.last.unwrap_or(0));
                }
                // What follows begins a row of its own.
                continue;
            }
            self.row = if self.last == Some(byte) && self.row > 0 {
                self.row + 1
            } else {
                1
            };
            self.last = Some(byte);
            self.sum(byte);
            return Ok(self.last);
        }
    }

    fn end_of_block(&mut self) -> io::Result<()> {
        if !self.sorted.is_empty() && self.wanted != !self.checksum {
            return Err(damaged("a block's checksum is another"));
        }
        self.next_block()
    }

    fn sum(&mut self, byte: u8) {
        let place = (self.checksum >> 24) as u8 ^ byte;
        self.checksum = self.checksum << 8 ^ CHECKSUMS[usize::from(place)];
    }
}

impl Read for Bzip2<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        for (read, place) in buffer.iter_mut().enumerate() {
            match self.next()? {
                Some(byte) => *place = byte,
                None => return Ok(read),
            }
        }
        Ok(buffer.len())
    }
}

fn damaged(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// A checksum's change by the byte that goes out of it, the highest bit first.
static CHECKSUMS: [u32; 256] = {
    let mut sums = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut sum = (byte as u32) << 24;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum >> 31 == 0 {
                sum << 1
            } else {
                sum << 1 ^ 0x04c1_1db7
            };
            bit += 1;
        }
        sums[byte] = sum;
        byte += 1;
    }
    sums
};

/// Bits that are taken from the front, the highest first.
struct Bits<'a> {
    bytes: std::slice::Iter<'a, u8>,
    held: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes: bytes.iter(),
            held: 0,
            count: 0,
        }
    }

    /// Takes 32 at most.
    fn take(&mut self, count: u32) -> io::Result<u32> {
        while self.count < count {
            let byte = self.bytes.next().ok_or(io::ErrorKind::UnexpectedEof)?;
            self.held = self.held << 8 | u64::from(*byte);
            self.count += 8;
        }
        self.count -= count;
        let mask = (1_u64 << count) - 1;
        Ok((self.held >> self.count & mask) as u32)
    }
}

/// A table of codes, in the order of their length.
struct Table {
    /// How many codes there are of each length.
    counts: [u32; CODE_MAX + 1],
    symbols: Vec<u16>,
}

impl Table {
    /// Reads the lengths of so many symbols' codes, each by how it differs from the one before.
    fn read(bits: &mut Bits<'_>, symbols: usize) -> io::Result<Self> {
        let mut length = bits.take(5)? as usize;
        let mut lengths = Vec::new();
        for _ in 0..symbols {
            loop {
                if !(1..=CODE_MAX).contains(&length) {
                    return Err(damaged("a code has an impossible length"));
                }
                if bits.take(1)? == 0 {
                    break;
                }
                length = if bits.take(1)? == 0 { length + 1 } else { length - 1 };
            }
            lengths.push(length);
        }
        let mut counts = [0; CODE_MAX + 1];
        for &length in &lengths {
            counts[length] += 1;
        }
        let mut symbols: Vec<u16> = (0..symbols as u16).collect();
        symbols.sort_by_key(|&symbol| lengths[usize::from(symbol)]);
        Ok(Self { counts, symbols })
    }

    fn decode(&self, bits: &mut Bits<'_>) -> io::Result<usize> {
        // Codes of one length follow each other, and come before all longer ones.
        let (mut code, mut first, mut before) = (0, 0, 0);
        for &count in &self.counts[1..] {
            code = code << 1 | bits.take(1)?;
            first <<= 1;
            if code < first + count {
                let symbol = self.symbols.get((before + code - first) as usize);
                return symbol
                    .map(|&symbol| usize::from(symbol))
                    .ok_or(damaged("a code stands for nothing"));
            }
            first += count;
            before += count;
        }
        Err(damaged("a code stands for nothing"))
    }
}
