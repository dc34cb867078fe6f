//! `cargo xtask bench`: what luo-trace costs.

mod check;
mod closure;
mod table;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use luo_trace::journal;
use testbed_guest::scenario::{
    Bench, Build, Expect, How, Kexec, Measurement, Next, Nothing, Operation, Root, Scenario, Size, Step, Tracer,
};

use crate::demo::journals;
use crate::kernel::{self, Kernel};
use crate::setup::{self, Need};
use crate::vm::{self, Accel, Agent, Options, guest};

/// The options of `cargo xtask bench`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Clone, Debug)]
enum What {
    /// What tracing adds to LUO's operations, in guest instructions, beside bpftrace and the kernel's own kprobes
    Overhead(Overhead),
    /// How fast `luo-trace check` reads and judges a long journal, and in how much memory
    Check(check::Args),
}

#[derive(clap::Args, Clone, Debug)]
struct Overhead {
    /// The size of the one file that is preserved in pages of 4 KiB
    #[arg(long, value_name = "SIZE", default_value = "1 GiB", value_parser = |text: &str| Size::try_from(text.to_owned()))]
    size: Size,
    /// How often each operation is done; the round that took least counts
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

/// Measures, and prints a table.
///
/// # Errors
/// Something that is needed cannot be got, or a tracer does not do what it should.
pub(crate) fn command(args: Args) -> Result<()> {
    match args.what {
        What::Overhead(args) => overhead(args),
        What::Check(args) => check::command(args),
    }
}

/// What the agent is given besides: a ring that holds what comes while it is kept from running.
const RING: [&str; 2] = ["--ring-kib", "65536"];

/// Who is measured, in this order: the first time nobody looks on is what the others are held against, the second one
/// tells how far two measurements of the same thing lie apart.
fn tracers() -> Vec<Tracer> {
    let agent = |detail: &str| {
        let arguments = RING.into_iter().chain(["--kho", detail]).map(str::to_owned);
        How::Agent {
            arguments: arguments.collect(),
        }
    };
    let bpftrace = |like: &str| How::Bpftrace { like: like.into() };
    let kprobes = |like: &str| How::Kprobes { like: like.into() };
    [
        (table::NOBODY, How::Nobody),
        ("off", agent("off")),
        ("count", agent("count")),
        ("keys", agent("keys")),
        ("bpftrace-count", bpftrace("count")),
        ("bpftrace-keys", bpftrace("keys")),
        ("kprobes-count", kprobes("count")),
        ("kprobes-keys", kprobes("keys")),
        ("nobody-again", How::Nobody),
    ]
    .map(|(name, how)| Tracer { name: name.into(), how })
    .into()
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
        sessions,
        files,
        size,
    })
    .into()
}

fn overhead(args: Overhead) -> Result<()> {
    let tools = setup::ensure(&[Need::Qemu, Need::Bpf, Need::Bpftrace])?;
    let kernel = kernel::ensure(&args.kernel.into())?;
    let guest = guest::build(&Agent::Built)?;
    let agent = guest.agent.clone().context("no agent was built")?;
    let ready = guest.init.with_file_name("ready");
    let mut files = closure::of(&tools.program("bpftrace")?, "usr/bin/bpftrace")?;
    files.extend([("luo-trace".to_owned(), agent), ("ready".to_owned(), ready)]);
    let output = vm::fresh("bench-overhead", &kernel)?;
    eprintln!("measuring on Linux {kernel}: this takes some minutes");
    let options = Options {
        accel: Accel::Icount,
        memory_mib: 2048 + args.size.bytes() / (1 << 20),
        files,
        talk: true,
        ..Options::new(guest, output.clone())
    };
    let operations = operations(args.size);
    let plan = Bench {
        operations: operations.clone(),
        tracers: tracers(),
        rounds: args.rounds,
    };
    fs::write(output.join("bench-plan.json"), serde_json::to_vec_pretty(&plan)?)?;
    let outcome = vm::run(&scenario(), &kernel, &options)?;
    if !outcome.failures.is_empty() {
        bail!("{}\nsee {}", outcome.failures.join("\n"), output.display());
    }
    nothing_lost(&output.join("journal"))?;
    let path = output.join("bench.json");
    let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let measurement: Measurement = serde_json::from_slice(&text)?;
    let table = table::Table::of(&operations, &measurement)?;
    if args.markdown {
        print!("{}", table.markdown());
    } else {
        print!("{}", heading(&kernel, args.rounds));
        print!("{}", table.text());
    }
    if args.programs {
        print!("\n{}", table::Table::of_programs(&measurement).text());
    }
    eprintln!("numbers and logs: {}", output.display());
    Ok(())
}

fn heading(kernel: &Kernel, rounds: u32) -> String {
    format!(
        "Linux {kernel}, guest instructions, the least of {rounds} rounds.\n\
         Each tracer: what it adds in the kernel / with what its own process does for it.\n\n"
    )
}

/// The one step, on the testbed's kernel.
fn scenario() -> Scenario {
    Scenario {
        summary: "what tracers cost".into(),
        agent: false,
        agent_args: Vec::new(),
        serial_journal: false,
        agent_uid: 0,
        agent_without: None,
        agent_refuses: None,
        kernel: Build::Testbed,
        root: Root::Init,
        // What KHO sets aside by itself grows with the initramfs, which holds all of bpftrace's libraries here.
        cmdline: vec!["kho_scratch=64M,64M,64M".into()],
        memory: (1 << 30).into(),
        deadline_seconds: 3600,
        allow_warnings: false,
        payload: Vec::new(),
        kexec: Kexec::None,
        updates: 1,
        next: Next::default(),
        before: vec![Step::Bench(Nothing {})],
        after: Vec::new(),
        expect: Expect::default(),
    }
}

/// An agent that lost events did less than it should have, and looks cheaper than it is.
fn nothing_lost(directory: &Path) -> Result<()> {
    for path in journals(directory)? {
        let mut events = journal::events(&path).with_context(|| format!("cannot read {}", path.display()))?;
        events.by_ref().for_each(drop);
        let summary = events.summary();
        if summary.lost > 0 || summary.events == 0 {
            bail!(
                "{} has {} events, and {} were lost",
                path.display(),
                summary.events,
                summary.lost
            );
        }
    }
    Ok(())
}
