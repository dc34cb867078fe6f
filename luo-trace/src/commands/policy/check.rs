//! `luo-trace policy check`: is this a policy, and does it say what its author can have meant?

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;

use super::Format;
use crate::commands::read_text;
use crate::exit::Exit;
use crate::policy::{MAX_FILE, Policy, Problem};

/// Options of `luo-trace policy check`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The policy, a TOML file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// How to print the result
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Exit with 1 where there is a warning
    #[arg(long)]
    strict: bool,
}

/// Prints every mistake and every warning, one a line: `FILE:LINE:COLUMN: error: TEXT`.
///
/// With `--format json` the output is one object: `rules` (how many; null where it is no policy), `errors` and `warnings` (each a
/// list of `line`, `column` and `text`) and `more_errors` (how many are not told).
///
/// The exit status is 0 for a policy, 2 where it is none, and 1 for one with warnings under `--strict`.
///
/// # Errors
/// Where the file cannot be read, or stdout cannot be written.
pub fn run(args: &Args) -> Result<Exit> {
    let text = read_text(&args.file, MAX_FILE, "a policy")?;
    let read = Policy::read(&text);
    let warnings = read.as_ref().map(Policy::warnings).unwrap_or_default();
    let rules = read.as_ref().ok().map(|policy| policy.rules().len());
    let errors = read.err().unwrap_or_default();
    let mut out = super::super::stdout();
    match args.format {
        Format::Json => {
            let object = json!({
                "rules": rules,
                "errors": listed(&errors.told),
                "more_errors": errors.more,
                "warnings": listed(&warnings),
            });
            writeln!(out, "{object:#}")?;
        }
        Format::Text => {
            let file = args.file.display();
            for (kind, problems) in [("error", &errors.told), ("warning", &warnings)] {
                for Problem { place, text } in problems {
                    writeln!(out, "{file}:{place}: {kind}: {text}")?;
                }
            }
            if errors.more > 0 {
                writeln!(out, "{file}: and {} more", errors.more)?;
            }
            if let Some(rules) = rules.filter(|_| warnings.is_empty()) {
                writeln!(
                    out,
                    "{file}: a policy of {rules} rule{}",
                    if rules == 1 { "" } else { "s" }
                )?;
            }
        }
    }
    out.flush()?;
    Ok(match rules {
        None => Exit::Error,
        Some(_) if args.strict && !warnings.is_empty() => Exit::Violated,
        Some(_) => Exit::Held,
    })
}

fn listed(problems: &[Problem]) -> serde_json::Value {
    let listed =
        |problem: &Problem| json!({"line": problem.place.line, "column": problem.place.column, "text": problem.text});
    problems.iter().map(listed).collect()
}
