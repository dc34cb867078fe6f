//! `cargo xtask demo`: one real live update, traced in both kernels, and the report of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::kernel::{self, Flavour, Request, Source};
use crate::setup::{self, Need};
use crate::vm::{self, Agent, Options, guest};

/// The scenario that is shown.
const SCENARIO: &str = "demo";

/// From whatever machine this is to the report.
///
/// # Errors
/// Something that is needed cannot be got, or the update does not come through.
pub(crate) fn command() -> Result<()> {
    setup::ensure(&[Need::Bpf, Need::Qemu, Need::KernelBuild])?;
    let kernel = kernel::ensure(&Request {
        source: Source::Newest,
        flavour: Flavour::O2,
    })?;
    let guest = guest::build(&Agent::Built)?;
    let agent = guest.agent.clone().context("no agent was built")?;
    let scenario = vm::scenario::find(SCENARIO)?;
    let (output, _lock) = vm::fresh(SCENARIO, &kernel)?;
    eprintln!("booting Linux {kernel} in QEMU: {}", scenario.summary);
    let options = Options {
        talk: true,
        ..Options::new(guest, output.clone())
    };
    let outcome = vm::run(&scenario, &kernel, &options)?;
    eprintln!();
    let journals = journals(&output.join("journal"))?;
    let report = Command::new(&agent)
        .arg("report")
        .args(&journals)
        .status()
        .context("cannot start the agent")?;
    if !outcome.failures.is_empty() {
        bail!(
            "the update did not go as it should:\n{}\nsee {}",
            outcome.failures.join("\n"),
            output.display()
        );
    }
    if !report.success() {
        bail!("the report failed ({report})");
    }
    let expectations = vm::scenario::expectations("demo.toml");
    let check = Command::new(&agent)
        .arg("check")
        .args(&journals)
        .arg("--expect")
        .arg(&expectations)
        .output()
        .context("cannot start the agent")?;
    let said = String::from_utf8_lossy(&check.stdout);
    let sum = said.lines().last().unwrap_or_default().trim();
    eprintln!("\nHeld against {}: {sum}", expectations.display());
    eprintln!("Console, journals and logs: {}", output.display());
    if !check.status.success() {
        bail!("the update is not as expected ({}):\n{said}", check.status);
    }
    Ok(())
}

/// The journals in a directory.
pub(crate) fn journals(directory: &Path) -> Result<Vec<PathBuf>> {
    let context = || format!("cannot list {}", directory.display());
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).with_context(context)? {
        paths.push(entry.with_context(context)?.path());
    }
    paths.sort();
    Ok(paths)
}
