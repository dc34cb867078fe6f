//! Python packages, in an environment of their own in the cache: for tests that hold luo-trace against engines that come so.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::{Need, ensure};
use crate::{cache, run};

/// The packages, in the versions that were tried.
const PACKAGES: [(&str, &str); 2] = [("duckdb", "2.0.1"), ("chdb", "4.4.0")];

/// A Python that has these packages.
///
/// # Errors
/// There is no Python with `venv`, or a package cannot be had.
pub(crate) fn with(packages: &[&str]) -> Result<PathBuf> {
    ensure(&[Need::Python])?;
    let dir = cache::subdir("tools")?.join("python");
    let python = dir.join("bin/python");
    let imports = format!("import {}", packages.join(", "));
    let has = || Command::new(&python).args(["-c", &imports]).output();
    if has().is_ok_and(|done| done.status.success()) {
        return Ok(python);
    }
    let _lock = cache::lock("setup")?;
    let wanted: Vec<_> = PACKAGES
        .iter()
        .filter(|(name, _)| packages.contains(name))
        .map(|(name, version)| format!("{name}=={version}"))
        .collect();
    eprintln!("about to run: pip install {}, into the cache", wanted.join(" "));
    run::output(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&dir))
        .context("no environment for Python packages; on Debian it takes the package python3-venv")?;
    let log = cache::subdir("log")?.join("pip.log");
    let mut install = Command::new(&python);
    install
        .args(["-m", "pip", "install", "--only-binary", ":all:"])
        .args(&wanted);
    run::logged("installing Python packages", &mut install, &log)?;
    match has().context("cannot start Python")? {
        done if done.status.success() => Ok(python),
        done => bail!(
            "the packages do not work: {}",
            String::from_utf8_lossy(&done.stderr).trim()
        ),
    }
}
