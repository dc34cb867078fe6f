//! Builds what runs inside the guest: its init, and the agent, both static.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::check;
use crate::setup::{self, Need};

/// What static programs are built for.
pub(crate) const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The programs that go into the guest.
#[derive(Debug, Clone)]
pub(crate) struct Guest {
    pub(crate) init: PathBuf,
    pub(crate) agent: Option<PathBuf>,
}

/// Where the agent comes from.
#[derive(Debug, Clone)]
pub(crate) enum Agent {
    /// It is built from this tree.
    Built,
    /// It is there already, and static.
    Ready(PathBuf),
    /// No scenario that is to run needs it.
    None,
}

/// Builds the guest's programs; quick when nothing changed.
///
/// # Errors
/// They do not build, or a ready agent is not there.
pub(crate) fn build(agent: &Agent) -> Result<Guest> {
    let mut packages = vec!["testbed-guest"];
    if matches!(agent, Agent::Built) {
        packages.push("luo-trace");
    }
    cargo_build(&packages)?;
    let built = |name: &str| workspace().join("target/guest").join(TARGET).join("release").join(name);
    let agent = match agent {
        Agent::Built => Some(built("luo-trace")),
        Agent::Ready(path) if path.is_file() => Some(path.clone()),
        Agent::Ready(path) => bail!("there is no agent at {}", path.display()),
        Agent::None => None,
    };
    Ok(Guest {
        init: built("init"),
        agent,
    })
}

/// The workspace's root.
pub(crate) fn workspace() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn cargo_build(packages: &[&str]) -> Result<()> {
    static_build(packages, "target/guest", &[], &[])
}

/// Builds programs that need nothing of where they run, into this directory, with these flags of rustc and options of cargo besides.
///
/// # Errors
/// What it needs cannot be got, or they do not build.
pub(crate) fn static_build(packages: &[&str], into: &str, flags: &[String], options: &[&str]) -> Result<()> {
    // The agent's build script looks for the BPF linker on the PATH.
    let tools = setup::ensure(if packages.contains(&"luo-trace") {
        &[Need::Bpf]
    } else {
        &[]
    })?;
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(std::iter::once(tools.directory().clone()).chain(env::split_paths(&path)))?;

    let mut cargo = check::cargo(&["build", "--quiet", "--release", "--bins"]);
    cargo.env("PATH", path);
    cargo.args(["--target", TARGET, "--target-dir", into]);
    // In the configuration rather than in RUSTFLAGS, which the build of the BPF programs would inherit.
    let flags = ["-Ctarget-feature=+crt-static"]
        .into_iter()
        .chain(flags.iter().map(String::as_str));
    let flags: Vec<_> = flags.map(|flag| format!("'{flag}'")).collect();
    cargo.args(["--config", &format!("target.{TARGET}.rustflags=[{}]", flags.join(", "))]);
    cargo.args(options);
    for package in packages {
        cargo.args(["--package", package]);
    }
    let status = cargo.status().context("cannot start cargo")?;
    if !status.success() {
        bail!(
            "cannot build {} ({status}); the compiler's messages are above",
            packages.join(" and ")
        );
    }
    Ok(())
}
