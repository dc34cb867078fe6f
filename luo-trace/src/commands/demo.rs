//! `luo-trace demo`: recordings of real live updates that are built in, for a first sight without a kernel that has LUO.
//!
//! `cargo xtask demo --record` made them, of two real kernels each: see `luo-trace/recordings`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args as ClapArgs;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

use super::report::{self, Format, write};
use super::{Deadline, replay};
use crate::chain::case::Case;
use crate::exit::Exit;
use crate::journal::{Opened, recordings};
use crate::sink::log::tell;

/// Options of `luo-trace demo`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Show an update that went wrong
    #[arg(long, value_name = "FAULT", value_parser = fault())]
    fault: Option<&'static Recording>,
    /// Write the report as a page for a browser to this file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Play it as if it happened now, with the agent's metrics and its page at this address, until interrupted
    #[arg(long, value_name = "ADDR", conflicts_with_all = ["html", "save"])]
    listen: Option<SocketAddr>,
    /// Write the recording itself to this file, for `luo-trace check`, `report` and `replay`
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
}

/// A recorded update.
#[derive(Debug)]
struct Recording {
    name: &'static str,
    /// What happened, in a sentence.
    about: &'static str,
    /// The journals of its kernels, as they go through a serial line.
    log: &'static str,
}

/// The recording of this name.
macro_rules! recording {
    ($name:literal, $about:literal) => {
        Recording {
            name: $name,
            about: $about,
            log: include_str!(concat!("../../recordings/", $name, ".log")),
        }
    };
}

/// The update in which all goes well.
static CLEAN: Recording = recording!("clean", "Three virtual machines' sessions come through a live update.");

/// What can go wrong.
static FAULTS: [Recording; 4] = [
    recording!(
        "lost-session",
        "The next kernel was loaded by kexec_load(2), which carries nothing over: the session is gone, and no call has failed."
    ),
    recording!(
        "failed-freeze",
        "One file cannot be frozen: the update is rolled back, the sessions go on, and the next attempt succeeds."
    ),
    recording!(
        "left-behind",
        "The second kernel retrieves a session and never finishes it, and the next update leaves it behind with its file."
    ),
    recording!(
        "leaked-memory",
        "The kernel forgets to give back preserved memory when a session is closed."
    ),
];

/// Reads the name of a fault.
fn fault() -> impl TypedValueParser<Value = &'static Recording> {
    let value = |fault: &Recording| PossibleValue::new(fault.name).help(fault.about);
    PossibleValuesParser::new(FAULTS.iter().map(value)).map(|name| named(&name))
}

/// The recording of this name, or the one in which all goes well.
fn named(name: &str) -> &'static Recording {
    FAULTS.iter().find(|fault| fault.name == name).unwrap_or(&CLEAN)
}

impl Recording {
    /// Its journals.
    fn journals(&self) -> Result<Vec<Opened>> {
        recordings(Path::new(self.name), self.log.as_bytes())
            .with_context(|| format!("the recording {:?} that is built in cannot be read", self.name))
    }
}

/// Shows a recording.
///
/// # Errors
/// Where what comes of it cannot be written or served.
pub fn run(args: &Args) -> Result<Exit> {
    let recording = args.fault.unwrap_or(&CLEAN);
    tell(format_args!("a recording of real kernels. {}", recording.about));
    if let Some(path) = &args.save {
        write(path, recording.log.as_bytes())?;
        tell(format_args!("the recording is in {}", path.display()));
    }
    if let Some(path) = &args.html {
        report::tell(&Case::of_one(recording.journals()?), Format::Html, Some(path))?;
        tell(format_args!("the report is in {}", path.display()));
    }
    if args.listen.is_some() {
        let played = replay::Recording {
            open: &|| recording.journals(),
            deadline: Deadline::default(),
        };
        played.play(args.listen, 1.0)?;
    }
    if args.save.is_none() && args.html.is_none() {
        report::tell(&Case::of_one(recording.journals()?), Format::Text, None)?;
        let faults: Vec<_> = FAULTS.iter().map(|fault| fault.name).collect();
        tell(format_args!(
            "to go on: `--fault {}`, `--html FILE`, `--listen 127.0.0.1:9886`, `--save FILE`",
            faults.join("|")
        ));
    }
    Ok(Exit::Held)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::case::Conclusion;

    /// What a recording proves: what it comes to, and which invariants are broken.
    fn proves(name: &str) -> (Conclusion, Vec<&'static str>) {
        let case = Case::of_one(named(name).journals().unwrap());
        let mut broken: Vec<_> = case.findings().map(|finding| finding.invariant.id()).collect();
        broken.dedup();
        (case.conclusion(), broken)
    }

    #[test]
    fn each_recording_shows_what_it_says() {
        assert_eq!(proves("clean"), (Conclusion::Held, vec![]));
        let violated = |ids: &[&'static str]| (Conclusion::Violated, ids.to_vec());
        let lost = ["kexec-carrier", "kexec-sessions-conserved"];
        assert_eq!(proves("lost-session"), violated(&lost));
        assert_eq!(proves("failed-freeze"), (Conclusion::Held, vec![]));
        assert_eq!(
            proves("left-behind"),
            violated(&["incoming-finished-first", "kexec-files-accounted"])
        );
        assert_eq!(proves("leaked-memory"), violated(&["kho-balance"]));
    }

    #[test]
    fn each_recording_is_small_and_of_this_version() {
        for recording in [&CLEAN].into_iter().chain(&FAULTS) {
            let size = recording.log.len();
            assert!(size < 100 << 10, "{}: {size} bytes", recording.name);
            for journal in recording.journals().unwrap() {
                let header = journal.events.header();
                assert_eq!(
                    (header.agent_version.as_str(), header.abi_version),
                    (env!("CARGO_PKG_VERSION"), luo_trace_common::events::ABI_VERSION),
                    "{} is too old: make it anew by `cargo xtask demo --record`",
                    recording.name
                );
            }
        }
    }
}
