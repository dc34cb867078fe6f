//! The agent's settings, read again on SIGHUP.

use std::env;
use std::path::Path;

use anyhow::Result;
use clap::CommandFactory;

use super::aside::Aside;
use super::policy::File;
use crate::agent::live::Live;
use crate::commands::{Cli, settings};
use crate::sink::log::tell;

/// The option that can change while the agent runs.
const POLICY: &str = "policy";

/// Options, each with its values as they were written.
type Options = Vec<(String, Vec<String>)>;

/// The settings that an agent was started with, and the thread that reads them again at this moment.
pub(super) struct Reload {
    current: Options,
    reading: Aside<Options>,
}

impl Reload {
    /// What this process was started with. A file that has gone meanwhile has been read already.
    pub(super) fn new() -> Self {
        Self {
            current: options().unwrap_or_default(),
            reading: Aside::default(),
        }
    }

    /// Begins to read them again. Elsewhere: whatever the file is, nothing here waits for it.
    pub(super) fn begin(&mut self) {
        self.reading.begin(options);
    }

    /// Whether they are being read.
    pub(super) fn is_read(&self) -> bool {
        self.reading.is_on()
    }

    /// Waits until they are read.
    pub(super) async fn again(&mut self) -> Result<Options> {
        self.reading.done().await
    }

    /// Takes what was read: a policy's file from now on, everything else with the next start. Settings with a mistake change nothing.
    pub(super) fn take(&mut self, read: Result<Options>, file: &mut File, live: &Live) {
        let trouble = read.as_ref().err().map(|error| format!("{error:#}; the old ones stay"));
        trouble.iter().for_each(tell);
        live.set_settings_trouble(trouble);
        let Ok(read) = read else { return };
        for (key, values) in read {
            let Some((_, current)) = self.current.iter_mut().find(|(known, _)| *known == key) else {
                continue;
            };
            if *current == values {
                continue;
            }
            match (key.as_str(), values.first()) {
                (POLICY, Some(path)) if file.is_there() => {
                    *file = File::new(Some(Path::new(path)));
                    *current = values;
                }
                _ => tell(format_args!(
                    "the setting {key} is {} now: that takes an agent that is started anew",
                    values.join(", ")
                )),
            }
        }
        file.read_again();
    }
}

fn options() -> Result<Options> {
    let resolved = settings::resolve(Cli::command(), env::args_os().collect())?;
    let options = resolved.options().into_iter();
    Ok(options.map(|(key, values, _)| (key, values)).collect())
}
