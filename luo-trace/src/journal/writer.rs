//! Writing a journal: every batch goes to the kernel in one `write(2)` and nothing is kept back, so that a killed agent
//! or a jump loses at most the frame that was being written.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

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
}

impl Store for File {
    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

/// Appends to a journal.
#[derive(Debug)]
pub struct Writer<S = File> {
    store: S,
    /// How many bytes of the store are whole frames.
    whole: u64,
    /// Whether the last write failed: the store may hold more than whole frames, and may have no room.
    failed: bool,
    /// What must come before anything else: the header, until it is written.
    first: Vec<u8>,
    /// Records that were lost since the last successful write.
    lost: Lost,
    lost_in_all: u64,
    batch: Vec<u8>,
}

impl Writer<File> {
    /// Opens `dir/<boot-id>.luoj` for the boot that `header` names, and makes the directory where it is missing.
    ///
    /// A journal is never overwritten. An agent that is started again in the same boot goes on in the same file, after
    /// cutting off a frame that its predecessor left half-written; the cut is told by a [`Lost`] frame and the new
    /// beginning by a `Resumed` one. A file of this name that cannot be gone on with is set aside under another name.
    ///
    /// A disk that is full right now is no error: the header is written together with the first batch that can be.
    pub fn open(dir: &Path, header: &Header) -> io::Result<(Self, PathBuf)> {
        let boot = &header.boot_id;
        let path = path_of(dir, boot)?;
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let mut file = append_to(&path)?;
        let resumed = match past(&path, boot)? {
            Past::Empty => None,
            Past::Usable { whole, cut } => Some((whole, cut)),
            Past::Unusable => {
                set_aside(dir, boot, &path)?;
                file = append_to(&path)?;
                None
            }
        };
        let mut writer = match resumed {
            None => Self::begin(file, header)?,
            Some((whole, cut)) => Self::resume(file, whole, cut, header)?,
        };
        // Where this fails, the header waits for the first batch.
        let _ = writer.flush_first();
        Ok((writer, path))
    }
}

impl<S: Store> Writer<S> {
    /// Begins a journal in an empty store. The header is written together with the first batch.
    pub fn begin(store: S, header: &Header) -> io::Result<Self> {
        let mut first = frame::preamble().to_vec();
        frame::put_json(&mut first, kind::HEADER, header)?;
        Ok(Self::new(store, 0, first))
    }

    /// Goes on after the first `whole` bytes of a store; `cut` says how many bytes of a torn frame follow them.
    fn resume(store: S, whole: u64, cut: u64, header: &Header) -> io::Result<Self> {
        let mut first = Vec::new();
        if cut > 0 {
            let why =
                format!("the agent before was stopped while writing; {cut} bytes of an unfinished frame were cut off");
            frame::put_json(&mut first, kind::LOST, &Lost { records: 1, why })?;
        }
        frame::put_json(&mut first, kind::RESUMED, header)?;
        let mut writer = Self::new(store, whole, first);
        writer.failed = cut > 0;
        Ok(writer)
    }

    fn new(store: S, whole: u64, first: Vec<u8>) -> Self {
        Self {
            store,
            whole,
            failed: false,
            first,
            lost: Lost::default(),
            lost_in_all: 0,
            batch: Vec::new(),
        }
    }

    /// Appends kernel records, all in one `write(2)`.
    ///
    /// After an error none of them is in the journal: they are counted, the store is cut back to whole frames, and the
    /// next batch that can be written begins with a [`Lost`] frame. That is when there is room for much more than it.
    pub fn append<'a>(&mut self, records: impl IntoIterator<Item = &'a [u8]>) -> io::Result<()> {
        let mut batch = std::mem::take(&mut self.batch);
        batch.clear();
        let mut count = 0;
        for record in records {
            if frame::put(&mut batch, kind::EVENT, record) {
                count += 1;
            } else {
                self.lose(1, "the record is longer than a frame can be");
            }
        }
        let result = self.write(&batch);
        self.batch = batch;
        if let Err(error) = &result {
            self.lose(count, &error.to_string());
        }
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
        self.write(&bytes)
    }

    /// Writes the header now, where it waits.
    ///
    /// # Errors
    /// Where it cannot be written; it then goes on waiting for the first batch.
    pub fn flush_first(&mut self) -> io::Result<()> {
        self.write(&[])
    }

    /// Writes whole frames, after what must come before them: all of it, or nothing.
    fn write(&mut self, frames: &[u8]) -> io::Result<()> {
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
        if let Err(error) = self.store.write_all(bytes) {
            self.failed = true;
            // Where this fails, too, it is done before the next write.
            let _ = self.store.cut(self.whole);
            return Err(error);
        }
        self.whole += bytes.len() as u64;
        self.first.clear();
        self.lost = Lost::default();
        Ok(())
    }

    /// After a failed write: undoes it, and goes on only where there is room.
    fn recover(&mut self) -> io::Result<()> {
        self.store.room(self.whole)?;
        self.failed = false;
        Ok(())
    }
}

/// Where the journal of a boot lies.
pub(super) fn path_of(dir: &Path, boot: &str) -> io::Result<PathBuf> {
    if boot.is_empty() || !boot.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Err(invalid(format!("the boot id {boot:?} cannot name a journal")));
    }
    Ok(dir.join(format!("{boot}.luoj")))
}

/// Opens or makes a journal file, readable by its owner only, and locks it: two agents would tear each other's frames.
pub(super) fn append_to(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            format!(
                "{} is being written by another agent; stop that one first",
                path.display()
            ),
        )),
        Err(std::fs::TryLockError::Error(error)) => Err(error),
    }
}

/// What an earlier agent left in the file.
enum Past {
    Empty,
    /// Whole frames of the same boot, and then `cut` bytes of an unfinished one.
    Usable {
        whole: u64,
        cut: u64,
    },
    Unusable,
}

fn past(path: &Path, boot: &str) -> io::Result<Past> {
    if std::fs::metadata(path)?.len() == 0 {
        return Ok(Past::Empty);
    }
    let mut reader = match Reader::open(path) {
        Ok(reader) if reader.header().boot_id == boot => reader,
        Err(OpenError::Io(error)) => return Err(error),
        _ => return Ok(Past::Unusable),
    };
    let mut cut = 0;
    while let Some(frame) = reader.next() {
        if let Frame::Damage(damage) = frame {
            // Cutting is right for what an interrupted write leaves; anything else is kept to be looked at.
            if !damage.resumed && damage.reason != Reason::Cut {
                return Ok(Past::Unusable);
            }
            if !damage.resumed {
                cut = damage.bytes;
            }
        }
    }
    Ok(Past::Usable {
        whole: reader.whole(),
        cut,
    })
}

pub(super) fn set_aside(dir: &Path, boot: &str, path: &Path) -> io::Result<()> {
    for n in 1..1000 {
        let aside = dir.join(format!("{boot}.{n}.luoj"));
        // A hard link fails where the name is taken, so that nothing is ever replaced.
        match std::fs::hard_link(path, &aside) {
            Ok(()) => return std::fs::remove_file(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(invalid(format!(
        "{} holds too many damaged journals of this boot; remove some",
        dir.display()
    )))
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}
