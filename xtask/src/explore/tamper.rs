//! What makes a kernel break its promises: the testbed's own scenarios named `fault-*`, as parts of longer ones. Which invariant each
//! breaks is what its file says.

use testbed_guest::scenario::{CloseSession, CreateSession, Finish, Kexec, Scenario, SessionName, Step};

/// The switches after whose fault a kernel is as it was before: a story goes on after them, and ends after all others.
const MENDED: [&str; 6] = [
    "file_token_free",
    "finish_status",
    "preserve_ignores",
    "preserve_scratch",
    "session_turned",
    "unpreserve_reordered",
];

/// One way to have a kernel break its promises.
#[derive(Debug, Clone)]
pub(super) struct Tampering {
    /// The scenario's name.
    pub(super) name: String,
    /// That scenario.
    pub(super) scenario: Scenario,
}

/// Those among the testbed's scenarios.
pub(super) fn all(scenarios: Vec<(String, Scenario)>) -> Vec<Tampering> {
    let faults = scenarios.into_iter().filter(|(name, scenario)| {
        // Only what breaks a promise for certain, in at most two kernels of the usual build.
        name.starts_with("fault-") && !scenario.expect.findings.is_empty() && scenario.updates == 1
    });
    faults.map(|(name, scenario)| Tampering { name, scenario }).collect()
}

impl Tampering {
    /// Whether it goes over a kexec.
    pub(super) fn crosses(&self) -> bool {
        self.scenario.kexec == Kexec::File
    }

    /// Whether no kernel could go on after it.
    pub(super) fn ends(&self) -> bool {
        let mut faults = self.scenario.all_steps().filter_map(|step| match step {
            Step::Fault(fault) => Some(fault.name.as_str()),
            _ => None,
        });
        !faults.all(|name| MENDED.contains(&name))
    }

    /// Whether it wants to be the only one with sessions: its fault is about the first or the last of them, or of the files that use
    /// global state.
    pub(super) fn is_alone(&self) -> bool {
        let wants = |step: &Step| match step {
            Step::Reboot(_) => true,
            Step::Fault(fault) => fault.name.starts_with("flb_"),
            _ => false,
        };
        self.crosses() || self.scenario.all_steps().any(wants)
    }
}

/// Closes the sessions that these steps leave open.
pub(super) fn close_all(steps: &[Step]) -> Vec<Step> {
    let mut open: Vec<&SessionName> = Vec::new();
    for step in steps {
        match step {
            Step::CreateSession(CreateSession { name, fails: None }) => open.push(name),
            Step::RetrieveSession(step) if step.fails.is_none() => open.push(&step.name),
            Step::CloseSession(CloseSession { name })
            | Step::Finish(Finish {
                session: name,
                fails: None,
            }) => {
                open.retain(|known| *known != name);
            }
            _ => {}
        }
    }
    let close = |name: &SessionName| Step::CloseSession(CloseSession { name: name.clone() });
    open.into_iter().map(close).collect()
}
