//! `luo-trace drain`: what the agent does with each record, without a kernel, for `cargo xtask bench drain`.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args as ClapArgs;

use crate::agent::live::Live;
use crate::agent::pipeline::{Outputs, Pipeline};
use crate::event::source::{Losses, Source};
use crate::exit::Exit;
use crate::journal::{Frame, Reader};
use crate::sink::journal::Records;

/// Options of `luo-trace drain`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The journal whose records are drained
    #[arg(value_name = "JOURNAL")]
    journal: PathBuf,
    /// How often, each time by a new agent
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    times: u32,
}

/// Has agents without outputs drain the records, as if the journal were a ring. It prints nothing.
///
/// # Errors
/// Where the journal cannot be read.
pub fn run(args: &Args) -> Result<Exit> {
    let cannot = || format!("cannot read {}", args.journal.display());
    let mut reader = Reader::open(&args.journal).with_context(cannot)?;
    let mut records = Records::default();
    while let Some(frame) = reader.next() {
        if let Frame::Event(record) = frame {
            records.push(record);
        }
    }
    let header = reader.header();
    for _ in 0..args.times {
        let live = Arc::new(Live::new(header)?);
        let mut pipeline = Pipeline::new(live, Outputs::default(), header.clock.monotonic_ns);
        let mut ring = Recorded(records.iter());
        while pipeline.drain(&mut ring) > 0 {}
    }
    Ok(Exit::Held)
}

/// Records in the place of a ring.
struct Recorded<I>(I);

impl<'a, I: Iterator<Item = &'a [u8]>> Source for Recorded<I> {
    fn take(&mut self, limit: usize, mut consume: impl FnMut(&[u8])) -> usize {
        let mut count = 0;
        for record in self.0.by_ref().take(limit) {
            consume(record);
            count += 1;
        }
        count
    }

    fn losses(&mut self) -> Losses {
        Losses::default()
    }
}
