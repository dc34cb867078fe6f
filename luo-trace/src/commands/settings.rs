//! The agent's file of settings: every option of `luo-trace agent` has a key in it, which is the option's name.
//!
//! The options are defined once, for the command line. A value of the file is given to the command line's own parser as an option's
//! default, so that a flag comes first, then the environment, then the file.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::builder::{IntoResettable as _, OsStr};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::read_text;
use crate::text::parse::nearest;

/// Where the file is where no option names another.
pub const DEFAULT_PATH: &str = "/etc/luo-trace/agent.toml";

/// The subcommand whose options have keys.
pub const AGENT: &str = "agent";

/// The option that names the file, which has no key.
const CONFIG: &str = "config";

/// The setting that is a table of names and values.
const LABELS: &str = "labels";

/// No file of settings is larger.
const MOST: u64 = 1 << 20;

/// What a file of settings says, by the ids of options.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    values: BTreeMap<String, Vec<String>>,
}

/// Where an option's value is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// An option of the command line.
    Flag,
    /// A variable of the environment.
    Environment,
    /// The file of settings.
    File,
    /// What it is where nothing says otherwise.
    Default,
    /// It has none.
    None,
}

impl Origin {
    /// How it is shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flag => "flag",
            Self::Environment => "environment",
            Self::File => "file",
            Self::Default => "default",
            Self::None => "",
        }
    }
}

/// A command line with what the file of settings says.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The command line's definition.
    pub command: Command,
    /// What the file says.
    pub settings: Settings,
    /// What the words say, and the file where they say nothing.
    pub matches: ArgMatches,
}

/// Parses a command line, whose first word is the program's name. Where it starts an agent, the file of settings has its say.
///
/// # Errors
/// Where the words cannot be parsed, or ask for help: a [`clap::Error`]. Where the file cannot be read, or has a mistake.
pub fn resolve(command: Command, words: Vec<OsString>) -> Result<Resolved> {
    let given = command.clone().try_get_matches_from(&words)?;
    let settings = match given.subcommand() {
        Some((AGENT, agent)) => Settings::of(&command, agent)?,
        _ => Settings::default(),
    };
    let matches = match settings.values.is_empty() {
        true => given,
        false => settings.under(command.clone()).try_get_matches_from(words)?,
    };
    Ok(Resolved {
        command,
        settings,
        matches,
    })
}

impl Resolved {
    /// The options of the agent, each with its values as they were written and where they are from, in the order of its help; none
    /// where no agent is to be started.
    pub fn options(&self) -> Vec<(String, Vec<String>, Origin)> {
        let agent = self.matches.subcommand_matches(AGENT);
        let rows = |agent| self.settings.origins(&self.command, agent);
        agent.map(rows).unwrap_or_default()
    }
}

impl Settings {
    /// The settings for an agent of this command line.
    ///
    /// # Errors
    /// Where the file that it names cannot be read, or one of them has a mistake.
    pub fn of(command: &Command, agent: &ArgMatches) -> Result<Self> {
        let named = agent.get_one::<PathBuf>(CONFIG).cloned();
        let there = || Some(PathBuf::from(DEFAULT_PATH)).filter(|path| path.exists());
        match named.or_else(there) {
            Some(path) => Self::read(command, &path),
            None => Ok(Self::default()),
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// Where it cannot be read, and for all mistakes in it together, each with its line and column.
    pub fn read(command: &Command, path: &Path) -> Result<Self> {
        let text = read_text(path, MOST, "a file of settings")?;
        let values = values(command, &text).map_err(|mistakes| {
            let mut all = String::new();
            for Mistake { line, column, what } in mistakes {
                // Writing to a string never fails.
                _ = write!(all, "\n  {}:{line}:{column}: {what}", path.display());
            }
            anyhow::anyhow!("the settings cannot be used:{all}")
        })?;
        Ok(Self { values })
    }

    /// The command line's definition with these as the defaults of its options.
    pub fn under(&self, command: Command) -> Command {
        command.mut_subcommand(AGENT, |agent| {
            let given = |agent: Command, (id, values): (&String, &Vec<String>)| {
                let values = values.clone();
                agent.mut_arg(id, |arg| arg.default_values(values.into_iter().map(OsStr::from)))
            };
            self.values.iter().fold(agent, given)
        })
    }

    /// The options of an agent, each with its values as they were written and where they are from, in the order of its help.
    fn origins(&self, command: &Command, agent: &ArgMatches) -> Vec<(String, Vec<String>, Origin)> {
        let options = options(command).filter(|arg| !arg.is_hide_set());
        let row = |arg: &Arg| {
            let id = arg.get_id().as_str();
            let values = agent.get_raw(id).into_iter().flatten();
            let values = values.map(|value| value.to_string_lossy().into_owned()).collect();
            let origin = match agent.value_source(id) {
                Some(ValueSource::CommandLine) => Origin::Flag,
                Some(ValueSource::EnvVariable) => Origin::Environment,
                Some(_) if self.values.contains_key(id) => Origin::File,
                Some(_) => Origin::Default,
                None => Origin::None,
            };
            (key(arg).to_owned(), values, origin)
        };
        options.map(row).collect()
    }
}

/// The options of the agent that have keys.
fn options(command: &Command) -> impl Iterator<Item = &Arg> {
    let agent = command.find_subcommand(AGENT);
    let all = agent.into_iter().flat_map(Command::get_arguments);
    all.filter(|arg| !key(arg).is_empty() && arg.get_id() != CONFIG)
}

/// An option's key; empty: it has none.
fn key(arg: &Arg) -> &str {
    match arg.get_action().takes_values() {
        true => arg.get_long().unwrap_or_default(),
        false => "",
    }
}

/// What is wrong, and where.
#[derive(Debug, PartialEq, Eq)]
struct Mistake {
    line: usize,
    column: usize,
    what: String,
}

impl Mistake {
    fn new(text: &str, at: usize, what: String) -> Self {
        let before = text.get(..at).unwrap_or_default();
        let begin = before.rfind('\n').map_or(0, |end| end + 1);
        Self {
            line: 1 + before.matches('\n').count(),
            column: 1 + before[begin..].chars().count(),
            what,
        }
    }
}

/// What a text says, by the ids of options.
fn values(command: &Command, text: &str) -> Result<BTreeMap<String, Vec<String>>, Vec<Mistake>> {
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        vec![Mistake::new(text, at, format!("no TOML: {}", error.message()))]
    })?;
    let (mut values, mut mistakes) = (BTreeMap::new(), Vec::new());
    for (name, value) in table.get_ref() {
        match read(command, name.get_ref(), value) {
            Ok((id, read)) => _ = values.insert(id, read),
            Err((Where::Key, what)) => mistakes.push(Mistake::new(text, name.span().start, what)),
            Err((Where::Value, what)) => mistakes.push(Mistake::new(text, value.span().start, what)),
        }
    }
    match mistakes.is_empty() {
        true => Ok(values),
        false => Err(mistakes),
    }
}

