//! Values that a scenario writes as text and that must be right before anything boots.

use std::fmt;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::luo::NAME_MAX;

/// A session's name: text, or `hex:` and the bytes, for names that are not text.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionName(Vec<u8>);

impl SessionName {
    /// The bytes that the kernel gets.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<String> for SessionName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let bytes = match text.strip_prefix("hex:") {
            Some(hex) => bytes_of_hex(hex)?,
            None => text.into_bytes(),
        };
        match bytes.len() {
            0 => Err("a session name must not be empty".into()),
            len if len > NAME_MAX => Err(format!("a session name holds {NAME_MAX} bytes, this one has {len}")),
            _ if bytes.contains(&0) => Err("a session name must not contain a NUL byte".into()),
            _ => Ok(SessionName(bytes)),
        }
    }
}

impl From<SessionName> for String {
    fn from(name: SessionName) -> String {
        match String::from_utf8(name.0) {
            Ok(text) if !text.starts_with("hex:") => text,
            Ok(text) => hex_of_bytes(text.as_bytes()),
            Err(error) => hex_of_bytes(error.as_bytes()),
        }
    }
}

impl fmt::Display for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

fn hex_of_bytes(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::from("hex:"), |hex, byte| hex + &format!("{byte:02x}"))
}

fn bytes_of_hex(hex: &str) -> Result<Vec<u8>, String> {
    let digits = hex.chars().map(|c| c.to_digit(16)).collect::<Option<Vec<_>>>();
    let digits = digits.ok_or("after `hex:` a session name has hexadecimal digits only")?;
    if digits.len() % 2 != 0 {
        return Err("after `hex:` a session name has two digits for each byte".into());
    }
    Ok(digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect())
}

/// A policy: the text of one, or the name of a file that luo-trace ships, such as `"lockdown.toml"`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PolicyFile(String);

impl PolicyFile {
    /// The file's name, where it is a shipped one.
    pub fn shipped(&self) -> Option<&str> {
        (self.0.ends_with(".toml") && !self.0.contains('\n')).then_some(&self.0)
    }

    /// The policy's text, where it is one of the scenario's own.
    pub fn text(&self) -> Option<&str> {
        self.shipped().is_none().then_some(&self.0)
    }

    /// The same policy, which only looks.
    pub fn looking(&self) -> PolicyFile {
        PolicyFile(self.0.replace("mode = \"enforce\"", "mode = \"audit\""))
    }
}

/// The words of a command line with a scenario's changes: one that begins with `!` takes the rest of itself out.
pub fn changed_words(line: &str, changes: &[String]) -> String {
    let removed: Vec<_> = changes.iter().filter_map(|word| word.strip_prefix('!')).collect();
    let added = changes.iter().map(String::as_str).filter(|word| !word.starts_with('!'));
    line.split_whitespace()
        .filter(|word| !removed.contains(word))
        .chain(added)
        .collect::<Vec<_>>()
        .join(" ")
}

/// A size in bytes, written with its unit: `"4 KiB"`, `"64 MiB"`, `"100 B"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size(u64);

const UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl Size {
    /// The size in bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a size: write a number and B, KiB, MiB or GiB, such as \"4 KiB\"");
        let (number, unit) = text.split_once(' ').ok_or_else(wrong)?;
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        number.checked_mul(*unit).map(Size).ok_or_else(wrong)
    }
}

impl From<u64> for Size {
    fn from(bytes: u64) -> Size {
        Size(bytes)
    }
}

impl From<Size> for String {
    fn from(size: Size) -> String {
        let fitting = UNITS
            .iter()
            .find(|(_, unit)| size.0 >= *unit && size.0.is_multiple_of(*unit));
        let (name, unit) = fitting.unwrap_or(&("B", 1));
        format!("{} {name}", size.0 / unit)
    }
}

/// The error that a step must fail with, by its name in errno(3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ErrnoName(Errno);

/// The errors that LUO, its handlers and its policies answer with.
const ERRNOS: [(&str, Errno); 17] = [
    ("EPERM", Errno::PERM),
    ("ENOENT", Errno::NOENT),
    ("ENOEXEC", Errno::NOEXEC),
    ("EIO", Errno::IO),
    ("EBADF", Errno::BADF),
    ("EAGAIN", Errno::AGAIN),
    ("ENOMEM", Errno::NOMEM),
    ("EACCES", Errno::ACCESS),
    ("EBUSY", Errno::BUSY),
    ("EEXIST", Errno::EXIST),
    ("EINVAL", Errno::INVAL),
    ("ENOSPC", Errno::NOSPC),
    ("ENOTTY", Errno::NOTTY),
    ("ENAMETOOLONG", Errno::NAMETOOLONG),
    ("EOPNOTSUPP", Errno::OPNOTSUPP),
    ("EUCLEAN", Errno::UCLEAN),
    ("EADDRNOTAVAIL", Errno::ADDRNOTAVAIL),
];

impl ErrnoName {
    /// The error.
    pub fn errno(self) -> Errno {
        self.0
    }
}

impl TryFrom<String> for ErrnoName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        ERRNOS
            .iter()
            .find(|(name, _)| *name == text)
            .map(|(_, errno)| ErrnoName(*errno))
            .ok_or_else(|| {
                let known: Vec<_> = ERRNOS.iter().map(|(name, _)| *name).collect();
                format!(
                    "{text:?} is not an error that a scenario can name; it knows {}",
                    known.join(", ")
                )
            })
    }
}

impl From<ErrnoName> for String {
    fn from(name: ErrnoName) -> String {
        name.to_string()
    }
}

impl fmt::Display for ErrnoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = ERRNOS.iter().find(|(_, errno)| *errno == self.0);
        f.write_str(known.map_or("an unnamed error", |(name, _)| name))
    }
}
