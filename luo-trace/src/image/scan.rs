//! One pass over an unpacked kernel: its words, its version, its type information and its configuration.
//!
//! Nothing is looked up by an address or in a table of sections. Everything of interest begins with bytes that nothing else
//! begins with, in an ELF file as in a raw image.

use std::hash::BuildHasher;
use std::io::Read;

use ahash::RandomState;
use memchr::{memchr2_iter, memmem};
use serde::{Deserialize, Serialize};

use super::{BTF_MAX, ImageError};

/// How much is read at a time, in bytes.
const CHUNK: usize = 1 << 18;
/// How many bytes have to be seen at once, to know what begins there.
const LOOKAHEAD: usize = 32;
/// How much of a packed configuration is kept, in bytes.
const CONFIG_MAX: usize = 1 << 20;
/// How long words and lines are that are looked at, in bytes.
const LINE_MAX: usize = 512;
/// How long a compatible string is, without its NUL. Mirrors `LIVEUPDATE_HNDL_COMPAT_LENGTH` in
/// `include/linux/kho/abi/luo.h` (7.3).
const COMPATIBLE_MAX: usize = 47;
/// Shorter words are too many, and mean nothing.
const COMPATIBLE_MIN: usize = 4;
/// How many words are kept. A large kernel has half a million.
const NAMES_MAX: usize = 1 << 21;
/// How many of those that look like compatible strings are listed.
const LISTED_MAX: usize = 256;

const BTF_MAGIC: &[u8] = &[0x9f, 0xeb, 1, 0];
const CONFIG_START: &[u8] = b"IKCFG_ST";
const CONFIG_END: &[u8] = b"IKCFG_ED";

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    pub(super) unpacked: u64,
    pub(super) banner: Option<String>,
    /// The largest type information there is: programs that the kernel carries have theirs, too.
    pub(super) btf: Vec<u8>,
    /// The configuration, packed.
    pub(super) config: Option<Vec<u8>>,
    pub(super) kho_formats: Vec<String>,
    pub(super) luo_formats: Vec<String>,
    pub(super) versioned: Vec<String>,
    pub(super) names: Names,
}

/// Reads a kernel to its end, which has to come within `max` bytes.
pub(super) fn scan(mut input: impl Read, max: u64) -> Result<Scanned, ImageError> {
    let mut scanner = Scanner::default();
    let mut buffer = vec![0; CHUNK + LOOKAHEAD];
    let mut held = 0;
    loop {
        let read = match input.read(&mut buffer[held..]) {
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(ImageError::Damaged(error.to_string())),
        };
        scanner.found.unpacked += read as u64;
        if scanner.found.unpacked > max {
            return Err(ImageError::TooLarge);
        }
        let used = scanner.feed(&buffer[..held + read], read == 0);
        buffer.copy_within(used..held + read, 0);
        held = held + read - used;
        if read == 0 {
            scanner.found.names.settle();
            return Ok(scanner.found);
        }
    }
}

/// Something that is kept as a whole.
#[derive(Debug)]
enum Capture {
    /// Type information of so many bytes.
    Btf(usize, Vec<u8>),
    /// What lies between the marks of a configuration.
    Config(Vec<u8>),
}

#[derive(Debug)]
struct Scanner {
    found: Scanned,
    /// The line that is being read, as far as it is kept, and how long it is.
    line: [u8; LINE_MAX],
    line_len: usize,
    capture: Option<Capture>,
}

impl Default for Scanner {
    fn default() -> Self {
        Self {
            found: Scanned::default(),
            line: [0; LINE_MAX],
            line_len: 0,
            capture: None,
        }
    }
}

