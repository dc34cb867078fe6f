//! Annotations of GitHub Actions, as workflow commands on stdout.

use std::io::{self, Write};

use super::{Answer, Check, outcome};
use crate::chain::case::Conclusion;

/// Writes an error for each check that failed and a warning for each that cannot be told, and one line to sum up. `file` is
/// the file of expectations, which the annotations of its checks point into.
///
/// # Errors
/// Where `out` cannot be written.
pub fn github(out: &mut impl Write, checks: &[Check], file: Option<&str>) -> io::Result<()> {
    for check in checks {
        let command = match check.answer {
            Answer::Fail => "error",
            Answer::Inconclusive => "warning",
            Answer::Pass | Answer::Skip => continue,
        };
        write!(out, "::{command} ")?;
        if let (Some(file), Some(line)) = (file, check.line) {
            write!(out, "file={},line={line},", property(file))?;
        }
        let title = format!("luo-trace {}: {}", check.group.name(), check.name);
        writeln!(out, "title={}::{}", property(&title), data(&check.message))?;
    }
    let count = |answer| checks.iter().filter(|check| check.answer == answer).count();
    let command = match outcome(checks) {
        Conclusion::Held => "notice",
        Conclusion::Inconclusive => "warning",
        Conclusion::Violated => "error",
    };
    let sum = format!(
        "{} checks: {} passed, {} failed, {} inconclusive, {} skipped",
        checks.len(),
        count(Answer::Pass),
        count(Answer::Fail),
        count(Answer::Inconclusive),
        count(Answer::Skip)
    );
    writeln!(out, "::{command} title=luo-trace check::{}", data(&sum))
}

/// A message, with what would end it escaped.
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// A property's value, with what would end it escaped.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}
