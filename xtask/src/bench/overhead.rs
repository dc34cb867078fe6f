//! What tracing adds to LUO's operations.

use anyhow::Result;
use testbed_guest::scenario::{Bench, How, Operation, Size, Tracer, Work};

use super::{Print, agent, closure, measure, nobody, table};
use crate::kernel::{self, Kernel};
use crate::setup::{self, Need};
use crate::vm::Agent;

#[derive(clap::Args, Clone, Debug)]
pub(super) struct Overhead {
    /// The size of the one file that is preserved in pages of 4 KiB
    #[arg(long, value_name = "SIZE", default_value = "1 GiB", value_parser = |text: &str| Size::try_from(text.to_owned()))]
    size: Size,
    /// How often each operation is done; the round that took least counts
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Measure luo-trace only, without bpftrace and the kernel's own probes
    #[arg(long)]
    alone: bool,
    #[command(flatten)]
    print: Print,
    #[command(flatten)]
    kernel: kernel::Args,
}

/// Measures, and prints a table.
///
/// # Errors
/// Something that is needed cannot be got, or a tracer does not do what it should.
pub(super) fn command(args: Overhead) -> Result<()> {
    let bpftrace = match args.alone {
        true => setup::ensure(&[Need::Qemu, Need::Bpf]).map(|_| Vec::new())?,
        false => {
            let tools = setup::ensure(&[Need::Qemu, Need::Bpf, Need::Bpftrace])?;
            closure::of(&tools.program("bpftrace")?, "usr/bin/bpftrace")?
        }
    };
    let kernel = kernel::ensure(&args.kernel.into())?;
    let plan = Bench {
        operations: operations(args.size),
        tracers: tracers(args.alone),
        rounds: args.rounds,
    };
    let memory_mib = 2048 + args.size.bytes() / (1 << 20);
    let (measurement, output) = measure(
        "bench-overhead",
        &plan,
        &kernel,
        &Agent::Built,
        memory_mib,
        bpftrace,
        &[],
    )?;
    let table = table::Table::of(&plan.operations, &measurement)?;
    args.print.print(&heading(&kernel, args.rounds), &table, &measurement);
    eprintln!("numbers and logs: {}", output.display());
    Ok(())
}

/// Who is measured, in this order: the first time no process looks on is what the others are held against, the second one
/// tells how far two measurements of the same thing lie apart.
fn tracers(alone: bool) -> Vec<Tracer> {
    let bpftrace = |like: &str| How::Bpftrace { like: like.into() };
    let kprobes = |like: &str| How::Kprobes { like: like.into() };
    let others = [
        ("bpftrace-count", bpftrace("count")),
        ("bpftrace-keys", bpftrace("keys")),
        ("kprobes-count", kprobes("count")),
        ("kprobes-keys", kprobes("keys")),
    ];
    let ours = ["off", "count", "keys"].map(|detail| agent(detail, &["--kho", detail]));
    let others = others
        .map(|(name, how)| Tracer { name: name.into(), how })
        .into_iter()
        .filter(|_| !alone);
    let [first, last] = [table::NOBODY, "nobody-again"].map(nobody);
    [first].into_iter().chain(ours).chain(others).chain([last]).collect()
}

fn operations(size: Size) -> Vec<Operation> {
    let page = Size::from(4096);
    [
        (format!("1 file of {}", String::from(size)), 1, 1, size),
        ("2000 sessions x 1 file".to_owned(), 2000, 1, page),
        ("1 session x 500 files".to_owned(), 1, 500, page),
    ]
    .map(|(name, sessions, files, size)| Operation {
        name,
        work: Work::Preserve { sessions, files, size },
    })
    .into()
}

fn heading(kernel: &Kernel, rounds: u32) -> String {
    format!(
        "Linux {kernel}, guest instructions, the least of {rounds} rounds.\n\
         Each tracer: what it adds in the kernel / with what its own process does for it.\n\n"
    )
}
