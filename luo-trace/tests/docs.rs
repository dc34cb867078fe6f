//! The documents: every link leads somewhere, the README stays short, every sentence has a subject that can be searched for, and
//! the tables of hooks, invariants and metrics are those of the code. `cargo xtask docs --write` brings the tables up to date.
#![cfg(feature = "agent")]
#![allow(clippy::unwrap_used, reason = "a test that cannot read its files fails")]

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use luo_trace::host::privileges::KEPT;
use luo_trace::model::Invariant;
use luo_trace::sink::metrics::METRICS;
use luo_trace_common::hooks::{Attach, Hook, Need};

/// Set by `cargo xtask docs --write`: tables are written instead of compared.
const WRITE: &str = "LUO_TRACE_WRITE_DOCS";

/// Words that hide who does something.
const WITHOUT_SUBJECT: [&str; 4] = ["nobody", "somebody", "whoever", "everybody"];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every document of the repository, by its path from the workspace.
fn documents() -> Vec<PathBuf> {
    let root = workspace();
    let ours = |path: &Path| {
        let name = path.file_name().unwrap().to_string_lossy();
        path != root.join("target") && (!name.starts_with('.') || name == ".github")
    };
    let (mut found, mut waiting) = (Vec::new(), vec![root.clone()]);
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            if kind.is_dir() && ours(&path) {
                waiting.push(path);
            } else if kind.is_file() && path.extension().is_some_and(|extension| extension == "md") {
                found.push(path.strip_prefix(&root).unwrap().to_owned());
            }
        }
    }
    assert!(found.len() > 20, "only {found:?}: have they moved?");
    found.sort();
    found
}

fn read(document: &Path) -> String {
    let path = workspace().join(document);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The lines outside fenced code, with their numbers, and without what stands between backticks where `without_code`.
fn prose(text: &str, without_code: bool) -> Vec<(usize, String)> {
    let mut fenced = false;
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            let parts = line.split('`').enumerate();
            let kept = parts.filter(|(part, _)| !without_code || part % 2 == 0);
            lines.push((index + 1, kept.map(|(_, part)| part).collect()));
        }
    }
    lines
}

/// Where the links of a document lead, with the numbers of their lines.
fn links(text: &str) -> Vec<(usize, String)> {
    let targets = |(number, line): (usize, String)| {
        let target = |rest: &str| rest.split_once(')').map(|(target, _)| (number, target.to_owned()));
        line.split("](").skip(1).filter_map(target).collect::<Vec<_>>()
    };
    prose(text, true).into_iter().flat_map(targets).collect()
}

/// The anchors that GitHub gives the headings of a document.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut seen = HashMap::<String, usize>::new();
    let lines = prose(text, false);
    let headings = lines.iter().filter_map(|(_, line)| {
        let heading = line.trim_start_matches('#');
        (heading.len() < line.len() && heading.starts_with(' ')).then_some(heading)
    });
    headings
        .map(|heading| {
            let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
            let words: String = heading.trim().to_lowercase().chars().filter(kept).collect();
            let anchor = words.replace(' ', "-");
            let before = seen.entry(anchor.clone()).or_default();
            *before += 1;
            match *before {
                1 => anchor,
                times => format!("{anchor}-{}", times - 1),
            }
        })
        .collect()
}

