//! Reading a journal: frame by frame, in bounded memory, whatever the bytes are.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::files::{files_of, head_of};
use super::frame::{self, HEAD, MAX_PAYLOAD, PREAMBLE, Preamble, TAIL, VERSION, kind};
use super::{Clock, End, Header, Lost, Part};
use crate::input;

/// Why a journal cannot be read at all.
#[derive(Debug)]
pub enum OpenError {
    /// The file cannot be opened or read.
    Io(io::Error),
    /// It does not begin like a journal.
    Foreign,
    /// It is a serial log, and has no beginning of this many of its recordings.
    Headless {
        /// How many.
        recordings: u64,
    },
    /// It is a directory without a journal in it.
    Empty,
    /// A newer luo-trace wrote it, in a format that this one would misunderstand.
    Newer {
        /// The format's version.
        version: u32,
    },
    /// Its preamble or its header frame is damaged, so that nothing after it can be understood.
    Damaged {
        /// What is wrong.
        reason: Reason,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "cannot read the journal: {error}"),
            Self::Foreign => write!(
                f,
                "this is not a luo-trace journal, nor a serial log with one in it; give what `luo-trace agent --journal` wrote"
            ),
            Self::Headless { recordings } => write!(
                f,
                "the log has {recordings} recording(s) whose beginning is missing or torn, so nothing in them can be understood; \
                 give a log that was begun before the agent"
            ),
            Self::Empty => write!(
                f,
                "there is no journal in this directory; give the one that `luo-trace agent --journal` wrote to"
            ),
            Self::Newer { version } => write!(
                f,
                "the journal has format version {version} and this luo-trace reads up to {VERSION}; use a newer luo-trace"
            ),
            Self::Damaged { reason } => write!(
                f,
                "the journal's beginning is damaged ({reason}), so nothing in it can be understood; take another copy of it"
            ),
        }
    }
}

impl std::error::Error for OpenError {}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A part of a journal that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// Where it begins, in bytes from the file's start.
    pub offset: u64,
    /// What is wrong there.
    pub reason: Reason,
    /// How many bytes were given up.
    pub bytes: u64,
    /// Whether reading of this file went on after it. It does only where the damaged frame's end is sure: a whole frame begins there.
    pub resumed: bool,
    /// The part that it lies in; 0: the journal's first file.
    pub part: u64,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let after = if self.resumed {
            "reading went on after it"
        } else {
            "nothing after it could be read"
        };
        write!(f, "{} bytes at offset {}", self.bytes, self.offset)?;
        if self.part > 0 {
            write!(f, " of part {}", self.part)?;
        }
        write!(f, ": {}; {after}", self.reason)
    }
}

/// What is wrong with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The file ends inside it.
    Cut,
    /// Its length cannot be.
    Length,
    /// Its checksum is not that of its bytes.
    Checksum,
    /// It is whole, and its content is not what its kind should hold.
    Content,
    /// The operating system could not read it.
    Io,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cut => "the file ends inside a frame",
            Self::Length => "a frame's length cannot be",
            Self::Checksum => "a frame's checksum is wrong",
            Self::Content => "a frame's content is not what its kind should hold",
            Self::Io => "the system could not read on",
        })
    }
}

/// One frame, or a part that could not be read as one.
#[derive(Debug, PartialEq)]
pub enum Frame<'a> {
    /// A kernel record.
    Event(&'a [u8]),
    /// Records are missing here.
    Lost(Lost),
    /// A later reading of the clocks.
    Clock(Clock),
    /// The recording ended as it should.
    End(End),
    /// Another agent took the recording up again.
    Resumed(Box<Header>),
    /// Bytes that are no frame.
    Damage(Damage),
}

