//! A journal that was carried gets its place in a directory, beside or after what its own agent wrote there.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::journal::files::{create, make_directory, open, open_last, parts_of, path_of, set_aside};
use crate::journal::frame::{self, kind};
use crate::journal::{Frame, Header, Lost, OpenError, Reader, Reason};

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Home {
    /// There was none of its boot, or none that could be read: now there is.
    Written(PathBuf),
    /// The one there lacked records at its end.
    Completed {
        /// Where it lies.
        path: PathBuf,
        /// How many were added.
        records: u64,
    },
    /// The one there has all of it.
    Known(PathBuf),
    /// The one there is of a later agent of the same boot, and was left as it is.
    Older(PathBuf),
}

/// Puts a journal into `dir` as `<boot-id>.luoj`. What is there is never shortened: where it ends early it is completed,
/// and where it cannot be read it is set aside.
///
/// # Errors
/// Where the journal's header cannot be understood, or the directory cannot be written; it is then as it was before.
pub fn bring_home(dir: &Path, journal: &[u8]) -> io::Result<Home> {
    let carried = Run::last(Reader::new(journal).map_err(unreadable)?);
    let boot = &carried.header.boot_id;
    let path = path_of(dir, boot)?;
    make_directory(dir)?;
    // As long as this is open, no agent writes there.
    let lock = open(&path)?;
    let is_empty = lock
        .as_ref()
        .map(File::metadata)
        .transpose()?
        .is_none_or(|data| data.len() == 0);
    let there = match is_empty {
        true => None,
        false => match Reader::open(&path) {
            Ok(reader) if reader.header().boot_id == *boot => Some(Run::last(reader)).filter(|run| !run.damaged),
            Err(OpenError::Io(error)) => return Err(error),
            _ => None,
        },
    };
    let Some(there) = there else {
        if !is_empty || !parts_of(&path)?.is_empty() {
            set_aside(dir, boot, &path)?;
        }
        create(&path, journal)?;
        return Ok(Home::Written(path));
    };
    let Some(more) = what_is_missing(&there, &carried, journal)? else {
        return Ok(if there.header == carried.header {
            Home::Known(path)
        } else {
            Home::Older(path)
        });
    };
    append(&mut open_last(&path)?, there.whole, &more)?;
    let same = there.header == carried.header;
    let records = carried.records - if same { there.records.min(carried.records) } else { 0 };
    Ok(Home::Completed { path, records })
}

/// The last run of an agent in a journal.
struct Run {
    header: Header,
    /// How many records it had, those that were lost on the way into the journal too.
    records: u64,
    /// Where the journal's last whole frame ends.
    whole: u64,
    /// Whether there is damage that an interrupted write does not explain.
    damaged: bool,
}

impl Run {
    fn last<R: io::Read>(mut reader: Reader<R>) -> Self {
        let mut run = Self {
            header: reader.header().clone(),
            records: 0,
            whole: 0,
            damaged: false,
        };
        while let Some(frame) = reader.next() {
            run.records = run.records.saturating_add(records(&frame));
            match frame {
                Frame::Resumed(header) => {
                    run.header = *header;
                    run.records = 0;
                }
                Frame::Damage(damage) => run.damaged |= damage.resumed || damage.reason != Reason::Cut,
                _ => {}
            }
        }
        run.whole = reader.whole();
        run
    }
}

/// How many records a frame stands for.
fn records(frame: &Frame<'_>) -> u64 {
    match frame {
        Frame::Event(_) => 1,
        Frame::Lost(lost) => lost.records,
        _ => 0,
    }
}

/// The frames that a journal lacks at its end; `None`: it lacks none.
fn what_is_missing(there: &Run, carried: &Run, journal: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut more = Vec::new();
    let from = if there.header == carried.header {
        if there.records >= carried.records {
            return Ok(None);
        }
        after(there.records, journal, &mut more)?
    } else if carried.header.clock.monotonic_ns > there.header.clock.monotonic_ns {
        frame::put_json(&mut more, kind::RESUMED, &carried.header)?;
        Reader::new(journal).map_err(unreadable)?.whole()
    } else {
        return Ok(None);
    };
    let rest = usize::try_from(from).ok().and_then(|from| journal.get(from..));
    more.extend(rest.unwrap_or_default());
    Ok(Some(more))
}

/// Where in a journal the frames after its first records begin. Both journals got the same records in the same order, so
/// that a number is enough. A loss of which a part is among those first ones is told by a frame of its own.
fn after(first: u64, journal: &[u8], more: &mut Vec<u8>) -> io::Result<u64> {
    let mut reader = Reader::new(journal).map_err(unreadable)?;
    let (mut from, mut count) = (reader.whole(), 0_u64);
    while let Some(frame) = reader.next() {
        let records = records(&frame);
        let with = count.saturating_add(records);
        if with > first {
            if count < first {
                let why = "the journal had not got so far, and what was carried over the kexec does not go so far back";
                let lost = Lost {
                    records: with - first,
                    why: why.into(),
                };
                frame::put_json(more, kind::LOST, &lost)?;
                from = reader.whole();
            }
            break;
        }
        count = with;
        if records > 0 {
            from = reader.whole();
        }
    }
    Ok(from)
}

/// Writes after the first `whole` bytes of a file, all or nothing.
fn append(file: &mut File, whole: u64, bytes: &[u8]) -> io::Result<()> {
    file.set_len(whole)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_data());
    if written.is_err() {
        // Where this fails, too, a reader finds an unfinished frame at the end, and nothing else is wrong.
        _ = file.set_len(whole);
    }
    written
}

fn unreadable(error: OpenError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
