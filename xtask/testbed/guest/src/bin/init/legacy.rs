//! Loads a kernel by `kexec_load(2)`, which wants to be told what lies where when the kernel begins.
//!
//! What the kernel expects there is `Documentation/arch/x86/boot.rst`, its 64-bit protocol.

use std::ffi::CString;
use std::fs;

use anyhow::{Context as _, Result, bail};
use rustix::io::Errno;

use crate::system::last_errno;

const PAGE: usize = 4096;

/// A flag of `kexec_load(2)`, as `include/uapi/linux/kexec.h` has it.
const ON_CRASH: libc::c_ulong = 1;

/// Where the parts go: free memory on every machine that this runs on, whose alignment suits the kernel.
const START: usize = 0x0100_0000;
const KERNEL: usize = 0x0200_0000;
const INITRD: usize = 0x2000_0000;

/// This kernel's own `struct boot_params`, of one page: the next one needs the same memory map.
const BOOT_PARAMS: &str = "/sys/kernel/boot_params/data";

/// Where the 64-bit entry is in the kernel proper.
const ENTRY_64: usize = 0x200;

/// What is at [`at::MAGIC`] in an image.
const MAGIC: &[u8] = b"HdrS";

/// Offsets of the setup header's fields, in a kernel image as in `struct boot_params`.
mod at {
    pub(super) const SETUP_HEADER: usize = 0x1F1;
    pub(super) const SETUP_SECTORS: usize = 0x1F1;
    pub(super) const SETUP_HEADER_LENGTH: usize = 0x201;
    pub(super) const MAGIC: usize = 0x202;
    pub(super) const TYPE_OF_LOADER: usize = 0x210;
    pub(super) const RAMDISK_IMAGE: usize = 0x218;
    pub(super) const RAMDISK_SIZE: usize = 0x21C;
    pub(super) const COMMAND_LINE: usize = 0x228;
    pub(super) const INIT_SIZE: usize = 0x260;
}

/// `struct kexec_segment` of `include/uapi/linux/kexec.h`.
#[repr(C)]
struct Segment {
    from: *const u8,
    from_size: usize,
    to: usize,
    to_size: usize,
}

impl Segment {
    /// Has these bytes at an address, in at least so much memory.
    fn new(bytes: &[u8], to: usize, least: usize) -> Segment {
        Segment {
            from: bytes.as_ptr(),
            from_size: bytes.len(),
            to,
            to_size: bytes.len().max(least).next_multiple_of(PAGE),
        }
    }
}

/// Loads a kernel and its initramfs, to be jumped into; one for a crash the kernel refuses, since nothing is reserved here, and
/// with `EADDRNOTAVAIL` a file that is no kernel. Gives the kernel's answer.
pub(crate) fn load(kernel: &str, initrd: &str, command_line: &str, crash: bool) -> Result<Result<(), Errno>> {
    let read = |path: &str| fs::read(path).with_context(|| format!("cannot read {path}"));
    let image = read(kernel)?;
    let flags = if crash { ON_CRASH } else { 0 };
    if image.get(at::MAGIC..at::MAGIC + MAGIC.len()) != Some(MAGIC) {
        // Nothing that this program could lay out. The kernel refuses the address, after it has asked who may load at all.
        return Ok(submit(&[Segment::new(&image, START + 1, 0)], flags));
    }
    let (initrd, mut params) = (read(initrd)?, read(BOOT_PARAMS)?);
    if image.len() < PAGE || params.len() != PAGE {
        bail!("{kernel} or {BOOT_PARAMS} is not what the boot protocol says");
    }
    let header_end = at::SETUP_HEADER_LENGTH + 1 + usize::from(image[at::SETUP_HEADER_LENGTH]);
    params[at::SETUP_HEADER..header_end].copy_from_slice(&image[at::SETUP_HEADER..header_end]);
    params[at::TYPE_OF_LOADER] = 0xFF;
    for (field, value) in [
        (at::RAMDISK_IMAGE, INITRD),
        (at::RAMDISK_SIZE, initrd.len()),
        (at::COMMAND_LINE, START + 2 * PAGE),
    ] {
        params[field..field + 4].copy_from_slice(&u32::try_from(value)?.to_le_bytes());
    }
    let proper = &image[(1 + usize::from(image[at::SETUP_SECTORS])) * 512..];
    let mut start = jump(START + PAGE, KERNEL + ENTRY_64)?;
    start.resize(PAGE, 0);
    start.extend(params);
    start.extend(CString::new(command_line)?.into_bytes_with_nul());

    let mut room = [0; 4];
    room.copy_from_slice(&image[at::INIT_SIZE..at::INIT_SIZE + 4]);
    let segments = [
        Segment::new(&start, START, 0),
        Segment::new(proper, KERNEL, u32::from_le_bytes(room) as usize),
        Segment::new(&initrd, INITRD, 0),
    ];
    Ok(submit(&segments, flags))
}

/// Takes the loaded kernel out: so `kexec_load(2)` takes no segments at all.
pub(crate) fn unload() -> Result<(), Errno> {
    submit(&[], 0)
}

/// The instructions that the jump leads to. They hand over the address of the boot parameters, which kexec cannot:
/// `mov esi, PARAMS; mov eax, ENTRY; jmp rax`.
fn jump(params: usize, entry: usize) -> Result<Vec<u8>> {
    let (params, entry) = (
        u32::try_from(params)?.to_le_bytes(),
        u32::try_from(entry)?.to_le_bytes(),
    );
    Ok([&[0xBE], &params[..], &[0xB8], &entry[..], &[0xFF, 0xE0]].concat())
}

/// Hands the segments to the kernel, the first of which is where it starts.
fn submit(segments: &[Segment], flags: libc::c_ulong) -> Result<(), Errno> {
    // SAFETY: the kernel reads the segments and what they point to; the caller keeps both through the call.
    let result = unsafe { libc::syscall(libc::SYS_kexec_load, START, segments.len(), segments.as_ptr(), flags) };
    match result {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}
