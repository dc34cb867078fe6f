//! What a kernel's command line says about LUO and KHO.

use std::borrow::Cow;

use luo_trace_common::events::ImageCarrier;
use serde::{Deserialize, Serialize};

/// How long a command line may be, in bytes, with its NUL. Mirrors `COMMAND_LINE_SIZE` in
/// `arch/{x86,arm64}/include/.../setup.h` (7.3).
const LINE_MAX: usize = 2048;

/// Where a kernel puts the line that is built into it, `CONFIG_CMDLINE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// Before the one it is given.
    Before,
    /// After it.
    After,
    /// In its place, by `CONFIG_CMDLINE_OVERRIDE`, as x86 has it: what the kernel is given is thrown away.
    Override,
    /// In its place, by `CONFIG_CMDLINE_FORCE`, as others have it.
    Force,
    /// Nowhere, unless it is given none.
    WhereNoneIsGiven,
}

/// Whether parameters of a bootconfig in the image come before the line. They are not read here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Embedded {
    /// They do not.
    #[default]
    Never,
    /// Where the line has the word `bootconfig`.
    WhereAsked,
    /// They do.
    Always,
}

/// What a kernel makes of the line that it is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuiltIn {
    /// The line that is built in, and where it goes; `None`: there is none.
    pub line: Option<(String, Place)>,
    /// Whether a bootconfig adds to it.
    pub embedded: Embedded,
    /// Whether the image tells at all, by its configuration.
    pub known: bool,
}

/// The line that a kernel takes in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken<'a> {
    /// It.
    pub line: Cow<'a, [u8]>,
    /// What comes before it is not known in full, and may set what it does not set.
    pub open: bool,
    /// The option by which what was given is thrown away.
    pub instead: Option<&'static str>,
}

impl Place {
    /// The option by which what is given is thrown away, where it is.
    fn instead(self) -> Option<&'static str> {
        match self {
            Self::Override => Some("CONFIG_CMDLINE_OVERRIDE"),
            Self::Force => Some("CONFIG_CMDLINE_FORCE"),
            _ => None,
        }
    }
}

impl BuiltIn {
    /// What comes of a line that is given, or of one that is not known; `None`: not known.
    pub fn takes<'a>(&'a self, given: Option<&'a [u8]>) -> Option<Taken<'a>> {
        let instead = self.line.as_ref().and_then(|(_, place)| place.instead());
        let line = match (&self.line, given) {
            (Some((own, Place::Override | Place::Force)), _) => Cow::Borrowed(own.as_bytes()),
            (_, None) => return None,
            (Some((own, Place::Before)), Some(given)) => [own.as_bytes(), b" ", given].concat().into(),
            (Some((own, Place::After)), Some(given)) => [given, b" ", own.as_bytes()].concat().into(),
            (Some((own, Place::WhereNoneIsGiven)), Some([])) => own.as_bytes().into(),
            (_, Some(given)) => given.into(),
        };
        // `strlcat` cuts what is too long.
        let line = match line {
            Cow::Borrowed(line) => Cow::Borrowed(&line[..line.len().min(LINE_MAX - 1)]),
            Cow::Owned(mut line) => {
                line.truncate(LINE_MAX - 1);
                Cow::Owned(line)
            }
        };
        let open = match self.embedded {
            Embedded::Never => false,
            Embedded::WhereAsked => asks_for_bootconfig(&line),
            Embedded::Always => true,
        };
        Some(Taken { line, open, instead })
    }
}

impl Taken<'_> {
    /// Whether a kernel with this line takes what is preserved, where it has KHO on without being asked or not.
    pub fn verdict(&self, kho_default: Option<bool>) -> CommandLine {
        let switches = Switches::read(&self.line);
        if !self.open {
            return switches.verdict(kho_default);
        }
        // Of each parameter the last one counts.
        match (switches.liveupdate, switches.kho) {
            (Some(true), Some(true)) | (Some(false), _) | (_, Some(false)) => switches.verdict(None),
            _ => CommandLine::Unknown,
        }
    }

    /// Whether KHO is off with it; `false` where that is not known.
    pub fn has_kho_off(&self, kho_default: Option<bool>) -> bool {
        let kho = Switches::read(&self.line).kho;
        kho.or(kho_default.filter(|_| !self.open)) == Some(false)
    }
}

/// Mirrors `bootconfig_cmdline_requested` in `lib/bootconfig.c` (7.3).
fn asks_for_bootconfig(line: &[u8]) -> bool {
    let words = words(line);
    let mut before = words.iter().take_while(|word| word.as_slice() != b"--");
    before.any(|word| word == b"bootconfig" || word.starts_with(b"bootconfig="))
}

/// The switches on a command line, as far as it has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Switches {
    /// `liveupdate=`; `None`: it says nothing that the kernel takes.
    pub liveupdate: Option<bool>,
    /// `kho=`.
    pub kho: Option<bool>,
}

