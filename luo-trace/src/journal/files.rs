//! The files of a boot's journal in a directory: its head, `BOOT-ID.luoj`, and, where that has no room for more, its parts,
//! `BOOT-ID.luoj.1` and so on.
//!
//! A bound on the journal's size is kept so that its beginning and its end remain: the head takes the first half of it, and of the
//! parts, each an eighth, the oldest goes when a new one begins. Every part says how many records came before it, so that a
//! reader knows how many went.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::frame::{self, kind};
use super::writer::Store;
use super::{Header, Part, Reader};

/// How many parts there are at most, the one that is written among them.
const PARTS: usize = 4;

/// The extension of a journal's head.
pub(super) const EXTENSION: &str = "luoj";

/// Where the journal of a boot begins.
pub(super) fn path_of(dir: &Path, boot: &str) -> io::Result<PathBuf> {
    if boot.is_empty() || !boot.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Err(invalid(format!("the boot id {boot:?} cannot name a journal")));
    }
    Ok(dir.join(format!("{boot}.{EXTENSION}")))
}

/// The head that a part belongs to, and the part's number; `None`: it has not the name of a part.
pub(super) fn head_of(path: &Path) -> Option<(PathBuf, u64)> {
    let number = path.extension()?.to_str()?;
    let is_number = number.bytes().all(|byte| byte.is_ascii_digit()) && !number.starts_with('0');
    let head = path.with_extension("");
    let is_head = head.extension().is_some_and(|extension| extension == EXTENSION);
    (is_number && is_head).then_some((head, number.parse().ok()?))
}

fn part_of(head: &Path, number: u64) -> PathBuf {
    let mut path = head.as_os_str().to_owned();
    path.push(format!(".{number}"));
    path.into()
}