/// Reads a journal from its start, through all its files.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    /// The files after this one, with their numbers.
    rest: std::vec::IntoIter<(u64, R)>,
    header: Header,
    /// What the first file says of itself, where it is a part.
    part: Option<Part>,
    /// The number of the file that is read.
    file: u64,
    /// The header of the run that is read, and how many records there were so far, of the boot and of the run.
    run: Header,
    records: u64,
    of_run: u64,
    /// What is to be told before more is read.
    pending: VecDeque<Frame<'static>>,
    /// Whether this file says that another follows.
    is_continued: bool,
    /// The frame last read: head, payload, checksum.
    buffer: Vec<u8>,
    /// Where the next frame begins.
    offset: u64,
    /// Where the last whole frame ends.
    whole: u64,
    /// The kind of a frame that was read ahead and not yet given.
    ahead: Option<u16>,
    done: bool,
    unknown: u64,
}

/// How much of a file is read at a time, in bytes.
const BUFFER: usize = 1 << 18;

impl Reader<BufReader<File>> {
    /// Opens the journal at `path`, with its parts.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Self::joined(open(path)?)
    }

    /// Opens one file of a journal.
    pub(super) fn open_one(path: &Path) -> Result<Self, OpenError> {
        Self::new(buffered(path)?)
    }
}

/// Opens the files of the journal at `path`.
pub(super) fn open(path: &Path) -> io::Result<Vec<(u64, BufReader<File>)>> {
    let mut opened = vec![(0, buffered(path)?)];
    let rest: Vec<PathBuf> = files_of(path)?.into_iter().skip(1).collect();
    for path in rest {
        match buffered(&path) {
            // Its agent has removed it since, which the next one tells.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            file => opened.push((head_of(&path).map_or(0, |(_, number)| number), file?)),
        }
    }
    Ok(opened)
}

fn buffered(path: &Path) -> io::Result<BufReader<File>> {
    Ok(BufReader::with_capacity(BUFFER, input::open(path)?))
}

impl<R: Read> Reader<R> {
    /// Reads the preamble and the header.
    pub fn new(input: R) -> Result<Self, OpenError> {
        Self::joined(vec![(0, input)])
    }

    /// Reads the preamble and the header of the first of a journal's files; the others follow in their order.
    pub(super) fn joined(inputs: Vec<(u64, R)>) -> Result<Self, OpenError> {
        let mut rest = inputs.into_iter();
        let (_, input) = rest.next().ok_or(OpenError::Foreign)?;
        let mut reader = Self {
            input,
            rest,
            header: Header::default(),
            part: None,
            file: 0,
            run: Header::default(),
            records: 0,
            of_run: 0,
            pending: VecDeque::new(),
            is_continued: false,
            buffer: Vec::new(),
            offset: 0,
            whole: 0,
            ahead: None,
            done: false,
            unknown: 0,
        };
        (reader.header, reader.part) = reader.begin()?;
        reader.run = reader.header.clone();
        if let Some(part) = reader.part {
            (reader.file, reader.records, reader.of_run) = (part.number, part.before, part.of_run);
            reader.miss(part.before, NOT_GIVEN);
        }
        Ok(reader)
    }

    /// Reads the preamble and the header of a file.
    fn begin(&mut self) -> Result<(Header, Option<Part>), OpenError> {
        let mut preamble = [0; PREAMBLE];
        let len = fill(&mut self.input, &mut preamble)?;
        match Preamble::of(&preamble) {
            Preamble::Foreign => {
                // What is shorter than a preamble and begins like one was cut; an empty file says nothing.
                let begins_so = len > 0 && len < PREAMBLE && frame::preamble(1).starts_with(&preamble[..len.min(8)]);
                let cut = OpenError::Damaged { reason: Reason::Cut };
                return Err(if begins_so { cut } else { OpenError::Foreign });
            }
            Preamble::Damaged => {
                let reason = if len < PREAMBLE { Reason::Cut } else { Reason::Checksum };
                return Err(OpenError::Damaged { reason });
            }
            Preamble::Version(version) if version > VERSION => return Err(OpenError::Newer { version }),
            Preamble::Version(_) => {}
        }
        self.offset = PREAMBLE as u64;
        let damaged = |reason| OpenError::Damaged { reason };
        let mut header: Header = match self.read_frame().map_err(damaged)? {
            Some(kind::HEADER) => self.json().map_err(damaged)?,
            Some(_) => return Err(damaged(Reason::Content)),
            None => return Err(damaged(Reason::Cut)),
        };
        self.whole = self.offset;
        let part = header.part.take();
        Ok((header, part))
    }

