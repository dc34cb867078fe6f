//! The kernels after a scenario's first one, where they are different.

use serde::{Deserialize, Serialize};

use super::Build;

/// What is different in the kernels after the first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Next {
    /// Which build of the kernel it is.
    #[serde(default)]
    pub kernel: Build,
    /// What becomes of the agent in it.
    #[serde(default)]
    pub agent: NextAgent,
    /// Words that its command line has besides the first kernel's; one that begins with `!` takes a word out.
    #[serde(default)]
    pub cmdline: Vec<String>,
    /// The last kernel panics while it boots, and this text is in the panic's first line: so the scenario ends.
    #[serde(default)]
    pub panics: Option<String>,
    /// After that panic the machine boots the first kernel anew, from nothing: it counts as the next one, with steps of its own.
    #[serde(default)]
    pub then_cold: bool,
}

/// What becomes of the agent in the kernels after the first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NextAgent {
    /// The same as in the first one.
    #[default]
    Same,
    /// It is not started.
    None,
    /// It says in one line that it cannot work here.
    Refuses,
}
