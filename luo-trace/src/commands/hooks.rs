//! `luo-trace hooks`: the table of hooks, as the programs and the agent use it.

use std::io::{self, Write};

use luo_trace_common::hooks::{Attach, Hook, Need};

use crate::exit::Exit;

/// Prints the table.
///
/// # Errors
/// Where stdout cannot be written.
pub fn run() -> io::Result<Exit> {
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{:<20} {:<8} {:<9} {:<42} what it tells",
        "hook", "family", "need", "kernel function"
    )?;
    for &hook in Hook::ALL {
        writeln!(
            out,
            "{:<20} {:<8} {:<9} {:<42} {}",
            hook.id(),
            hook.family().name(),
            need(hook),
            target(hook),
            hook.doc().trim()
        )?;
    }
    Ok(Exit::Held)
}

/// Whether the agent can do without a hook, as a word.
pub(super) fn need(hook: Hook) -> &'static str {
    match hook.need() {
        Need::Required => "required",
        Need::Optional => "optional",
        Need::IfPresent => "if present",
    }
}

fn target(hook: Hook) -> String {
    match hook.attach() {
        Attach::Function { targets, .. } => targets.join(" or "),
        Attach::Callbacks { argument } => format!("callbacks of {argument}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table as the README has it.
    fn markdown() -> String {
        let rows = Hook::ALL.iter().map(|&hook| {
            let (id, family, need) = (hook.id(), hook.family().name(), need(hook));
            format!(
                "| `{id}` | {family} | {need} | `{}` | {} |\n",
                target(hook),
                hook.doc().trim()
            )
        });
        let head = "| hook | family | need | kernel function | what it tells |\n|---|---|---|---|---|\n";
        std::iter::once(head.to_owned()).chain(rows).collect()
    }

    #[test]
    fn the_readme_has_this_table() {
        let readme = include_str!("../../../README.md");
        assert!(readme.contains(&markdown()), "put this into README.md:\n{}", markdown());
    }
}
