//! The configuration that an image may carry (`CONFIG_IKCONFIG`, `kernel/configs.c`, 7.3).

use std::io::Read;

use flate2::read::GzDecoder;

use super::command_line::{BuiltIn, Embedded, Place};
use super::platform::Machine;

/// How much text a configuration may have, in bytes; a large one has 300 KiB.
const TEXT_MAX: u64 = 4 << 20;

/// What of it is of interest.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Config {
    pub(super) kho: bool,
    pub(super) kho_by_default: bool,
    pub(super) luo: bool,
    pub(super) built_in: BuiltIn,
    /// Whose kernel it is, where it is one that KHO is for.
    pub(super) machine: Option<Machine>,
    /// `CONFIG_PAGE_SHIFT`, as bytes.
    pub(super) page_size: Option<u64>,
}

impl Config {
    /// Reads a configuration as gzip has packed it; `None` where it does not unpack to one.
    pub(super) fn read(packed: &[u8]) -> Option<Self> {
        let mut text = String::new();
        GzDecoder::new(packed).take(TEXT_MAX).read_to_string(&mut text).ok()?;
        let options = Options(&text);
        let shift = options.value("PAGE_SHIFT").and_then(|shift| shift.parse::<u32>().ok());
        let machine = match (options.is_set("X86_64"), options.is_set("ARM64")) {
            (true, _) => Some(Machine::X86_64),
            (_, true) => Some(Machine::Arm64),
            _ => None,
        };
        text.contains("CONFIG_").then(|| Self {
            kho: options.is_set("KEXEC_HANDOVER"),
            kho_by_default: options.is_set("KEXEC_HANDOVER_ENABLE_DEFAULT"),
            luo: options.is_set("LIVEUPDATE"),
            built_in: options.built_in(),
            machine,
            page_size: shift.and_then(|shift| 1_u64.checked_shl(shift)),
        })
    }
}

/// A configuration's text.
struct Options<'a>(&'a str);

impl<'a> Options<'a> {
    /// What stands behind `CONFIG_name=`.
    fn value(&self, name: &str) -> Option<&'a str> {
        let mut lines = self.0.lines();
        lines.find_map(|line| {
            let value = line.strip_prefix("CONFIG_")?.strip_prefix(name)?.strip_prefix('=')?;
            Some(value.trim_end())
        })
    }

    fn is_set(&self, name: &str) -> bool {
        self.value(name) == Some("y")
    }

    /// What the kernel makes of the line that it is given. Mirrors `setup_arch` in `arch/x86/kernel/setup.c` and
    /// `early_init_dt_scan_chosen` in `drivers/of/fdt.c`, by which arm64 has it (7.3).
    fn built_in(&self) -> BuiltIn {
        let line = self.value("CMDLINE").and_then(text_of).filter(|line| !line.is_empty());
        let place = match self.is_set("CMDLINE_BOOL") {
            true if self.is_set("CMDLINE_OVERRIDE") => Place::Override,
            true => Place::Before,
            // Where x86 does not switch it on there is none, and `CONFIG_CMDLINE` is not in its configuration.
            false if self.is_set("CMDLINE_EXTEND") => Place::After,
            false if self.is_set("CMDLINE_FORCE") => Place::Force,
            false => Place::WhereNoneIsGiven,
        };
        // A bootconfig that is not rendered when the kernel is built comes after `kho=` and `liveupdate=` were looked for:
        // `setup_boot_config` in `init/main.c` (7.3) adds to another line than `parse_early_param` reads.
        let embedded = match self.is_set("CMDLINE_FROM_BOOTCONFIG") {
            true if self.is_set("BOOT_CONFIG_FORCE") => Embedded::Always,
            true => Embedded::WhereAsked,
            false => Embedded::Never,
        };
        BuiltIn {
            line: line.map(|line| (line, place)),
            embedded,
            known: true,
        }
    }
}

/// The text of a string of Kconfig's, which stands in quotes, with a backslash before each quote and backslash in it.
fn text_of(quoted: &str) -> Option<String> {
    let inner = quoted.strip_prefix('"')?.strip_suffix('"')?;
    let (mut text, mut chars) = (String::new(), inner.chars());
    while let Some(char) = chars.next() {
        match char {
            '\\' => text.extend(chars.next()),
            char => text.push(char),
        }
    }
    Some(text)
}
