//! A Debian package: an `ar` archive of two tar archives.

use std::env;

use anyhow::{Context as _, Result};
use ar::{Builder, Header};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use super::files::{Files, gzip, tar};
use super::text;
use crate::vm::guest::workspace;

/// Debian's name of the architecture.
const ARCHITECTURE: &str = "amd64";

/// Who answers for it, where no `DEBEMAIL` says so: the authors have no address in common.
const NO_ADDRESS: &str = "luo-trace@luo-trace.invalid";

/// What the installation runs.
const SCRIPTS: [&str; 3] = ["postinst", "postrm", "prerm"];

/// What belongs to the administrator.
const CONFFILES: &str = "/etc/luo-trace/agent.toml\n";

/// The package's file name.
pub(super) fn name(version: &str) -> String {
    format!("luo-trace_{version}_{ARCHITECTURE}.deb")
}

/// The package.
pub(super) fn package(files: &Files, version: &str, time: u64) -> Result<Vec<u8>> {
    let maintainer = format!(
        "the luo-trace authors <{}>",
        env::var("DEBEMAIL").unwrap_or_else(|_| NO_ADDRESS.into())
    );
    let control = control(files, version, &maintainer);
    let scripts =
        SCRIPTS.map(|name| text(&workspace().join("luo-trace/packaging/deb").join(name)).map(|text| (name, text)));
    let scripts = scripts.into_iter().collect::<Result<Vec<_>>>()?;
    let about = [
        ("control", 0o644, control.as_bytes()),
        ("conffiles", 0o644, CONFFILES.as_bytes()),
    ];
    let about = about
        .into_iter()
        .chain(scripts.iter().map(|(name, text)| (*name, 0o755, &**text)));
    let about = tar(
        about.map(|(name, mode, bytes)| (format!("./{name}"), mode, bytes)),
        time,
    )?;
    let changes = gzip(changes(version, &maintainer, time)?.as_bytes())?;
    let data = files.0.iter().map(|file| (&*file.path, file.mode, &*file.bytes));
    let data = data.chain([("usr/share/doc/luo-trace/changelog.gz", 0o644, &*changes)]);
    let data = tar(data.map(|(path, mode, bytes)| (format!("./{path}"), mode, bytes)), time)?;
    let mut package = Builder::new(Vec::new());
    let members = [
        ("debian-binary", b"2.0\n".to_vec()),
        ("control.tar.gz", gzip(&about)?),
        ("data.tar.gz", gzip(&data)?),
    ];
    for (name, bytes) in members {
        let mut header = Header::new(name.as_bytes().to_vec(), bytes.len() as u64);
        header.set_mode(0o100644);
        header.set_mtime(time);
        package
            .append(&header, &bytes[..])
            .with_context(|| format!("{name} cannot be packed"))?;
    }
    Ok(package.into_inner()?)
}

/// What Debian's tools read of the version's changes. What a user notices is told in `CHANGELOG.md` beside it.
fn changes(version: &str, maintainer: &str, time: u64) -> Result<String> {
    let time = OffsetDateTime::from_unix_timestamp(time.try_into()?)?.format(&Rfc2822)?;
    Ok(format!(
        "luo-trace ({version}) unstable; urgency=medium\n\n  * CHANGELOG.md tells what is new.\n\n -- {maintainer}  {time}\n"
    ))
}

/// What dpkg knows of it. The agent is static, and needs nothing.
fn control(files: &Files, version: &str, maintainer: &str) -> String {
    let bytes: usize = files.0.iter().map(|file| file.bytes.len()).sum();
    format!(
        "Package: luo-trace\n\
         Version: {version}\n\
         Architecture: {ARCHITECTURE}\n\
         Maintainer: {maintainer}\n\
         Installed-Size: {}\n\
         Section: admin\n\
         Priority: optional\n\
         Description: watch Linux live updates from inside the kernel\n \
         An agent that records what the Live Update Orchestrator (LUO) does, checks\n \
         what it promises over a kexec, exports metrics, and can refuse an update\n \
         that would lose state.\n",
        bytes.div_ceil(1024),
    )
}
