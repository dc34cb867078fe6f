//! The crates that the agent is made of: their licences, and a bill of materials.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::check::cargo;
use crate::run;
use crate::vm::guest::TARGET;

/// A crate.
#[derive(Clone, Debug, Deserialize)]
struct Package {
    name: String,
    version: String,
    id: String,
    license: Option<String>,
    repository: Option<String>,
    source: Option<String>,
    manifest_path: String,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

/// The crates that are in the agent, by name: not those that only build or test it.
fn inside() -> Result<Vec<Package>> {
    let mut command: Command = cargo(&[
        "metadata",
        "--format-version",
        "1",
        "--locked",
        "--filter-platform",
        TARGET,
    ]);
    let metadata: Metadata =
        serde_json::from_str(&run::output(&mut command)?).context("cargo metadata cannot be read")?;
    // The metadata's graph has edges of features that are off; the tree has none of them.
    let mut command: Command = cargo(&[
        "tree",
        "--locked",
        "--package",
        "luo-trace",
        "--target",
        TARGET,
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]);
    let tree = run::output(&mut command)?;
    let linked: BTreeSet<(&str, &str)> = tree
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            Some((words.next()?, words.next()?.strip_prefix('v')?))
        })
        .collect();
    let mut packages = metadata.packages;
    packages.retain(|package| linked.contains(&(package.name.as_str(), package.version.as_str())));
    packages.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    packages.dedup_by(|a, b| a.id == b.id);
    Ok(packages)
}

/// The licences of all crates of others, with their texts.
pub(super) fn licences() -> Result<String> {
    let mut all = "The agent has these crates in it, under these licences.\n".to_owned();
    for package in inside()?.iter().filter(|package| package.source.is_some()) {
        let Package { name, version, .. } = package;
        let licence = package.license.as_deref().unwrap_or("see below");
        all += &format!("\n{}\n{name} {version}: {licence}\n", "=".repeat(78));
        all.extend(package.repository.iter().map(|place| format!("{place}\n")));
        let directory = Path::new(&package.manifest_path).parent().unwrap_or(Path::new("."));
        for (file, text) in texts(directory)? {
            all += &format!("\n--- {file}\n\n{}\n", text.trim_end());
        }
    }
    Ok(all)
}

/// The texts of licences that lie beside a crate's manifest.
fn texts(directory: &Path) -> Result<Vec<(String, String)>> {
    let context = || format!("cannot list {}", directory.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).with_context(context)? {
        let path = entry.with_context(context)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let upper = name.to_uppercase();
        let is_one = ["LICENSE", "LICENCE", "COPYING", "NOTICE"]
            .iter()
            .any(|word| upper.starts_with(word));
        if is_one && path.is_file() {
            found.push((name, String::from_utf8_lossy(&super::text(&path)?).into_owned()));
        }
    }
    found.sort();
    Ok(found)
}

/// A bill of materials in CycloneDX's JSON.
pub(super) fn bill(version: &str) -> Result<Vec<u8>> {
    let component = |package: &Package| {
        let Package { name, version, .. } = package;
        json!({
            "type": "library",
            "name": name,
            "version": version,
            "purl": format!("pkg:cargo/{name}@{version}"),
            "licenses": package.license.iter().map(|licence| json!({ "expression": licence.replace('/', " OR ") })).collect::<Vec<Value>>(),
        })
    };
    let packages = inside()?;
    let components = packages.iter().filter(|package| package.source.is_some());
    let bill = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": { "type": "application", "name": "luo-trace", "version": version },
        },
        "components": components.map(component).collect::<Vec<_>>(),
    });
    Ok(serde_json::to_vec_pretty(&bill)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bill_has_what_is_linked_and_nothing_that_only_builds_or_tests() {
        let bill: Value = serde_json::from_slice(&bill("1.0.0").unwrap()).unwrap();
        let names: Vec<_> = bill["components"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|component| component["name"].as_str())
            .collect();
        assert!(names.contains(&"aya") && names.contains(&"tokio"), "{names:?}");
        assert!(
            !names.contains(&"proptest") && !names.contains(&"luo-trace-common"),
            "{names:?}"
        );
    }
}
