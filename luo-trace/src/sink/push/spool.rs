//! Batches that wait to be sent, the oldest first: in a directory, so that they outlive the agent and the kernel, or in memory where
//! there is none.
//!
//! A batch is a file, `NUMBER.SIGNAL.gz`, which is there as a whole or not at all. What holds more than it may gives up metrics first,
//! since others follow them, and then the oldest.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

use super::Signal;
use crate::host::files;

/// The directory of batches, below that of the journals.
pub(super) const DIR: &str = "push";

/// No batch is larger once it is unpacked; what claims to be is damaged.
const MOST: u64 = 64 << 20;

/// A batch as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) signal: Signal,
    /// The export request, packed by gzip.
    pub(super) body: Vec<u8>,
}

/// One that waits.
#[derive(Debug)]
struct Waiting {
    number: u64,
    signal: Signal,
    bytes: u64,
    /// Where it is in memory alone.
    body: Option<Vec<u8>>,
}

/// See the beginning of this file.
#[derive(Debug)]
pub(super) struct Spool {
    dir: Option<PathBuf>,
    most: u64,
    bytes: u64,
    waiting: VecDeque<Waiting>,
    next: u64,
}

impl Spool {
    /// A spool of so many bytes. What an agent before has left in the directory is still to be sent; what of it is damaged is removed,
    /// and counted in the second of what is given.
    pub(super) fn open(dir: Option<PathBuf>, most: u64) -> io::Result<(Self, Vec<Signal>)> {
        let mut spool = Self {
            dir,
            most,
            bytes: 0,
            waiting: VecDeque::new(),
            next: 0,
        };
        let mut lost = Vec::new();
        let Some(dir) = spool.dir.clone() else {
            return Ok((spool, lost));
        };
        fs::create_dir_all(&dir)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            match of_name(&path) {
                Some((number, signal)) => found.push((number, signal, path)),
                // One that was being written; nothing else is touched.
                None if path.extension().is_some_and(|end| end == "new") => _ = fs::remove_file(&path),
                None => {}
            }
        }
        found.sort_unstable_by_key(|(number, ..)| *number);
        for (number, signal, path) in found {
            spool.next = spool.next.max(number + 1);
            match read(&path).ok().filter(|body| is_whole(body)) {
                Some(body) => spool.add(number, signal, body.len() as u64, None),
                None => {
                    _ = fs::remove_file(&path);
                    lost.push(signal);
                }
            }
        }
        lost.extend(spool.make_room(0));
        Ok((spool, lost))
    }

    /// Puts a batch behind the others; gives what had to go for it, and how often it could not be written.
    pub(super) fn put(&mut self, batch: Batch) -> (Vec<Signal>, io::Result<()>) {
        let Batch { signal, body } = batch;
        let bytes = body.len() as u64;
        if bytes > self.most {
            return (vec![signal], Ok(()));
        }
        let gone = self.make_room(bytes);
        let number = self.next;
        self.next += 1;
        let written = match self.path(number, signal) {
            Some(path) => write(&path, &body).map(|()| true),
            None => Ok(false),
        };
        let is_on_disk = matches!(written, Ok(true));
        self.add(number, signal, bytes, Some(body).filter(|_| !is_on_disk));
        (gone, written.map(|_| ()))
    }

    /// The oldest batch; `None`: nothing waits. One that cannot be read any more is given up, and told by its signal.
    pub(super) fn first(&mut self) -> Option<Result<Batch, Signal>> {
        let first = self.waiting.front()?;
        let signal = first.signal;
        let body = match (&first.body, self.path(first.number, signal)) {
            (Some(body), _) => Some(body.clone()),
            (None, Some(path)) => read(&path).ok(),
            (None, None) => None,
        };
        Some(match body {
            Some(body) => Ok(Batch { signal, body }),
            None => {
                self.done();
                Err(signal)
            }
        })
    }

    /// The oldest batch needs no place any more.
    pub(super) fn done(&mut self) {
        self.remove(0);
    }

    /// How many bytes wait.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many batches wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    fn add(&mut self, number: u64, signal: Signal, bytes: u64, body: Option<Vec<u8>>) {
        self.bytes += bytes;
        self.waiting.push_back(Waiting {
            number,
            signal,
            bytes,
            body,
        });
    }

    fn make_room(&mut self, bytes: u64) -> Vec<Signal> {
        let mut gone = Vec::new();
        while self.bytes + bytes > self.most && !self.waiting.is_empty() {
            let metrics = |waiting: &Waiting| waiting.signal == Signal::Metrics;
            let place = self.waiting.iter().position(metrics).unwrap_or(0);
            gone.extend(self.remove(place));
        }
        gone
    }

    fn remove(&mut self, place: usize) -> Option<Signal> {
        let gone = self.waiting.remove(place)?;
        self.bytes -= gone.bytes;
        if let Some(path) = self.path(gone.number, gone.signal).filter(|_| gone.body.is_none()) {
            // One that stays is sent once more by the next agent, as the same.
            _ = fs::remove_file(path);
        }
        Some(gone.signal)
    }

    fn path(&self, number: u64, signal: Signal) -> Option<PathBuf> {
        Some(self.dir.as_ref()?.join(format!("{number:016x}.{}.gz", signal.name())))
    }
}

/// The number and the signal that a file is named by.
fn of_name(path: &Path) -> Option<(u64, Signal)> {
    let mut parts = path.file_name()?.to_str()?.split('.');
    let (number, signal, end) = (parts.next()?, parts.next()?, parts.next()?);
    let number = u64::from_str_radix(number, 16)
        .ok()
        .filter(|&number| number < u64::MAX)?;
    let signal = Signal::ALL.into_iter().find(|known| known.name() == signal)?;
    (end == "gz" && parts.next().is_none()).then_some((number, signal))
}

fn write(path: &Path, body: &[u8]) -> io::Result<()> {
    files::replace(path, body, 0o600)?;
    // A kexec may come at once.
    files::open_to_read(path)?.sync_data()?;
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    files::open_to_read(path)?.take(MOST).read_to_end(&mut body)?;
    Ok(body)
}

/// Whether it can be unpacked to its end.
fn is_whole(body: &[u8]) -> bool {
    let mut unpacked = GzDecoder::new(body).take(MOST);
    io::copy(&mut unpacked, &mut io::sink()).is_ok_and(|bytes| bytes > 0 && bytes < MOST)
}
