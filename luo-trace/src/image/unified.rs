//! Unified kernel images: EFI programs that hold a kernel and its command line in sections, as systemd-stub takes them.
//!
//! The format is that of the UAPI group, "Unified Kernel Image", and of Microsoft's "PE Format", of which only the table of
//! sections is read. Of sections with one name the stub takes the first; from the first `.profile` on each begins a profile, whose
//! sections go before those of the same name that all profiles share (`pe_locate_profile_sections` in systemd 262).

use serde::{Deserialize, Serialize};

use super::ImageError;

/// How many sections are looked at: as many as Windows, whose format it is, takes.
const SECTIONS_MAX: usize = 96;
/// How long an entry of the table of sections is, in bytes.
const ENTRY: usize = 40;
/// How many profiles are told.
const PROFILES_MAX: usize = 32;
/// How much of a command line is read, in bytes.
const LINE_MAX: usize = 1 << 14;

/// What a unified image has beside its kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unified {
    /// The command lines of its profiles, of which the first is taken unless another is asked for; where it has none, one in all.
    /// `None`: it has none, and takes what it is given.
    pub lines: Vec<Option<String>>,
    /// There are profiles that are not looked into: with a kernel of their own, or too many.
    pub others: bool,
}

/// A unified image, taken apart.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    /// The kernel of its first profile.
    pub(super) kernel: &'a [u8],
    pub(super) unified: Unified,
}

#[derive(Clone, Copy)]
struct Section<'a> {
    name: &'a [u8],
    data: &'a [u8],
}

/// Takes an EFI program apart; `None`: it holds no kernel in a section.
///
/// # Errors
/// It ends before a section that it names does, or none of its kernels is the first profile's.
pub(super) fn open(image: &[u8]) -> Result<Option<Parts<'_>>, ImageError> {
    let Some(table) = table(image) else { return Ok(None) };
    // One that is cut short matters only where a kernel is in it.
    if !table.iter().any(|entry| name(entry) == b".linux") {
        return Ok(None);
    }
    let sections = table.iter().map(|entry| section(image, entry));
    let sections = sections.collect::<Result<Vec<_>, _>>()?;
    let starts: Vec<usize> = (0..sections.len())
        .filter(|&at| sections[at].name == b".profile")
        .take(PROFILES_MAX + 1)
        .collect();
    let (shared, _) = sections.split_at(starts.first().copied().unwrap_or(sections.len()));
    let ends = starts.iter().skip(1).copied().chain([sections.len()]);
    let mut profiles: Vec<&[Section<'_>]> = starts
        .iter()
        .zip(ends)
        .map(|(&start, end)| &sections[start..end])
        .collect();
    if profiles.is_empty() {
        profiles.push(&[]);
    }
    let kernel = first(profiles[0], b".linux").or_else(|| first(shared, b".linux"));
    let kernel = kernel.ok_or(ImageError::Foreign(
        "it is a unified kernel image whose first profile has no kernel",
    ))?;
    let lines = profiles.iter().take(PROFILES_MAX).map(|profile| {
        let line = first(profile, b".cmdline").or_else(|| first(shared, b".cmdline"));
        line.map(line_of)
    });
    let unified = Unified {
        lines: lines.collect(),
        others: profiles.len() > PROFILES_MAX
            || profiles[1..].iter().any(|profile| first(profile, b".linux").is_some()),
    };
    Ok(Some(Parts { kernel, unified }))
}

/// The first section of this name.
fn first<'a>(sections: &[Section<'a>], name: &[u8]) -> Option<&'a [u8]> {
    let section = sections.iter().find(|section| section.name == name);
    section.map(|section| section.data)
}

/// The entries of an EFI program's table of sections; `None`: it is none, or the table is not whole.
fn table(image: &[u8]) -> Option<&[[u8; ENTRY]]> {
    if !image.starts_with(b"MZ") {
        return None;
    }
    let header = image.get(number(image, 0x3c, 4)?..)?.strip_prefix(b"PE\0\0")?;
    let (count, optional) = (number(header, 2, 2)?, number(header, 16, 2)?);
    let (entries, _) = header.get(20 + optional..)?.as_chunks::<ENTRY>();
    entries.get(..count).filter(|_| count <= SECTIONS_MAX)
}

fn name(entry: &[u8; ENTRY]) -> &[u8] {
    let name = &entry[..8];
    &name[..name.iter().position(|&byte| byte == 0).unwrap_or(8)]
}

/// What lies in a section: as much of what the file has of it as it is to have in memory.
fn section<'a>(image: &'a [u8], entry: &'a [u8; ENTRY]) -> Result<Section<'a>, ImageError> {
    let word = |at| number(entry, at, 4).unwrap_or(0);
    let (in_memory, in_file, start) = (word(8), word(16), word(20));
    let end = start + in_file;
    let whole = image
        .get(start..end)
        .ok_or(ImageError::Truncated(end as u64, image.len() as u64))?;
    Ok(Section {
        name: name(entry),
        data: &whole[..in_memory.min(in_file)],
    })
}

/// The number of `len` bytes at a place, the lowest first; 4 bytes at most.
fn number(bytes: &[u8], at: usize, len: usize) -> Option<usize> {
    let bytes = bytes.get(at..at + len)?;
    Some(bytes.iter().rev().fold(0, |sum, &byte| sum << 8 | usize::from(byte)))
}

/// A command line as the stub passes it on: what is no text becomes a space, and what stands around it goes
/// (`mangle_stub_cmdline` in systemd 262).
fn line_of(bytes: &[u8]) -> String {
    let bytes = &bytes[..bytes.len().min(LINE_MAX)];
    let bytes = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(bytes);
    let text: String = text.chars().map(|char| if char <= ' ' { ' ' } else { char }).collect();
    text.trim_matches(' ').to_owned()
}
