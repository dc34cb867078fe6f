//! Made-up kernel images: small, and like real ones in everything that is read of them.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

/// A kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// `uname -r`.
    pub release: &'static str,
    /// Whole strings in it.
    pub strings: Vec<&'static str>,
    /// The functions that its type information has; `None`: it has none.
    pub functions: Option<Vec<&'static str>>,
    /// Its configuration, where it carries it.
    pub config: Option<&'static str>,
}

impl Kernel {
    /// One with LUO, and handlers and global state of these names.
    pub fn with_luo(names: &[&'static str]) -> Self {
        Self {
            release: "7.3.4-made-up",
            strings: [&["kho-v4", "luo-v5"], names].concat(),
            functions: Some(vec!["kho_preserve_folio", "luo_preserve_file"]),
            config: None,
        }
    }

    /// One without KHO and LUO.
    pub fn plain() -> Self {
        Self {
            strings: Vec::new(),
            functions: Some(vec!["kernel_kexec"]),
            ..Self::with_luo(&[])
        }
    }

    /// As an ELF file that does not say for which machine.
    pub fn elf(&self) -> Vec<u8> {
        self.elf_of(0)
    }

    /// As an ELF file for the machine of this number.
    pub fn elf_of(&self, machine: u16) -> Vec<u8> {
        let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
        elf.resize(0x12, 0);
        elf.extend(machine.to_le_bytes());
        elf.resize(64, 0);
        elf.extend(self.data());
        elf
    }

    /// As a raw image of arm64 with pages of 4 KiB.
    pub fn arm64(&self) -> Vec<u8> {
        self.arm64_with(2)
    }

    /// As a raw image of arm64 that has these flags in its header.
    pub fn arm64_with(&self, flags: u64) -> Vec<u8> {
        let mut image = b"MZ".to_vec();
        image.resize(0x18, 0);
        image.extend(flags.to_le_bytes());
        image.resize(0x38, 0);
        image.extend(b"ARM\x64\x40\0\0\0");
        image.extend(self.data());
        image
    }

    fn data(&self) -> Vec<u8> {
        let banner = format!("Linux version {} (me@here) (cc 1) #1 SMP\n\0", self.release);
        let mut data = b"Linux version %s\0\xff".to_vec();
        data.extend(banner.bytes());
        for string in &self.strings {
            // A pointer comes before a compatible string, and zeros after it.
            data.extend(0xffff_ffff_8123_4567_u64.to_le_bytes());
            data.extend(string.bytes().chain([0; 8]));
        }
        if let Some(functions) = &self.functions {
            data.extend(btf(functions));
        }
        if let Some(config) = self.config {
            data.extend([b"IKCFG_ST", &gzip(config.as_bytes())[..], b"IKCFG_ED"].concat());
        }
        // What relocates an x86 kernel follows it.
        data.extend([0, 0x10, 0x20, 0x81].repeat(50));
        data
    }

    /// As a bzImage, packed by gzip.
    pub fn bzimage(&self) -> Vec<u8> {
        // gzip itself ends with the size.
        bzimage(&gzip(&self.elf()))
    }
}

/// A bzImage around what is packed and followed by its size.
pub fn bzimage(payload: &[u8]) -> Vec<u8> {
    const SETUP: usize = 2 * 512;
    const BEFORE: usize = 16;
    let mut image = vec![0; SETUP + BEFORE];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]);
    let paragraphs = (BEFORE + payload.len()).div_ceil(16);
    put(0x1f4, &(paragraphs as u32).to_le_bytes());
    put(0x1fe, &[0x55, 0xaa]);
    put(0x202, b"HdrS\x0f\x02");
    put(0x248, &(BEFORE as u32).to_le_bytes());
    put(0x24c, &(payload.len() as u32).to_le_bytes());
    image.extend(payload);
    image.resize(SETUP + paragraphs * 16, 0);
    image
}

/// A kernel in an EFI program that unpacks it.
pub fn zboot(payload: &[u8]) -> Vec<u8> {
    let mut image = b"MZ\0\0zimg".to_vec();
    image.extend(128_u32.to_le_bytes());
    image.extend((payload.len() as u32).to_le_bytes());
    image.resize(128, 0);
    image.extend(payload);
    image
}

/// An EFI program with these sections, as `ukify` makes it.
pub fn unified(sections: &[(&str, &[u8])]) -> Vec<u8> {
    const HEADER: usize = 0x80;
    const OPTIONAL: usize = 0xf0;
    const FILE_ALIGNMENT: usize = 512;
    let mut image = b"MZ".to_vec();
    image.resize(0x3c, 0);
    image.extend((HEADER as u32).to_le_bytes());
    image.resize(HEADER, 0);
    image.extend(b"PE\0\0\x64\x86");
    image.extend((sections.len() as u16).to_le_bytes());
    image.extend([0; 12]);
    image.extend((OPTIONAL as u16).to_le_bytes());
    image.extend([0x22, 0]);
    image.extend([0; OPTIONAL]);
    let mut start = (image.len() + sections.len() * 40).next_multiple_of(FILE_ALIGNMENT);
    for (name, data) in sections {
        let in_file = data.len().next_multiple_of(FILE_ALIGNMENT);
        let mut entry = name.as_bytes().to_vec();
        entry.resize(8, 0);
        for number in [data.len(), start, in_file, start] {
            entry.extend((number as u32).to_le_bytes());
        }
        entry.resize(40, 0);
        image.extend(entry);
        start += in_file;
    }
    for (_, data) in sections {
        image.resize(image.len().next_multiple_of(FILE_ALIGNMENT), 0);
        image.extend(*data);
    }
    image.resize(image.len().next_multiple_of(FILE_ALIGNMENT), 0);
    image
}

/// Packs by gzip.
///
/// # Panics
/// Never: memory takes everything.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(bytes).expect("memory takes everything");
    packer.finish().expect("memory takes everything")
}

/// Type information that has these functions, and nothing else.
fn btf(functions: &[&str]) -> Vec<u8> {
    const KIND_FUNC: u32 = 12 << 24;
    let mut strings = vec![0];
    let mut types = Vec::new();
    for function in functions {
        types.extend([strings.len() as u32, KIND_FUNC, 0]);
        strings.extend(function.bytes().chain([0]));
    }
    let len = size_of_val(&types[..]) as u32;
    let words = [0x1_eb9f, 24, 0, len, len, strings.len() as u32]
        .into_iter()
        .chain(types);
    words.flat_map(u32::to_le_bytes).chain(strings).collect()
}
