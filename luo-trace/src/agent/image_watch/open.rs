//! Opening the file that a task gave to the kernel, and reading it.
//!
//! The file is found among the task's descriptors by its device and inode number: its path may be of another mount namespace,
//! or be another file's by now.

use std::fs::{self, File, Metadata};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use luo_trace_common::events::ImageFile;

use crate::agent::image_reader;
use crate::host::proc;
use crate::image::Contents;

/// A larger file is not read, in bytes. No kernel comes near.
const SIZE_MAX: u64 = 256 << 20;
/// So many of a task's descriptors are looked at.
const DESCRIPTORS: usize = 4096;

/// An image's file, open for reading, as it was when it was opened.
pub struct ImageAtHand {
    file: File,
    stamp: Stamp,
}

/// Tells whether a file was changed: its size, and when its contents were, in seconds and nanoseconds.
///
/// When its inode was changed says nothing: a hard link made to it, a new name or owner changes that, and no byte. Who changes the
/// contents and sets their time back is not seen; such a one could load any image.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    size: u64,
    written: (i64, i64),
}

impl From<Metadata> for Stamp {
    fn from(of: Metadata) -> Self {
        Self {
            size: of.len(),
            written: (of.mtime(), of.mtime_nsec()),
        }
    }
}

/// Opens the file that this thread is giving to the kernel.
///
/// # Errors
/// Why it cannot be had, in words.
pub fn of_task(tid: u32, wanted: &ImageFile) -> Result<ImageAtHand, String> {
    in_process(&Path::new("/proc").join(tid.to_string()), wanted)
}

fn in_process(process: &Path, wanted: &ImageFile) -> Result<ImageAtHand, String> {
    let descriptors = process.join("fd");
    let gone = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => "the loader was gone before its image could be looked into".to_owned(),
        _ => {
            format!("the loader's descriptors cannot be read ({error}): run the agent as root, or with CAP_SYS_PTRACE")
        }
    };
    let all = fs::read_dir(&descriptors).map_err(gone)?;
    let all = all.filter_map(|entry| Some(entry.ok()?.path())).take(DESCRIPTORS);
    // A descriptor that vanishes meanwhile is not the one: the loader waits for the kernel.
    let (held, _) = all
        .filter_map(|path| Some((hold(&path).ok()?, path)))
        .find(|(held, path)| is_wanted(held, wanted, process, path))
        .ok_or("the loader had closed its image before it could be looked into")?;
    let file = reopen(&held).map_err(|error| format!("the image cannot be opened: {error}"))?;
    let stamp = file
        .metadata()
        .map_err(|error| format!("the image cannot be asked for its size: {error}"))?;
    match Stamp::from(stamp) {
        stamp if stamp.size != wanted.size => Err("the image was changed while it was loaded".into()),
        stamp if stamp.size > SIZE_MAX => Err(format!("the image has {} MiB, which no kernel has", stamp.size >> 20)),
        stamp => Ok(ImageAtHand { file, stamp }),
    }
}

/// Takes hold of a descriptor's file without opening it, which could have effects or take long.
fn hold(descriptor: &Path) -> std::io::Result<File> {
    File::options().read(true).custom_flags(libc::O_PATH).open(descriptor)
}

fn reopen(held: &File) -> std::io::Result<File> {
    let path = format!("/proc/self/fd/{}", held.as_raw_fd());
    // Without a wait, should a process hold a lease on it.
    File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
}

fn is_wanted(held: &File, wanted: &ImageFile, process: &Path, descriptor: &Path) -> bool {
    let Ok(of) = held.metadata() else { return false };
    of.is_file()
        && of.ino() == wanted.inode
        && (number(libc::major(of.dev()), libc::minor(of.dev())) == wanted.device
            || mounted(process, descriptor) == Some(wanted.device))
}

/// A device's number as the kernel has it, in which it differs from `dev_t`: 20 bits of minor. Mirrors `MKDEV` in
/// `include/linux/kdev_t.h` (7.3).
fn number(major: u32, minor: u32) -> u64 {
    u64::from(major) << 20 | u64::from(minor)
}

/// The device of the mount that a descriptor's file was opened by. A file system with subvolumes, such as btrfs, shows others to
/// who asks for a file's.
fn mounted(process: &Path, descriptor: &Path) -> Option<u64> {
    let info = fs::read_to_string(process.join("fdinfo").join(descriptor.file_name()?)).ok()?;
    let mounts = fs::read_to_string(process.join("mountinfo")).ok()?;
    let (major, minor) = proc::device_of_mount(&info, &mounts)?;
    Some(number(major, minor))
}

