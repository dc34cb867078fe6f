//! Writing a journal: every batch goes to the kernel in one `write(2)` and nothing is kept back, so that a killed agent
//! or a jump loses at most the frame that was being written.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::files::{Files, make_directory, parts_of, path_of, set_aside};
use super::frame::{self, kind};
use super::{Clock, End, Frame, Header, Lost, OpenError, Reader, Reason};

/// How many bytes must fit onto a disk before a journal that it had no room for goes on.
const ROOM: usize = 64 << 10;

/// Where a journal's bytes go: a file, or a test's.
pub trait Store: Write {
    /// Cuts the store to this many bytes.
    fn cut(&mut self, len: u64) -> io::Result<()>;
    /// Makes sure that more than a few records have room after the first `len` bytes, which are all that is kept. A disk
    /// that is all but full would otherwise take small batches and refuse large ones, in turn.
    fn room(&mut self, len: u64) -> io::Result<()> {
        self.cut(len)?;
        let room = self.write_all(&[0; ROOM]);
        self.cut(len)?;
        room
    }
    /// Waits until everything written is on the disk.
    fn sync(&mut self) -> io::Result<()>;
    /// The header has been written.
    fn begun(&mut self) -> io::Result<()> {
        Ok(())
    }
    /// How many bytes the store takes before it has to be turned to another file.
    fn most(&self) -> u64 {
        u64::MAX
    }
    /// How many records were removed so that the store stays within its bound.
    fn removed(&self) -> u64 {
        0
    }
    /// Goes on in another file, after the first `whole` bytes of this one. `before` records of the boot and `of_run` of the run with
    /// this header were written so far. Gives how many bytes the new file begins with.
    fn turn(&mut self, whole: u64, header: &Header, before: u64, of_run: u64) -> io::Result<u64> {
        _ = (whole, header, before, of_run);
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Appends to a journal.
#[derive(Debug)]
pub struct Writer<S = Files> {
    store: S,
    /// How many bytes of the store are whole frames, and how many it began with: there is nothing but those to turn away from.
    whole: u64,
    beginning: u64,
    /// The header of the run that was written last, and how many records there were so far, of the boot and of the run.
    run: Header,
    records: u64,
    of_run: u64,
    /// The header of the run that begins with `first`, where another agent's was written before, and how many records of that one
    /// `first` tells of as lost.
    next_run: Option<Header>,
    lost_before: u64,
    /// Whether the last write failed: the store may hold more than whole frames, and may have no room.
    failed: bool,
    /// What must come before anything else: the header, until it is written.
    first: Vec<u8>,
    /// Records that were lost since the last successful write.
    lost: Lost,
    lost_in_all: u64,
    batch: Vec<u8>,
}

impl Writer<Files> {
    /// Opens `dir/<boot-id>.luoj` for the boot that `header` names, and makes the directory where it is missing.
    ///
    /// A journal is never overwritten. An agent that is started again in the same boot goes on in the same file, after
    /// cutting off a frame that its predecessor left half-written; the cut is told by a [`Lost`] frame and the new
    /// beginning by a `Resumed` one. A file of this name that cannot be gone on with is set aside under another name.
    ///
    /// A disk that is full right now is no error: the header is written together with the first batch that can be, and the file has
    /// its name from then on.
    pub fn open(dir: &Path, header: &Header) -> io::Result<(Self, PathBuf)> {
        Self::open_within(dir, header, u64::MAX)
    }

    /// The same, and keeps at most so many bytes of the boot's journal: its beginning and its end, which then lie in files of their
    /// own.
    pub fn open_within(dir: &Path, header: &Header, most: u64) -> io::Result<(Self, PathBuf)> {
        let boot = &header.boot_id;
        let path = path_of(dir, boot)?;
        make_directory(dir)?;
        let mut left = None;
        if let Some(files) = Files::there(&path, most)? {
            match past(&path, boot, files.last())? {
                Past::Usable(usable) => left = Some((files, usable)),
                Past::Unusable => set_aside(dir, boot, &path)?,
            }
        } else if !parts_of(&path)?.is_empty() {
            // They are no parts of what begins now.
            set_aside(dir, boot, &path)?;
        }
        let mut writer = match left {
            None => Self::begin(Files::new(&path, most)?, header)?,
            Some((files, left)) => Self::resume(files, *left, header)?,
        };
        // Where this fails, the header waits for the first batch.
        let _ = writer.flush_first();
        Ok((writer, path))
    }
}

impl<S: Store> Writer<S> {
    /// Begins a journal in an empty store. The header is written together with the first batch.
    pub fn begin(store: S, header: &Header) -> io::Result<Self> {
        let mut first = frame::preamble(frame::HEAD_VERSION).to_vec();
        frame::put_json(&mut first, kind::HEADER, header)?;
        Ok(Self::new(store, first, header.clone()))
    }

    /// Goes on where another agent stopped.
    fn resume(store: S, left: Left, header: &Header) -> io::Result<Self> {
        let Left {
            whole,
            cut,
            run,
            records,
            of_run,
        } = left;
        let mut first = Vec::new();
        if cut > 0 {
            let why =
                format!("the agent before was stopped while writing; {cut} bytes of an unfinished frame were cut off");
            frame::put_json(&mut first, kind::LOST, &Lost { records: 1, why })?;
        }
        frame::put_json(&mut first, kind::RESUMED, header)?;
        Ok(Self {
            whole,
            records,
            of_run,
            next_run: Some(header.clone()),
            lost_before: u64::from(cut > 0),
            failed: cut > 0,
            ..Self::new(store, first, run)
        })
    }

    fn new(store: S, first: Vec<u8>, run: Header) -> Self {
        Self {
            store,
            whole: 0,
            beginning: 0,
            run,
            records: 0,
            of_run: 0,
            next_run: None,
            lost_before: 0,
            failed: false,
            first,
            lost: Lost::default(),
            lost_in_all: 0,
            batch: Vec::new(),
        }
    }

    /// Appends kernel records, all in one `write(2)`, or in as many as its files have room for.
    ///
    /// Those of a write that failed are not in the journal: they are counted, the store is cut back to whole frames, and the
    /// next batch that can be written begins with a [`Lost`] frame. That is when there is room for much more than it.
    ///
    /// # Errors
    /// The first of those that the writes met.
    pub fn append<'a>(&mut self, records: impl IntoIterator<Item = &'a [u8]>) -> io::Result<()> {
        let mut batch = std::mem::take(&mut self.batch);
        let (mut count, mut result) = (0, Ok(()));
        let most = usize::try_from(self.store.most() / 4).unwrap_or(usize::MAX);
        for record in records {
            if count > 0 && batch.len() + record.len() > most {
                result = result.and(self.write_records(&mut batch, &mut count));
            }
            if frame::put(&mut batch, kind::EVENT, record) {
                count += 1;
            } else {
                self.lose(1, "the record is longer than a frame can be");
            }
        }
        let last = self.write_records(&mut batch, &mut count);
        self.batch = batch;
        result.and(last)
    }

    /// Writes the records of a batch, and empties it; where that fails, they are lost.
    fn write_records(&mut self, batch: &mut Vec<u8>, count: &mut u64) -> io::Result<()> {
        let result = self.write(batch, *count);
        if let Err(error) = &result {
            self.lose(*count, &error.to_string());
        }
        batch.clear();
        *count = 0;
        result
    }

    /// Notes that records were lost before they reached the journal; told with the next batch.
    pub fn lose(&mut self, records: u64, why: &str) {
        self.lost.records += records;
        self.lost_in_all += records;
        why.clone_into(&mut self.lost.why);
    }

    /// How many records this writer could not write, or was told of by [`Writer::lose`].
    pub fn lost(&self) -> u64 {
        self.lost_in_all
    }

    /// How many records were removed from the middle of the journal to keep it within its bound.
    pub fn removed(&self) -> u64 {
        self.store.removed()
    }

    /// Appends a later reading of the clocks.
    pub fn clock(&mut self, clock: &Clock) -> io::Result<()> {
        self.write_json(kind::CLOCK, clock)
    }

    /// Appends the mark of a clean end, and waits until all is on the disk.
    pub fn end(&mut self, end: &End) -> io::Result<()> {
        self.write_json(kind::END, end)?;
        self.sync()
    }

    /// Waits until everything written is on the disk.
    pub fn sync(&mut self) -> io::Result<()> {
        self.store.sync()
    }

    fn write_json(&mut self, kind: u16, value: &impl serde::Serialize) -> io::Result<()> {
        let mut bytes = Vec::new();
        frame::put_json(&mut bytes, kind, value)?;
        self.write(&bytes, 0)
    }

    /// Writes the header now, where it waits.
    ///
    /// # Errors
    /// Where it cannot be written; it then goes on waiting for the first batch.
    pub fn flush_first(&mut self) -> io::Result<()> {
        self.write(&[], 0)
    }

    /// Writes whole frames with so many records in them, after what must come before them: all of it, or nothing.
    fn write(&mut self, frames: &[u8], records: u64) -> io::Result<()> {
        if self.failed {
            self.recover()?;
        }
        let mut joined;
        let bytes = if self.first.is_empty() && self.lost.records == 0 {
            frames
        } else {
            joined = self.first.clone();
            if self.lost.records > 0 {
                frame::put_json(&mut joined, kind::LOST, &self.lost)?;
            }
            joined.extend(frames);
            &joined
        };
        if bytes.is_empty() {
            return Ok(());
        }
        let len = bytes.len() as u64;
        if self.whole > self.beginning && self.whole + len > self.store.most() {
            self.whole = self.store.turn(self.whole, &self.run, self.records, self.of_run)?;
            self.beginning = self.whole;
        }
        let written = self.store.write_all(bytes);
        let written = written.and_then(|()| {
            if self.first.is_empty() {
                Ok(())
            } else {
                self.store.begun()
            }
        });
        if let Err(error) = written {
            self.failed = true;
            // Where this fails, too, it is done before the next write.
            let _ = self.store.cut(self.whole);
            return Err(error);
        }
        self.whole += len;
        self.first.clear();
        let lost = std::mem::take(&mut self.lost).records;
        if let Some(header) = self.next_run.take() {
            self.run = header;
            self.records = self.records.saturating_add(std::mem::take(&mut self.lost_before));
            self.of_run = 0;
        }
        for sum in [&mut self.records, &mut self.of_run] {
            *sum = sum.saturating_add(lost).saturating_add(records);
        }
        Ok(())
    }

    /// After a failed write: undoes it, and goes on only where there is room.
    fn recover(&mut self) -> io::Result<()> {
        self.store.room(self.whole)?;
        self.failed = false;
        Ok(())
    }
}

/// What an earlier agent left.
enum Past {
    /// Whole frames of the same boot.
    Usable(Box<Left>),
    Unusable,
}

/// Where an earlier agent stopped.
struct Left {
    /// How many bytes of the last file are whole frames, and how many of an unfinished one follow them.
    whole: u64,
    cut: u64,
    /// The header of the run that they are of, and how many records the boot and the run have so far.
    run: Header,
    records: u64,
    of_run: u64,
}

fn past(path: &Path, boot: &str, last: u64) -> io::Result<Past> {
    let mut reader = match Reader::open(path) {
        Ok(reader) if reader.header().boot_id == boot => reader,
        Err(OpenError::Io(error)) => return Err(error),
        _ => return Ok(Past::Unusable),
    };
    let mut cut = 0;
    while let Some(frame) = reader.next() {
        if let Frame::Damage(damage) = frame
            && damage.part == last
        {
            // Cutting is right for what an interrupted write leaves; anything else is kept to be looked at.
            if !damage.resumed && damage.reason != Reason::Cut {
                return Ok(Past::Unusable);
            }
            if !damage.resumed {
                cut = damage.bytes;
            }
        }
    }
    if reader.file() != last {
        return Ok(Past::Unusable);
    }
    Ok(Past::Usable(Box::new(Left {
        whole: reader.whole(),
        cut,
        run: reader.run().clone(),
        records: reader.records(),
        of_run: reader.of_run(),
    })))
}
