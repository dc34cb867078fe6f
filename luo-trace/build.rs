//! Builds the eBPF programs and hands the object to the agent, which carries it in its binary.
//!
//! Without the BPF toolchain a debug build goes on without programs, so that `cargo test` works anywhere; a release build,
//! which a user may want to run, stops and says what to do.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "bpfel-unknown-none";

fn main() {
    println!("cargo::rustc-check-cfg=cfg(bpf_object)");
    if env::var_os("CARGO_FEATURE_AGENT").is_none() {
        return;
    }
    println!("cargo::rerun-if-changed=../luo-trace-ebpf");
    println!("cargo::rerun-if-changed=../luo-trace-common/src");
    println!("cargo::rerun-if-env-changed=PATH");
    match toolchain() {
        Ok(path) => {
            let object = build(&path);
            println!("cargo::rustc-env=LUO_TRACE_BPF_OBJECT={}", object.display());
            println!("cargo::rustc-cfg=bpf_object");
        }
        Err(missing) if env::var("PROFILE").is_ok_and(|profile| profile == "release") => {
            println!(
                "cargo::error={missing} is missing, without which the eBPF programs cannot be built: run `cargo xtask setup`"
            );
        }
        Err(missing) => {
            println!(
                "cargo::warning={missing} is missing: this debug build has no eBPF programs; `cargo xtask setup` installs it"
            );
        }
    }
}

/// The search path with which the programs can be built, or what is missing for it.
fn toolchain() -> Result<OsString, &'static str> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let sysroot = Command::new(rustc)
        .args(["--print", "sysroot"])
        .output()
        .map_err(|_| "rustc")?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot.stdout).trim());
    if !sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").exists() {
        return Err("the standard library's source (rust-src)");
    }
    let mut path: Vec<PathBuf> = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    path.extend(cache().map(|cache| cache.join("tools/bin")));
    if !path.iter().any(|dir| dir.join("bpf-linker").is_file()) {
        return Err("bpf-linker");
    }
    env::join_paths(path).map_err(|_| "a usable PATH")
}

/// Where `cargo xtask setup` keeps its tools; the same rule as in `xtask/src/cache.rs`.
fn cache() -> Option<PathBuf> {
    let dir = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    dir("LUO_TRACE_CACHE")
        .or_else(|| dir("XDG_CACHE_HOME").map(|base| base.join("luo-trace")))
        .or_else(|| dir("HOME").map(|home| home.join(".cache/luo-trace")))
}

fn build(path: &OsString) -> PathBuf {
    let var = |name| env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"));
    let target_dir = Path::new(&var("OUT_DIR")).join("bpf");
    // v3 has atomic adds that give the value before, and 32-bit arithmetic: Linux 5.12, long before LUO.
    let root = Path::new(&var("CARGO_MANIFEST_DIR")).join("..");
    let root = root.canonicalize().unwrap_or(root);
    let flags = [
        // What the programs' types tell of where their source lay is the same everywhere.
        format!("--remap-path-prefix={}=luo-trace", root.display()),
        format!("--cfg=bpf_target_arch=\"{}\"", var("CARGO_CFG_TARGET_ARCH")),
        "-Ctarget-cpu=v3".into(),
        "-Cdebuginfo=2".into(),
        "-Clink-arg=--btf".into(),
        // Else what fills or copies a few bytes is a call, of five instructions for each byte.
        "-Clink-arg=--disable-expand-memcpy-in-order".into(),
    ];
    let mut cargo = Command::new(var("CARGO"));
    cargo
        .args(["build", "--release", "--package", "luo-trace-ebpf", "--target", TARGET])
        .args(["-Z", "build-std=core", "--target-dir"])
        .arg(&target_dir)
        .env("PATH", path)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env_remove("RUSTC")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER");
    if env::var_os("CARGO_FEATURE_BPF_LOG").is_some() {
        cargo.args(["--features", "log"]);
    }
    let output = cargo
        .output()
        .unwrap_or_else(|error| panic!("cannot run cargo: {error}"));
    if !output.status.success() {
        panic!(
            "the eBPF programs do not build:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let (built, object) = (
        target_dir.join(TARGET).join("release/luo-trace"),
        target_dir.join("programs"),
    );
    let stripped = fs::read(&built).map(|elf| without_debug_information(&elf));
    if let Err(error) = stripped.and_then(|elf| fs::write(&object, elf)) {
        panic!("{} cannot be stripped: {error}", built.display());
    }
    object
}

/// An ELF object without what only a debugger reads, from which the programs' type information was made: the agent would go through
/// tens of thousands of its relocations each time it starts. Sections keep their numbers.
fn without_debug_information(elf: &[u8]) -> Vec<u8> {
    // Places in the headers of ELF objects of 64 bits.
    const SECTIONS: usize = 0x28;
    const COUNT: usize = 0x3c;
    const NAMES: usize = 0x3e;
    const HEADER: usize = 64;
    const OFFSET: usize = 24;
    const SIZE: usize = 32;
    let short = |at: usize| usize::from(u16::from_le_bytes([elf[at], elf[at + 1]]));
    let number = |at: usize| u64::from_le_bytes(elf[at..at + 8].try_into().unwrap_or_default()) as usize;
    let headers = number(SECTIONS);
    let header = |section: usize| headers + section * HEADER;
    let names = number(header(short(NAMES)) + OFFSET);
    let mut kept = elf[..HEADER].to_vec();
    let mut table = Vec::new();
    for section in 0..short(COUNT) {
        let at = header(section);
        let mut entry = elf[at..at + HEADER].to_vec();
        let name = names + u32::from_le_bytes(elf[at..at + 4].try_into().unwrap_or_default()) as usize;
        if elf[name..].starts_with(b".debug_") || elf[name..].starts_with(b".rel.debug_") {
            // A section of no kind.
            entry.fill(0);
        } else if section > 0 {
            let (offset, size) = (number(at + OFFSET), number(at + SIZE));
            kept.resize(kept.len().next_multiple_of(8), 0);
            entry[OFFSET..OFFSET + 8].copy_from_slice(&(kept.len() as u64).to_le_bytes());
            kept.extend(&elf[offset..offset + size]);
        }
        table.extend(entry);
    }
    kept.resize(kept.len().next_multiple_of(8), 0);
    let place = kept.len() as u64;
    kept[SECTIONS..SECTIONS + 8].copy_from_slice(&place.to_le_bytes());
    kept.extend(table);
    kept
}
