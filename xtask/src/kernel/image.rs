//! A bzImage that another program built: what its header tells. The layout is that of the kernel's
//! `Documentation/arch/x86/boot.rst`.

use std::{
    fs::{self, File},
    io::Read,
    path::Path,
};

use anyhow::{Context, Result};

use super::Kernel;

/// The header and the version string lie within this many bytes of the file's start.
const HEAD: u64 = 0x10000;

/// Takes `file` as a kernel.
///
/// # Errors
/// It cannot be read, or it is no bzImage.
pub(super) fn ready(file: &Path) -> Result<Kernel> {
    let image = fs::canonicalize(file).with_context(|| format!("cannot find the kernel image {}", file.display()))?;
    let mut head = Vec::new();
    File::open(&image)
        .and_then(|opened| opened.take(HEAD).read_to_end(&mut head))
        .with_context(|| format!("cannot read the kernel image {}", image.display()))?;
    let version = version(&head).with_context(|| {
        format!(
            "{} is no bzImage: it has no boot header with a version. Give arch/x86/boot/bzImage of a build",
            image.display()
        )
    })?;
    Ok(Kernel {
        image,
        version,
        flavour: None,
        tree: None,
        build: None,
    })
}

/// The release in a bzImage's head, such as `7.3.4-luo`.
fn version(head: &[u8]) -> Option<String> {
    if head.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let offset = u16::from_le_bytes(head.get(0x20e..0x210)?.try_into().ok()?);
    let text = head.get(0x200 + usize::from(offset)..)?;
    let text = text.split(|byte| *byte == 0).next()?;
    let release = str::from_utf8(text).ok()?.split_whitespace().next()?;
    (offset != 0).then(|| release.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(magic: &[u8; 4], offset: u16, text: &[u8]) -> Vec<u8> {
        let mut head = vec![0; 0x300];
        head[0x202..0x206].copy_from_slice(magic);
        head[0x20e..0x210].copy_from_slice(&offset.to_le_bytes());
        head.extend_from_slice(text);
        head
    }

    #[test]
    fn the_release_is_the_first_word_of_the_version_string() {
        let head = head(b"HdrS", 0x100, b"7.3.4-luo (ann@host) #1 SMP\0rest");
        assert_eq!(version(&head).as_deref(), Some("7.3.4-luo"));
    }

    #[test]
    fn anything_else_is_no_bzimage_and_no_panic() {
        assert_eq!(version(&head(b"ELF!", 0x100, b"7.3.4 x\0")), None);
        assert_eq!(version(&head(b"HdrS", 0xffff, b"7.3.4 x\0")), None);
        assert_eq!(version(&head(b"HdrS", 0x100, b"\0")), None);
        assert_eq!(version(&head(b"HdrS", 0x100, b"\xff\xfe\0")), None);
        let whole = head(b"HdrS", 0x100, b"7.3.4");
        for cut in 0..0x300 {
            assert_eq!(version(&whole[..cut]), None, "cut at {cut}");
        }
    }
}
