//! The rules of the house, read from the imports: who may know whom.

#![allow(clippy::unwrap_used, reason = "what cannot be read fails the test")]

use std::collections::{BTreeMap, BTreeSet};
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

/// The rooms of the library, from the ground up, and the rooms that each may import: only those of lower floors, which stand earlier
/// in this table.
const ROOMS: [(&str, &[&str]); 19] = [
    ("exit", &[]),
    ("input", &[]),
    ("text", &[]),
    ("event", &["text"]),
    ("image", &[]),
    ("model", &["event", "image", "text"]),
    ("journal", &["event", "input", "model"]),
    ("testing", &["event", "journal"]),
    ("policy", &["event", "image", "model", "text"]),
    ("chain", &["event", "journal", "model", "text"]),
    ("expect", &["chain", "model", "text"]),
    ("report", &["chain", "event", "model", "policy", "text"]),
    (
        "status",
        &["event", "image", "journal", "model", "policy", "report", "text"],
    ),
    ("host", &["journal", "status"]),
    ("kernel", &["event", "host", "image", "journal", "policy"]),
    (
        "sink",
        &[
            "chain", "event", "host", "journal", "model", "policy", "report", "status", "text",
        ],
    ),
    (
        "agent",
        &[
            "chain", "event", "host", "image", "journal", "model", "policy", "report", "sink", "status", "text",
        ],
    ),
    (
        "commands",
        &[
            "agent", "chain", "event", "exit", "expect", "host", "image", "input", "journal", "kernel", "model",
            "policy", "report", "sink", "status", "text",
        ],
    ),
    ("main", &["commands", "exit"]),
];

/// The code of a file without its tests, which may know every room.
fn without_tests(code: &str) -> &str {
    code.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default()
}

/// The items of a group, up to its closing brace; groups within them stay in one piece.
fn items(group: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut depth = 0_usize;
    for c in group.chars() {
        match c {
            '}' if depth == 0 => break,
            ',' if depth == 0 => items.push(String::new()),
            c => {
                depth = (depth + usize::from(c == '{')).saturating_sub(usize::from(c == '}'));
                items.last_mut().unwrap().push(c);
            }
        }
    }
    items
}

/// What code names right after `prefix`, alone or in a group.
fn names_after(code: &str, prefix: &str) -> BTreeSet<String> {
    let named = |text: &str| -> String { text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
    let mut names = BTreeSet::new();
    for rest in code.split(prefix).skip(1) {
        match rest.strip_prefix('{') {
            Some(group) => names.extend(items(group).into_iter().map(|item| named(item.trim()))),
            None => _ = names.insert(named(rest)),
        }
    }
    names.remove("");
    names
}

/// The rooms that code imports.
fn imports(code: &str) -> BTreeSet<String> {
    names_after(code, "crate::")
}

/// Whether a file has nothing but tests in it, by its place below `src`.
fn is_of_tests(path: &Path) -> bool {
    let place = path
        .strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("../luo-trace/src"))
        .unwrap();
    place.components().any(|part| part.as_os_str() == "tests") || path.ends_with("tests.rs")
}

#[test]
fn every_room_imports_only_rooms_that_stand_below_it() {
    let floor = |room: &str| ROOMS.iter().position(|(name, _)| *name == room);
    let mut broken = Vec::new();
    for (height, (room, allowed)) in ROOMS.iter().enumerate() {
        for below in *allowed {
            assert!(
                floor(below).is_some_and(|floor| floor < height),
                "{room} may not import {below}: it is no lower room"
            );
        }
        let sources = sources(&format!("luo-trace/src/{room}"));
        let files = sources.iter().filter(|source| !is_of_tests(&source.path));
        for source in files {
            let imported = imports(without_tests(&source.code));
            let wrong = imported
                .iter()
                .filter(|other| other != room && !allowed.contains(&other.as_str()));
            broken.extend(wrong.map(|other| format!("{} imports {other}", source.path.display())));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_room_of_the_library_stands_in_the_table() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let rooms = lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let rooms: BTreeSet<_> = rooms.chain(["main"]).collect();
    let table: BTreeSet<_> = ROOMS.iter().map(|(room, _)| *room).collect();
    assert_eq!(rooms, table);
}

/// The parts of a room, which are its files and its directories, each with the parts that it imports: by their names, or by that of
/// something that the room's front (`mod.rs`) has from them. `path` is how code names the room.
fn parts(room: &str, path: &str) -> BTreeMap<String, BTreeSet<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(room);
    let mut front = String::new();
    let mut codes: BTreeMap<String, Vec<(usize, String)>> = BTreeMap::new();
    for source in sources(room) {
        let path = source.path.strip_prefix(&root).unwrap().with_extension("");
        let mut place: Vec<_> = path.iter().map(|name| name.to_str().unwrap()).collect();
        place.pop_if(|name| ["mod", "lib"].contains(name));
        let code = without_tests(&source.code).to_owned();
        match place[..] {
            [] => front = code,
            _ if place.contains(&"tests") => {}
            [part, ..] => codes.entry(part.to_owned()).or_default().push((place.len(), code)),
        }
    }
    let imported = |(depth, code): &(usize, String)| {
        let above = names_after(code, &"super::".repeat(*depth));
        above.into_iter().chain(names_after(code, path))
    };
    let part_of = |name: String| match codes.contains_key(&name) {
        true => Some(name),
        false => codes
            .keys()
            .find(|part| names_after(&front, &format!("use {part}::")).contains(&name))
            .cloned(),
    };
    codes
        .iter()
        .map(|(part, codes)| {
            let known = codes
                .iter()
                .flat_map(imported)
                .filter_map(part_of)
                .filter(|other| other != part);
            (part.clone(), known.collect())
        })
        .collect()
}

#[test]
fn the_files_of_these_rooms_know_each_other_in_one_direction() {
    // Not the model's, which says why.
    for (room, path) in [
        ("luo-trace/src/chain", "crate::chain::"),
        ("luo-trace/src/kernel", "crate::kernel::"),
        ("luo-trace/src/testing", "crate::testing::"),
        ("luo-trace-common/src", "crate::"),
    ] {
        let mut left = parts(room, path);
        assert!(
            left.values().any(|known| !known.is_empty()),
            "{room} has no imports: is it read as it should be?"
        );
        // Whatever knows none of those that are left is in no circle.
        while let Some(part) = left
            .iter()
            .find(|(_, known)| known.is_empty())
            .map(|(part, _)| part.clone())
        {
            left.remove(&part);
            left.values_mut().for_each(|known| _ = known.remove(&part));
        }
        assert!(left.is_empty(), "{room} has a circle: {left:?}");
    }
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
    const SINKS: [&str; 7] = ["console", "control", "journal", "log", "metrics", "push", "web"];
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
    let code = "use crate::event::Event;\nuse crate::{host::{a, b}, text::errno};\nlet x = crate::model::X;";
    assert_eq!(
        imports(code),
        ["event", "host", "model", "text"].map(str::to_owned).into()
    );
    assert_eq!(without_tests("a\n#[cfg(test)]\nmod tests {\nuse crate::b;"), "a\n");
}
