//! Values that a file of expectations is made of.

use std::collections::BTreeSet;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use bytesize::ByteSize;
use globset::{Glob, GlobMatcher};
use luo_trace_common::text::{Compatible, SessionName};
use serde::Deserialize;

use crate::expect::formats::Answer;
use crate::text::parse::{named, nanoseconds, session_named};
use crate::text::units::span;

/// How many there must be: from `min` to `max`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// No fewer.
    pub min: u64,
    /// No more.
    pub max: u64,
}

impl Range {
    /// Exactly so many.
    pub const fn exactly(number: u64) -> Self {
        Self {
            min: number,
            max: number,
        }
    }

    /// Whether `seen` is right. Where not everything was seen there may be more.
    pub fn judge(self, seen: u64, whole: bool) -> Answer {
        match () {
            () if seen > self.max => Answer::Fail,
            () if seen >= self.min && (whole || self.max == u64::MAX) => Answer::Pass,
            () if whole => Answer::Fail,
            () => Answer::Inconclusive,
        }
    }

    /// In words, with each number shown by `show`.
    pub fn describe(self, show: impl Fn(u64) -> String) -> String {
        match (self.min, self.max) {
            (min, max) if min == max => show(min),
            (min, u64::MAX) => format!("at least {}", show(min)),
            (0, max) => format!("at most {}", show(max)),
            (min, max) => format!("{} to {}", show(min), show(max)),
        }
    }

    fn between(min: Option<u64>, max: Option<u64>) -> Result<Self, String> {
        let range = Self {
            min: min.unwrap_or(0),
            max: max.unwrap_or(u64::MAX),
        };
        match (min, max) {
            (None, None) => Err("{} says nothing: give min, max or both".into()),
            _ if range.min > range.max => Err(format!("min {} is more than max {}", range.min, range.max)),
            _ => Ok(range),
        }
    }
}

/// A number of things: `3`, or `{ min = 1, max = 5 }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "WrittenCount")]
pub struct Count(pub Range);

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected a number, or { min = 1, max = 5 } with one of both at least"
)]
enum WrittenCount {
    Exactly(u64),
    Between(Between<u64>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Between<N> {
    min: Option<N>,
    max: Option<N>,
}

impl TryFrom<WrittenCount> for Count {
    type Error = String;

    fn try_from(written: WrittenCount) -> Result<Self, String> {
        Ok(Self(match written {
            WrittenCount::Exactly(number) => Range::exactly(number),
            WrittenCount::Between(Between { min, max }) => Range::between(min, max)?,
        }))
    }
}

/// A number of bytes: `4096`, `"64 MiB"`, or `{ min = "1 MiB", max = "1 GiB" }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "WrittenSize")]
pub struct Size(pub Range);

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected a size such as 4096 or \"64 MiB\", or { min = \"1 MiB\", max = \"1 GiB\" } with one of both at least"
)]
enum WrittenSize {
    Exactly(ByteSize),
    Between(Between<ByteSize>),
}

impl TryFrom<WrittenSize> for Size {
    type Error = String;

    fn try_from(written: WrittenSize) -> Result<Self, String> {
        Ok(Self(match written {
            WrittenSize::Exactly(size) => Range::exactly(size.0),
            WrittenSize::Between(Between { min, max }) => {
                Range::between(min.map(|size| size.0), max.map(|size| size.0))?
            }
        }))
    }
}

/// A time that must not be exceeded, in nanoseconds: `"500 ms"`, `"2 s"`, `"1m 30s"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Limit(pub u64);

impl TryFrom<String> for Limit {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        nanoseconds(&text).map(Self)
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&span(self.0))
    }
}

/// A token: `5`, or `"0x8000000000000000"` where TOML's numbers end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "WrittenToken")]
pub struct Token(pub u64);

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a token such as 5 or \"0x5\"")]
enum WrittenToken {
    Number(u64),
    Text(String),
}

impl TryFrom<WrittenToken> for Token {
    type Error = String;

    fn try_from(written: WrittenToken) -> Result<Self, String> {
        let text = match written {
            WrittenToken::Number(number) => return Ok(Self(number)),
            WrittenToken::Text(text) => text,
        };
        let number = match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16),
            None => text.parse(),
        };
        let number = number.map_err(|error| format!("{text:?} is no token, such as 5 or \"0x5\": {error}"))?;
        Ok(Self(number))
    }
}

/// A handler's compatible string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Handler(pub Compatible);

impl TryFrom<String> for Handler {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        named(text.as_bytes(), "a handler").map(Self)
    }
}

/// No pattern is longer, in bytes: a name has 63, and a pattern that grows without end would not compile.
const LONGEST_PATTERN: usize = 256;

/// Which sessions are meant.
#[derive(Clone, Debug)]
pub enum Sessions {
    /// The one of this name.
    Named(SessionName),
    /// All whose names match.
    Matching(GlobMatcher),
}

impl Sessions {
    /// By an exact name: text, or `hex:` and the bytes, for names that are not text.
    pub(super) fn named(text: &str) -> Result<Self, String> {
        session_named(text).map(Self::Named)
    }

    /// By a pattern as of a shell: `*`, `?`, `[a-z]`, `{a,b}`.
    pub(super) fn matching(pattern: &str) -> Result<Self, String> {
        if pattern.len() > LONGEST_PATTERN {
            return Err(format!(
                "a pattern of names has at most {LONGEST_PATTERN} bytes, this one has {}",
                pattern.len()
            ));
        }
        let glob =
            Glob::new(pattern).map_err(|error| format!("{pattern:?} is no pattern of names: {}", error.kind()))?;
        Ok(Self::Matching(glob.compile_matcher()))
    }

    /// Whether this one is meant.
    pub fn mean(&self, name: &SessionName) -> bool {
        match self {
            Self::Named(wanted) => wanted == name,
            Self::Matching(glob) => glob.is_match(std::ffi::OsStr::from_bytes(name.as_bytes())),
        }
    }
}

impl fmt::Display for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => write!(f, "session \"{name}\""),
            // Written by the author of the expectations, and shown like any other name.
            Self::Matching(glob) => {
                let pattern = luo_trace_common::text::Name::<256>::new(glob.glob().glob());
                write!(f, "sessions \"{pattern}\"")
            }
        }
    }
}

/// A list as people read it: `0x0, 0x1`.
pub fn listed<T: fmt::Display>(items: &BTreeSet<T>) -> String {
    let shown: Vec<_> = items.iter().map(ToString::to_string).collect();
    if shown.is_empty() {
        "none".into()
    } else {
        shown.join(", ")
    }
}
