//! What policy adds: to calls that have nothing to do with LUO, and to those that it is asked about.

use std::path::PathBuf;

use anyhow::Result;
use testbed_guest::scenario::{Bench, Call, Operation, Tracer, Work};

use super::table::{self, Table};
use super::{Print, agent, measure, nobody};
use crate::kernel;
use crate::setup::{self, Need};
use crate::vm::Agent;

#[derive(clap::Args, Clone, Debug)]
pub(super) struct Policy {
    /// How often each call is made that has nothing to do with LUO
    #[arg(long, value_name = "NUMBER", default_value_t = 100_000)]
    calls: u32,
    /// How often each of them is measured; the round that took least counts
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// The mode of the policies, which in either refuse nothing of what is measured
    #[arg(long, default_value = "audit", value_parser = ["audit", "enforce"])]
    mode: String,
    /// Take this static agent instead of building one
    #[arg(long, value_name = "PATH")]
    agent: Option<PathBuf>,
    #[command(flatten)]
    print: Print,
    #[command(flatten)]
    kernel: kernel::Args,
}

/// Policies by name. None of them refuses anything of who makes the calls, which are the same in either mode.
const POLICIES: [(&str, &str); 4] = [
    (
        "safe-defaults",
        include_str!("../../../luo-trace/policies/safe-defaults.toml"),
    ),
    ("lockdown", include_str!("../../../luo-trace/policies/lockdown.toml")),
    ("matches", MATCHES),
    ("limits", LIMITS),
];

/// Looks at everything that a call to create or to preserve is told apart by, and applies to none.
const MATCHES: &str = r#"
[[rule]]
name = "strangers"
on = ["session-create", "file-preserve"]
match = { session = "bench-*", cgroup = "/bench" }
unless = { comm = "init", uid = 0 }
action = "deny"
"#;

/// Counts sessions and files at every call.
const LIMITS: &str = r#"
[[rule]]
name = "too-many"
on = ["session-create", "file-preserve"]
when = { sessions-over = 100000, files-over = 1000000 }
action = "deny"
"#;

/// How often calls are made that LUO or tracing does something for.
const FEW: u32 = 500;

/// Measures, and prints a table.
///
/// # Errors
/// Something that is needed cannot be got, or a tracer does not do what it should.
pub(super) fn command(args: Policy) -> Result<()> {
    setup::ensure(&[Need::Qemu, Need::Bpf])?;
    let kernel = kernel::ensure(&args.kernel.into())?;
    let plan = Bench {
        operations: operations(args.calls),
        tracers: tracers(),
        rounds: args.rounds,
    };
    let policies = POLICIES.map(|(name, text)| (format!("{name}.toml"), with_mode(&args.mode, text)));
    let agent = args.agent.map_or(Agent::Built, Agent::Ready);
    let (measurement, output) = measure("bench-policy", &plan, &kernel, &agent, 1024, Vec::new(), &policies)?;
    let table = Table::of_calls(&plan.operations, &measurement)?;
    let heading = format!(
        "Linux {kernel}, mode {}, guest instructions of one call, the least of {} rounds.\n\
         Each tracer: what it adds in the kernel.\n\n",
        args.mode, args.rounds
    );
    args.print.print(&heading, &table, &measurement);
    eprintln!("numbers and logs: {}", output.display());
    Ok(())
}

/// Who is measured, in this order: the first time no process looks on is what the others are held against, the second one
/// tells how far two measurements of the same thing lie apart.
fn tracers() -> Vec<Tracer> {
    let [first, last] = [table::NOBODY, "nobody-again"].map(nobody);
    let without = agent(table::NO_POLICY, &[]);
    let with = POLICIES.map(|(name, _)| {
        let file = format!("/host/{name}.toml");
        agent(&format!("{}-{name}", table::POLICY), &["--policy", &file])
    });
    [first, without].into_iter().chain(with).chain([last]).collect()
}

/// A policy in this mode, which is not kept in force without its agent.
fn with_mode(mode: &str, policy: &str) -> String {
    let ours = ["mode =", "on_agent_loss ="];
    let rest = policy
        .lines()
        .filter(|line| !ours.iter().any(|key| line.starts_with(key)));
    let rest: Vec<_> = rest.collect();
    format!("mode = \"{mode}\"\n{}\n", rest.join("\n"))
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

#[cfg(test)]
mod tests {
    use luo_trace::policy::Policy;
    use luo_trace_common::policy::Mode;

    use super::*;

    #[test]
    fn every_policy_is_measured_in_the_mode_that_is_asked_for_and_ends_with_its_agent() {
        for (name, text) in POLICIES {
            for mode in [Mode::Audit, Mode::Enforce] {
                let text = with_mode(mode.name(), text);
                let policy = Policy::read(&text).unwrap_or_else(|problems| panic!("{name}: {problems:?}"));
                assert_eq!((policy.mode, policy.closed), (mode, false), "{name}");
                assert!(!policy.rules().is_empty(), "{name}");
            }
        }
    }
}