    /// Goes on in the next file. `false`: there is none, and nothing more to tell.
    fn go_on(&mut self) -> bool {
        let Some((number, next)) = self.rest.next() else {
            let is_continued = std::mem::take(&mut self.is_continued);
            if is_continued {
                self.miss(
                    1,
                    "the journal goes on in another file, BOOT-ID.luoj.NUMBER, which is not here",
                );
            }
            return is_continued;
        };
        self.input = next;
        (self.offset, self.whole, self.ahead, self.is_continued) = (0, 0, None, false);
        match self.begin() {
            Ok((header, Some(part))) if header.boot_id == self.header.boot_id => {
                self.done = false;
                self.join(header, part);
            }
            // The next one tells how many records are missing with it.
            other => {
                let reason = match other {
                    Err(OpenError::Damaged { reason }) => reason,
                    Err(OpenError::Io(_)) => Reason::Io,
                    _ => Reason::Content,
                };
                let damage = self.give_up(0, reason);
                self.pending.push_back(Frame::Damage(Damage { part: number, ..damage }));
            }
        }
        true
    }

    /// Tells what is missing before a part, and whether another run has begun there.
    fn join(&mut self, header: Header, part: Part) {
        let missing = part.before.saturating_sub(self.records);
        if header == self.run {
            self.miss(missing, REMOVED);
        } else {
            self.miss(missing.saturating_sub(part.of_run), REMOVED);
            self.pending.push_back(Frame::Resumed(Box::new(header.clone())));
            self.miss(missing.min(part.of_run), REMOVED);
            self.run = header;
        }
        (self.file, self.records, self.of_run) = (part.number, part.before, part.of_run);
    }

    fn miss(&mut self, records: u64, why: &str) {
        if records > 0 {
            let why = why.into();
            self.pending.push_back(Frame::Lost(Lost { records, why }));
        }
    }

    /// What the file that is read first says of itself, where it is a part.
    pub(super) fn part(&self) -> Option<Part> {
        self.part
    }

    /// The number of the file that is read: 0, or that of the part.
    pub(super) fn file(&self) -> u64 {
        self.file
    }

    /// The header of the run that is read.
    pub(super) fn run(&self) -> &Header {
        &self.run
    }

    /// How many records the boot had so far, those that were lost on the way into the journal too.
    pub(super) fn records(&self) -> u64 {
        self.records
    }

    /// How many of them are of the run that is read.
    pub(super) fn of_run(&self) -> u64 {
        self.of_run
    }

    fn count(&mut self, records: u64) {
        self.records = self.records.saturating_add(records);
        self.of_run = self.of_run.saturating_add(records);
    }

    /// The header that the journal begins with.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How many whole frames had a kind that this version does not know.
    pub fn unknown(&self) -> u64 {
        self.unknown
    }

    /// Where the last whole frame read so far ends, in bytes from the start of the file that it lies in.
    pub fn whole(&self) -> u64 {
        self.whole
    }

