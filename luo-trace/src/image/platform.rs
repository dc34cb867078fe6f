//! Whose kernel an image is, and in pages of which size it works.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A machine's architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Machine {
    /// x86 of 64 bits.
    X86_64,
    /// arm64.
    Arm64,
    /// Another one, by its number in ELF files.
    Other(u16),
}

impl Machine {
    /// By the number in ELF files, where there is one. Mirrors `include/uapi/linux/elf-em.h` (7.3).
    pub(super) fn of_elf(number: u16) -> Option<Self> {
        match number {
            0 => None,
            62 => Some(Self::X86_64),
            183 => Some(Self::Arm64),
            other => Some(Self::Other(other)),
        }
    }

    /// By the name that `uname -m` has for it; `None`: another one.
    pub fn of_name(name: &str) -> Option<Self> {
        match name {
            "x86_64" => Some(Self::X86_64),
            "aarch64" => Some(Self::Arm64),
            _ => None,
        }
    }

    /// How large its pages are, where there is but one size.
    pub fn page_size(self) -> Option<u64> {
        (self == Self::X86_64).then_some(4096)
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::X86_64 => f.write_str("x86-64"),
            Self::Arm64 => f.write_str("arm64"),
            Self::Other(number) => write!(f, "the machine that ELF files have as {number}"),
        }
    }
}

/// The machine that an image is to be loaded on; `None`: not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Platform {
    /// Its architecture.
    pub machine: Option<Machine>,
    /// How large the pages of the running kernel are, in bytes.
    pub page_size: Option<u64>,
}

/// How large the pages of an arm64 Image are, in bytes, by its header. Mirrors `Documentation/arch/arm64/booting.rst` (7.3):
/// bits 1 and 2 of the flags.
pub(super) fn page_size_of_arm64(head: &[u8]) -> Option<u64> {
    match head.get(0x18)? >> 1 & 3 {
        1 => Some(4 << 10),
        2 => Some(16 << 10),
        3 => Some(64 << 10),
        _ => None,
    }
}
