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
    }
}

fn target(hook: Hook) -> String {
    match hook.attach() {
        Attach::Function { targets, .. } => targets.join(" or "),
        Attach::Callbacks { argument } => format!("callbacks of {argument}"),
    }
}