    /// The next frame; `None` at the end. Damage that ends the record is given as the last frame.
    #[allow(
        clippy::should_implement_trait,
        reason = "a frame borrows the reader's buffer, an iterator's item cannot"
    )]
    pub fn next(&mut self) -> Option<Frame<'_>> {
        loop {
            if let Some(frame) = self.pending.pop_front() {
                return Some(frame);
            }
            if self.done {
                if !self.go_on() {
                    return None;
                }
                continue;
            }
            let start = self.offset;
            let kind = match self.ahead.take() {
                Some(kind) => kind,
                None => match self.read_frame() {
                    Ok(Some(kind)) => kind,
                    Ok(None) => {
                        self.done = true;
                        continue;
                    }
                    Err(reason) => return Some(Frame::Damage(self.damage(start, reason))),
                },
            };
            self.whole = self.offset;
            let content = match kind {
                kind::EVENT => break,
                kind::LOST => self.json().map(Frame::Lost),
                kind::CLOCK => self.json().map(Frame::Clock),
                kind::END => self.json().map(Frame::End),
                kind::RESUMED => self.json().map(|header| Frame::Resumed(Box::new(header))),
                kind::CONTINUED => {
                    self.is_continued = true;
                    continue;
                }
                _ => {
                    self.unknown += 1;
                    continue;
                }
            };
            match &content {
                Ok(Frame::Lost(lost)) => self.count(lost.records),
                Ok(Frame::Resumed(header)) => (self.run, self.of_run) = ((**header).clone(), 0),
                _ => {}
            }
            // The frame itself is whole, so where the next one begins is sure.
            return Some(content.unwrap_or_else(|reason| {
                let bytes = self.buffer.len() as u64;
                let offset = self.whole - bytes;
                Frame::Damage(Damage {
                    offset,
                    reason,
                    bytes,
                    resumed: true,
                    part: self.file,
                })
            }));
        }
        self.count(1);
        Some(Frame::Event(self.payload()))
    }

    /// Reads the next frame into the buffer; `None` where the file ends as it should.
    fn read_frame(&mut self) -> Result<Option<u16>, Reason> {
        let mut head = [0; HEAD];
        match fill(&mut self.input, &mut head).map_err(|_| Reason::Io)? {
            0 => return Ok(None),
            HEAD => {}
            len => {
                self.offset += len as u64;
                return Err(Reason::Cut);
            }
        }
        let (len, kind) = frame::head(head);
        self.offset += HEAD as u64;
        if len > MAX_PAYLOAD {
            return Err(Reason::Length);
        }
        self.buffer.resize(HEAD + len + TAIL, 0);
        self.buffer[..HEAD].copy_from_slice(&head);
        let got = fill(&mut self.input, &mut self.buffer[HEAD..]).map_err(|_| Reason::Io)?;
        self.offset += got as u64;
        if got < len + TAIL {
            return Err(Reason::Cut);
        }
        let (bytes, crc) = self.buffer.split_at(HEAD + len);
        if crc32fast::hash(bytes) != frame::number(crc) {
            return Err(Reason::Checksum);
        }
        Ok(Some(kind))
    }

    /// Gives up what lies at `offset`, and goes on only where a whole frame follows at the end that the damaged one names.
    fn damage(&mut self, offset: u64, reason: Reason) -> Damage {
        let end = self.offset;
        if reason == Reason::Checksum
            && let Ok(Some(kind)) = self.read_frame()
        {
            self.ahead = Some(kind);
            let bytes = end - offset;
            return Damage {
                offset,
                reason,
                bytes,
                resumed: true,
                part: self.file,
            };
        }
        self.give_up(offset, reason)
    }

    /// Gives up the file that is read, from `offset` on.
    fn give_up(&mut self, offset: u64, reason: Reason) -> Damage {
        self.done = true;
        // An error here only ends the counting.
        self.offset += io::copy(&mut self.input, &mut io::sink()).unwrap_or(0);
        Damage {
            offset,
            reason,
            bytes: self.offset - offset,
            resumed: false,
            part: self.file,
        }
    }

    fn payload(&self) -> &[u8] {
        let end = self.buffer.len().saturating_sub(TAIL);
        self.buffer.get(HEAD..end).unwrap_or_default()
    }

    fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, Reason> {
        serde_json::from_slice(self.payload()).map_err(|_| Reason::Content)
    }
}

const REMOVED: &str = "the middle of the record was removed: this boot's journal had reached its bound, which --journal-max-size \
                       gives";
const NOT_GIVEN: &str = "they are in files of this journal that come before this one";

/// Reads until `buffer` is full or the input ends, and gives how many bytes came.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match input.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}
