//! `cargo xtask bench`: what luo-trace costs.

mod attach;
mod check;
mod closure;
pub(crate) mod drain;
mod month;
mod overhead;
mod policy;
mod table;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use luo_trace::journal;
use testbed_guest::scenario::{
    As, Bench, Build, Expect, How, Kexec, Measurement, Next, Nothing, Root, Scenario, Step, Tracer,
};

use self::table::Table;
use crate::demo::journals;
use crate::kernel::Kernel;
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
    Overhead(overhead::Overhead),
    /// What the agent takes from exec to ready and from SIGTERM to its end, in each way of attaching hooks, in guest instructions
    Attach(attach::Attach),
    /// What policy adds to calls that have nothing to do with LUO and to those that it is asked about, in guest instructions
    Policy(policy::Policy),
    /// How fast `luo-trace check` reads and judges a long journal, and in how much memory
    Check(check::Args),
    /// What an event costs the agent in instructions, in its pipeline and in `luo-trace check`, without a virtual machine
    Drain(drain::Args),
    /// Whether memory and journals of an agent stay within their bounds over some thousand updates
    Month(month::Args),
}

/// How a table is printed.
#[derive(clap::Args, Clone, Debug)]
struct Print {
    /// Print the table in Markdown, as `luo-trace/docs/costs.md` has it
    #[arg(long, conflicts_with = "programs")]
    markdown: bool,
    /// Print as well what each BPF program takes: where the time goes
    #[arg(long)]
    programs: bool,
}

impl Print {
    fn print(&self, heading: &str, table: &Table, measurement: &Measurement) {
        match self.markdown {
            true => print!("{}", table.markdown()),
            false => print!("{heading}{}", table.text()),
        }
        if self.programs {
            print!("\n{}", Table::of_programs(measurement).text());
        }
    }
}

/// Measures, and prints a table.
///
/// # Errors
/// Something that is needed cannot be got, or a tracer does not do what it should.
pub(crate) fn command(args: Args) -> Result<()> {
    match args.what {
        What::Overhead(args) => overhead::command(args),
        What::Attach(args) => attach::command(args),
        What::Policy(args) => policy::command(args),
        What::Check(args) => check::command(args),
        What::Drain(args) => drain::command(&args),
        What::Month(args) => month::command(args),
    }
}

/// The agent as a tracer: with a journal, these arguments, and a ring that holds what comes while it is kept from running.
fn agent(name: &str, arguments: &[&str]) -> Tracer {
    let arguments = ["--ring-kib", "65536"].iter().chain(arguments);
    Tracer {
        name: name.into(),
        how: How::Agent {
            arguments: arguments.map(|&argument| argument.to_owned()).collect(),
        },
    }
}

/// Nobody as a tracer.
fn nobody(name: &str) -> Tracer {
    Tracer {
        name: name.into(),
        how: How::Nobody,
    }
}

/// Has a guest do what the plan asks for; gives its answer, and the directory of numbers and logs. `files` are those that it
/// needs besides the agent in its initramfs, `texts` the ones that it finds in `/host`, with what is in them.
fn measure(
    name: &str,
    plan: &Bench,
    kernel: &Kernel,
    agent: &Agent,
    memory_mib: u64,
    files: Vec<(String, PathBuf)>,
    texts: &[(String, String)],
) -> Result<(Measurement, PathBuf)> {
    let guest = guest::build(agent)?;
    let agent = guest.agent.clone().context("there is no agent")?;
    let ready = guest.init.with_file_name("ready");
    let own = [("luo-trace".to_owned(), agent), ("ready".to_owned(), ready)];
    let (output, _lock) = vm::fresh(name, kernel)?;
    eprintln!("measuring on Linux {kernel}: this takes some minutes");
    let options = Options {
        accel: Accel::Icount,
        memory_mib,
        files: own.into_iter().chain(files).collect(),
        talk: true,
        ..Options::new(guest, output.clone())
    };
    fs::write(output.join("bench-plan.json"), serde_json::to_vec_pretty(plan)?)?;
    for (file, text) in texts {
        fs::write(output.join(file), text)?;
    }
    let outcome = vm::run(&scenario(), kernel, &options)?;
    if !outcome.failures.is_empty() {
        bail!("{}\nsee {}", outcome.failures.join("\n"), output.display());
    }
    nothing_lost(&output.join("journal"))?;
    let path = output.join("bench.json");
    let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok((serde_json::from_slice(&text)?, output))
}

/// The control group of who is measured: one that `lockdown.toml` lets do everything.
const CALLER: &str = "/system.slice/luod.service";

/// The one step, on the testbed's kernel.
fn scenario() -> Scenario {
    Scenario {
        summary: "what tracers cost".into(),
        agent: false,
        agent_args: Vec::new(),
        policy: None,
        images: Vec::new(),
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
        before: vec![Step::As(As {
            comm: None,
            uid: None,
            cgroup: Some(CALLER.into()),
            steps: vec![Step::Bench(Nothing {})],
        })],
        after: Vec::new(),
        kernels: Vec::new(),
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
