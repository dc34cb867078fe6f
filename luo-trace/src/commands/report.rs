//! `luo-trace report`: the story of recorded live updates, over all their kernels.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args as ClapArgs, ValueEnum};

use super::Journals;
use crate::chain::case::Case;
use crate::exit::Exit;
use crate::report::{Report, Style, html, otlp, perfetto, render};

/// Columns, where the terminal does not tell.
const WIDTH: usize = 100;

/// Options of `luo-trace report`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    journals: Journals,
    /// What to make of them
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Where to write it, instead of stdout
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For a terminal
    #[default]
    Text,
    /// One page for a browser, which needs nothing from outside
    Html,
    /// One JSON object
    Json,
    /// A trace for ui.perfetto.dev and other viewers of Chrome's format
    Perfetto,
    /// OpenTelemetry spans, in OTLP's JSON form
    Otlp,
}

/// Reads the journals, judges them, and writes the report.
///
/// # Errors
/// Where a journal cannot be read, or the report cannot be written. Nothing is written in the first case.
pub fn run(args: &Args) -> Result<Exit> {
    tell(&args.journals.case()?, args.format, args.output.as_deref())?;
    Ok(Exit::Held)
}

/// Writes the report of a case to a file, or to stdout.
pub(super) fn tell(case: &Case, format: Format, output: Option<&Path>) -> Result<()> {
    let text = draw(&Report::of(case), format, output.is_none())?;
    match output {
        Some(path) => write(path, text.as_bytes()),
        None => super::stdout()
            .write_all(text.as_bytes())
            .context("cannot write to stdout"),
    }
}

fn draw(report: &Report, format: Format, stdout: bool) -> Result<String> {
    Ok(match format {
        Format::Text => {
            let terminal = stdout && io::stdout().is_terminal();
            let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            let width = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
            let width = width.unwrap_or(WIDTH);
            render(report, Style { colour, width })
        }
        Format::Html => html(report)?,
        Format::Json => pretty(report)?,
        Format::Perfetto => pretty(&perfetto(report))?,
        Format::Otlp => pretty(&otlp::export(report))?,
    })
}

fn pretty(value: &impl serde::Serialize) -> Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

/// Writes a file as a whole: a reader sees the old one or the new one. What is no plain file is written as it is.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    let there = fs::metadata(path);
    match &there {
        Ok(there) if there.is_dir() => bail!("{} is a directory; give a file in it to write to", path.display()),
        Ok(there) if !there.is_file() => return fs::write(path, bytes).with_context(cannot),
        _ => {}
    }
    // A link stays one: what it leads to is replaced.
    let path = if there.is_ok() {
        fs::canonicalize(path).with_context(cannot)?
    } else {
        path.to_owned()
    };
    let Some(name) = path.file_name() else {
        bail!("{} names no file; give one to write to", path.display())
    };
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}", std::process::id()));
    let temporary = path.with_file_name(temporary);
    let written = File::create_new(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)
    });
    if written.is_err() {
        // Where this fails as well, the first error is the one that matters.
        _ = fs::remove_file(&temporary);
    }
    written.with_context(cannot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_replaces_the_old_one_as_a_whole_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.html");
        write(&path, b"old").unwrap();
        write(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_directory_is_refused_and_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let error = write(dir.path(), b"x").unwrap_err().to_string();
        assert!(error.contains("is a directory; give a file"), "{error}");
    }

    #[test]
    fn a_link_and_a_device_stay_what_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write(&link, b"new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"new");
        let null = dir.path().join("null");
        std::os::unix::fs::symlink("/dev/null", &null).unwrap();
        write(&null, b"x").unwrap();
        assert!(fs::symlink_metadata(&null).unwrap().is_symlink());
    }

    #[test]
    fn what_cannot_be_written_leaves_the_reason() {
        let error = write(Path::new("/nonexistent/report"), b"x").unwrap_err();
        assert!(
            format!("{error:#}").contains("cannot write /nonexistent/report"),
            "{error:#}"
        );
    }
}
