//! What lies around a kernel in a file: boot headers, and how the kernel is packed.

use std::io::Read;

use serde::{Deserialize, Serialize};

use super::platform::{self, Machine};
use super::{HEAD, ImageError, unpack};

/// How a kernel is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compression {
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
    /// xz.
    Xz,
    /// lzma, the older form of xz.
    Lzma,
    /// lz4, in its legacy frames.
    Lz4,
    /// bzip2.
    Bzip2,
    /// lzo, in a file of lzop's.
    Lzo,
}

impl Compression {
    const ALL: [(Self, &'static str, &'static [u8]); 7] = [
        (Self::Gzip, "gzip", &[0x1f, 0x8b]),
        (Self::Zstd, "zstd", &[0x28, 0xb5, 0x2f, 0xfd]),
        (Self::Xz, "xz", &[0xfd, b'7', b'z', b'X', b'Z', 0]),
        (Self::Lzma, "lzma", &[0x5d, 0, 0]),
        (Self::Lz4, "lz4", &[0x02, 0x21, 0x4c, 0x18]),
        (Self::Bzip2, "bzip2", b"BZh"),
        (Self::Lzo, "lzo", &[0x89, b'L', b'Z', b'O']),
    ];

    /// What it is called.
    pub fn name(self) -> &'static str {
        let this = Self::ALL.into_iter().find(|(compression, ..)| *compression == self);
        this.map_or("", |(_, name, _)| name)
    }

    /// By the bytes that packed data begins with.
    fn of(bytes: &[u8]) -> Option<Self> {
        let this = Self::ALL.into_iter().find(|(.., magic)| bytes.starts_with(magic));
        this.map(|(compression, ..)| compression)
    }
}

/// A kernel in its file.
#[derive(Debug)]
pub(super) struct Packed<'a> {
    boot: Boot,
    pub(super) compression: Option<Compression>,
    /// What unpacks to the kernel, or is it.
    payload: &'a [u8],
    /// How many bytes it is to have then, modulo 2^32.
    size: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Boot {
    BzImage,
    Zboot,
    None,
}

impl<'a> Packed<'a> {
    /// Finds the kernel in a file.
    pub(super) fn open(image: &'a [u8]) -> Result<Self, ImageError> {
        if image.is_empty() {
            return Err(ImageError::Foreign("the file is empty"));
        }
        // The order matters: an arm64 Image, a bzImage and zboot's may all begin as a PE file does.
        if image.get(0x202..0x206) == Some(b"HdrS") && image.get(0x1fe..0x200) == Some(&[0x55, 0xaa]) {
            return Self::bzimage(image);
        }
        if image.starts_with(b"MZ") && image.get(4..8) == Some(b"zimg") {
            return Self::zboot(image);
        }
        let compression = Compression::of(image);
        if compression.is_none() && !is_arm64(image) && !is_elf(image) {
            return Err(ImageError::Foreign(guess(image)));
        }
        if is_elf(image) {
            check_elf(image)?;
        }
        Ok(Self {
            boot: Boot::None,
            compression,
            payload: image,
            size: None,
        })
    }

    /// Mirrors `Documentation/arch/x86/boot.rst` (7.3).
    fn bzimage(image: &'a [u8]) -> Result<Self, ImageError> {
        const PROTOCOL_WITH_PAYLOAD: u16 = 0x208;
        const SECTOR: u64 = 512;
        let has = image.len() as u64;
        let truncated = |needed: u64| ImageError::Truncated(needed, has);
        let head: &[u8; 0x250] = image.first_chunk().ok_or(truncated(0x250))?;
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        if u16::from_le_bytes([head[0x206], head[0x207]]) < PROTOCOL_WITH_PAYLOAD {
            return Err(ImageError::Foreign("it is a bzImage from before Linux 2.6.24"));
        }
        let setup = match head[0x1f1] {
            0 => 5,
            sectors => u64::from(sectors) + 1,
        } * SECTOR;
        let end = setup + u64::from(word(0x1f4)) * 16;
        let from = setup + u64::from(word(0x248));
        let to = from + u64::from(word(0x24c));
        if to.max(end) > has {
            return Err(truncated(to.max(end)));
        }
        let payload = image.get(from as usize..to as usize).ok_or(truncated(to))?;
        let compression = Compression::of(payload);
        let Some((packed, size)) = payload.split_last_chunk::<4>().filter(|_| compression.is_some()) else {
            return Err(ImageError::Damaged("it has no payload that is known".into()));
        };
        // Whatever packs it, its size follows; gzip has it as its own last bytes.
        let own = compression == Some(Compression::Gzip);
        Ok(Self {
            boot: Boot::BzImage,
            compression,
            payload: if own { payload } else { packed },
            size: Some(u32::from_le_bytes(*size)),
        })
    }