/// What a mistake is about.
enum Where {
    Key,
    Value,
}

/// One setting: the id of its option, and its values.
fn read(command: &Command, name: &str, value: &Spanned<DeValue<'_>>) -> Result<(String, Vec<String>), (Where, String)> {
    let Some(option) = options(command).find(|arg| key(arg) == name) else {
        let visible: Vec<_> = options(command).filter(|arg| !arg.is_hide_set()).map(key).collect();
        let guess = nearest(name, &visible).map_or("`luo-trace config show` lists them".to_owned(), |near| {
            format!("is {near} meant?")
        });
        return Err((Where::Key, format!("there is no setting {name}: {guess}")));
    };
    let wrong = |what: String| (Where::Value, what);
    let values = match value.get_ref() {
        DeValue::Array(array) => array.iter().map(|value| scalar(value.get_ref())).collect(),
        // As the option takes them: NAME=VALUE each.
        DeValue::Table(table) if name == LABELS => {
            let label = |(name, value): (&Spanned<Cow<'_, str>>, &Spanned<DeValue<'_>>)| {
                scalar(value.get_ref()).map(|value| format!("{}={value}", name.get_ref()))
            };
            table.iter().map(label).collect()
        }
        value => scalar(value).map(|value| vec![value]),
    };
    let values: Vec<String> = values.map_err(wrong)?;
    if values.len() != 1 && option.get_value_delimiter().is_none() {
        return Err(wrong(format!("{name} takes one value")));
    }
    // The option's own parser says what is wrong with a value.
    let alone = Command::new("").no_binary_name(true).disable_help_flag(true);
    let alone = alone.arg(
        option
            .clone()
            .env(None::<&str>.into_resettable())
            .default_values(None::<&str>),
    );
    let words = values.iter().map(|value| format!("--{name}={value}"));
    match alone.try_get_matches_from(words) {
        Ok(_) => Ok((option.get_id().to_string(), values)),
        Err(error) => {
            let error = error.to_string();
            let first = error.lines().next().unwrap_or_default();
            Err(wrong(first.strip_prefix("error: ").unwrap_or(first).to_owned()))
        }
    }
}

/// A value as it would stand on a command line.
fn scalar(value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) => Ok(number.to_string()),
        DeValue::Boolean(value) => Ok(value.to_string()),
        _ => Err("here belongs a text in quotes, or a whole number".into()),
    }
}

