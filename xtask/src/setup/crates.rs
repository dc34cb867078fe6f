//! Tools that cargo builds and installs, for want of packages.

use std::{env, process::Command};

use anyhow::{Context, Result};

use super::{Need, Tools};
use crate::{cache, run};

/// A program that a crate brings.
#[derive(Debug)]
pub(super) struct Crate {
    need: Need,
    /// What the crate and its program are called.
    name: &'static str,
    version: &'static str,
    /// How it is built: what is run for a second is not worth being optimised for minutes.
    how: &'static [&'static str],
}

const CRATES: [Crate; 2] = [
    // The newest line of the linker that works with the LLVM inside rustc; 0.11 wants one of the system's.
    Crate {
        need: Need::Bpf,
        name: "bpf-linker",
        version: "0.10.3",
        how: &[],
    },
    Crate {
        need: Need::Deny,
        name: "cargo-deny",
        version: "0.20.2",
        how: &["--debug"],
    },
];

/// Those that `needs` ask for and that are not on this machine.
pub(super) fn missing(needs: &[Need], tools: &Tools) -> Vec<&'static Crate> {
    let wanted = CRATES.iter().filter(|tool| needs.contains(&tool.need));
    wanted.filter(|tool| tools.program(tool.name).is_err()).collect()
}

/// Whether some row of the table is for this need.
#[cfg(test)]
pub(super) fn meet(need: Need) -> bool {
    CRATES.iter().any(|tool| tool.need == need)
}

/// Builds it into the cache.
pub(super) fn install(tool: &Crate, tools: &Tools) -> Result<()> {
    let Crate { name, version, .. } = tool;
    eprintln!("about to run: cargo install {name} --version {version} (some minutes)");
    let root = tools
        .directory()
        .parent()
        .context("the cache has no directory for tools")?;
    let log = cache::subdir("log")?.join(format!("{name}.log"));
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(["install", name, "--version", version, "--locked", "--root"])
        .arg(root)
        .args(tool.how);
    run::logged(&format!("building {name}"), &mut command, &log)
}
