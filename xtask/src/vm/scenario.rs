//! Finds and reads the scenario files of `xtask/testbed/scenarios`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use testbed_guest::scenario::Scenario;

use super::{guest, product};

/// Every scenario there is, by name, in the order of their names.
///
/// # Errors
/// The first file that is not a scenario, with the line that is wrong.
pub(crate) fn all() -> Result<Vec<(String, Scenario)>> {
    names()?
        .into_iter()
        .map(|name| read(&file_of(&name)).map(|scenario| (name, scenario)))
        .collect()
}

/// The scenario of this name, or in this file, whose name ends in `.toml`.
///
/// # Errors
/// There is none, and the error says which there are; or its file is wrong, and the error says where.
pub(crate) fn find(name: &str) -> Result<Scenario> {
    if name.ends_with(".toml") {
        return read(Path::new(name));
    }
    let names = names()?;
    if !names.iter().any(|known| known == name) {
        bail!("there is no scenario {name:?}; there are {}", names.join(", "));
    }
    read(&file_of(name))
}

/// Where a file of expectations for `luo-trace check` is.
pub(crate) fn expectations(file: &str) -> PathBuf {
    directory().join("expect").join(file)
}

/// Where a policy that luo-trace ships is.
pub(crate) fn shipped_policy(name: &str) -> PathBuf {
    guest::workspace().join("luo-trace/policies").join(name)
}

/// The policies that luo-trace ships.
///
/// # Errors
/// Their directory cannot be listed.
pub(crate) fn shipped_policies() -> Result<Vec<PathBuf>> {
    let directory = shipped_policy("");
    match directory.exists() {
        true => toml_files(&directory),
        false => Ok(Vec::new()),
    }
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testbed/scenarios")
}

fn file_of(name: &str) -> PathBuf {
    directory().join(name).with_extension("toml")
}

fn names() -> Result<Vec<String>> {
    let files = toml_files(&directory())?;
    let names = files.iter().filter_map(|path| path.file_stem());
    Ok(names.map(|stem| stem.to_string_lossy().into_owned()).collect())
}

/// The files that end in `.toml`, in the order of their names.
fn toml_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let context = || format!("cannot list {}", directory.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).with_context(context)? {
        files.push(entry.with_context(context)?.path());
    }
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    Ok(files)
}

/// A scenario as its file has it: a line for each step, and nothing of what is so by default.
///
/// # Errors
/// It has a number that TOML has not.
pub(crate) fn write(scenario: &Scenario) -> Result<String> {
    let mut keys = toml::Table::try_from(scenario)?;
    keys.insert("expect".into(), toml::Value::try_from(&scenario.expect)?);
    let plain: Scenario = toml::from_str("summary = ''\nkexec = 'file'")?;
    let mut defaults = toml::Table::try_from(&plain)?;
    defaults.insert("expect".into(), toml::Value::try_from(&plain.expect)?);
    let mut text = String::new();
    for (key, value) in &mut keys {
        let required = ["summary", "kexec"].contains(&key.as_str());
        if !required && defaults.get(key) == Some(value) {
            continue;
        }
        if let (Some(value), Some(defaults)) = (value.as_table_mut(), defaults.get(key).and_then(toml::Value::as_table))
        {
            value.retain(|key, value| defaults.get(key) != Some(value));
        }
        text += &format!("{key} = {}\n", lines(value, 2));
    }
    Ok(text)
}

/// A list with a line for each of its values, and for each of theirs where it has lists.
fn lines(value: &toml::Value, deep: usize) -> String {
    match value.as_array() {
        Some(values) if deep > 0 && values.iter().any(|value| value.is_table() || value.is_array()) => {
            let lines: String = values
                .iter()
                .map(|value| format!("{},\n", lines(value, deep - 1)))
                .collect();
            format!("[\n{lines}]")
        }
        _ => value.to_string(),
    }
}

fn read(path: &Path) -> Result<Scenario> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| format!("{} is not a scenario", path.display()))
}

fn parse(text: &str) -> Result<Scenario> {
    let mut scenario: Scenario = toml::from_str(text)?;
    product::expand(&mut scenario)?;
    scenario.check().map_err(anyhow::Error::msg)?;
    Ok(scenario)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_of_the_testbed_is_one() {
        let scenarios = all().unwrap();
        assert!(scenarios.iter().any(|(name, _)| name == "simple"));
        for (name, scenario) in scenarios {
            assert!(!scenario.summary.is_empty(), "{name} says what it shows");
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_those_there_are() {
        let error = find("smple").unwrap_err().to_string();
        assert!(error.contains("simple"), "{error}");
    }

    #[test]
    fn a_wrong_file_is_told_with_its_path_and_line() {
        let path = std::env::temp_dir().join(format!("wrong-{}.toml", std::process::id()));
        fs::write(&path, "summary = 'x'\nkexec = 'file'\nbefore = [{ retreive = {} }]\n").unwrap();
        let error = format!("{:#}", read(&path).unwrap_err());
        fs::remove_file(&path).unwrap();
        assert!(
            error.contains("wrong-") && error.contains("line 3") && error.contains("retreive"),
            "{error}"
        );
    }
}
