//! `luo-trace status`: what LUO holds now.

use std::io::{self, BufWriter, Write};

use anyhow::Result;
use clap::{Args as ClapArgs, ValueEnum};

use super::Socket;
use super::policy::left_in_force;
use crate::exit::Exit;
use crate::host;
use crate::kernel::{preflight, snapshot};
use crate::sink::control::client;
use crate::sink::log::tell;
use crate::status::{Status, table};

/// Options of `luo-trace status`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    socket: Socket,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Format {
    /// For a person, in 80 columns
    #[default]
    Table,
    /// One JSON object
    Json,
}

/// Asks the running agent; where none runs, takes one snapshot of the kernel's lists and leaves no trace.
///
/// # Errors
/// Where the agent does not answer, the kernel cannot be looked at, or stdout cannot be written.
pub fn run(args: &Args) -> Result<Exit> {
    let status = match client::status(&args.socket.path)? {
        Some(status) => status,
        None => match preflight::obstacle() {
            None => snapshot()?,
            Some(obstacle) => {
                tell(format_args!("no agent runs that could be asked, and {obstacle}"));
                return Ok(Exit::CannotWork);
            }
        },
    };
    print(&mut BufWriter::new(super::stdout()), &status, args.format)?;
    Ok(Exit::Held)
}

/// One snapshot of the kernel's lists.
pub(super) fn snapshot() -> Result<Status> {
    let mut header = host::header(None)?;
    let events = snapshot::once(&mut header)?;
    let facts = host::facts(header.kernel_release, header.boot_id);
    let foreign = host::namespace::is_foreign().then(|| host::namespace::FOREIGN.to_owned());
    let status = Status::of_snapshot(facts, &events);
    Ok(Status {
        troubles: foreign.into_iter().chain(status.troubles).collect(),
        luo_format: header.luo_format,
        kho_format: header.kho_format,
        kho_scratch_bytes: header.kho_scratch_bytes,
        policy: left_in_force().map(|(policy, standing)| policy.with(&standing)),
        ..status
    })
}

fn print(out: &mut impl Write, status: &Status, format: Format) -> io::Result<()> {
    match format {
        Format::Table => table::write(out, status)?,
        Format::Json => {
            serde_json::to_writer_pretty(&mut *out, status)?;
            writeln!(out)?;
        }
    }
    out.flush()
}
