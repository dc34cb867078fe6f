//! `luo-trace hooks`: the table of hooks as the programs and the agent use it, and what becomes of each on this host.

use std::io::{self, Write};

use anyhow::Result;
use clap::{Args as ClapArgs, ValueEnum};
use luo_trace_common::hooks::{Attach, Hook, Need};
use serde::Serialize;

use super::Socket;
use crate::exit::Exit;
use crate::journal::HookState;
use crate::kernel::prospects;
use crate::model::Invariant;
use crate::sink::control::client;

/// Options of `luo-trace hooks`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// How to print them
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    socket: Socket,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Format {
    /// For a person
    #[default]
    Text,
    /// A JSON array of objects: `id`, `family`, `need`, `function`, `tells`, `state`, `targets`, `reason`, `unknown`
    Json,
}

/// Prints the table, with what the running agent says of each hook or, where none runs, what the kernel's type
/// information promises. It needs no privilege.
///
/// # Errors
/// Where the agent does not answer, or stdout cannot be written.
pub fn run(args: &Args) -> Result<Exit> {
    let states = match client::status(&args.socket.path) {
        Ok(Some(status)) => status.hooks,
        // A user who may not ask the agent may read the same from the kernel.
        Ok(None) | Err(_) => prospects(),
    };
    let rows: Vec<Report> = Hook::ALL.iter().map(|&hook| Report::new(hook, &states)).collect();
    let mut out = super::stdout();
    match args.format {
        Format::Text => rows.iter().try_for_each(|row| row.print(&mut out))?,
        Format::Json => writeln!(out, "{}", serde_json::to_string_pretty(&rows)?)?,
    }
    Ok(Exit::Held)
}

/// A hook, and what became of it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    id: &'static str,
    family: &'static str,
    need: &'static str,
    /// The kernel functions it may be attached to, any one of them.
    function: String,
    tells: &'static str,
    /// `attached`, `partly attached`, `attachable`, `missing`, `switched off`, `nothing to tell` or `unknown`.
    pub(super) state: &'static str,
    /// The kernel functions it is, or would be, attached to.
    targets: Vec<String>,
    reason: Option<String>,
    /// The invariants that are unknown without it, where it is not there.
    unknown: Vec<&'static str>,
}

impl Report {
    /// What the states say of a hook.
    pub(super) fn new(hook: Hook, states: &[HookState]) -> Self {
        let state = states.iter().find(|state| state.id == hook.id());
        let covered = state.is_none_or(|state| state.is_covered() || state.is_attachable());
        Self {
            id: hook.id(),
            family: hook.family().name(),
            need: need(hook),
            function: target(hook),
            tells: hook.doc().trim(),
            state: state.map_or("unknown", word),
            targets: state.map_or_else(Vec::new, |state| state.targets.clone()),
            reason: state.and_then(|state| state.reason.clone()),
            unknown: if covered { Vec::new() } else { depend_on(hook) },
        }
    }

    /// Three lines at most: what it is, what became of it, and what is unknown by that.
    pub(super) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let Self { id, state, need, .. } = self;
        let targets = if self.targets.is_empty() {
            self.function.clone()
        } else {
            self.targets.join(" ")
        };
        writeln!(out, "{id:<22} {state:<15} {need:<10} {targets}")?;
        if let Some(reason) = &self.reason {
            writeln!(out, "    {reason}")?;
        }
        if !self.unknown.is_empty() {
            writeln!(out, "    unknown by that: {}", self.unknown.join(", "))?;
        }
        Ok(())
    }
}

fn word(state: &HookState) -> &'static str {
    match state {
        _ if state.attached && state.reason.is_some() => "partly attached",
        _ if state.attached => "attached",
        _ if state.switched_off => "switched off",
        _ if state.nothing_to_tell => "nothing to tell",
        _ if state.is_attachable() => "attachable",
        _ => "missing",
    }
}

/// The invariants of which nothing, or no good, can be said without this hook.
fn depend_on(hook: Hook) -> Vec<&'static str> {
    let depends = |invariant: &&Invariant| invariant.needs().contains(&hook) || invariant.also().contains(&hook);
    Invariant::ALL
        .iter()
        .filter(depends)
        .map(|invariant| invariant.id())
        .collect()
}

/// Whether the agent can do without a hook, as a word.
fn need(hook: Hook) -> &'static str {
    match hook.need() {
        Need::Required => "required",
        Need::Optional => "optional",
        Need::IfPresent => "if present",
    }
}

fn target(hook: Hook) -> String {
    match hook.attach() {
        Attach::Function { targets, .. } => targets.join(" or "),
        Attach::Callbacks { argument, .. } => format!("callbacks of {argument}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(state: HookState) -> Report {
        let id = Hook::FlbCallback.id().into();
        Report::new(Hook::FlbCallback, &[HookState { id, ..state }])
    }

    #[test]
    fn a_hook_that_is_missing_says_why_and_what_is_unknown_by_it() {
        let report = report(HookState {
            reason: Some("this kernel has no callback".into()),
            ..HookState::default()
        });
        assert_eq!(report.state, "missing");
        assert!(report.unknown.contains(&"flb-create-on-first"), "{:?}", report.unknown);
        let mut text = Vec::new();
        report.print(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(
            text.starts_with("flb-callback           missing         optional   callbacks of"),
            "{text}"
        );
        assert!(
            text.contains("\n    this kernel has no callback\n    unknown by that: "),
            "{text}"
        );
    }

    #[test]
    fn one_that_reaches_only_a_part_leaves_the_same_unknown_and_one_that_is_off_says_so() {
        let partly = report(HookState {
            attached: true,
            targets: vec!["test_flb_preserve".into()],
            reason: Some("not all".into()),
            ..HookState::default()
        });
        assert_eq!(partly.state, "partly attached");
        assert!(!partly.unknown.is_empty());
        let off = report(HookState {
            switched_off: true,
            ..HookState::default()
        });
        assert_eq!(off.state, "switched off");
        assert!(!off.unknown.is_empty());
    }

    #[test]
    fn one_that_is_there_or_has_nothing_to_tell_or_could_be_attached_leaves_nothing_unknown() {
        let attached = HookState {
            attached: true,
            ..HookState::default()
        };
        let nothing = HookState {
            nothing_to_tell: true,
            reason: Some("this kernel has none".into()),
            ..HookState::default()
        };
        let attachable = HookState {
            targets: vec!["f".into()],
            ..HookState::default()
        };
        for (state, word) in [
            (attached, "attached"),
            (nothing, "nothing to tell"),
            (attachable, "attachable"),
        ] {
            let report = report(state);
            assert_eq!((report.state, report.unknown.len()), (word, 0));
        }
    }
}
