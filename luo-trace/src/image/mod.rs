//! What a kernel image has of LUO and KHO, read from its bytes, and whether it will take what is preserved.
//!
//! An image comes from anywhere: it is read as hostile bytes, in one pass, as a stream. Nothing is kept of it but its type
//! information, its configuration, and a hash of every word that could be a compatible string, so that any handler can be
//! asked for later. At most [`UNPACKED_MAX`] bytes are unpacked, and a packer may look back at most [`WINDOW_MAX`] of them,
//! which is what its memory is made of.
//!
//! | read | as |
//! |---|---|
//! | bzImage (x86), EFI zboot, a compressed file | gzip, zstd, xz, lzma, lz4, bzip2, lzo; inside, one of the next two |
//! | `vmlinux` | ELF |
//! | arm64 `Image` | raw |
//! | unified kernel image | EFI program with one of these in its section `.linux` |

use std::borrow::Cow;
use std::fmt;
use std::io::Read;

use serde::{Deserialize, Serialize};

pub mod btf;
pub mod command_line;
mod config;
mod container;
mod judge;
mod platform;
mod preserved;
mod scan;
#[cfg(test)]
mod tests;
mod unified;
mod unpack;

pub use command_line::BuiltIn;
pub use container::Compression;
pub use judge::{About, Forecast, Judgement, Line, Reason, judge};
pub use platform::{Machine, Platform};
pub use preserved::{Formats, InUse, Preserved};
pub use unified::Unified;

use btf::Btf;
use config::Config;
use container::Packed;
use scan::{Names, Scanned};

/// How many bytes an image may have when it is unpacked.
pub const UNPACKED_MAX: u64 = 512 << 20;
/// How far back, in bytes, a packed image may refer to what was unpacked before. Linux packs itself with up to this much.
pub const WINDOW_MAX: u64 = 128 << 20;
/// How much of an image's type information is read, in bytes.
const BTF_MAX: usize = 64 << 20;

/// What says that an image has something, or has it not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Evidence {
    /// The image's own configuration (`CONFIG_IKCONFIG`).
    Configuration,
    /// Its type information (BTF).
    Types,
    /// The strings in it.
    Strings,
    /// The command line it is to be booted with.
    CommandLine,
    /// What is known of this host, or was said of it.
    Host,
}

impl Evidence {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Configuration => "the image's configuration",
            Self::Types => "the image's type information",
            Self::Strings => "the image's strings",
            Self::CommandLine => "the command line",
            Self::Host => "this host",
        }
    }
}

/// Whether an image has something, and what says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Whether.
    pub there: bool,
    /// What says so.
    pub source: Evidence,
}

/// What an image has.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Contents {
    /// What kind of file it is: `bzImage`, `EFI zboot`, `vmlinux`, `arm64 Image`, or a compressed one of the last two; with
    /// `unified kernel image, ` before it where it lies in one.
    pub kind: Cow<'static, str>,
    /// What it has beside a kernel, where it is a unified kernel image.
    pub unified: Option<Unified>,
    /// How the kernel in it is packed; `None`: not at all.
    pub compression: Option<Compression>,
    /// How many bytes it has when it is unpacked.
    pub unpacked: u64,
    /// What the kernel says of itself, `Linux version ...`, in printable characters.
    pub banner: String,
    /// KHO is built in.
    pub kho: Found,
    /// LUO is built in.
    pub luo: Found,
    /// KHO is on without being asked; `None`: the image does not tell.
    pub kho_by_default: Option<bool>,
    /// What it makes of the command line that it is given.
    pub built_in: BuiltIn,
    /// Whose kernel it is; `None`: not known.
    pub machine: Option<Machine>,
    /// How large its pages are, in bytes; `None`: not known.
    pub page_size: Option<u64>,
    /// Whether the file that is loaded is signed, by whatever key; `None`: not known.
    pub signed: Option<bool>,
    /// KHO's formats that it names: `kho-v4`.
    pub kho_formats: Vec<String>,
    /// LUO's formats that it names: `luo-v5`.
    pub luo_formats: Vec<String>,
    /// Words in it that look like compatible strings, `memfd-v2`, and may be something else; not all there are.
    pub versioned: Vec<String>,
    /// Whether modules may bring file handlers of their own.
    pub takes_modules: bool,
    names: Names,
}

impl Contents {
    /// `uname -r` of the kernel in it.
    pub fn release(&self) -> &str {
        self.banner.split(' ').nth(2).unwrap_or_default()
    }

    /// Whether it holds this compatible string, of a handler or of global state; `None`: that is not known, as of a string
    /// that no kernel would use.
    pub fn knows(&self, compatible: &[u8]) -> Option<bool> {
        self.names.has(compatible)
    }
}

