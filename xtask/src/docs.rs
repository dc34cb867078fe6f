//! `cargo xtask docs`: the tables in the documents, held against the code that they are made from.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::invariants;
use crate::vm::guest::workspace;

/// Has `luo-trace/tests/docs.rs` write its tables instead of comparing them.
const WRITE: &str = "LUO_TRACE_WRITE_DOCS";

/// The options of `cargo xtask docs`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Bring the tables up to date instead of only checking them
    #[arg(long)]
    write: bool,
}

/// Checks links, words and tables of the documents, or writes the tables.
///
/// # Errors
/// A document is not as it should be, or cannot be written.
pub(crate) fn command(args: &Args) -> Result<()> {
    let mut test = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    test.current_dir(workspace())
        .args(["test", "--package", "luo-trace", "--test", "docs"]);
    if args.write {
        invariants::write()?;
        test.env(WRITE, "1").args(["--", "the_table_of_"]);
    }
    let status = test.status().context("cannot start cargo")?;
    if status.success() {
        Ok(())
    } else {
        bail!("not every document is as it should be")
    }
}
