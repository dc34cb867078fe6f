//! `cargo xtask dist`: what a release consists of, the same bytes wherever it is made.

mod crates;
mod deb;
mod files;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use crate::run;
use crate::vm::guest::{TARGET, static_build, workspace};

use files::Files;

/// The version of the release.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The options of `cargo xtask dist`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Where everything is put
    #[arg(short, long, value_name = "DIR", default_value = "target/dist")]
    output: PathBuf,
}

/// Builds the release, and lists it.
///
/// # Errors
/// Something that is needed cannot be got, or does not build.
pub(crate) fn command(args: &Args) -> Result<()> {
    let output = workspace().join(&args.output);
    let agent = agent()?;
    let files = Files::gather(&agent, &output.join("generated"))?;
    let time = time()?;
    let name = format!("luo-trace-{VERSION}-{}-linux", env::consts::ARCH);
    let made = [
        (format!("{name}.tar.gz"), files.archive(&name, time)?),
        (deb::name(VERSION), deb::package(&files, VERSION, time)?),
        (format!("luo-trace-{VERSION}.cdx.json"), crates::bill(VERSION)?),
    ];
    let mut sums = String::new();
    for (name, bytes) in made {
        let path = output.join(&name);
        fs::write(&path, &bytes).with_context(|| format!("cannot write {}", path.display()))?;
        sums += &format!("{}  {name}\n", hex(&Sha256::digest(&bytes)));
        println!("{:>10}  {}", bytes.len(), path.display());
    }
    let path = output.join("SHA256SUMS");
    fs::write(&path, &sums).with_context(|| format!("cannot write {}", path.display()))?;
    print!("{sums}");
    Ok(())
}

/// This agent as two Debian packages: of this version, and of one that dpkg takes for later. `generated` is a directory for what it makes.
///
/// # Errors
/// A file of the package is missing, or the agent does not make what it should.
pub(crate) fn debian(agent: &Path, generated: &Path) -> Result<[Vec<u8>; 2]> {
    let files = Files::gather(agent, generated)?;
    let package = |version: &str| deb::package(&files, version, time()?);
    Ok([package(VERSION)?, package(&format!("{VERSION}+later"))?])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// When the release was made, as far as its files tell, in seconds since 1970: `SOURCE_DATE_EPOCH`, or when its commit was.
fn time() -> Result<u64> {
    let given = env::var("SOURCE_DATE_EPOCH").ok();
    let text = match given {
        Some(given) => given,
        None => {
            let mut git = Command::new("git");
            run::output(git.current_dir(workspace()).args(["log", "-1", "--format=%ct"]))
                .context("SOURCE_DATE_EPOCH is not set, and there is no commit to take the time of")?
        }
    };
    text.trim()
        .parse()
        .with_context(|| format!("{:?} is no time in seconds since 1970", text.trim()))
}

/// The agent, static and without symbols. What the compiler writes into it of where things lay is the same everywhere.
fn agent() -> Result<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(env::home_dir()?.join(".cargo")));
    let home = home.context("there is no home directory: set CARGO_HOME")?;
    let root = workspace().canonicalize().context("the workspace has no path")?;
    let library = run::output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let flags = [
        format!("--remap-path-prefix={}=rust", library.trim()),
        format!("--remap-path-prefix={}=luo-trace", root.display()),
        format!("--remap-path-prefix={}=cargo", home.display()),
    ];
    let options = ["--locked", "--config", "profile.release.strip='symbols'"];
    static_build(&["luo-trace"], "target/release-build", &flags, &options)?;
    Ok(root.join("target/release-build").join(TARGET).join("release/luo-trace"))
}

/// The text of a file of this tree.
fn text(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
