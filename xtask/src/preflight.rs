//! `cargo xtask preflight`: what `luo-trace preflight` says of real kernels, and of files that are none.
//!
//! The kernels are the testbed's builds, and Debian's stock cloud kernels of every release since LUO was merged, which have
//! no LUO; the newest one for arm64, too. Those are downloaded once, 13 MB each.

use std::fs::{self, File};
use std::io::{Read as _, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use flate2::Compression;
use flate2::write::GzEncoder;
use luo_trace::image::UNPACKED_MAX;
use luo_trace::testing::image::{self as made_up, gzip, unified, zboot};
use testbed_guest::scenario::Build;
use wait4::Wait4 as _;

use crate::apt::{self, Apt};
use crate::cache;
use crate::kernel::{self, Kernel};
use crate::vm::guest::{self, Agent, workspace};

/// What is preserved, what this host writes, and the command line, for every kernel.
const HOST: [&str; 10] = [
    "--handler",
    "memfd-v2",
    "--flb",
    "liveupdate-test-flb-v0",
    "--luo-format",
    "luo-v5",
    "--kho-format",
    "kho-v4",
    "--cmdline",
    "kho=on liveupdate=on",
];

/// Files that are no kernel have to be refused in as much memory, in bytes.
const REFUSED_IN: u64 = 64 << 20;

/// The first release with LUO.
const FIRST: Release = (6, 19, 0);

type Release = (u32, u32, u32);

/// A file, and what has to be said of it.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// What it is.
    pub(crate) name: String,
    file: PathBuf,
    exit: i32,
    says: &'static str,
}

/// How one was judged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Took {
    seconds: f64,
    peak: u64,
}

/// Judges everything, and prints how.
///
/// # Errors
/// Something is not judged as it should be, or a kernel cannot be got.
pub(crate) fn command(args: kernel::Args) -> Result<()> {
    let agent = guest::build(&Agent::Built)?.agent.context("no agent was built")?;
    let kernel = kernel::ensure(&args.into())?;
    println!("{:<44} {:>4} {:>9} {:>11}  ", "", "exit", "CPU time", "memory");
    let mut wrong = Vec::new();
    for case in cases(&kernel)? {
        match check(&agent, &case) {
            Ok(Took { seconds, peak }) => {
                let peak = peak as f64 / f64::from(1 << 20);
                println!(
                    "{:<44} {:>4} {seconds:>7.2} s {peak:>7.1} MiB  {}",
                    case.name, case.exit, case.says
                );
            }
            Err(why) => wrong.push(format!("{}: {why:#}", case.name)),
        }
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => bail!("{}", wrong.join("\n")),
    }
}

/// All there is to judge. Where Debian's kernels cannot be got, it says so and goes on without them.
///
/// # Errors
/// The testbed's kernels do not build, or a file cannot be written.
pub(crate) fn cases(kernel: &Kernel) -> Result<Vec<Case>> {
    let case = |name: String, file: &Path, exit, says| Case {
        name,
        file: file.to_owned(),
        exit,
        says,
    };
    let mut cases = Vec::new();
    for (build, exit, says) in [
        (Build::Testbed, 0, "will carry"),
        (Build::WithoutLuo, 1, "LUO is not built in"),
        (Build::WithoutMemfd, 1, "does not know the file handler memfd-v2"),
        (Build::OtherAbi, 1, "will panic"),
        (Build::OwnLine, 1, "CONFIG_CMDLINE_OVERRIDE"),
    ] {
        let image = kernel.built(build)?.image;
        cases.push(case(
            format!("testbed's {kernel}, {}", build.name()),
            &image,
            exit,
            says,
        ));
    }
    match debian() {
        Ok(images) => {
            let stock =
                |(name, image): &(String, PathBuf)| case(format!("Debian's {name}"), image, 1, "KHO is not built in");
            cases.extend(images.iter().map(stock));
        }
        Err(why) => println!("skipped: Debian's kernels, which cannot be got: {why:#}"),
    }
    match arm64() {
        Ok((name, images)) => cases.extend(images.iter().map(|(packing, image)| {
            let says = match *packing {
                "gzip" => "compressed arm64 Image, gzip",
                "zstd" => "compressed arm64 Image, zstd",
                _ => "KHO is not built in",
            };
            case(format!("Debian's {name}, {packing}"), image, 1, says)
        })),
        Err(why) => println!("skipped: Debian's kernel for arm64, which cannot be got: {why:#}"),
    }
    cases.extend(made_up(&kernel.image)?);
    let none = no_kernels(&kernel.image)?;
    cases.extend(
        none.iter()
            .map(|(name, file, says)| case((*name).to_owned(), file, 2, says)),
    );
    Ok(cases)
}

