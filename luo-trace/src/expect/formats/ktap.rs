//! KTAP version 1, the form of the kernel's own tests. Mirrors `Documentation/dev-tools/ktap.rst` (7.3).

use std::io::{self, Write};

use super::{Answer, Check};

/// Writes the checks as one flat list of test points. What cannot be told is skipped, with its reason: KTAP has no third
/// result, so the exit status has to tell.
///
/// # Errors
/// Where `out` cannot be written.
pub fn ktap(out: &mut impl Write, checks: &[Check]) -> io::Result<()> {
    writeln!(out, "KTAP version 1\n1..{}", checks.len())?;
    for (number, check) in (1..).zip(checks) {
        let name = format!("{}: {}", check.group.name(), words(&check.name));
        let message = words(&check.message);
        match check.answer {
            Answer::Pass => writeln!(out, "ok {number} {name}")?,
            Answer::Fail => writeln!(out, "# {message}\nnot ok {number} {name}")?,
            Answer::Skip => writeln!(out, "ok {number} {name} # SKIP {message}")?,
            Answer::Inconclusive => writeln!(out, "ok {number} {name} # SKIP inconclusive: {message}")?,
        }
    }
    Ok(())
}

/// Text that a reader cannot take for a directive, or for another line.
fn words(text: &str) -> String {
    text.replace('#', "\\x23").replace(['\n', '\r'], " ")
}
