//! What a kernel's command line says about LUO and KHO.

use luo_trace_common::events::ImageCarrier;

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