/// Whether a kernel with this command line takes what is preserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandLine {
    /// It does.
    Takes,
    /// The line was cut off, or leaves it to the default of a kernel that is not known.
    Unknown,
    /// It does not, for this reason.
    Lacks(&'static str),
}

impl CommandLine {
    /// What an image's command line says, where it was seen in full. Whether KHO is on without being asked is the default of a
    /// kernel that is not known.
    pub fn of(p: &ImageCarrier) -> Self {
        let line = p.whole_command_line();
        line.map_or(Self::Unknown, |line| Switches::read(line).verdict(None))
    }
}

impl Switches {
    /// Reads a command line as `parse_early_param` does (`init/main.c`, 7.3).
    pub fn read(line: &[u8]) -> Self {
        let mut switches = Self::default();
        for word in words(line) {
            let (name, value) = match word.iter().position(|&b| b == b'=') {
                Some(i) => (&word[..i], Some(&word[i + 1..])),
                None => (&word[..], None),
            };
            match name {
                b"--" if value.is_none() => break,
                b"liveupdate" => switches.liveupdate = value.and_then(switch).or(switches.liveupdate),
                b"kho" => switches.kho = value.and_then(switch).or(switches.kho),
                _ => {}
            }
        }
        switches
    }

    /// What becomes of what is preserved. `kho_default`: whether the kernel has KHO on without being asked, where that is
    /// known (`CONFIG_KEXEC_HANDOVER_ENABLE_DEFAULT`, 7.3). LUO has to be asked for in every kernel.
    pub fn verdict(self, kho_default: Option<bool>) -> CommandLine {
        match (self.liveupdate, self.kho.or(kho_default)) {
            (None, _) => CommandLine::Lacks("has no liveupdate=on"),
            (Some(false), _) => CommandLine::Lacks("switches LUO off"),
            (_, Some(false)) if self.kho.is_none() => CommandLine::Lacks("has no kho=on"),
            (_, Some(false)) => CommandLine::Lacks("has kho=off"),
            (Some(true), None) => CommandLine::Unknown,
            (Some(true), Some(true)) => CommandLine::Takes,
        }
    }
}

/// Words are separated by white space outside of double quotes; the quotes go.
fn words(line: &[u8]) -> Vec<Vec<u8>> {
    let (mut words, mut word, mut quoted) = (Vec::new(), Vec::new(), false);
    for &byte in line {
        match byte {
            b'"' => quoted = !quoted,
            _ if byte.is_ascii_whitespace() && !quoted => words.push(std::mem::take(&mut word)),
            _ => word.push(byte),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

/// Mirrors `kstrtobool` in `lib/kstrtox.c` (7.3).
fn switch(value: &[u8]) -> Option<bool> {
    let lower = |i: usize| value.get(i).map(u8::to_ascii_lowercase);
    match (lower(0)?, lower(1)) {
        (b'e' | b'y' | b't' | b'1', _) | (b'o', Some(b'n')) => Some(true),
        (b'd' | b'n' | b'f' | b'0', _) | (b'o', Some(b'f')) => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> CommandLine {
        Switches::read(line.as_bytes()).verdict(None)
    }

    #[test]
    fn a_command_line_is_read_as_the_kernel_reads_it() {
        for line in [
            "kho=on liveupdate=on",
            "quiet kho=1 liveupdate=y console=ttyS0",
            "liveupdate=off kho=off liveupdate=true kho=ON",
            "\"liveupdate=on\" kho=\"on\" -- liveupdate=off",
            "kho=on liveupdate=on liveupdate=maybe liveupdate",
        ] {
            assert_eq!(read(line), CommandLine::Takes, "{line}");
        }
        for line in [
            "",
            "kho=on",
            "kho=on liveupdate",
            "kho=on liveupdate=0",
            "kho=off liveupdate=on",
            "kho=on -- liveupdate=on",
            "kho=on xliveupdate=on name=\"a liveupdate=on\"",
        ] {
            assert!(matches!(read(line), CommandLine::Lacks(_)), "{line}");
        }
    }

    #[test]
    fn what_the_next_kernels_default_decides_is_known_with_the_default() {
        let line = Switches::read(b"liveupdate=on");
        assert_eq!(line.verdict(None), CommandLine::Unknown);
        assert_eq!(line.verdict(Some(true)), CommandLine::Takes);
        assert_eq!(line.verdict(Some(false)), CommandLine::Lacks("has no kho=on"));
    }

    #[test]
    fn a_command_line_that_was_cut_off_is_not_known() {
        let cut = ImageCarrier {
            command_line_len: 4000,
            command_line: luo_trace_common::text::Name::new("quiet"),
            ..zerocopy::FromZeros::new_zeroed()
        };
        assert_eq!(CommandLine::of(&cut), CommandLine::Unknown);
    }
}
