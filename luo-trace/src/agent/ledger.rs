//! The updates of a host in a few lines, which stay when their journals are gone: `updates.jsonl` beside them.
//!
//! Each line is a [`Row`] in JSON. Lines are appended only, and of those with one id the last counts; a file that has become large is
//! written anew, without what no longer counts and without the oldest.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::host::files;
use crate::report::Row;

/// The file's name.
pub const NAME: &str = "updates.jsonl";
/// A file that is larger than this, in bytes, is written anew ...
const LARGE: u64 = 1 << 20;
/// ... with this much of the newest.
const KEPT: usize = 1 << 19;
/// More is not read.
const MOST: u64 = 16 << 20;

/// What a ledger has.
#[derive(Debug, Default)]
pub struct Read {
    /// The updates, each as it was judged last, those that were written first before the others.
    pub rows: Vec<Row>,
    /// The numbers of lines that are damaged, from 1. They are skipped.
    pub damaged: Vec<usize>,
}

/// Reads the ledger of a directory of journals; one that is not there is empty.
///
/// # Errors
/// Where it cannot be read.
pub fn read(dir: &Path) -> io::Result<Read> {
    let mut bytes = Vec::new();
    match File::open(path(dir)) {
        Ok(file) => _ = file.take(MOST).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let (mut read, mut places) = (Read::default(), BTreeMap::new());
    for (number, line) in (1..).zip(bytes.split(|&byte| byte == b'\n')) {
        if line.is_empty() {
            continue;
        }
        match serde_json::from_slice::<Row>(line) {
            Ok(row) if !row.id.is_empty() => match places.get(&row.id) {
                Some(&place) => read.rows[place] = row,
                None => {
                    places.insert(row.id.clone(), read.rows.len());
                    read.rows.push(row);
                }
            },
            _ => read.damaged.push(number),
        }
    }
    Ok(read)
}

/// Writes a row into the ledger of a directory of journals.
///
/// # Errors
/// Where that cannot be done.
pub fn note(dir: &Path, row: &Row) -> io::Result<()> {
    let path = path(dir);
    let mut line = serde_json::to_vec(row)?;
    line.push(b'\n');
    // What a power loss left half written ends here.
    line.insert(0, b'\n');
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&path)?;
    file.write_all(&line)?;
    file.sync_data()?;
    match file.metadata()?.len() {
        ..=LARGE => Ok(()),
        _ => shorten(dir, &path),
    }
}

fn shorten(dir: &Path, path: &Path) -> io::Result<()> {
    let rows = read(dir)?.rows;
    let mut lines: Vec<Vec<u8>> = Vec::new();
    let mut bytes = 0;
    for row in rows.iter().rev() {
        let mut line = serde_json::to_vec(row)?;
        line.push(b'\n');
        bytes += line.len();
        if bytes > KEPT {
            break;
        }
        lines.push(line);
    }
    lines.reverse();
    files::replace(path, &lines.concat(), 0o600)
}

fn path(dir: &Path) -> PathBuf {
    dir.join(NAME)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, outcome: &'static str) -> Row {
        Row {
            id: id.into(),
            outcome: outcome.into(),
            ..Row::default()
        }
    }

    fn told(dir: &Path) -> Vec<(String, String)> {
        let rows = read(dir).unwrap().rows.into_iter();
        rows.map(|row| (row.id, row.outcome.into_owned())).collect()
    }

    #[test]
    fn what_was_judged_last_counts_and_damage_costs_one_line() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(dir.path()).unwrap().rows.is_empty());
        for (id, outcome) in [("a", "waiting"), ("b", "completed"), ("a", "unclaimed")] {
            note(dir.path(), &row(id, outcome)).unwrap();
        }
        assert_eq!(
            told(dir.path()),
            [("a".into(), "unclaimed".into()), ("b".into(), "completed".into())]
        );
        // Given a line that a power loss cut off, and bytes that are no text,
        let path = path(dir.path());
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"\xff\xfe\n{\"id\":\"c\",\"outc").unwrap();
        note(dir.path(), &row("d", "lost")).unwrap();
        // then all others are there, and the two are told.
        let all: Vec<_> = told(dir.path()).into_iter().map(|(id, _)| id).collect();
        assert_eq!(all, ["a", "b", "d"]);
        assert_eq!(read(dir.path()).unwrap().damaged.len(), 2);
    }

    #[test]
    fn a_ledger_stays_small_and_keeps_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let mut number = 0;
        let len = || std::fs::metadata(path(dir.path())).unwrap().len();
        loop {
            let large = Row {
                from: Some("x".repeat(64 << 10)),
                ..row(&number.to_string(), "completed")
            };
            note(dir.path(), &large).unwrap();
            number += 1;
            if number > 4 && len() < KEPT as u64 {
                break;
            }
            assert!(number < 100 && len() <= LARGE);
        }
        let last = told(dir.path()).pop().unwrap();
        assert_eq!(last.0, (number - 1).to_string());
    }
}
