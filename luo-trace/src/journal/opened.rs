//! Where journals are read from: files, directories of them, and serial logs that hold some.

use std::fmt;
use std::io::{self, BufRead, Read, Seek};
use std::path::{Path, PathBuf};

use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::files;
use super::reader::open;
use super::serial::{Log, Recording};
use super::{Events, OpenError, Reader};

/// A journal, ready to be read.
pub struct Opened {
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

/// Gives `take` each of the journals at `path`, one after the other: one, where that is a journal; all `*.luoj` in it, with their
/// parts, where it is a directory; and all recordings in it, where it is a serial log. Of a directory that has no journals the directories
/// in it are taken, as a fleet's has one for each host. Returns those of a directory that cannot be read.
///
/// # Errors
/// Where there is none, or none that can be read from its beginning.
pub fn each(path: &Path, mut take: impl FnMut(Opened)) -> Result<Vec<Unreadable>, Unreadable> {
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
    let list = |path: &Path| files::beginnings(path).map_err(|error| unreadable(path, error.into()));
    let (mut taken, mut left_out) = (false, Vec::new());
    let mut inside = list(path)?;
    if inside.is_empty() {
        for directory in directories(path).map_err(|error| unreadable(path, error.into()))? {
            match list(&directory) {
                Ok(journals) => inside.extend(journals),
                Err(unreadable) => left_out.push(unreadable),
            }
        }
    }
    inside.reverse();
    while let Some(path) = inside.pop() {
        match file(&path) {
            Ok(sources) => {
                taken = true;
                sources.into_iter().for_each(&mut take);
            }
            Err(error) => {
                left_out.push(unreadable(&path, error));
                // What follows it may tell something all the same.
                inside.extend(files::files_of(&path).ok().and_then(|files| files.into_iter().nth(1)));
            }
        }
    }
    match (taken, left_out.is_empty()) {
        (true, _) => Ok(left_out),
        (false, true) => Err(unreadable(path, OpenError::Empty)),
        (false, false) => Err(left_out.remove(0)),
    }
}

/// The journals in a directory that a newer luo-trace has begun: this one neither reads them nor goes on with them.
///
/// # Errors
/// The directory cannot be read.
pub fn newer(directory: &Path) -> io::Result<Vec<Unreadable>> {
    let beginnings = files::beginnings(directory)?.into_iter();
    let newer = beginnings.filter_map(|journal| match Reader::open(&journal) {
        Err(error @ OpenError::Newer { .. }) => Some(Unreadable { journal, error }),
        _ => None,
    });
    Ok(newer.collect())
}

/// The directories in a directory, by their names.
///
/// # Errors
/// It cannot be read.
pub fn directories(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut inside = Vec::new();
    for entry in path.read_dir()? {
        let entry = entry?.path();
        if entry.is_dir() {
            inside.push(entry);
        }
    }
    inside.sort();
    Ok(inside)
}

fn file(path: &Path) -> Result<Vec<Opened>, OpenError> {
    let mut files = open(path)?;
    let (_, first) = files.first_mut().ok_or(OpenError::Empty)?;
    let begun = Reader::new(&mut *first).map(drop);
    first.rewind()?;
    match begun {
        Ok(()) => {
            let files = files
                .into_iter()
                .map(|(number, file)| (number, Box::new(file) as Box<dyn Read>));
            let events = Events::new(Reader::joined(files.collect())?);
            let name = path.to_owned();
            Ok(vec![Opened { name, events }])
        }
        Err(OpenError::Foreign) => recordings(path, files.remove(0).1),
        Err(error) => Err(error),
    }
}

/// The recordings in a serial log; `path` is what they are named by.
///
/// # Errors
/// Where the log has none, or one without its beginning.
pub fn recordings(path: &Path, log: impl BufRead) -> Result<Vec<Opened>, OpenError> {
    let log = Log::read(log)?;
    let source = |(name, recording): (PathBuf, Recording)| {
        Ok(Opened {
            name,
            events: Events::new(Reader::new(Box::new(recording) as Box<dyn Read>)?),
        })
    };
    let recordings = log.recordings;
    match (log.headless, recordings.len()) {
        (0, 0) => Err(OpenError::Foreign),
        (0, 1) => recordings
            .into_iter()
            .map(|recording| source((path.to_owned(), recording)))
            .collect(),
        (0, _) => {
            let names = (1..).map(|place| format!("{}#{place}", path.display()).into());
            names.zip(recordings).map(source).collect()
        }
        (recordings, _) => Err(OpenError::Headless { recordings }),
    }
}
