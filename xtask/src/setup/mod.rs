//! What the other verbs need on the machine: says what is missing and gets it, or prints what to
//! install where it cannot.

mod crates;
mod packages;
pub(crate) mod python;
mod rust;

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::cache;

/// Something a verb needs before it can work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// The Rust standard library's source and the BPF linker, to build the BPF programs.
    Bpf,
    /// QEMU for x86-64.
    Qemu,
    /// What building a kernel takes.
    KernelBuild,
    /// Prometheus, promtool and curl, for the tests of the dashboards, the rules and the agent's port.
    Prometheus,
    /// VictoriaMetrics and vmalert, which take a made-up fleet beside Prometheus.
    VictoriaMetrics,
    /// bpftrace, to measure against.
    Bpftrace,
    /// What compiles libFuzzer.
    Fuzzer,
    /// What makes a disk with a Debian system on it.
    Disk,
    /// Callgrind, which counts instructions.
    Valgrind,
    /// Node.js' package manager and Chromium, which draw the dashboards.
    Pictures,
    /// Python, and what makes an environment for packages of its.
    Python,
    /// cargo-deny, which looks at the licences and origins of crates.
    Deny,
}

impl Need {
    /// Everything that any verb needs.
    pub(crate) const ALL: [Self; 12] = [
        Self::Bpf,
        Self::Qemu,
        Self::KernelBuild,
        Self::Prometheus,
        Self::VictoriaMetrics,
        Self::Bpftrace,
        Self::Fuzzer,
        Self::Disk,
        Self::Valgrind,
        Self::Pictures,
        Self::Python,
        Self::Deny,
    ];
}

/// Finds the programs that [`ensure`] has seen to.
pub(crate) struct Tools {
    own: PathBuf,
}

impl Tools {
    fn open() -> Result<Self> {
        Ok(Self {
            own: cache::dir()?.join("tools/bin"),
        })
    }

    /// The directory of the programs that live in the cache; to be put on the `PATH` of a cargo
    /// that builds the BPF programs.
    #[must_use]
    pub(crate) fn directory(&self) -> &PathBuf {
        &self.own
    }

    /// The program called `name`, from the `PATH` or the cache.
    ///
    /// # Errors
    /// It is in neither place.
    pub(crate) fn program(&self, name: &str) -> Result<PathBuf> {
        let own = self.own.join(name);
        which::which(name)
            .or_else(|_| which::which(own))
            .with_context(|| format!("{name} is not installed: run `cargo xtask setup`"))
    }
}

/// Makes sure that all of `needs` are there. Quick when they are; otherwise it says what it is
/// about to do, and does it, or says what a person has to do.
///
/// # Errors
/// Something is missing and cannot be got: on a distribution other than Debian, without root, or
/// without a network. The error says what to install.
pub(crate) fn ensure(needs: &[Need]) -> Result<Tools> {
    let tools = Tools::open()?;
    let source = needs.contains(&Need::Bpf);
    if packages::missing(needs, &tools).is_empty()
        && crates::missing(needs, &tools).is_empty()
        && (!source || rust::complete()?)
    {
        return Ok(tools);
    }
    let _lock = cache::lock("setup")?;
    // Another invocation may have been at it while this one waited: look again.
    packages::install(&packages::missing(needs, &tools), &tools)?;
    if source {
        rust::install()?;
    }
    for tool in crates::missing(needs, &tools) {
        crates::install(tool, &tools)?;
    }
    Ok(tools)
}

/// `cargo xtask setup`: everything, at once.
///
/// # Errors
/// Those of [`ensure`].
pub(crate) fn command() -> Result<()> {
    ensure(&Need::ALL)?;
    eprintln!("everything is there; the cache is {}", cache::dir()?.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_need_is_met_from_one_place() {
        for need in Need::ALL {
            assert_ne!(packages::meet(need), crates::meet(need), "{need:?}");
        }
    }
}