/// The numbers of the parts that lie beside a head, in their order.
pub(super) fn parts_of(head: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    let dir = head.parent().filter(|dir| !dir.as_os_str().is_empty());
    for entry in dir.unwrap_or(Path::new(".")).read_dir()? {
        let entry = entry?.file_name();
        numbers.extend(head_of(Path::new(&entry)).and_then(|(of, number)| {
            let is_its = of.file_name() == head.file_name();
            is_its.then_some(number)
        }));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The files of the journal that begins at `path`, the first of which is there whether it can be read or not: a head and its
/// parts, or a part and those after it.
pub(super) fn files_of(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (head, from) = head_of(path).unwrap_or((path.to_owned(), 0));
    // A file of another name has no parts.
    let numbers = match head.extension().is_some_and(|extension| extension == EXTENSION) {
        true => parts_of(&head)?,
        false => Vec::new(),
    };
    let after = numbers.into_iter().filter(|&number| number > from);
    Ok([path.to_owned()]
        .into_iter()
        .chain(after.map(|number| part_of(&head, number)))
        .collect())
}

/// The files in a directory that journals begin with, by their names: heads, and of parts without one the first.
pub(super) fn beginnings(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut first: BTreeMap<PathBuf, u64> = BTreeMap::new();
    for entry in dir.read_dir()? {
        let path = entry?.path();
        let (head, number) = head_of(&path).unwrap_or((path, 0));
        if head.extension().is_some_and(|extension| extension == EXTENSION) {
            let first = first.entry(head).or_insert(number);
            *first = number.min(*first);
        }
    }
    let path = |(head, number): (PathBuf, u64)| if number == 0 { head } else { part_of(&head, number) };
    Ok(first.into_iter().map(path).collect())
}

/// The files that a boot's journal is written to.
#[derive(Debug)]
pub struct Files {
    head: PathBuf,
    /// The file that is written.
    file: File,
    /// Where it lies until its header is on the disk.
    hidden: Option<PathBuf>,
    /// The head's own, whose lock keeps other agents away while a part is written.
    lock: Option<File>,
    /// The parts there are: their numbers, and how many records come before each.
    parts: VecDeque<(u64, u64)>,
    /// How large the journal may become in all, in bytes.
    most: u64,
    removed: u64,
}

impl Files {
    /// The journal that begins at `path`, of which at most so many bytes are kept, as another agent has left it. `None`: there is
    /// none, or an empty file.
    pub(super) fn there(path: &Path, most: u64) -> io::Result<Option<Self>> {
        let Some(lock) = open(path)? else { return Ok(None) };
        if lock.metadata()?.len() == 0 {
            return Ok(None);
        }
        let mut parts = VecDeque::new();
        for number in parts_of(path)? {
            let before = Reader::open_one(&part_of(path, number)).ok();
            let before = before.and_then(|reader| reader.part().map(|part| part.before));
            parts.push_back((number, before.unwrap_or_default()));
        }
        let (file, lock) = match parts.back() {
            Some(&(number, _)) => (append(&part_of(path, number))?, Some(lock)),
            None => (lock, None),
        };
        Ok(Some(Self {
            head: path.to_owned(),
            file,
            hidden: None,
            lock,
            parts,
            most,
            removed: 0,
        }))
    }

    /// A new journal that begins at `path`. The name is there once its header is on the disk, so that no power loss leaves less.
    pub(super) fn new(path: &Path, most: u64) -> io::Result<Self> {
        let (file, hidden) = hidden(path)?;
        Ok(Self {
            head: path.to_owned(),
            file,
            hidden: Some(hidden),
            lock: None,
            parts: VecDeque::new(),
            most,
            removed: 0,
        })
    }

    /// The number of the last part; 0: there is only the head.
    pub(super) fn last(&self) -> u64 {
        self.parts.back().map_or(0, |&(number, _)| number)
    }

    /// Removes the oldest parts until there is room for one more. The head and the newest parts stay.
    fn make_room(&mut self, before: u64) -> io::Result<()> {
        while self.parts.len() >= PARTS
            && let Some(&(number, first)) = self.parts.front()
        {
            match fs::remove_file(part_of(&self.head, number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => self.parts.pop_front(),
            };
            let next = self.parts.front().map_or(before, |&(_, first)| first);
            self.removed += next.saturating_sub(first);
        }
        Ok(())
    }
}

impl Write for Files {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Store for Files {
    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn begun(&mut self) -> io::Result<()> {
        if let Some(hidden) = &self.hidden {
            publish(&self.file, hidden, &self.head)?;
            self.hidden = None;
        }
        Ok(())
    }

    fn most(&self) -> u64 {
        match self.parts.is_empty() {
            true => self.most / 2,
            false => self.most / 2 / PARTS as u64,
        }
    }

    fn removed(&self) -> u64 {
        self.removed
    }

    fn turn(&mut self, whole: u64, header: &Header, before: u64, of_run: u64) -> io::Result<u64> {
        self.make_room(before)?;
        let number = self.last() + 1;
        let part = Part { number, before, of_run };
        let header = Header {
            part: Some(part),
            ..header.clone()
        };
        let mut beginning = frame::preamble(frame::VERSION).to_vec();
        frame::put_json(&mut beginning, kind::HEADER, &header)?;
        let path = part_of(&self.head, number);
        let file = create(&path, &beginning)?;
        let mut note = Vec::new();
        frame::put_json(&mut note, kind::CONTINUED, &serde_json::json!({ "part": number }))?;
        if self.file.write_all(&note).is_err() {
            // The part itself tells as much, as long as it is there.
            _ = self.file.set_len(whole);
        }
        let before_it = std::mem::replace(&mut self.file, file);
        self.lock.get_or_insert(before_it);
        self.parts.push_back((number, before));
        Ok(beginning.len() as u64)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if let Some(hidden) = &self.hidden {
            // There never was room for a header: nothing is lost with it.
            _ = fs::remove_file(hidden);
        }
    }
}

/// Makes a directory for journals, for its owner only, where it is missing.
pub(super) fn make_directory(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    dir.parent().map_or(Ok(()), sync_directory)
}

/// Makes a file with these bytes, which is there with all of them or not at all, whatever happens; it is open for appending.
pub(super) fn create(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let (mut file, hidden) = hidden(path)?;
    let made = file.write_all(bytes).and_then(|()| publish(&file, &hidden, path));
    if made.is_err() {
        _ = fs::remove_file(&hidden);
    }
    made.map(|()| file)
}

/// Opens a journal file that is there for appending, and locks it.
pub(super) fn open(path: &Path) -> io::Result<Option<File>> {
    match append(path) {
        Ok(file) => lock(&file, path).map(|()| Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens the last file of the journal that begins at `path` for appending. The caller holds the lock of its head.
pub(super) fn open_last(path: &Path) -> io::Result<File> {
    match parts_of(path)?.last() {
        Some(&number) => append(&part_of(path, number)),
        None => append(path),
    }
}

/// A new file, not yet under its name, readable by its owner only, and locked.
fn hidden(path: &Path) -> io::Result<(File, PathBuf)> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    let hidden = path.with_file_name(name);
    let file = options().create(true).mode(0o600).open(&hidden)?;
    lock(&file, path)?;
    // What an agent that was killed left of it.
    file.set_len(0)?;
    Ok((file, hidden))
}

/// Gives a hidden file its name when all of it is on the disk.
fn publish(file: &File, hidden: &Path, path: &Path) -> io::Result<()> {
    file.sync_all()?;
    fs::rename(hidden, path)?;
    path.parent().map_or(Ok(()), sync_directory)
}

fn sync_directory(dir: &Path) -> io::Result<()> {
    let dir = if dir.as_os_str().is_empty() {
        Path::new(".")
    } else {
        dir
    };
    match File::open(dir)?.sync_all() {
        // Some file systems have nothing to bring to a disk.
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        synced => synced,
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    // What lies under that name may be a pipe, and then there is nothing to wait for.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_NOFOLLOW;
    options.append(true).custom_flags(flags);
    options
}

fn append(path: &Path) -> io::Result<File> {
    let file = options().open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(invalid(format!("{} is no file; remove it", path.display()))),
    }
}

/// Locks a journal file: two agents would tear each other's frames.
fn lock(file: &File, path: &Path) -> io::Result<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(fs::TryLockError::WouldBlock) => Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            format!(
                "{} is being written by another agent; stop that one first",
                path.display()
            ),
        )),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}

/// Gives a journal that cannot be gone on with another name, with all its parts; of one without a head, the parts.
pub(super) fn set_aside(dir: &Path, boot: &str, path: &Path) -> io::Result<()> {
    for n in 1..1000 {
        let aside = dir.join(format!("{boot}.{n}.{EXTENSION}"));
        if aside.exists() || !parts_of(&aside)?.is_empty() {
            continue;
        }
        // A hard link fails where the name is taken, so that nothing is ever replaced.
        let has_head = match fs::hard_link(path, &aside) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(error),
        };
        for number in parts_of(path)? {
            fs::rename(part_of(path, number), part_of(&aside, number))?;
        }
        return if has_head { fs::remove_file(path) } else { Ok(()) };
    }
    Err(invalid(format!(
        "{} holds too many damaged journals of this boot; remove some",
        dir.display()
    )))
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

#[cfg(test)]
mod tests;
