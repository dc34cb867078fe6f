//! Where journals are read from: files, directories of them, and serial logs that hold some.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::serial::Log;
use super::{Events, OpenError, Reader};
use crate::input;

/// How much of a file is read at a time, in bytes.
const BUFFER: usize = 1 << 18;

/// A journal, ready to be read.
pub struct Source {
    /// Where it lies; of a serial log with several, also which one it is.
    pub name: PathBuf,
    /// Its events.
    pub events: Events<Box<dyn Read>>,
}

/// A journal that cannot be read.
#[derive(Debug)]
pub struct Unreadable {
    /// Where it lies.
    pub journal: PathBuf,
    /// Why it cannot be read.
    pub error: OpenError,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.journal.display(), self.error)
    }
}

impl std::error::Error for Unreadable {}

/// Its path and the reason, in words.
impl Serialize for Unreadable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Unreadable", 2)?;
        fields.serialize_field("journal", &self.journal.display().to_string())?;
        fields.serialize_field("reason", &self.error.to_string())?;
        fields.end()
    }
}

/// Gives `take` each of the journals at `path`, one after the other: one, where that is a journal; all `*.luoj` in it, where it is a
/// directory; and all recordings in it, where it is a serial log. Returns those of a directory that cannot be read.
///
/// # Errors
/// Where there is none, or none that can be read from its beginning.
pub fn each(path: &Path, mut take: impl FnMut(Source)) -> Result<Vec<Unreadable>, Unreadable> {
    let unreadable = |journal: &Path, error| Unreadable {
        journal: journal.to_owned(),
        error,
    };
    if !path.is_dir() {
        file(path)
            .map_err(|error| unreadable(path, error))?
            .into_iter()
            .for_each(take);
        return Ok(Vec::new());
    }
    let inside = directory(path).map_err(|error| unreadable(path, error.into()))?;
    let (mut taken, mut left_out) = (false, Vec::new());
    for path in &inside {
        match file(path) {
            Ok(sources) => {
                taken = true;
                sources.into_iter().for_each(&mut take);
            }
            Err(error) => left_out.push(unreadable(path, error)),
        }
    }
    match (taken, left_out.is_empty()) {
        (true, _) => Ok(left_out),
        (false, true) => Err(unreadable(path, OpenError::Empty)),
        (false, false) => Err(left_out.remove(0)),
    }
}

/// The journals in a directory, by their names.
fn directory(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut inside = Vec::new();
    for entry in path.read_dir()? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "luoj") {
            inside.push(path);
        }
    }
    inside.sort();
    Ok(inside)
}

fn file(path: &Path) -> Result<Vec<Source>, OpenError> {
    let source = |name: PathBuf, input: Box<dyn Read>| {
        Ok(Source {
            name,
            events: Events::new(Reader::new(input)?),
        })
    };
    let mut file = BufReader::with_capacity(BUFFER, input::open(path)?);
    match Reader::new(&mut file) {
        Ok(_) => {}
        Err(OpenError::Foreign) => {
            file.rewind()?;
            return log(path, file, source);
        }
        Err(error) => return Err(error),
    }
    file.rewind()?;
    Ok(vec![source(path.to_owned(), Box::new(file))?])
}

fn log(
    path: &Path,
    file: BufReader<File>,
    source: impl Fn(PathBuf, Box<dyn Read>) -> Result<Source, OpenError>,
) -> Result<Vec<Source>, OpenError> {
    let log = Log::read(file)?;
    match (log.headless, log.recordings.len()) {
        (0, 0) => Err(OpenError::Foreign),
        (0, 1) => {
            let recordings = log.recordings.into_iter();
            recordings
                .map(|recording| source(path.to_owned(), Box::new(recording)))
                .collect()
        }
        (0, _) => (1..)
            .zip(log.recordings)
            .map(|(place, recording)| source(format!("{}#{place}", path.display()).into(), Box::new(recording)))
            .collect(),
        (recordings, _) => Err(OpenError::Headless { recordings }),
    }
}
