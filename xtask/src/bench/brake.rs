//! What policy adds: to calls that have nothing to do with LUO, and to those that it is asked about.

use anyhow::Result;
use testbed_guest::scenario::{Bench, Call, Operation, Tracer, Work};

use super::table::{self, Table};
use super::{agent, measure, nobody};
use crate::kernel;
use crate::setup::{self, Need};

#[derive(clap::Args, Clone, Debug)]
pub(super) struct Brake {
    /// How often each call is made that has nothing to do with LUO
    #[arg(long, value_name = "NUMBER", default_value_t = 100_000)]
    calls: u32,
    /// How often each of them is measured; the round that took least counts
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Print the table in Markdown, as the README has it
    #[arg(long, conflicts_with = "programs")]
    markdown: bool,
    /// Print as well what each BPF program takes: where the time goes
    #[arg(long)]
    programs: bool,
    #[command(flatten)]
    kernel: kernel::Args,
}

/// How often calls are made that LUO or tracing does something for.
const FEW: u32 = 500;

/// Measures, and prints a table.
///
/// # Errors
/// Something that is needed cannot be got, or a tracer does not do what it should.
pub(super) fn command(args: Brake) -> Result<()> {
    setup::ensure(&[Need::Qemu, Need::Bpf])?;
    let kernel = kernel::ensure(&args.kernel.into())?;
    let plan = Bench {
        operations: operations(args.calls),
        tracers: tracers(),
        rounds: args.rounds,
    };
    let (measurement, output) = measure("bench-brake", &plan, &kernel, 1024, Vec::new())?;
    let table = Table::of_calls(&plan.operations, &measurement)?;
    if args.markdown {
        print!("{}", table.markdown());
    } else {
        println!(
            "Linux {kernel}, guest instructions of one call, the least of {} rounds.\n\
             Each tracer: what it adds in the kernel.\n",
            args.rounds
        );
        print!("{}", table.text());
    }
    if args.programs {
        print!("\n{}", Table::of_programs(&measurement).text());
    }
    eprintln!("numbers and logs: {}", output.display());
    Ok(())
}

/// Who is measured, in this order: the first time nobody looks on is what the others are held against, the second one
/// tells how far two measurements of the same thing lie apart.
fn tracers() -> Vec<Tracer> {
    vec![
        nobody(table::NOBODY),
        agent(table::NO_POLICY, &[]),
        nobody("nobody-again"),
    ]
}

fn operations(calls: u32) -> Vec<Operation> {
    let repeat = |call, times| Work::Repeat { call, times };
    let preserve = |sessions, files| Work::Preserve {
        sessions,
        files,
        size: 4096.into(),
    };
    [
        ("ioctl on a pipe", repeat(Call::IoctlOnPipe, calls)),
        ("open and close", repeat(Call::OpenAndClose, calls)),
        ("sethostname", repeat(Call::Sethostname, calls)),
        ("reboot, wrong magic", repeat(Call::RebootNothing, calls)),
        ("kexec_load, no image", repeat(Call::UnloadNothing, FEW)),
        ("create a session", preserve(FEW, 0)),
        ("preserve a file", preserve(1, FEW)),
    ]
    .map(|(name, work)| Operation {
        name: name.into(),
        work,
    })
    .into()
}
