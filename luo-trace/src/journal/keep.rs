//! How much is kept in a directory of journals: which boots' go.
//!
//! A boot counts as of the time at which its journal was last written. The boot that runs and the newest one besides are always kept,
//! and nothing is removed but files that have the name of a journal and begin as that boot's.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use super::Reader;
use super::files::{self, EXTENSION, head_of};

/// Of how many boots the journals are kept, or for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Of so many, the one that runs among them.
    Boots(u64),
    /// As long after they were last written.
    For(Duration),
}

impl FromStr for Keep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "give a number of boots, at least 2, or an age such as 90d".to_owned();
        match text.parse() {
            Ok(boots) if boots >= ALWAYS as u64 => Ok(Self::Boots(boots)),
            Ok(_) => Err(wrong()),
            Err(_) => humantime::parse_duration(text).map(Self::For).map_err(|_| wrong()),
        }
    }
}

/// How much is kept in a directory of journals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes in all.
    pub size: u64,
    /// Boots.
    pub keep: Keep,
}

impl Limits {
    /// How large the journal of one boot may become, in bytes: a quarter of all.
    pub fn of_boot(&self) -> u64 {
        self.size / 4
    }
}

/// How many boots' journals are always kept.
const ALWAYS: usize = 2;

/// What was removed from a directory, and what could not be.
#[derive(Debug, Default)]
pub struct Pruned {
    /// The boots whose journals went, the oldest first.
    pub removed: Vec<Removed>,
    /// Files that have the name of a journal that had to go, and why they did not.
    pub left: Vec<(PathBuf, String)>,
    /// How many bytes all journals have that are there now, and how many they may have; the one of the boot that runs counts with
    /// all that it may have.
    pub size: u64,
}

/// A boot whose journal was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Which.
    pub boot: String,
    /// How many bytes that made room for.
    pub bytes: u64,
    /// Whether it was for the size of all, and not for the number or the age of the boots.
    pub for_size: bool,
}

/// The files of one boot's journal.
#[derive(Debug)]
struct Boot {
    id: String,
    files: Vec<(PathBuf, u64)>,
    written: SystemTime,
}

impl Boot {
    fn size(&self) -> u64 {
        self.files.iter().map(|(_, size)| size).sum()
    }
}

/// Removes the journals that are more than what is kept in `dir`, the oldest first; `running` is the boot that runs, whose journal has
/// room for all that it may become.
///
/// # Errors
/// Where the directory cannot be read.
pub fn prune(dir: &Path, running: &str, limits: &Limits, now: SystemTime) -> io::Result<Pruned> {
    let mut boots = boots(dir)?;
    // The newest first; the one that runs is always that.
    boots.sort_by_key(|boot| (boot.id == running, boot.written));
    boots.reverse();
    let mut pruned = Pruned {
        size: boots
            .iter()
            .map(|boot| if boot.id == running { 0 } else { boot.size() })
            .sum(),
        ..Pruned::default()
    };
    let own = boots.iter().find(|boot| boot.id == running).map_or(0, Boot::size);
    pruned.size += own.max(limits.of_boot());
    let mut left = boots.len();
    while let Some(oldest) = boots.pop().filter(|_| boots.len() >= ALWAYS) {
        let is_surplus = match limits.keep {
            Keep::Boots(boots) => left as u64 > boots,
            Keep::For(age) => now.duration_since(oldest.written).is_ok_and(|since| since > age),
        };
        let for_size = !is_surplus && pruned.size > limits.size;
        if !is_surplus && !for_size {
            break;
        }
        left -= 1;
        let bytes = remove(&oldest, &mut pruned.left);
        // What cannot be removed makes no room, and others shall not go for it.
        pruned.size -= oldest.size();
        if bytes > 0 {
            pruned.removed.push(Removed {
                boot: oldest.id,
                bytes,
                for_size,
            });
        }
    }
    Ok(pruned)
}

/// Removes what of a boot is surely a journal of it; gives how many bytes that were.
fn remove(boot: &Boot, left: &mut Vec<(PathBuf, String)>) -> u64 {
    // As long as these are open, no agent begins to write them.
    let locks: Result<Vec<_>, _> = boot
        .files
        .iter()
        .map(|(path, _)| files::open(path).map_err(|error| (path, error)))
        .collect();
    let _locks = match locks {
        Ok(locks) => locks,
        Err((path, error)) => {
            left.push((path.clone(), error.to_string()));
            return 0;
        }
    };
    let mut bytes = 0;
    for (path, size) in &boot.files {
        match is_journal_of(path, &boot.id).and_then(|()| fs::remove_file(path).map_err(|error| error.to_string())) {
            Ok(()) => bytes += size,
            Err(why) => left.push((path.clone(), why)),
        }
    }
    bytes
}

fn is_journal_of(path: &Path, boot: &str) -> Result<(), String> {
    let reader = Reader::open_one(path).map_err(|error| error.to_string())?;
    match reader.header().boot_id == boot {
        true => Ok(()),
        false => Err("it is of another boot than its name says".into()),
    }
}

/// The boots that have files of a journal's name in a directory.
fn boots(dir: &Path) -> io::Result<Vec<Boot>> {
    let mut boots: BTreeMap<String, Boot> = BTreeMap::new();
    for entry in dir.read_dir()? {
        let entry = entry?;
        let path = entry.path();
        let Some(id) = boot_of(&path) else { continue };
        // What is no file, or is gone meanwhile, is none of ours.
        let Ok(data) = entry.metadata() else { continue };
        if !data.is_file() {
            continue;
        }
        let written = data.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        let boot = boots.entry(id.clone()).or_insert_with(|| Boot {
            id,
            files: Vec::new(),
            written,
        });
        boot.written = boot.written.max(written);
        boot.files.push((path, data.len()));
    }
    Ok(boots.into_values().collect())
}

/// The boot that a journal's name tells: that of `BOOT-ID.luoj`, of its parts, and of those that were set aside.
fn boot_of(path: &Path) -> Option<String> {
    let head = head_of(path).map_or(path.to_owned(), |(head, _)| head);
    if head.extension()? != EXTENSION {
        return None;
    }
    let stem = head.file_stem()?.to_str()?;
    let (id, aside) = stem
        .split_once('.')
        .map_or((stem, None), |(id, aside)| (id, Some(aside)));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_id = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    (is_id && aside.is_none_or(is_number)).then(|| id.to_owned())
}

#[cfg(test)]
mod tests;