/// The file that `luo-trace config` is asked about: the one that is named, or the one that is read where none is.
///
/// # Errors
/// Where there is none.
pub fn file(named: Option<&Path>) -> Result<PathBuf> {
    match named {
        Some(path) => Ok(path.to_owned()),
        None if Path::new(DEFAULT_PATH).exists() => Ok(DEFAULT_PATH.into()),
        None => bail!("there is no file of settings: neither {DEFAULT_PATH} is there, nor is another named"),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, FromArgMatches};

    use super::*;
    use crate::commands::Cli;

    fn agent() -> Command {
        // What runs the tests has an environment of its own.
        let mut cli = Cli::command();
        let ids: Vec<_> = cli
            .find_subcommand(AGENT)
            .unwrap()
            .get_arguments()
            .map(|arg| arg.get_id().clone())
            .collect();
        for id in ids {
            cli = cli.mut_subcommand(AGENT, |agent| {
                agent.mut_arg(id, |arg| arg.env(None::<&str>.into_resettable()))
            });
        }
        cli
    }

    fn settings(text: &str) -> Result<Settings, Vec<Mistake>> {
        values(&Cli::command(), text).map(|values| Settings { values })
    }

    /// A value that each option takes, beside its default.
    const VALUES: [(&str, &str); 23] = [
        ("journal", "'/var/log/luo'"),
        ("journal-max-size", "'2GiB'"),
        ("journal-keep", "'90d'"),
        ("host-id", "'rack-7'"),
        ("arrival-deadline", "'90s'"),
        ("listen", "'127.0.0.1:9108'"),
        ("web-config", "'/etc/luo-trace/web.yml'"),
        ("web-host", "['a.example', 'b.example']"),
        ("otlp", "'http://collector:4318'"),
        ("otlp-interval", "'30s'"),
        ("otlp-ca", "'/etc/luo-trace/ca.pem'"),
        ("otlp-headers", "'/etc/luo-trace/headers'"),
        ("labels", "{ rack = '7', region = 'eu' }"),
        ("ready-file", "'/run/ready'"),
        ("control", "'/run/luo-trace/other.sock'"),
        ("policy", "'/etc/luo-trace/policy.toml'"),
        ("format", "'json'"),
        ("log-format", "'json'"),
        ("kho", "'keys'"),
        ("ring-kib", "4096"),
        ("carry", "'luo'"),
        ("carry-kib", "128"),
        ("attach", "'each'"),
    ];

    #[test]
    fn every_option_has_a_key_a_variable_and_a_flag_and_they_come_in_this_order() {
        let plain = agent();
        let mut keys: Vec<_> = options(&plain).map(key).collect();
        let mut tried: Vec<_> = VALUES.iter().map(|(key, _)| *key).collect();
        keys.sort_unstable();
        tried.sort_unstable();
        assert_eq!(keys, tried, "an option has no value in this test");
        for (key, value) in VALUES {
            let variable = format!("LUO_TRACE_{}", key.replace('-', "_").to_uppercase());
            let option = options(&plain).find(|arg| super::key(arg) == key).unwrap();
            let id = option.get_id().as_str();
            let of_cli = Cli::command();
            let variables = options(&of_cli).find(|arg| super::key(arg) == key).unwrap().get_env();
            assert_eq!(variables, Some(std::ffi::OsStr::new(&variable)), "{key}");

            let settings = settings(&format!("{key} = {value}")).unwrap();
            let written = settings.values[id].clone();
            let from = |command: Command, words: &[String]| {
                let words = ["luo-trace", AGENT]
                    .map(str::to_owned)
                    .into_iter()
                    .chain(words.iter().cloned());
                let matches = settings.under(command).try_get_matches_from(words).unwrap();
                Cli::from_arg_matches(&matches).unwrap();
                let (_, agent) = matches.subcommand().unwrap();
                let rows = settings.origins(&plain, agent);
                // What is hidden is not listed.
                let row = rows.into_iter().find(|(name, ..)| name == key);
                row.map_or_else(
                    || (written.clone(), Origin::File),
                    |(_, values, origin)| (values, origin),
                )
            };
            assert_eq!(from(plain.clone(), &[]), (written.clone(), Origin::File), "{key}");
            if option.is_hide_set() {
                continue;
            }
            let flag = |value: &String| format!("--{key}={value}");
            let flags: Vec<_> = written.iter().map(flag).collect();
            assert_eq!(from(plain.clone(), &flags), (written.clone(), Origin::Flag), "{key}");
        }
    }

    #[test]
    fn mistakes_are_told_all_at_once_with_their_place_and_a_guess() {
        let text = "journal = '/j'\n  jurnal-keep = 3\nkho = 'much'\nring-kib = ['4', '8']\nlisten = 1.5\n";
        let mistakes = settings(text).unwrap_err();
        let places: Vec<_> = mistakes.iter().map(|mistake| (mistake.line, mistake.column)).collect();
        assert_eq!(
            places.iter().copied().collect::<std::collections::BTreeSet<_>>(),
            [(2, 3), (3, 7), (4, 12), (5, 10)].into()
        );
        let says = |line: usize, what: &str| {
            let mistake = mistakes.iter().find(|mistake| mistake.line == line).unwrap();
            assert!(mistake.what.contains(what), "{}", mistake.what);
        };
        says(2, "is journal-keep meant?");
        says(3, "invalid value 'much' for '--kho <DETAIL>'");
        says(4, "takes one value");
        says(5, "a text in quotes, or a whole number");
        assert!(settings("journal = ").unwrap_err()[0].what.starts_with("no TOML: "));
    }
}
