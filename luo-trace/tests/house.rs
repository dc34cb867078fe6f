//! The rules of the house, read from the imports: who may know whom.

#![allow(clippy::unwrap_used, reason = "what cannot be read fails the test")]

use std::fs;
use std::path::{Path, PathBuf};

/// A source file and the code in it, without comments.
struct Source {
    path: PathBuf,
    code: String,
}

/// The sources of a module: of its directory, or its one file.
fn sources(module: &str) -> Vec<Source> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(module);
    let mut found = Vec::new();
    let mut waiting = vec![if dir.is_dir() { dir } else { dir.with_extension("rs") }];
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let code = text
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .collect::<Vec<_>>()
                .join("\n");
            found.push(Source { path, code });
        }
    }
    assert!(!found.is_empty(), "{module} has no sources: has it moved?");
    found
}

/// Fails with every place in a module that uses one of `forbidden`.
fn never_uses(module: &str, forbidden: &[&str]) {
    let broken: Vec<String> = sources(module)
        .iter()
        .flat_map(|source| {
            let used = forbidden.iter().filter(|word| uses(&source.code, word));
            used.map(|word| format!("{} uses {word}", source.path.display()))
                .collect::<Vec<_>>()
        })
        .collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// Whether code names a path: `word` at the beginning of a path, or inside a `std::{...}` group.
fn uses(code: &str, word: &str) -> bool {
    let starts = |at: usize| {
        !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
            && !code[at + word.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_')
    };
    if code.match_indices(word).any(|(at, _)| starts(at)) {
        return true;
    }
    let Some(module) = word.strip_prefix("std::") else {
        return false;
    };
    code.split("std::{")
        .skip(1)
        .filter_map(|rest| rest.split('}').next())
        .any(|group| {
            group
                .split(',')
                .any(|item| item.trim().split("::").next() == Some(module))
        })
}

const IMPURE: [&str; 7] = [
    "aya",
    "tokio",
    "prometheus",
    "std::fs",
    "std::net",
    "std::time",
    "std::thread",
];

#[test]
fn the_model_the_chain_the_timeline_and_the_decoder_are_pure() {
    for pure in [
        "luo-trace/src/model",
        "luo-trace/src/chain",
        "luo-trace/src/text",
        "luo-trace/src/expect",
        "luo-trace/src/policy",
        "luo-trace/src/image",
        "luo-trace/src/event",
        "luo-trace/src/status",
    ] {
        never_uses(pure, &IMPURE);
    }
}

#[test]
fn only_the_kernel_module_knows_aya() {
    for source in sources("luo-trace/src") {
        if !source.path.to_string_lossy().contains("/src/kernel/") {
            assert!(!uses(&source.code, "aya"), "{} uses aya", source.path.display());
        }
    }
}

#[test]
fn sinks_never_import_each_other() {
    const SINKS: [&str; 5] = ["console", "control", "journal", "metrics", "web"];
    for sink in SINKS {
        let others = SINKS.into_iter().filter(|other| *other != sink);
        for other in others {
            never_uses(
                &format!("luo-trace/src/sink/{sink}"),
                &[&format!("super::{other}"), &format!("crate::sink::{other}")],
            );
        }
    }
}

#[test]
fn the_abi_depends_on_nothing_of_ours() {
    never_uses(
        "luo-trace-common/src",
        &["luo_trace", "luo_trace_ebpf", "std::fs", "std::net"],
    );
}

#[test]
fn main_stays_small() {
    let main = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/main.rs")).unwrap();
    assert!(main.lines().count() < 60, "main.rs has {} lines", main.lines().count());
}

#[test]
fn the_reader_of_imports_sees_what_it_should() {
    assert!(uses("use std::fs;", "std::fs"));
    assert!(uses("use std::{fs::File, io};", "std::fs"));
    assert!(uses("let x = std::time::Instant::now();", "std::time"));
    assert!(!uses("use crate::aya_free;", "aya"));
    assert!(!uses("use std::fmt;", "std::fs"));
    assert!(!uses("let model_aya = 1;", "aya"));
}
