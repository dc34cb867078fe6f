//! `luo-trace invariants`: the catalogue, from the table the model uses.

use std::io::Write;

use anyhow::{Result, bail};
use clap::Args as ClapArgs;
use luo_trace_common::hooks::Hook;

use crate::exit::Exit;
use crate::model::Invariant;

/// Options of `luo-trace invariants`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Tell all about this one
    id: Option<String>,
}

/// Prints the catalogue, or one of its rows in full.
///
/// # Errors
/// Where there is no such invariant, or stdout cannot be written.
pub fn run(args: &Args) -> Result<Exit> {
    let mut out = super::stdout();
    let Some(id) = &args.id else {
        for invariant in Invariant::ALL {
            writeln!(
                out,
                "{:<24} {:<9} {}",
                invariant.id(),
                invariant.severity().name(),
                invariant.statement().trim()
            )?;
        }
        return Ok(Exit::Held);
    };
    let Some(invariant) = Invariant::ALL.iter().find(|invariant| invariant.id() == id) else {
        bail!("there is no invariant {id:?}: `luo-trace invariants` lists them all");
    };
    let ids = |hooks: &[Hook]| hooks.iter().map(|hook| hook.id()).collect::<Vec<_>>().join(", ");
    writeln!(
        out,
        "{} ({}, {})",
        invariant.id(),
        invariant.family().name(),
        invariant.severity().name()
    )?;
    writeln!(out, "\n{}", invariant.statement().trim())?;
    writeln!(out, "\nWhy it matters: {}", invariant.why())?;
    writeln!(out, "When it is violated: {}", invariant.advice())?;
    writeln!(out, "What shows a violation: {}", invariant.witness())?;
    if invariant.needs_chain() {
        writeln!(
            out,
            "Takes the records of both kernels: `luo-trace check` with the journals of both."
        )?;
    } else if invariant.is_of_a_chain() {
        writeln!(
            out,
            "Takes the agent's look into the image that is loaded, or the records of both kernels."
        )?;
    }
    writeln!(out, "Needs the hooks: {}", ids(invariant.needs()))?;
    if !invariant.also().is_empty() {
        writeln!(out, "To be called ok it also needs: {}", ids(invariant.also()))?;
    }
    if let Some(reason) = invariant.no_kernel() {
        writeln!(out, "No real kernel was made to break it: {reason}")?;
    }
    Ok(Exit::Held)
}
