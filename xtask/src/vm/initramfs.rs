//! Packs the guest's initramfs: a compressed cpio archive in the format "newc", as the kernel unpacks it.

use std::collections::BTreeSet;
use std::io::Write as _;

use anyhow::{Context as _, Result};
use cpio::newc::{self, ModeFileType};
use flate2::Compression;
use flate2::write::GzEncoder;

/// The console's device number: without the node, init would begin without a standard output.
const CONSOLE: (u32, u32) = (5, 1);

/// The machine id of every guest: what joins the journals of its kernels. As long as a machine lives it stays the same.
const MACHINE_ID: &[u8] = b"6c756f2d74726163652d746573740000\n";

/// Where the guest's init mounts something, in an order that has parents first.
const MOUNT_POINTS: [&str; 6] = ["dev", "proc", "sys", "run", "tmp", "host"];

/// An archive with the directories and the console that init needs, and whatever is added.
pub(super) struct Initramfs {
    archive: Vec<u8>,
    directories: BTreeSet<String>,
}

impl Initramfs {
    /// The archive that every guest begins with.
    pub(super) fn new() -> Result<Initramfs> {
        let mut archive = Initramfs {
            archive: Vec::new(),
            directories: BTreeSet::new(),
        };
        for name in MOUNT_POINTS {
            archive.directory(name)?;
        }
        let console = newc::Builder::new("dev/console")
            .mode(0o600)
            .set_mode_file_type(ModeFileType::Char);
        archive.entry(console.rdev_major(CONSOLE.0).rdev_minor(CONSOLE.1), &[])?;
        archive.file_with_parents("etc/machine-id", MACHINE_ID)?;
        Ok(archive)
    }

    /// Adds a directory; its parent must be there.
    pub(super) fn directory(&mut self, name: &str) -> Result<()> {
        self.directories.insert(name.to_owned());
        self.entry(
            newc::Builder::new(name)
                .mode(0o755)
                .set_mode_file_type(ModeFileType::Directory),
            &[],
        )
    }

    /// Adds a file that anybody may read and run.
    pub(super) fn file(&mut self, name: &str, content: &[u8]) -> Result<()> {
        self.entry(
            newc::Builder::new(name)
                .mode(0o755)
                .set_mode_file_type(ModeFileType::Regular),
            content,
        )
    }

    /// Adds such a file, and the directories above it that are not there yet.
    pub(super) fn file_with_parents(&mut self, name: &str, content: &[u8]) -> Result<()> {
        for (end, _) in name.match_indices('/') {
            if !self.directories.contains(&name[..end]) {
                self.directory(&name[..end])?;
            }
        }
        self.file(name, content)
    }

    /// Ends the archive and compresses it. Lightly: the guest's time to unpack counts twice, and the host's once. One of
    /// hundreds of megabytes, as a debugger's libraries are, not at all: both would take minutes.
    pub(super) fn pack(self) -> Result<Vec<u8>> {
        let level = if self.archive.len() < 64 << 20 {
            Compression::fast()
        } else {
            Compression::none()
        };
        let archive = newc::trailer(self.archive)?;
        let mut gzip = GzEncoder::new(Vec::new(), level);
        gzip.write_all(&archive)?;
        Ok(gzip.finish()?)
    }

    fn entry(&mut self, header: newc::Builder, content: &[u8]) -> Result<()> {
        let size = u32::try_from(content.len()).context("a file of the initramfs is larger than 4 GiB")?;
        let mut writer = header.nlink(1).write(&mut self.archive, size);
        writer.write_all(content)?;
        writer.finish()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpio::NewcReader;
    use flate2::read::GzDecoder;
    use std::io::Read as _;

    #[test]
    fn what_was_packed_is_unpacked_with_its_name_mode_and_content() {
        let mut initramfs = Initramfs::new().unwrap();
        initramfs.directory("payload").unwrap();
        initramfs.file("payload/odd", b"seven b").unwrap();
        initramfs.file_with_parents("payload/far/down", b"").unwrap();
        let packed = initramfs.pack().unwrap();

        let mut reader: Box<dyn std::io::Read> = Box::new(GzDecoder::new(&packed[..]));
        let mut entries = Vec::new();
        loop {
            let mut entry = NewcReader::new(reader).unwrap();
            if entry.entry().is_trailer() {
                break;
            }
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            let header = entry.entry();
            entries.push((header.name().to_owned(), header.mode(), header.rdev_major(), content));
            reader = entry.finish().unwrap();
        }

        assert_eq!(entries[0], ("dev".into(), 0o040_755, 0, vec![]));
        assert!(entries.contains(&("dev/console".into(), 0o020_600, 5, vec![])));
        assert!(entries.contains(&("payload".into(), 0o040_755, 0, vec![])));
        let payload = entries
            .iter()
            .skip_while(|entry| entry.0 != "payload")
            .cloned()
            .collect::<Vec<_>>();
        let directory = |name: &str| (name.to_owned(), 0o040_755, 0, vec![]);
        assert_eq!(
            payload,
            [
                directory("payload"),
                ("payload/odd".into(), 0o100_755, 0, b"seven b".to_vec()),
                directory("payload/far"),
                ("payload/far/down".into(), 0o100_755, 0, vec![]),
            ]
        );
    }
}
