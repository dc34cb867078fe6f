//! Where journals are read from: files, directories of them, and serial logs that hold some.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use super::serial::Log;
use super::{Events, OpenError, Reader};

/// How much of a file is read at a time, in bytes.
const BUFFER: usize = 1 << 18;

/// A journal, ready to be read.
pub struct Source {
    /// Where it lies; of a serial log with several, also which one it is.
    pub name: PathBuf,
    /// Its events.
    pub events: Events<Box<dyn Read>>,
}

/// The journals at `path`: one, where that is a journal; all `*.luoj` in it, where it is a directory; and all recordings in
/// it, where it is a serial log.
///
/// # Errors
/// Where there is none, or one cannot be read from its beginning; and the path of what is wrong.
pub fn sources(path: &Path) -> Result<Vec<Source>, (PathBuf, OpenError)> {
    let unreadable = |error: io::Error| (path.to_owned(), error.into());
    if path.is_dir() {
        let mut inside = Vec::new();
        for entry in path.read_dir().map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            if path.extension().is_some_and(|extension| extension == "luoj") {
                inside.push(path);
            }
        }
        inside.sort();
        if inside.is_empty() {
            return Err((path.to_owned(), OpenError::Empty));
        }
        let opened = inside
            .iter()
            .map(|path| file(path).map_err(|error| (path.clone(), error)));
        return Ok(opened.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect());
    }
    file(path).map_err(|error| (path.to_owned(), error))
}

fn file(path: &Path) -> Result<Vec<Source>, OpenError> {
    let source = |name: PathBuf, input: Box<dyn Read>| {
        Ok(Source {
            name,
            events: Events::new(Reader::new(input)?),
        })
    };
    let mut file = BufReader::with_capacity(BUFFER, File::open(path)?);
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