/// Why an image cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageError {
    /// It is no kernel.
    Foreign(&'static str),
    /// It ends before it should: how many bytes it should have, and has.
    Truncated(u64, u64),
    /// It does not unpack, and why.
    Damaged(String),
    /// It has more than [`UNPACKED_MAX`] bytes when it is unpacked.
    TooLarge,
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign(why) => write!(
                f,
                "it is no kernel: {why}. Give a bzImage, an arm64 Image, a vmlinux or a unified kernel image"
            ),
            Self::Truncated(needed, has) => write!(
                f,
                "it is cut short: it should have {needed} bytes and has {has}. Copy it again"
            ),
            Self::Damaged(why) => write!(f, "it does not unpack: {why}. Copy it again"),
            Self::TooLarge => write!(
                f,
                "it unpacks to more than {} MiB, which no kernel has",
                UNPACKED_MAX >> 20
            ),
        }
    }
}

impl std::error::Error for ImageError {}

/// Reads an image.
///
/// # Errors
/// It is no kernel, or is cut short or damaged.
pub fn read(image: &[u8]) -> Result<Contents, ImageError> {
    read_within(image, UNPACKED_MAX)
}

/// The same, where `max` bytes may be unpacked.
fn read_within(image: &[u8], max: u64) -> Result<Contents, ImageError> {
    if let Some(parts) = unified::open(image)? {
        let inner = read_kernel(parts.kernel, max)?;
        return Ok(Contents {
            kind: format!("unified kernel image, {}", inner.kind).into(),
            unified: Some(parts.unified),
            ..inner
        });
    }
    read_kernel(image, max)
}

/// A kernel that is in no other file.
fn read_kernel(image: &[u8], max: u64) -> Result<Contents, ImageError> {
    let packed = Packed::open(image)?;
    let mut input = packed.unpack()?;
    // The first bytes tell what it is.
    let mut head = Vec::with_capacity(HEAD);
    let damaged = |error: std::io::Error| ImageError::Damaged(error.to_string());
    (&mut input).take(HEAD as u64).read_to_end(&mut head).map_err(damaged)?;
    let kind = packed.kind(&head)?;
    let scanned = scan::scan(head.as_slice().chain(input), max)?;
    packed.check_size(scanned.unpacked)?;
    let signed = container::signed(image, &packed);
    Ok(Contents {
        signed,
        ..contents(kind, packed.compression, &head, scanned)?
    })
}

/// How much of a kernel tells that it is one, in bytes.
const HEAD: usize = 64;

fn contents(
    kind: &'static str,
    compression: Option<Compression>,
    head: &[u8],
    scanned: Scanned,
) -> Result<Contents, ImageError> {
    let banner = scanned
        .banner
        .ok_or(ImageError::Foreign("it does not say which version of Linux it is"))?;
    let config = scanned.config.as_deref().and_then(Config::read);
    let btf = Btf::parse(&scanned.btf).ok();
    let built_in = |option: fn(&Config) -> bool, functions: [&str; 3], formats: &[String]| match (&config, &btf) {
        (Some(config), _) => Found {
            there: option(config),
            source: Evidence::Configuration,
        },
        (None, Some(btf)) => Found {
            there: functions.iter().any(|function| btf.has_function(function)),
            source: Evidence::Types,
        },
        (None, None) => Found {
            there: !formats.is_empty(),
            source: Evidence::Strings,
        },
    };
    let kho = ["kho_preserve_folio", "kho_preserve_pages", "kho_fill_kimage"];
    let luo = ["luo_preserve_file", "luo_session_create", "liveupdate_reboot"];
    let machine = container::machine(head).or(config.as_ref().and_then(|config| config.machine));
    // The header is what a loader goes by; it has the size for arm64 alone.
    let page_size = container::page_size(head)
        .or_else(|| machine?.page_size())
        .or_else(|| config.as_ref()?.page_size);
    Ok(Contents {
        kind: kind.into(),
        unified: None,
        compression,
        unpacked: scanned.unpacked,
        banner,
        kho: built_in(|config| config.kho, kho, &scanned.kho_formats),
        luo: built_in(|config| config.luo, luo, &scanned.luo_formats),
        kho_by_default: config.as_ref().map(|config| config.kho_by_default),
        built_in: config.map(|config| config.built_in).unwrap_or_default(),
        machine,
        page_size,
        signed: None,
        kho_formats: scanned.kho_formats,
        luo_formats: scanned.luo_formats,
        versioned: scanned.versioned,
        // A function that is exported to modules is named among the strings, and one that is not, is not.
        takes_modules: scanned.names.has(b"liveupdate_register_file_handler") != Some(false),
        names: scanned.names,
    })
}