/// Has a file judged; gives what that took.
///
/// # Errors
/// It is not judged as it should be.
pub(crate) fn check(agent: &Path, case: &Case) -> Result<Took> {
    let cannot = || format!("cannot run {}", agent.display());
    let mut child = Command::new(agent)
        .arg("preflight")
        .arg("--kernel")
        .arg(&case.file)
        .args(HOST)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(cannot)?;
    let mut said = String::new();
    // Each is a few lines, which a pipe holds.
    if let (Some(mut out), Some(mut err)) = (child.stdout.take(), child.stderr.take()) {
        out.read_to_string(&mut said).with_context(cannot)?;
        err.read_to_string(&mut said).with_context(cannot)?;
    }
    let used = child.wait4().with_context(cannot)?;
    let (exit, wanted) = (used.status.code(), case.exit);
    if exit != Some(wanted) || !said.contains(case.says) {
        bail!(
            "it ends with {exit:?}, and should with {wanted}, and say {:?}:\n{said}",
            case.says
        );
    }
    if wanted == 2 && used.rusage.maxrss > REFUSED_IN {
        bail!("it takes {} MiB to refuse it", used.rusage.maxrss >> 20);
    }
    Ok(Took {
        seconds: (used.rusage.utime + used.rusage.stime).as_secs_f64(),
        peak: used.rusage.maxrss,
    })
}

