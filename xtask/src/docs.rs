//! `cargo xtask docs`: the tables in the documents, held against the code that they are made from.

use anyhow::Result;

use crate::check;
use crate::invariants;

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
    let mut test = check::cargo(&["test", "--package", "luo-trace", "--test", "docs"]);
    if args.write {
        invariants::write()?;
        test.env(WRITE, "1").args(["--", "the_table_of_"]);
    }
    check::run(test)
}
