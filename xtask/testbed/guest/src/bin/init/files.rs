//! The files that are preserved: made with their contents, and compared with what they were.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use testbed_guest::content;
use testbed_guest::scenario::{DeviceFile, Memfd};

/// Content is written and compared by this many bytes.
const CHUNK: usize = 1 << 20;

/// Where a memfd has holes, each is a page, and so is what lies between two.
const PAGE: usize = 4096;

/// Opens a device of the testbed and fills the file.
pub(crate) fn open_device(device: &DeviceFile) -> Result<File> {
    let path = format!("/dev/luo_testbed/{}", device.node);
    let file = File::options().read(true).write(true).open(&path);
    let mut file = file.with_context(|| format!("cannot open {path}"))?;
    fill(&mut file, device.seed, device.size.bytes(), false)
        .with_context(|| format!("cannot fill {:?}", device.name))?;
    Ok(file)
}

/// Creates a memfd with its contents and seals.
pub(crate) fn create(memfd: &Memfd) -> Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(memfd_create(memfd.name.as_str(), flags).context("cannot create a memfd")?);
    file.set_len(memfd.size.bytes())
        .with_context(|| format!("cannot size the memfd {:?}", memfd.name))?;
    refill(&mut file, memfd)?;
    fcntl_add_seals(&file, seals(memfd)).with_context(|| format!("cannot seal the memfd {:?}", memfd.name))?;
    Ok(file)
}

/// Writes its contents into a memfd, over those that it has.
pub(crate) fn refill(file: &mut File, memfd: &Memfd) -> Result<()> {
    file.rewind()?;
    fill(file, memfd.seed, memfd.size.bytes(), memfd.holes)
        .with_context(|| format!("cannot fill the memfd {:?}", memfd.name))
}

/// Compares a retrieved file with the memfd that was preserved: size, seals, every byte.
pub(crate) fn compare(file: &mut File, memfd: &Memfd) -> Result<()> {
    let size = file.metadata()?.len();
    if size != memfd.size.bytes() {
        bail!("it came back with {size} bytes instead of {}", memfd.size.bytes());
    }
    let seals_now = fcntl_get_seals(&*file)?;
    if seals_now != seals(memfd) {
        bail!("it came back with {seals_now:?} instead of {:?}", seals(memfd));
    }
    compare_content(file, memfd.seed, size, memfd.holes)
}

/// Compares the file of a device with what was written to it.
pub(crate) fn compare_device(file: &mut File, device: &DeviceFile) -> Result<()> {
    compare_content(file, device.seed, device.size.bytes(), false)
}

/// Writes the contents that follow from a seed.
fn fill(file: &mut File, seed: u64, size: u64, holes: bool) -> io::Result<()> {
    // A hundred thousand small files are made faster without a large buffer for each.
    let mut chunk = vec![0; CHUNK.min(size as usize)];
    for (offset, length) in chunks(size) {
        content::fill(seed, offset, &mut chunk[..length]);
        if !holes {
            file.write_all(&chunk[..length])?;
            continue;
        }
        for page in chunk[..length].chunks(2 * PAGE) {
            let (written, hole) = page.split_at(PAGE.min(page.len()));
            file.write_all(written)?;
            file.seek(SeekFrom::Current(hole.len() as i64))?;
        }
    }
    Ok(())
}

/// Compares every byte of a file with what follows from a seed, and sees that nothing comes after.
fn compare_content(file: &mut File, seed: u64, size: u64, holes: bool) -> Result<()> {
    file.rewind()?;
    let mut chunk = vec![0; CHUNK];
    for (offset, length) in chunks(size) {
        let read = &mut chunk[..length];
        file.read_exact(read)?;
        let wrong = if holes {
            first_wrong_page(seed, offset, read)
        } else {
            content::first_difference(seed, offset, read)
        };
        if let Some(wrong) = wrong {
            bail!("the byte at offset {wrong:#x} came back changed");
        }
    }
    if file.read(&mut chunk)? > 0 {
        bail!("it came back with more than {size} bytes");
    }
    Ok(())
}

/// The first wrong byte of what has holes: every second page is zeros.
fn first_wrong_page(seed: u64, offset: u64, read: &[u8]) -> Option<u64> {
    (0..).zip(read.chunks(PAGE)).find_map(|(page, bytes)| {
        let at = offset + page * PAGE as u64;
        if page % 2 == 0 {
            return content::first_difference(seed, at, bytes);
        }
        bytes.iter().position(|byte| *byte != 0).map(|byte| at + byte as u64)
    })
}

fn seals(memfd: &Memfd) -> SealFlags {
    if memfd.sealed {
        SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE
    } else {
        SealFlags::empty()
    }
}

/// Offset and length of each chunk of a file of this size.
fn chunks(size: u64) -> impl Iterator<Item = (u64, usize)> {
    (0..size)
        .step_by(CHUNK)
        .map(move |offset| (offset, (size - offset).min(CHUNK as u64) as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memfd(size: u64) -> Memfd {
        Memfd {
            name: "ram".into(),
            size: size.into(),
            seed: 3,
            sealed: true,
            holes: false,
        }
    }

    #[test]
    fn a_file_that_came_back_whole_compares_equal() {
        let wanted = memfd(CHUNK as u64 + 5000);
        compare(&mut create(&wanted).unwrap(), &wanted).unwrap();
    }

    #[test]
    fn a_changed_byte_a_changed_size_and_a_lost_seal_are_found() {
        let wanted = Memfd {
            sealed: false,
            ..memfd(CHUNK as u64 + 5000)
        };
        let mut file = create(&wanted).unwrap();
        file.seek(std::io::SeekFrom::Start(CHUNK as u64 + 4321)).unwrap();
        file.write_all(b"!").unwrap();
        let error = compare(&mut file, &wanted).unwrap_err().to_string();
        assert!(error.contains("0x1010e1"), "{error}");

        let error = compare(&mut create(&memfd(PAGE as u64)).unwrap(), &memfd(2 * PAGE as u64))
            .unwrap_err()
            .to_string();
        assert!(error.contains("4096 bytes instead of 8192"), "{error}");

        let error = compare(&mut create(&wanted).unwrap(), &Memfd { sealed: true, ..wanted })
            .unwrap_err()
            .to_string();
        assert!(error.contains("SealFlags"), "{error}");
    }

    #[test]
    fn a_hole_is_never_written_and_what_is_found_in_it_is_told() {
        let wanted = Memfd {
            sealed: false,
            holes: true,
            ..memfd(2 * CHUNK as u64 + 5000)
        };
        let mut file = create(&wanted).unwrap();
        compare(&mut file, &wanted).unwrap();
        let blocks = std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap());
        assert!(blocks * 512 < wanted.size.bytes() * 3 / 4, "{blocks} blocks");
        file.seek(SeekFrom::Start(PAGE as u64 + 1)).unwrap();
        file.write_all(b"!").unwrap();
        let error = compare(&mut file, &wanted).unwrap_err().to_string();
        assert!(error.contains("0x1001"), "{error}");
    }
}