/// What is wrong with a link of a document, if anything is.
fn broken(document: &Path, link: &str) -> Option<String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = if file.is_empty() {
        document.to_owned()
    } else {
        document.parent().unwrap().join(file)
    };
    if !workspace().join(&target).exists() {
        return Some("there is no such file".into());
    }
    (!anchor.is_empty() && !anchors(&read(&target)).contains(anchor)).then(|| "there is no such heading".into())
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let mut wrong = Vec::new();
    for document in documents() {
        for (line, link) in links(&read(&document)) {
            if let Some(why) = broken(&document, &link) {
                wrong.push(format!("{}:{line}: {link}: {why}", document.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_document_of_luo_trace_is_on_the_map_in_the_readme() {
    let readme = links(&read(Path::new("README.md")));
    for document in documents() {
        if document.starts_with("luo-trace/docs") {
            let named = readme.iter().any(|(_, link)| Path::new(link) == document);
            assert!(named, "README.md has no link to {}", document.display());
        }
    }
}

#[test]
fn the_readme_has_under_200_lines() {
    let lines = read(Path::new("README.md")).lines().count();
    assert!(
        lines < 200,
        "README.md has {lines} lines: move what is not for a newcomer into luo-trace/docs"
    );
}

#[test]
fn every_sentence_has_a_subject_that_can_be_searched_for() {
    let mut wrong = Vec::new();
    for document in documents() {
        for (number, line) in read(&document).lines().enumerate() {
            let lower = line.to_lowercase();
            let mut words = lower.split(|c: char| !c.is_alphanumeric());
            if let Some(word) = words.find(|word| WITHOUT_SUBJECT.contains(word)) {
                wrong.push(format!(
                    "{}:{}: say who instead of {word:?}",
                    document.display(),
                    number + 1
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn anchors_are_those_of_github_and_links_in_code_are_none() {
    let text =
        "# Policy: `a_b` over-two\n# Policy: `a_b` over-two\n```\n# no heading [x](gone)\n```\n`[x](gone)` [y](#here)";
    let anchors = anchors(text);
    assert_eq!(
        anchors.iter().map(String::as_str).collect::<Vec<_>>(),
        ["policy-a_b-over-two", "policy-a_b-over-two-1"]
    );
    assert_eq!(links(text), [(6, "#here".to_owned())]);
}

/// Compares the table between a document's two marks with the one of the code, or writes it there.
fn has_table(document: &str, table: &str) {
    const BEGIN: &str = "<!-- table: `cargo xtask docs --write` makes it -->\n";
    const END: &str = "<!-- end of table -->\n";
    let text = read(Path::new(document));
    let marks = || format!("{document} has no marks for its table");
    let (before, rest) = text.split_once(BEGIN).unwrap_or_else(|| panic!("{}", marks()));
    let (inside, after) = rest.split_once(END).unwrap_or_else(|| panic!("{}", marks()));
    if std::env::var_os(WRITE).is_some() {
        if inside != table {
            fs::write(
                workspace().join(document),
                format!("{before}{BEGIN}{table}{END}{after}"),
            )
            .unwrap();
        }
        return;
    }
    let wrong = inside.lines().zip(table.lines()).find(|(is, should)| is != should);
    assert!(
        inside == table,
        "{document} is not up to date, first in (is, should be) {wrong:?}: run `cargo xtask docs --write`"
    );
}

#[test]
fn the_table_of_hooks_is_that_of_the_code() {
    let mut table = "| hook | family | need | kernel function | what it tells |\n|---|---|---|---|---|\n".to_owned();
    for hook in Hook::ALL {
        let need = match hook.need() {
            Need::Required => "required",
            Need::Optional => "optional",
            Need::IfPresent => "if present",
        };
        let function = match hook.attach() {
            Attach::Function { targets, .. } => targets.join(" or "),
            Attach::Callbacks { argument, .. } => format!("callbacks of {argument}"),
        };
        let (id, family, tells) = (hook.id(), hook.family().name(), hook.doc().trim());
        writeln!(table, "| `{id}` | {family} | {need} | `{function}` | {tells} |").unwrap();
    }
    has_table("luo-trace/docs/hooks.md", &table);
}

#[test]
fn the_table_of_invariants_is_that_of_the_code() {
    let mut table =
        "| invariant | family | severity | decided from | what must hold | what shows that it does not |\n|---|---|---|---|---|---|\n".to_owned();
    for invariant in Invariant::ALL {
        let (id, family) = (invariant.id(), invariant.family().name());
        let (severity, statement) = (invariant.severity().name(), invariant.statement().trim());
        let from = match (invariant.needs_chain(), invariant.is_of_a_chain()) {
            (true, _) => "a chain of boots",
            (false, true) => "the loaded image, else a chain of boots",
            (false, false) => "one boot",
        };
        let witness = invariant.witness();
        writeln!(
            table,
            "| `{id}` | {family} | {severity} | {from} | {statement} | {witness} |"
        )
        .unwrap();
    }
    has_table("luo-trace/docs/invariants.md", &table);
}

#[test]
fn the_table_of_metrics_is_that_of_the_code() {
    let mut table = "| metric | labels | type | what it tells |\n|---|---|---|---|\n".to_owned();
    for metric in METRICS {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let (labels, help) = (labels.join(", "), metric.help);
        writeln!(table, "| `{}` | {labels} | {} | {help} |", metric.name, metric.kind).unwrap();
    }
    has_table("luo-trace/docs/metrics.md", &table);
}

#[test]
fn the_table_of_privileges_is_that_of_the_code() {
    let mut table = "| capability | what the agent does by it once its programs are attached |\n|---|---|\n".to_owned();
    for kept in KEPT {
        writeln!(table, "| `{}` | {} |", kept.name, kept.purpose).unwrap();
    }
    has_table("luo-trace/docs/security.md", &table);
    // The agent that runs in a guest is held against the same.
    let mask: u64 = KEPT.iter().map(|kept| 1 << kept.number).sum();
    let scenario = read(Path::new("xtask/testbed/scenarios/service.toml"));
    assert!(scenario.contains(&format!("CapEff = \"{mask:016x}\"")), "{mask:016x}");
    // The unit leaves the agent what it keeps.
    let unit = read(Path::new("luo-trace/systemd/luo-trace.service"));
    let bounding = unit
        .lines()
        .find(|line| line.starts_with("CapabilityBoundingSet="))
        .unwrap();
    assert!(KEPT.iter().all(|kept| bounding.contains(kept.name)), "{bounding}");
}
