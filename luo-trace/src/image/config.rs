//! The configuration that an image may carry (`CONFIG_IKCONFIG`, `kernel/configs.c`, 7.3).

use std::io::Read;

use flate2::read::GzDecoder;

/// How much text a configuration may have, in bytes; a large one has 300 KiB.
const TEXT_MAX: u64 = 4 << 20;

/// What of it is of interest.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Config {
    pub(super) kho: bool,
    pub(super) kho_by_default: bool,
    pub(super) luo: bool,
    /// `CONFIG_CMDLINE`, where it is put before what the boot loader gives, as x86 does.
    pub(super) built_in_line: Option<String>,
}

impl Config {
    /// Reads a configuration as gzip has packed it; `None` where it does not unpack to one.
    pub(super) fn read(packed: &[u8]) -> Option<Self> {
        let mut text = String::new();
        GzDecoder::new(packed).take(TEXT_MAX).read_to_string(&mut text).ok()?;
        let is_set = |option: &str| {
            let set = |line: &str| line.strip_prefix(option).is_some_and(|value| value.trim_end() == "=y");
            text.lines().any(set)
        };
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("CONFIG_CMDLINE=\"")?.strip_suffix('"'));
        text.contains("CONFIG_").then(|| Self {
            kho: is_set("CONFIG_KEXEC_HANDOVER"),
            kho_by_default: is_set("CONFIG_KEXEC_HANDOVER_ENABLE_DEFAULT"),
            luo: is_set("CONFIG_LIVEUPDATE"),
            built_in_line: line
                .filter(|_| is_set("CONFIG_CMDLINE_BOOL"))
                .map(|line| line.replace("\\\"", "\"")),
        })
    }
}