impl Scanner {
    /// Takes in the next bytes; those at the end that are not used yet come again, before what follows.
    fn feed(&mut self, bytes: &[u8], last: bool) -> usize {
        let mut at = 0;
        loop {
            if let Some(capture) = self.capture.take() {
                at += self.keep(capture, &bytes[at..]);
                if self.capture.is_some() {
                    return bytes.len();
                }
            }
            let sure = if last {
                bytes.len()
            } else {
                bytes.len().saturating_sub(LOOKAHEAD)
            };
            if at >= sure {
                return at;
            }
            match begins(&bytes[at..]).filter(|(place, _)| at + place < sure) {
                Some((place, capture)) => {
                    self.text(&bytes[at..at + place]);
                    self.line_len = 0;
                    at += place;
                    self.capture = Some(capture);
                }
                None => {
                    self.text(&bytes[at..sure]);
                    return sure;
                }
            }
        }
    }

    /// Adds to what is kept, and says how many bytes it took.
    fn keep(&mut self, capture: Capture, bytes: &[u8]) -> usize {
        match capture {
            Capture::Btf(len, mut kept) => {
                let take = (len - kept.len()).min(bytes.len());
                kept.extend_from_slice(&bytes[..take]);
                if kept.len() < len {
                    self.capture = Some(Capture::Btf(len, kept));
                } else if len > self.found.btf.len() {
                    self.found.btf = kept;
                }
                take
            }
            Capture::Config(mut kept) => {
                // The mark may lie across the end of what came before.
                let before = kept.len();
                let from = before.saturating_sub(CONFIG_END.len());
                kept.extend_from_slice(&bytes[..bytes.len().min(CONFIG_MAX)]);
                match memmem::find(&kept[from..], CONFIG_END) {
                    Some(place) => {
                        let end = from + place;
                        kept.truncate(end);
                        self.found.config = Some(kept.split_off(CONFIG_START.len().min(end)));
                        (end + CONFIG_END.len()).saturating_sub(before)
                    }
                    // It has no end: the mark was none.
                    None if kept.len() > CONFIG_MAX => 0,
                    None => {
                        self.capture = Some(Capture::Config(kept));
                        bytes.len()
                    }
                }
            }
        }
    }

    fn text(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if matches!(byte, b' '..=b'~') {
                if let Some(place) = self.line.get_mut(self.line_len) {
                    *place = byte;
                }
                self.line_len += 1;
            } else {
                if self.line_len >= COMPATIBLE_MIN {
                    self.end_of_line(byte);
                }
                self.line_len = 0;
            }
        }
    }

    fn end_of_line(&mut self, end: u8) {
        let found = &mut self.found;
        let line = &self.line[..self.line_len.min(LINE_MAX)];
        if end == 0 && Names::can_have(line) {
            found.names.insert(line);
            if let Some((stem, version)) = versioned(line) {
                let list = match stem {
                    b"kho-v" => &mut found.kho_formats,
                    b"luo-v" => &mut found.luo_formats,
                    _ => &mut found.versioned,
                };
                let name = String::from_utf8_lossy(&[stem, version].concat()).into_owned();
                if list.len() < LISTED_MAX && !list.contains(&name) {
                    list.push(name);
                }
            }
        }
        // The format of this line is among the strings, too.
        let version = line.strip_prefix(b"Linux version ").and_then(|version| version.first());
        if found.banner.is_none() && matches!(end, 0 | b'\n') && version.is_some_and(u8::is_ascii_digit) {
            found.banner = Some(String::from_utf8_lossy(line).into_owned());
        }
    }
}

/// The first place in `bytes` where something begins that is kept as a whole.
fn begins(bytes: &[u8]) -> Option<(usize, Capture)> {
    memchr2_iter(BTF_MAGIC[0], CONFIG_START[0], bytes).find_map(|place| {
        let rest = &bytes[place..];
        let capture = match rest.strip_prefix(CONFIG_START) {
            // Packed by gzip. The mark alone is text like any other.
            Some([0x1f, 0x8b, 8, ..]) => Capture::Config(Vec::new()),
            _ => Capture::Btf(btf_len(rest)?, Vec::new()),
        };
        Some((place, capture))
    })
}

