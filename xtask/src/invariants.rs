//! `cargo xtask invariants`: which scenario has a real kernel break which invariant, from the scenarios' expectations.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use luo_trace::model::Invariant;
use testbed_guest::scenario::{Scenario, Verdict};

use crate::vm::guest::workspace;
use crate::vm::scenario;

/// What stands around the table in xtask/README.md.
const BEGIN: &str = "<!-- invariants: `cargo xtask invariants --write` makes this table, and a test checks it -->\n";
const END: &str = "<!-- end of invariants -->\n";

/// The options of `cargo xtask invariants`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Put the table into xtask/README.md instead of printing it
    #[arg(long)]
    write: bool,
}

/// Prints the table, or writes it where it belongs.
///
/// # Errors
/// A scenario's file is wrong, or the README cannot be written.
pub(crate) fn command(args: &Args) -> Result<()> {
    if args.write {
        return write();
    }
    print!("{}", table(&scenario::all()?));
    Ok(())
}

/// Puts the table where it belongs.
///
/// # Errors
/// A scenario's file is wrong, or the README cannot be written.
pub(crate) fn write() -> Result<()> {
    let table = table(&scenario::all()?);
    let path = readme();
    let context = || format!("cannot bring {} up to date", path.display());
    let text = fs::read_to_string(&path).with_context(context)?;
    let (before, rest) = text.split_once(BEGIN).with_context(context)?;
    let (_, after) = rest.split_once(END).with_context(context)?;
    fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}")).with_context(context)
}

fn readme() -> PathBuf {
    workspace().join("xtask/README.md")
}

/// The table in Markdown: a row for each invariant, in the order of the catalogue.
fn table(scenarios: &[(String, Scenario)]) -> String {
    let head = "| invariant | broken by a real kernel in the scenario |\n|---|---|\n".to_owned();
    let rows = Invariant::ALL.iter().map(|&invariant| {
        let breaks = |(_, scenario): &&(String, Scenario)| breaks(scenario, invariant.id());
        let names: Vec<_> = scenarios
            .iter()
            .filter(breaks)
            .map(|(name, _)| format!("`{name}`"))
            .collect();
        let cell = if names.is_empty() {
            without(invariant)
        } else {
            names.join(", ")
        };
        format!("| `{}` | {cell} |\n", invariant.id())
    });
    std::iter::once(head).chain(rows).collect()
}

/// Whether a scenario wants this invariant to be found broken.
pub(crate) fn breaks(scenario: &Scenario, id: &str) -> bool {
    let expect = &scenario.expect;
    expect.findings.iter().any(|finding| finding == id) || expect.verdicts.get(id) == Some(&Verdict::Violated)
}

/// Why no scenario breaks it.
fn without(invariant: Invariant) -> String {
    let reason = match invariant.no_kernel() {
        Some(reason) => reason,
        None if invariant.needs_chain() => {
            "it takes the records of both kernels; a story of two boots in the chain's tests breaks it"
        }
        None => "there is no scenario yet; a story in the model's tests breaks it",
    };
    format!("none: {reason}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_breaks_what_it_wants_to_be_found_or_judged_so() {
        let scenario = |expect: &str| -> Scenario {
            toml::from_str(&format!("summary = 's'\nkexec = 'none'\n[expect]\n{expect}")).unwrap()
        };
        let row = |expect: &str| {
            let table = table(&[("one".into(), scenario(expect)), ("other".into(), scenario(""))]);
            let row = table.lines().find(|line| line.starts_with("| `file-token-unique`"));
            row.unwrap().to_owned()
        };
        let named = "| `file-token-unique` | `one` |";
        assert_eq!(row("findings = ['file-token-unique']"), named);
        assert_eq!(row("verdicts = { file-token-unique = 'violated' }"), named);
        assert!(row("verdicts = { file-token-unique = 'ok' }").contains("| none: "));
        assert!(row("findings = ['file-count']").contains("| none: "));
    }

    #[test]
    fn the_readme_has_this_table() {
        let readme = fs::read_to_string(readme()).unwrap();
        let table = table(&scenario::all().unwrap());
        assert!(
            readme.contains(&format!("{BEGIN}{table}{END}")),
            "run `cargo xtask invariants --write`"
        );
    }
}
