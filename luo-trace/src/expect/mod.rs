//! What an update has to be like, and whether it was: the judge behind `luo-trace check --expect FILE`.
//!
//! [`Expectations`] are read from TOML; [`Account`] is what the records tell of the updates; every comparison is a
//! [`Check`]. What a record with holes cannot tell is inconclusive; what it contradicts has failed, however
//! much is missing. Pure: the text and the day of today are handed in.

mod account;
mod compare;
mod file;
pub mod formats;
mod promises;
mod sessions;
mod updates;
mod values;

#[cfg(test)]
mod tests;

pub use account::{Account, File as FileAccount, Session as SessionAccount, Took, Update as UpdateAccount};
pub use file::{Allowance, Day, Expectations, FailOn, Kind, Outcomes, PhaseName, Session};
pub use values::{Count, Handler, Limit, Range, Sessions, Size, Token};

use toml::Spanned;

use crate::chain::case::Case;
use crate::expect::formats::Check;

/// No file of expectations is longer, in bytes.
pub const MAX_FILE: u64 = 1 << 20;

impl Expectations {
    /// Reads a file of expectations.
    ///
    /// # Errors
    /// Where it is none: a sentence with the line, the column and the line's text.
    pub fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    /// Everything that is checked: the records, the promises of LUO, and what is expected here. `text` is what the
    /// expectations were read from, for the lines in it.
    pub fn check(&self, case: &Case, today: Day, text: &str) -> Vec<Check> {
        let lines = Lines(text);
        let mut checks = self.of_records(case);
        checks.extend(self.of_promises(case, today, &lines));
        checks.extend(self.of_account(&Account::of(case), &lines));
        checks
    }

    fn of_account(&self, account: &Account, lines: &Lines<'_>) -> Vec<Check> {
        let mut checks = self.of_updates(account, lines);
        checks.extend(self.of_sessions(account, lines));
        checks
    }
}

/// The text that expectations were read from.
struct Lines<'a>(&'a str);

impl Lines<'_> {
    /// The line on which something is written, from 1.
    fn of<T>(&self, written: &Spanned<T>) -> Option<usize> {
        let before = self.0.as_bytes().get(..written.span().start)?;
        Some(1 + before.iter().filter(|&&byte| byte == b'\n').count())
    }
}
