//! What the agent takes to begin, for an operation alone, and to end, in each way of attaching hooks.

use std::path::PathBuf;

use anyhow::Result;
use luo_trace_common::hooks::KhoDetail;
use testbed_guest::scenario::{Bench, How, Operation, Size, Tracer, Work};

use super::measure;
use crate::kernel;
use crate::setup::{self, Need};
use crate::vm::Agent;

#[derive(clap::Args, Clone, Debug)]
pub(super) struct Attach {
    /// Take this static agent instead of building one
    #[arg(long, value_name = "PATH")]
    agent: Option<PathBuf>,
    #[command(flatten)]
    kernel: kernel::Args,
}

/// The ways, as the agent's option has them.
const WAYS: [&str; 2] = ["multi", "each"];

/// Measures, and prints a table.
///
/// # Errors
/// Something that is needed cannot be got, or the agent does not get ready.
pub(super) fn command(args: Attach) -> Result<()> {
    setup::ensure(&[Need::Qemu, Need::Bpf])?;
    let kernel = kernel::ensure(&args.kernel.into())?;
    let details = [KhoDetail::Count, KhoDetail::Keys];
    let tracers = WAYS
        .iter()
        .flat_map(|way| details.map(|detail| tracer(way, detail.name())));
    let plan = Bench {
        operations: vec![lone()],
        tracers: tracers.collect(),
        rounds: 3,
    };
    let agent = args.agent.map_or(Agent::Built, Agent::Ready);
    let (measurement, output) = measure("bench-attach", &plan, &kernel, &agent, 1024, Vec::new(), &[])?;
    println!("Linux {kernel}, millions of guest instructions\n");
    println!(
        "{:<16} {:>14} {:>16} {:>18}",
        "agent", "exec to ready", "SIGTERM to exit", "a lone operation"
    );
    for measured in &measurement.tracers {
        let millions = |ns: u64| ns as f64 / 1e6;
        println!(
            "{:<16} {:>14.0} {:>16.0} {:>18.3}",
            measured.name,
            millions(measured.attach_ns),
            millions(measured.detach_ns),
            millions(measured.costs.first().map_or(0, |lone| lone.process_ns))
        );
    }
    eprintln!("numbers and logs: {}", output.display());
    Ok(())
}

/// A session with one file of one page.
fn lone() -> Operation {
    let size = Size::from(4096);
    let (sessions, files) = (1, 1);
    Operation {
        name: "a lone operation".into(),
        work: Work::Preserve { sessions, files, size },
    }
}

fn tracer(way: &str, detail: &str) -> Tracer {
    Tracer {
        name: format!("{way}-{detail}"),
        how: How::Agent {
            arguments: ["--attach", way, "--kho", detail].map(str::to_owned).into(),
        },
    }
}
