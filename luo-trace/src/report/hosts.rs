//! The machines of a report that is about several: a line each.

use std::collections::BTreeMap;

use super::updates::{ARRIVAL_DEADLINE, Row, updates};
use super::{Report, json};

/// What one machine comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostLine {
    /// Its name; with its id where another one has the same name.
    pub name: String,
    /// How many kernels of it were recorded.
    pub kernels: usize,
    /// How many live updates.
    pub updates: usize,
    /// How many violations one of its kernels proves by itself.
    pub findings: usize,
    /// Its last live update.
    pub last: Option<Row>,
}

impl HostLine {
    /// `good`, `fair` or `bad`, by what its last update came to.
    pub fn tone(&self) -> &'static str {
        let outcome = self.last.as_ref().map_or("", |row| &*row.outcome);
        match outcome {
            "completed" | "" if self.findings == 0 => "good",
            "aborted" | "departed" | "waiting" | "arrived" | "inconclusive" if self.findings == 0 => "fair",
            _ => "bad",
        }
    }
}

/// The machines, by their names; none where the report is about one.
pub fn hosts(report: &Report) -> Vec<HostLine> {
    let mut lines: BTreeMap<(&str, &str), HostLine> = BTreeMap::new();
    for kernel in &report.kernels {
        let line = lines.entry(machine(kernel)).or_default();
        line.name.clone_from(&kernel.host);
        line.kernels += 1;
    }
    if lines.len() < 2 {
        return Vec::new();
    }
    let of = |place: Option<usize>| Some(machine(report.kernels.get(place?)?));
    for finding in report.findings.iter().filter_map(|finding| of(finding.kernel)) {
        lines.entry(finding).and_modify(|line| line.findings += 1);
    }
    for (update, row) in report.updates.iter().zip(updates(report, ARRIVAL_DEADLINE, 0)) {
        if let Some(line) = of(update.to.or(update.from)).and_then(|machine| lines.get_mut(&machine)) {
            line.updates += 1;
            line.last = Some(row);
        }
    }
    let mut named: BTreeMap<&str, usize> = BTreeMap::new();
    for (name, _) in lines.keys() {
        *named.entry(name).or_default() += 1;
    }
    let told = lines.into_iter().map(|((name, id), line)| match named.get(name) {
        Some(1) if !name.is_empty() => line,
        _ if id.is_empty() => HostLine {
            name: format!("{name}?"),
            ..line
        },
        _ => HostLine {
            name: format!("{name} ({id:.8})").trim_start().to_owned(),
            ..line
        },
    });
    told.collect()
}

/// What tells the machine of a kernel from others: its name and its id.
fn machine(kernel: &json::Kernel) -> (&str, &str) {
    (&kernel.host, kernel.host_id.as_deref().unwrap_or_default())
}
