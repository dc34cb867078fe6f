//! Builds the kernel's own selftests of LUO, unchanged, as programs for the guest.
//!
//! They are compiled statically, with the headers of the same source tree and the host's C library.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::kernel::Kernel;
use crate::{cache, run};

/// Where the selftests lie in the kernel's source tree.
const SELFTESTS: &str = "tools/testing/selftests/liveupdate";

/// What the tests share, by its name in 7.3 and in releases before.
const SHARED: [&str; 2] = ["lib/lu_utils.c", "luo_test_utils.c"];

/// Builds the selftest of this name from the kernel's source tree, or finds it in the cache.
///
/// # Errors
/// The kernel has no source tree, the tree has no such test, or it does not compile.
pub(super) fn program(kernel: &Kernel, name: &str) -> Result<PathBuf> {
    let source = kernel.source().context(
        "this scenario needs the kernel's selftests, and a ready image has none: give --source instead of --image",
    )?;
    let directory = cache::subdir(&format!("selftests/{}", kernel.version))?;
    let program = directory.join(name);
    let _lock = cache::lock(&format!("selftests-{}", kernel.version))?;
    if !program.is_file() {
        let headers = install_headers(source, &directory)?;
        compile(source, &headers, name, &program)?;
    }
    Ok(program)
}

/// Has the tree install its userspace headers, once.
fn install_headers(source: &Path, directory: &Path) -> Result<PathBuf> {
    let headers = directory.join("usr");
    if !headers.join("include/linux/liveupdate.h").is_file() {
        let mut make = Command::new("make");
        make.arg("-C")
            .arg(source)
            .arg(format!("O={}", directory.join("build").display()));
        make.arg("headers_install")
            .arg(format!("INSTALL_HDR_PATH={}", headers.display()));
        run::output(&mut make).context("cannot install the kernel's headers for its selftests")?;
    }
    Ok(headers)
}

fn compile(source: &Path, headers: &Path, name: &str, program: &Path) -> Result<()> {
    let tests = source.join(SELFTESTS);
    let test = tests.join(name).with_extension("c");
    let shared = SHARED
        .map(|file| tests.join(file))
        .into_iter()
        .find(|file| file.is_file());
    let shared = shared.with_context(|| format!("{} has none of {}", tests.display(), SHARED.join(", ")))?;
    let unfinished = program.with_extension("new");
    let mut gcc = Command::new("gcc");
    // What upstream's lib.mk defines; warnings are upstream's to see to.
    gcc.args(["-static", "-O2", "-w", "-D_GNU_SOURCE="]);
    gcc.arg("-isystem")
        .arg(headers.join("include"))
        .arg("-I")
        .arg(tests.join("lib/include"));
    gcc.arg("-o").arg(&unfinished).arg(test).arg(shared);
    run::output(&mut gcc).with_context(|| format!("cannot compile the kernel's selftest {name}"))?;
    fs::rename(&unfinished, program).with_context(|| format!("cannot write {}", program.display()))
}
