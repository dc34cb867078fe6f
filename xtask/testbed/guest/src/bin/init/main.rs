//! PID 1 of the virtual machine, in every kernel of a scenario.
//!
//! It mounts what is needed, starts the agent, does the scenario's steps, and either loads the next kernel
//! and jumps into it or stops the agent and powers off. Session descriptors are held by this process, as an
//! orchestrator holds them, up to the `reboot(2)` that it calls itself.

mod agent;
mod bench;
mod bpf;
mod callers;
mod churn;
mod collector;
mod crowd;
mod driver;
mod faults;
mod files;
mod flood;
mod guise;
mod hands;
mod legacy;
mod squat;
mod sweep;
mod system;
mod without;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Context as _, Result, anyhow};
use testbed_guest::protocol::Message;
use testbed_guest::scenario::{AgentIn, Kexec, Load, Scenario, StartAgent};

use crate::agent::Agent;
use crate::driver::Driver;

fn main() {
    let outcome = catch_unwind(AssertUnwindSafe(run))
        .unwrap_or_else(|_| Err(anyhow!("init panicked; the console has the panic's message")));
    system::say(&match outcome {
        Ok(()) => Message::Done,
        Err(error) => Message::Failed {
            why: format!("{error:#}"),
        },
    });
    system::power_off();
}

fn run() -> Result<()> {
    system::mount_all()?;
    system::raise_limits()?;
    system::bring_loopback_up().context("cannot bring the loopback interface up")?;
    let boot = system::boot_number()?;
    system::say(&Message::Boot {
        boot,
        release: system::release(),
    });
    let scenario = read_scenario()?;

    let found = bpf::Objects::now().context("cannot list the BPF objects that exist at boot")?;
    let mut agent = Agent::new(boot, &scenario);
    if scenario.agent_in(boot) != AgentIn::Nowhere {
        agent.start(&StartAgent::default())?;
    }
    let mut driver = Driver::new(boot, &mut agent, &found);
    for step in scenario.steps(boot) {
        driver.perform_told(step).with_context(|| format!("kernel {boot}"))?;
    }
    system::tell_clock(boot)?;
    if scenario.is_followed(boot) {
        let next = Load {
            how: scenario.kexec,
            image: None,
            crash: false,
            cmdline: scenario.next.cmdline.clone(),
            fails: None,
        };
        if scenario.kexec != Kexec::Loaded {
            system::load_kernel(&next)?.context("the kernel refused to load the next one")?;
        }
        system::say(&Message::Kexec);
        // The sessions are still open, in `driver`: closing them now would abandon them.
        return system::jump();
    }
    drop(driver);
    system::say(&Message::Stop);
    agent.stop(0)
}

fn read_scenario() -> Result<Scenario> {
    let text = fs::read("/scenario.json").context("cannot read /scenario.json")?;
    serde_json::from_slice(&text).context("cannot understand /scenario.json: is the initramfs of another xtask?")
}
