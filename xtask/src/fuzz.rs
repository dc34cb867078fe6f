//! `cargo xtask fuzz`: feeds made-up bytes to everything that reads bytes from outside; see `luo-trace/fuzz`.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::setup::{self, Need};
use crate::vm::guest::workspace;

/// What is fuzzed: each is a binary of `luo-trace/fuzz`.
pub(crate) const TARGETS: [&str; 13] = [
    "records",
    "journal",
    "btf",
    "serial",
    "carried",
    "expect",
    "image",
    "policy",
    "orders",
    "symbols",
    "proc",
    "web-config",
    "http",
];

/// What makes the compiler report to libFuzzer where a program has been. Those of `cargo fuzz`, which works here, too;
/// without a sanitizer, since nothing of this is `unsafe`.
const FLAGS: [&str; 9] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Cdebug-assertions",
    "-Coverflow-checks",
];

/// The target's name makes cargo keep [`FLAGS`] from build scripts and macros.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// An input that needs more memory than this has failed, in MiB.
const MEMORY: u32 = 512;

/// The options of `cargo xtask fuzz`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// One of records, journal, btf, serial, carried, expect, image, policy, orders, symbols, proc, web-config, http; left out, each in its turn
    target: Option<String>,
    /// How long, for each
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// Fuzzes, and shows what libFuzzer says.
///
/// # Errors
/// A target failed, and the error says with which input; or there is no such target.
pub(crate) fn command(args: &Args) -> Result<()> {
    let wanted = |target: &&str| args.target.as_ref().is_none_or(|name| name == target);
    let targets: Vec<_> = TARGETS.into_iter().filter(wanted).collect();
    if targets.is_empty() {
        bail!("there is no such target; there are {}", TARGETS.join(", "));
    }
    let programs = build()?;
    targets
        .iter()
        .try_for_each(|target| run(&programs, target, args.seconds))
}

/// Builds the targets for fuzzing, and returns where they are.
///
/// # Errors
/// They do not build.
pub(crate) fn build() -> Result<PathBuf> {
    setup::ensure(&[Need::Fuzzer])?;
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace());
    cargo.args(["build", "--quiet", "--release", "--package", "luo-trace-fuzz"]);
    cargo.args(TARGETS.iter().flat_map(|target| ["--bin", target]));
    cargo.args(["--target", TRIPLE, "--target-dir", "target/fuzz"]);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"));
    // It would double the time of the build, for nothing.
    cargo.env("CARGO_PROFILE_RELEASE_LTO", "off");
    if !cargo.status().context("cannot start cargo")?.success() {
        bail!("the fuzz targets do not build; the compiler's messages are above");
    }
    Ok(workspace().join("target/fuzz").join(TRIPLE).join("release"))
}

/// Fuzzes one target for some seconds, from the committed corpus and from what earlier runs found worth keeping.
///
/// # Errors
/// It failed on an input, whose place the error tells.
pub(crate) fn run(programs: &Path, target: &str, seconds: u32) -> Result<()> {
    let found = workspace().join("target/fuzz/corpus").join(target);
    fuzz(Command::new(programs.join(target)), target, &found, seconds)
}

/// Gives one target so many inputs, or fewer where they take longer than that many seconds. They follow from the committed corpus, and
/// are the same in every run as far as the target takes the same way with them: one that hashes with a random seed may not.
///
/// # Errors
/// As for [`run`].
pub(crate) fn run_first(programs: &Path, target: &str, inputs: u32, seconds: u32) -> Result<()> {
    let found = workspace().join("target/fuzz/first").join(target);
    match fs::remove_dir_all(&found) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot empty {}", found.display()));
        }
        _ => {}
    }
    let mut program = at_fixed_addresses(&programs.join(target));
    // What was found is read again each second, which is sooner or later.
    program.args(["-seed=1", "-reload=0"]).arg(format!("-runs={inputs}"));
    fuzz(program, target, &found, seconds)
}

/// A program whose addresses are the same in every run, since which input comes next follows from them, too. Containers often forbid
/// it: there they are not.
fn at_fixed_addresses(program: &Path) -> Command {
    let fixed = |program: &OsStr| {
        let mut command = Command::new("setarch");
        command.arg("--addr-no-randomize").arg(program);
        command
    };
    let mut probe = fixed(OsStr::new("true"));
    match probe.stdout(Stdio::null()).stderr(Stdio::null()).status() {
        Ok(status) if status.success() => fixed(program.as_os_str()),
        _ => Command::new(program),
    }
}

fn fuzz(mut program: Command, target: &str, found: &Path, seconds: u32) -> Result<()> {
    let failed = workspace().join("target/fuzz/failed");
    for directory in [found, &failed] {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let log = failed.join(format!("{target}.log"));
    let output = fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let status = program
        .arg(found)
        .arg(workspace().join("luo-trace/fuzz/corpus").join(target))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-rss_limit_mb={MEMORY}"))
        .args(["-timeout=120", "-max_len=65536", "-print_final_stats=1"])
        .arg(format!("-artifact_prefix={}/{target}-", failed.display()))
        .stdout(output.try_clone().context("cannot copy a descriptor")?)
        .stderr(output)
        .status()
        .with_context(|| format!("cannot start the fuzz target {target}"))?;
    let said = fs::read(&log).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    if status.success() {
        eprintln!("{target}: {} inputs", inputs(&said).unwrap_or("some"));
        return Ok(());
    }
    let last: Vec<_> = said.lines().rev().take(30).collect();
    let last: Vec<_> = last.into_iter().rev().collect();
    bail!(
        "{target} failed ({status}). Put the input into luo-trace/fuzz/corpus/{target}, where a test replays it:\n{}\nsee {}",
        last.join("\n"),
        log.display()
    )
}

/// How many inputs were fed, by libFuzzer's last words.
fn inputs(said: &str) -> Option<&str> {
    said.lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:").map(str::trim))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_a_corpus_and_every_corpus_a_target() {
        let mut corpora = Vec::new();
        for entry in fs::read_dir(workspace().join("luo-trace/fuzz/corpus")).unwrap() {
            corpora.push(entry.unwrap().file_name().into_string().unwrap());
        }
        corpora.sort();
        let mut targets = TARGETS;
        targets.sort_unstable();
        assert_eq!(corpora, targets);
    }

    #[test]
    fn the_number_of_inputs_is_found_in_what_libfuzzer_says() {
        let said = "Done 12 runs\nstat::number_of_executed_units: 4711\nstat::average_exec_per_sec: 1\n";
        assert_eq!(inputs(said), Some("4711"));
        assert_eq!(inputs("nothing"), None);
    }
}