/// Reads an image, which the kernel has read at nearly the same time: a change between the two would go unseen, but for the
/// file's times.
///
/// # Errors
/// Why nothing is known of it, in words.
pub fn read(image: ImageAtHand) -> Result<Contents, String> {
    let ImageAtHand { file, stamp } = image;
    let found = image_reader::read(&file);
    if file.metadata().ok().map(Stamp::from) != Some(stamp) {
        return Err("the image was changed while it was read".into());
    }
    found.map_err(|why| why.to_string())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// What the kernel would say of this file.
    fn told(file: &File) -> ImageFile {
        let of = file.metadata().unwrap();
        ImageFile {
            inode: of.ino(),
            device: number(libc::major(of.dev()), libc::minor(of.dev())),
            size: of.len(),
            ..ImageFile::default()
        }
    }

    fn contents(image: &ImageAtHand) -> Vec<u8> {
        let mut bytes = Vec::new();
        (&image.file).read_to_end(&mut bytes).unwrap();
        bytes
    }

    fn own() -> u32 {
        std::process::id()
    }

    #[test]
    fn the_file_is_found_by_its_inode_whatever_became_of_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vmlinuz");
        fs::write(&path, b"the image").unwrap();
        let loaders = File::open(&path).unwrap();
        // Given another file in the place of the one that the loader has open,
        fs::remove_file(&path).unwrap();
        fs::write(&path, b"another one").unwrap();
        // then it is the loader's that is opened.
        let image = of_task(own(), &told(&loaders)).unwrap();
        assert_eq!(contents(&image), b"the image");
    }

    #[test]
    fn an_image_in_a_memfd_is_found_like_any_file() {
        // Given an image in memory alone, as systemd loads the kernel of a unified image,
        let memfd = rustix::fs::memfd_create("kernel", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let mut file = File::from(memfd);
        file.write_all(b"the image").unwrap();
        // then it is opened, and read from its beginning, wherever the loader stands in it.
        let image = of_task(own(), &told(&file)).unwrap();
        assert_eq!(contents(&image), b"the image");
    }

    #[test]
    fn it_is_opened_for_reading_alone_and_no_child_gets_it() {
        let file = tempfile::tempfile().unwrap();
        let image = of_task(own(), &told(&file)).unwrap();
        assert!((&image.file).write(b"x").is_err());
        // SAFETY: a call that takes no pointer.
        let flags = unsafe { libc::fcntl(image.file.as_raw_fd(), libc::F_GETFD) };
        assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
    }

    #[test]
    fn a_loader_that_is_gone_or_has_closed_it_is_told_apart() {
        let file = tempfile::tempfile().unwrap();
        let wanted = told(&file);
        let gone = of_task(u32::MAX >> 1, &wanted).err().unwrap();
        assert!(gone.contains("the loader was gone"), "{gone}");
        drop(file);
        let closed = of_task(own(), &wanted).err().unwrap();
        assert!(closed.contains("had closed"), "{closed}");
    }

    #[test]
    fn a_file_of_another_device_or_inode_is_not_the_one() {
        let file = tempfile::tempfile().unwrap();
        let wanted = told(&file);
        // Not those next to it: they may be another test's, which the same process has open.
        for other in [
            ImageFile {
                device: !wanted.device,
                ..wanted
            },
            ImageFile {
                inode: !wanted.inode,
                ..wanted
            },
        ] {
            assert!(of_task(own(), &other).is_err());
        }
        assert!(of_task(own(), &wanted).is_ok());
    }

    #[test]
    fn what_is_no_regular_file_is_never_opened() {
        // Given a FIFO whose opening would wait for a writer,
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: a string that ends with a NUL.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        let both = File::options().read(true).write(true).open(&path).unwrap();
        // then it is not taken for an image, though it has the inode.
        assert!(of_task(own(), &told(&both)).is_err());
    }

    #[test]
    fn a_file_that_is_changed_while_it_is_loaded_or_read_is_not_known() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"half of an image").unwrap();
        let wanted = told(&file);
        let image = of_task(own(), &wanted).unwrap();
        file.write_all(b" and more").unwrap();
        let why = of_task(own(), &wanted).err().unwrap();
        assert!(why.contains("changed while it was loaded"), "{why}");
        let why = read(image).err().unwrap();
        assert!(why.contains("changed while it was read"), "{why}");
    }

    #[test]
    fn a_link_made_to_it_while_it_is_read_is_no_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vmlinuz");
        fs::write(&path, b"no image at all").unwrap();
        let loaders = File::open(&path).unwrap();
        let image = of_task(own(), &told(&loaders)).unwrap();
        // Given that a backup links it, and that its permissions are changed, both of which the inode's time shows,
        fs::hard_link(&path, dir.path().join("backup")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        // then it is read, and judged by what is in it.
        let why = read(image).err().unwrap();
        assert!(!why.contains("changed"), "{why}");
    }

    #[test]
    fn what_is_too_large_is_not_read() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(SIZE_MAX + 1).unwrap();
        let why = of_task(own(), &told(&file)).err().unwrap();
        assert!(why.contains("256 MiB"), "{why}");
    }

    #[test]
    fn a_device_is_that_of_the_mount_where_the_file_system_shows_another() {
        // Given a process whose descriptor 5 was opened by mount 29, of device 0:27,
        let process = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = process.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("fdinfo/5", "pos:\t0\nflags:\t0100000\nmnt_id:\t29\nino:\t257\n");
        write(
            "mountinfo",
            "2 1 8:1 / / rw - ext4 /dev/a rw\n29 2 0:27 /@ /boot rw - btrfs /dev/b rw\n",
        );
        let device = |descriptor: &str| mounted(process.path(), Path::new(descriptor));
        assert_eq!(device("/proc/1/fd/5"), Some(number(0, 27)));
        assert_eq!(device("/proc/1/fd/6"), None);
    }
}