/// How long the type information is that begins here; `None` where none does. Mirrors `struct btf_header` in
/// `include/uapi/linux/btf.h` (7.3): types follow the header, and strings the types, with a little between them at most.
fn btf_len(bytes: &[u8]) -> Option<usize> {
    const HEADER: std::ops::RangeInclusive<usize> = 24..=64;
    const BETWEEN: usize = 1 << 16;
    if !bytes.starts_with(BTF_MAGIC) {
        return None;
    }
    let word = |at: usize| {
        let word = bytes.get(at..)?.first_chunk()?;
        Some(u32::from_le_bytes(*word) as usize)
    };
    let (header, types_at, types, strings_at, strings) = (word(4)?, word(8)?, word(12)?, word(16)?, word(20)?);
    // From 7.1 on there may be a layout of kinds, before the strings or after them.
    let layout_end = match header >= 32 {
        true => word(24)?.checked_add(word(28)?)?,
        false => 0,
    };
    let whole = header.checked_add(strings_at.checked_add(strings)?.max(layout_end))?;
    let plausible = HEADER.contains(&header)
        && types_at == 0
        && types > 0
        && types % 4 == 0
        && strings > 0
        && (types..=types.saturating_add(BETWEEN)).contains(&strings_at)
        && layout_end <= strings_at.saturating_add(strings).saturating_add(BETWEEN)
        && whole <= BTF_MAX;
    plausible.then_some(whole)
}

/// Splits what looks like a compatible string before its version's number: `memfd-v2`, `kvm_vm_luo_v1`.
fn versioned(word: &[u8]) -> Option<(&[u8], &[u8])> {
    let digits = word.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let (stem, version) = word.split_at(word.len() - digits);
    let like = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
    let is = digits > 0
        && (stem.ends_with(b"-v") || stem.ends_with(b"_v"))
        && stem[0].is_ascii_lowercase()
        && stem.iter().all(like);
    is.then_some((stem, version))
}

/// Words of a kernel, as hashes: enough to tell later whether one is among them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Names {
    state: Hashed,
    /// In order, once all are in.
    hashes: Vec<u64>,
    /// There were too many.
    cut: bool,
}

/// How words are hashed: by random numbers, which go with the hashes wherever they are sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "[u64; 4]", into = "[u64; 4]")]
struct Hashed {
    seeds: [u64; 4],
    by: RandomState,
}

impl From<[u64; 4]> for Hashed {
    fn from(seeds: [u64; 4]) -> Self {
        let [first, second, third, fourth] = seeds;
        Self {
            seeds,
            by: RandomState::with_seeds(first, second, third, fourth),
        }
    }
}

impl From<Hashed> for [u64; 4] {
    fn from(hashed: Hashed) -> Self {
        hashed.seeds
    }
}

impl Default for Hashed {
    fn default() -> Self {
        // The standard library asks the kernel by getrandom(2). What comes with `ahash` may open a device instead, which the process
        // that reads images may not.
        let random = std::hash::RandomState::new();
        [0_u64, 1, 2, 3].map(|number| random.hash_one(number)).into()
    }
}

impl Names {
    /// Whether a word is of a kind that is kept.
    fn can_have(word: &[u8]) -> bool {
        (COMPATIBLE_MIN..=COMPATIBLE_MAX).contains(&word.len()) && word.iter().all(u8::is_ascii_graphic)
    }

    fn insert(&mut self, word: &[u8]) {
        if self.hashes.len() == NAMES_MAX {
            self.settle();
            self.cut |= self.hashes.len() > NAMES_MAX / 2;
        }
        if !self.cut {
            self.hashes.push(self.state.by.hash_one(word));
        }
    }

    fn settle(&mut self) {
        self.hashes.sort_unstable();
        self.hashes.dedup();
        self.hashes.shrink_to_fit();
    }

    /// Whether a word is among them; `None`: not known.
    pub(super) fn has(&self, word: &[u8]) -> Option<bool> {
        let there = Self::can_have(word) && self.hashes.binary_search(&self.state.by.hash_one(word)).is_ok();
        match there {
            true => Some(true),
            false => (Self::can_have(word) && !self.cut).then_some(false),
        }
    }
}