    /// Mirrors `drivers/firmware/efi/libstub/zboot-header.S` (7.3).
    fn zboot(image: &'a [u8]) -> Result<Self, ImageError> {
        let word = |at: usize| {
            let bytes = image.get(at..).and_then(|tail| tail.first_chunk());
            bytes.map_or(0, |bytes| u64::from(u32::from_le_bytes(*bytes)))
        };
        let (from, to) = (word(8), word(8) + word(12));
        let truncated = ImageError::Truncated(to, image.len() as u64);
        let payload = image.get(from as usize..to as usize).ok_or(truncated)?;
        let compression = Compression::of(payload);
        if compression.is_none() {
            return Err(ImageError::Damaged("it has no payload that is known".into()));
        }
        Ok(Self {
            boot: Boot::Zboot,
            compression,
            payload,
            size: None,
        })
    }

    /// The kernel itself, as a stream.
    pub(super) fn unpack(&self) -> Result<Box<dyn Read + 'a>, ImageError> {
        unpack::reader(self.compression, self.payload)
    }

    /// What kind of file it is, with the first bytes of the kernel.
    pub(super) fn kind(&self, head: &[u8]) -> Result<&'static str, ImageError> {
        match (self.boot, self.compression.is_some()) {
            _ if !is_elf(head) && !is_arm64(head) => Err(ImageError::Foreign("what is packed in it is none")),
            (Boot::BzImage, _) => Ok("bzImage"),
            (Boot::Zboot, _) => Ok("EFI zboot"),
            (Boot::None, false) if is_elf(head) => Ok("vmlinux"),
            (Boot::None, true) if is_elf(head) => Ok("compressed vmlinux"),
            (Boot::None, false) => Ok("arm64 Image"),
            (Boot::None, true) => Ok("compressed arm64 Image"),
        }
    }

    /// Whether it has the size that the file says it has.
    pub(super) fn check_size(&self, unpacked: u64) -> Result<(), ImageError> {
        match self.size {
            Some(size) if u64::from(size) != unpacked => Err(ImageError::Damaged(format!(
                "it should have {size} bytes and has {unpacked}"
            ))),
            _ => Ok(()),
        }
    }
}

fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF")
}

/// Mirrors `Documentation/arch/arm64/booting.rst` (7.3).
fn is_arm64(bytes: &[u8]) -> bool {
    bytes.get(0x38..0x3c) == Some(b"ARM\x64")
}

/// Whose kernel it is, by its first bytes.
pub(super) fn machine(head: &[u8]) -> Option<Machine> {
    if is_arm64(head) {
        return Some(Machine::Arm64);
    }
    let number = head.get(0x12..0x14).filter(|_| is_elf(head))?;
    Machine::of_elf(u16::from_le_bytes([number[0], number[1]]))
}

/// How large its pages are, by its first bytes, in bytes.
pub(super) fn page_size(head: &[u8]) -> Option<u64> {
    is_arm64(head).then(|| platform::page_size_of_arm64(head))?
}

/// Whether a file as it is loaded has a signature in its table of certificates; `None`: another file is loaded than this one, which
/// its loader unpacks out of it. Mirrors `pefile_parse_binary` in `crypto/asymmetric_keys/verify_pefile.c` (7.3).
pub(super) fn signed(image: &[u8], packed: &Packed<'_>) -> Option<bool> {
    const CERTIFICATES: usize = 4;
    if packed.boot == Boot::Zboot || (packed.boot == Boot::None && packed.compression.is_some()) {
        return None;
    }
    let number = |at: usize, len: usize| {
        let bytes = image.get(at..at.checked_add(len)?)?;
        Some(bytes.iter().rev().fold(0, |sum, &byte| sum << 8 | usize::from(byte)))
    };
    let size = || {
        let header = number(0x3c, 4).filter(|_| image.starts_with(b"MZ"))?;
        image.get(header..)?.strip_prefix(b"PE\0\0")?;
        let optional = header.checked_add(24)?;
        let directories = match number(optional, 2)? {
            0x10b => optional.checked_add(96)?,
            0x20b => optional.checked_add(112)?,
            _ => return None,
        };
        number(directories.checked_add(CERTIFICATES * 8 + 4)?, 4)
    };
    Some(size().is_some_and(|size| size > 0))
}

/// Whether an ELF file reaches to the end of its table of sections, which a linker writes last.
fn check_elf(image: &[u8]) -> Result<(), ImageError> {
    let has = image.len() as u64;
    let Some(head) = image.first_chunk::<HEAD>() else {
        return Err(ImageError::Truncated(HEAD as u64, has));
    };
    let [is_64, little] = [head[4], head[5]];
    if is_64 != 2 || little != 1 {
        return Err(ImageError::Foreign(
            "it is an ELF file of another kind than 64-bit and little-endian",
        ));
    }
    let number = |at: usize, len: usize| {
        head[at..at + len]
            .iter()
            .rev()
            .fold(0, |sum, &byte| sum << 8 | u64::from(byte))
    };
    let end = number(0x28, 8).saturating_add(number(0x3a, 2) * number(0x3c, 2));
    match end > has {
        true => Err(ImageError::Truncated(end, has)),
        false => Ok(()),
    }
}

/// What a file that is no kernel may be.
fn guess(image: &[u8]) -> &'static str {
    let head = &image[..image.len().min(512)];
    match head {
        [b'M', b'Z', ..] => "it is an EFI program without a kernel in a section `.linux`",
        _ if head
            .iter()
            .all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) =>
        {
            "it is text"
        }
        _ => "it does not begin as one",
    }
}