/// Kernels that are put together here: in unified images, of other builds and machines, and packed in ways that no kernel at hand is.
fn made_up(image: &Path) -> Result<Vec<Case>> {
    let whole = fs::read(image).with_context(|| format!("cannot read {}", image.display()))?;
    let unified = |line: &[u8]| unified(&[(".cmdline", line), (".linux", &whole)]);
    let with = |config| made_up::Kernel {
        config: Some(config),
        ..made_up::Kernel::with_luo(&["memfd-v2", "liveupdate-test-flb-v0"])
    };
    let plain = with("CONFIG_X86_64=y\nCONFIG_KEXEC_HANDOVER=y\nCONFIG_LIVEUPDATE=y\n");
    let overrides = with(
        "CONFIG_X86_64=y\nCONFIG_KEXEC_HANDOVER=y\nCONFIG_LIVEUPDATE=y\nCONFIG_CMDLINE_BOOL=y\nCONFIG_CMDLINE=\"quiet\"\n\
         CONFIG_CMDLINE_OVERRIDE=y\n",
    );
    let mut files = vec![
        (
            "its own line in a unified image",
            unified(b"kho=on liveupdate=on"),
            0,
            "will carry",
        ),
        (
            "another line in a unified image",
            unified(b"quiet"),
            3,
            "the loader's choice",
        ),
        (
            "CMDLINE_OVERRIDE",
            overrides.elf_of(62),
            1,
            "ignores the line it is given",
        ),
        (
            "arm64's, pages of 64 KiB",
            plain.arm64_with(6),
            1,
            "another machine's kernel",
        ),
        (
            "arm64's, as EFI zboot",
            zboot(&gzip(&plain.arm64())),
            1,
            "another machine's kernel",
        ),
    ];
    for packer in ["bzip2", "lzop"] {
        match pack(packer, &plain.elf_of(62)) {
            Ok(packed) => files.push((packer, packed, 0, "will carry")),
            Err(why) => println!("skipped: a kernel packed by {packer}: {why:#}"),
        }
    }
    let case = |(number, (name, bytes, exit, says)): (usize, (&str, Vec<u8>, i32, &'static str))| {
        Ok(Case {
            name: format!("made up: {name}"),
            file: put(&format!("made-up-{number}"), &bytes)?,
            exit,
            says,
        })
    };
    files.into_iter().enumerate().map(case).collect()
}

/// What a command that reads from a pipe packs these bytes to, which are few.
fn pack(packer: &str, bytes: &[u8]) -> Result<Vec<u8>> {
    let cannot = || format!("cannot run {packer}");
    let mut child = Command::new(packer)
        .args(["-9", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(cannot)?;
    // They fit into the pipe.
    child
        .stdin
        .take()
        .with_context(cannot)?
        .write_all(bytes)
        .with_context(cannot)?;
    let output = child.wait_with_output().with_context(cannot)?;
    match output.status.success() {
        true => Ok(output.stdout),
        false => bail!("{packer} ends with {}", output.status),
    }
}

/// Writes a file to judge.
fn put(name: &str, bytes: &[u8]) -> Result<PathBuf> {
    let directory = workspace().join("target/preflight");
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let path = directory.join(name);
    let unfinished = path.with_extension(std::process::id().to_string());
    // Another invocation may be reading it, and finds it whole.
    fs::write(&unfinished, bytes)
        .and_then(|()| fs::rename(&unfinished, &path))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Files that are no kernel, and why.
fn no_kernels(image: &Path) -> Result<[(&'static str, PathBuf, &'static str); 4]> {
    let whole = fs::read(image).with_context(|| format!("cannot read {}", image.display()))?;
    let bomb = bomb().context("cannot pack zeros")?;
    let mut twice = GzEncoder::new(Vec::new(), Compression::fast());
    twice.write_all(&bomb)?;
    Ok([
        (
            "a text file",
            put("text", b"#!/bin/sh\necho no kernel\n")?,
            "it is text",
        ),
        (
            "half a bzImage",
            put("half", &whole[..whole.len() / 2])?,
            "it is cut short",
        ),
        ("a bomb", put("bomb.gz", &bomb)?, "it unpacks to more than"),
        (
            "a bomb in a bomb",
            put("twice.gz", &twice.finish()?)?,
            "what is packed in it is none",
        ),
    ])
}

/// Something like a vmlinux that unpacks to more than what is allowed.
fn bomb() -> std::io::Result<Vec<u8>> {
    static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
    let mut bomb = GzEncoder::new(Vec::new(), Compression::fast());
    bomb.write_all(b"\x7fELF\x02\x01\x01")?;
    for _ in 0..=UNPACKED_MAX / ZEROS.len() as u64 {
        bomb.write_all(&ZEROS)?;
    }
    bomb.finish()
}

/// Debian's cloud kernels: of each release from [`FIRST`] on the newest there is, with its name.
fn debian() -> Result<Vec<(String, PathBuf)>> {
    let apt = apt(Apt::newer)?;
    let packages = newest(apt.names("linux-binary-")?, "amd64");
    packages.iter().map(|package| image(&apt, package)).collect()
}

/// The newest of them for arm64, as it is, and packed as others have it: its name, and each way with its file.
fn arm64() -> Result<(String, Vec<(&'static str, PathBuf)>)> {
    let apt = apt(|| Apt::newer_of("arm64"))?;
    let packages = newest(apt.names("linux-binary-")?, "arm64");
    let (name, image) = image(&apt, packages.last().context("there is none")?)?;
    let mut images = vec![("not packed", image.clone())];
    let _lock = cache::lock("debian-kernels")?;
    for packing in ["gzip", "zstd"] {
        let packed = image.with_file_name(format!("{name}.{packing}"));
        if !packed.is_file() {
            let half = packed.with_extension("half");
            let file = File::create(&half).with_context(|| format!("cannot write {}", half.display()))?;
            let status = Command::new(packing)
                .args(["-1", "-c"])
                .arg(&image)
                .stdout(file)
                .status();
            if !status.with_context(|| format!("cannot start {packing}"))?.success() {
                bail!("{packing} cannot pack {}", image.display());
            }
            fs::rename(&half, &packed).with_context(|| format!("cannot make {}", packed.display()))?;
        }
        images.push((packing, packed));
    }
    Ok((name, images))
}

/// Where this machine has packages from.
fn apt(of: impl FnOnce() -> Result<Apt>) -> Result<Apt> {
    if !apt::available() {
        bail!("this machine has no apt");
    }
    of()
}

/// A package's kernel, with its name.
fn image(apt: &Apt, package: &str) -> Result<(String, PathBuf)> {
    let image = cache::subdir("debian-kernels")?.join(package);
    let _lock = cache::lock("debian-kernels")?;
    if !image.is_file() {
        let root = apt.unpack(package, None)?;
        let found = vmlinuz(&root).with_context(|| format!("{package} has no vmlinuz"))?;
        fs::rename(&found, &image).with_context(|| format!("cannot make {}", image.display()))?;
        fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))?;
    }
    Ok((package.trim_start_matches("linux-binary-").to_owned(), image))
}

/// Of packages such as `linux-binary-7.3.4+deb13-cloud-amd64` the newest of each release.
fn newest(packages: Vec<String>, architecture: &str) -> Vec<String> {
    let cloud = format!("-cloud-{architecture}");
    let mut known: Vec<_> = packages
        .into_iter()
        .filter_map(|package| {
            let version = package.strip_prefix("linux-binary-")?.strip_suffix(&cloud)?;
            Some((release(version)?, package))
        })
        .filter(|(release, _)| *release >= FIRST)
        .collect();
    known.sort_unstable();
    known.reverse();
    known.dedup_by_key(|((major, minor, _), _)| (*major, *minor));
    known.reverse();
    known.into_iter().map(|(_, package)| package).collect()
}

fn release(version: &str) -> Option<Release> {
    let mut numbers = version.split('+').next()?.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??, numbers.next()??))
}

/// The kernel in an unpacked package: in `/boot`, or from 7.2 on beside its modules.
fn vmlinuz(root: &Path) -> Option<PathBuf> {
    let inside = |directory: PathBuf| fs::read_dir(directory).into_iter().flatten().flatten();
    let in_boot = inside(root.join("boot")).map(|entry| entry.path());
    let by_modules = inside(root.join("usr/lib/modules")).map(|entry| entry.path().join("vmlinuz"));
    let is_kernel = |path: &PathBuf| File::open(path).is_ok() && path.to_string_lossy().contains("vmlinuz");
    in_boot.chain(by_modules).find(is_kernel)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_each_release_the_newest_cloud_kernel_is_taken() {
        let packages = [
            "linux-binary-7.3.4+deb13-cloud-amd64",
            "linux-binary-6.18.15+deb13-cloud-amd64",
            "linux-binary-6.19.6+deb13-cloud-amd64",
            "linux-binary-6.19.14+deb13-cloud-amd64",
            "linux-binary-6.19.14+deb13-amd64",
            "linux-binary-unsigned-7.3.4+deb13-cloud-amd64",
            "linux-binary-7.2.9+deb13-cloud-amd64",
            "linux-binary-7.2.11+deb13-cloud-arm64",
        ];
        assert_eq!(
            newest(packages.map(String::from).to_vec(), "amd64"),
            [
                "linux-binary-6.19.14+deb13-cloud-amd64",
                "linux-binary-7.2.9+deb13-cloud-amd64",
                "linux-binary-7.3.4+deb13-cloud-amd64"
            ]
        );
    }
}
