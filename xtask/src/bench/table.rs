//! From a measurement to the table of it. Nothing here does I/O.

use std::iter;

use anyhow::{Context as _, Result, bail};
use testbed_guest::scenario::{Cost, Measured, Measurement, Operation, ProgramCost};

/// The name of the tracer that is none; its first measurement is what all others are held against.
pub(super) const NOBODY: &str = "nobody";

/// The name of the agent that has no policy.
pub(super) const NO_POLICY: &str = "agent";

/// How the names of agents with a policy begin; behind a dash the policy's name follows.
pub(super) const POLICY: &str = "policy";

/// Who is held against whom: the names of a tracer and of its rival on the same functions.
const RIVALS: [(&str, &str); 2] = [("count", "bpftrace-count"), ("keys", "bpftrace-keys")];

/// The head of the column that tells how long it takes a tracer to begin.
const ATTACHED: &str = "from exec to attached";

/// A table of text, whose first row is its head.
pub(super) struct Table(Vec<Vec<String>>);

impl Table {
    /// The table of a measurement of these operations.
    ///
    /// # Errors
    /// The measurement lacks a tracer or an operation.
    pub(super) fn of(operations: &[Operation], measurement: &Measurement) -> Result<Table> {
        let find = |name: &str| {
            let found = measurement.tracers.iter().find(|tracer| tracer.name == name);
            let found = found.with_context(|| format!("{name} was not measured"))?;
            (found.costs.len() == operations.len())
                .then_some(found)
                .context("an operation was not measured")
        };
        let untraced = find(NOBODY)?;
        let head = ["traced by".to_owned(), "functions".to_owned()].into_iter();
        let head = head.chain(operations.iter().map(|operation| operation.name.clone()));
        let mut rows = vec![head.chain(iter::once(ATTACHED.to_owned())).collect()];
        for tracer in &measurement.tracers {
            let tracer = find(&tracer.name)?;
            rows.push(if tracer.name == NOBODY {
                plain(tracer)
            } else {
                against(tracer, untraced)
            });
        }
        let measured = |name: &str| measurement.tracers.iter().any(|tracer| tracer.name == name);
        for (name, rival) in RIVALS
            .into_iter()
            .filter(|(name, rival)| measured(name) && measured(rival))
        {
            rows.push(share(name, find(name)?, find(rival)?, untraced));
        }
        Ok(Table(rows))
    }

    /// The table of what one call of each operation takes, in instructions.
    ///
    /// # Errors
    /// The measurement lacks an operation, or who the others are held against.
    pub(super) fn of_calls(operations: &[Operation], measurement: &Measurement) -> Result<Table> {
        let untraced = measurement.tracers.first().context("nobody was measured")?;
        let head = iter::once("traced by".to_owned()).chain(operations.iter().map(|operation| operation.name.clone()));
        let mut rows = vec![head.chain(iter::once(ATTACHED.to_owned())).collect()];
        for tracer in &measurement.tracers {
            if tracer.costs.len() != operations.len() {
                bail!("an operation was not measured under {}", tracer.name);
            }
            let costs = tracer.costs.iter().zip(&untraced.costs).zip(operations);
            let cells = costs.map(|((cost, base), operation)| {
                let calls = f64::from(operation.work.calls());
                match tracer.name == untraced.name {
                    true => format!("{:.0}", cost.paused_ns as f64 / calls),
                    false => format!("{:+.0}", (cost.paused_ns as f64 - base.paused_ns as f64) / calls),
                }
            });
            let row = iter::once(label(&tracer.name)).chain(cells);
            rows.push(row.chain(iter::once(until_attached(tracer))).collect());
        }
        Ok(Table(rows))
    }

    /// The table of what the BPF programs of all tracers did.
    pub(super) fn of_programs(measurement: &Measurement) -> Table {
        let head = [
            "of",
            "program",
            "verified",
            "bytes of code",
            "runs",
            "instructions each",
        ]
        .map(str::to_owned)
        .to_vec();
        let rows = measurement.tracers.iter().flat_map(|tracer| {
            let row = |program: &ProgramCost| {
                let each = program.run_ns / program.runs.max(1);
                vec![
                    label(&tracer.name),
                    program.name.clone(),
                    program.verified.to_string(),
                    program.code.to_string(),
                    program.runs.to_string(),
                    each.to_string(),
                ]
            };
            tracer.programs.iter().map(row)
        });
        Table(iter::once(head).chain(rows).collect())
    }

    /// In Markdown.
    pub(super) fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let columns = self.0.first().map_or(0, Vec::len);
        let rule = format!("|---{}|\n", "|--:".repeat(columns.saturating_sub(1)));
        let mut lines: Vec<_> = self.0.iter().map(|row| line(row)).collect();
        lines.insert(1.min(lines.len()), rule);
        lines.concat()
    }

    /// For a terminal.
    pub(super) fn text(&self) -> String {
        let columns = self.0.first().map_or(0, Vec::len);
        let width = |column: usize| self.0.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<_> = (0..columns).map(width).collect();
        let line = |row: &Vec<String>| {
            let name = format!("{:<width$}", row[0].replace('`', ""), width = widths[0]);
            let rest = row
                .iter()
                .zip(&widths)
                .skip(1)
                .map(|(cell, &width)| format!("  {cell:>width$}"));
            iter::once(name).chain(rest).collect::<String>() + "\n"
        };
        self.0.iter().map(line).collect()
    }
}

/// What readers are told instead of a tracer's name.
fn label(name: &str) -> String {
    let same = |detail: &str| format!("on the functions of `{detail}`");
    match name.split_once('-') {
        None if name == NOBODY => "nobody".to_owned(),
        None if name == NO_POLICY => "luo-trace without a policy".to_owned(),
        None => format!("luo-trace `--kho {name}`"),
        Some((NOBODY, _)) => "nobody, measured again".to_owned(),
        Some((POLICY, policy)) => format!("luo-trace with `{policy}`"),
        Some(("kprobes", detail)) => format!("the kernel's own kprobes {}", same(detail)),
        Some((program, detail)) => format!("{program} {}", same(detail)),
    }
}

/// The row that the others are held against, in instructions.
fn plain(tracer: &Measured) -> Vec<String> {
    let millions = |cost: &Cost| format!("{:.1} million", cost.paused_ns as f64 / 1e6);
    row(
        label(&tracer.name),
        String::new(),
        tracer.costs.iter().map(millions),
        String::new(),
    )
}

/// What a tracer adds.
fn against(tracer: &Measured, untraced: &Measured) -> Vec<String> {
    let cells = tracer.costs.iter().zip(&untraced.costs).map(|(cost, base)| {
        let paused = percent(cost.paused_ns, base.paused_ns);
        match cost.total_ns {
            _ if tracer.functions == 0 => paused,
            total => format!("{paused} / {}", percent(total, base.paused_ns)),
        }
    });
    let (functions, attach) = match tracer.functions {
        0 => (String::new(), String::new()),
        functions => (functions.to_string(), until_attached(tracer)),
    };
    row(label(&tracer.name), functions, cells, attach)
}

/// How long it took a tracer to begin; nothing for nobody.
fn until_attached(tracer: &Measured) -> String {
    match tracer.functions {
        0 => String::new(),
        _ => format!("{:.0} ms", tracer.attach_ns as f64 / 1e6),
    }
}

/// What a tracer adds as a part of what its rival adds.
fn share(name: &str, tracer: &Measured, rival: &Measured, untraced: &Measured) -> Vec<String> {
    let added = |cost: u64, base: u64| cost as f64 - base as f64;
    let part = |mine: f64, its: f64| {
        // Within the noise there is nothing to compare.
        if its <= 0.0 {
            "-".to_owned()
        } else {
            format!("{:.2}", (mine / its).max(0.0))
        }
    };
    let costs = tracer.costs.iter().zip(&rival.costs).zip(&untraced.costs);
    let cells = costs.map(|((mine, its), base)| {
        let base = base.paused_ns;
        let paused = part(added(mine.paused_ns, base), added(its.paused_ns, base));
        format!(
            "{paused} / {}",
            part(added(mine.total_ns, base), added(its.total_ns, base))
        )
    });
    let attach = part(tracer.attach_ns as f64, rival.attach_ns as f64);
    row(
        format!("luo-trace `{name}`, as a part of bpftrace's"),
        String::new(),
        cells,
        attach,
    )
}

fn row(name: String, functions: String, cells: impl Iterator<Item = String>, attach: String) -> Vec<String> {
    [name, functions]
        .into_iter()
        .chain(cells)
        .chain(iter::once(attach))
        .collect()
}

/// By how much `cost` is more than `base`.
fn percent(cost: u64, base: u64) -> String {
    format!("{:+.2} %", (cost as f64 / base as f64 - 1.0) * 100.0)
}

#[cfg(test)]
mod tests {
    use testbed_guest::scenario::{Call, Work};

    use super::*;

    fn measured(name: &str, functions: u64, attach_ms: u64, paused: u64, total: u64) -> Measured {
        let cost = Cost {
            paused_ns: paused * 1_000_000,
            total_ns: total * 1_000_000,
            process_ns: 0,
        };
        Measured {
            name: name.into(),
            attach_ns: attach_ms * 1_000_000,
            detach_ns: 0,
            functions,
            costs: vec![cost],
            programs: vec![ProgramCost {
                name: name.into(),
                verified: 5000,
                code: 900,
                runs: 4,
                run_ns: 42,
            }],
        }
    }

    fn operations() -> Vec<Operation> {
        vec![Operation {
            name: "one file".into(),
            work: Work::Preserve {
                sessions: 1,
                files: 1,
                size: 4096.into(),
            },
        }]
    }

    /// 200 million instructions untraced; what each tracer adds is easy to see.
    fn measurement() -> Measurement {
        Measurement {
            tracers: vec![
                measured(NOBODY, 0, 0, 200, 200),
                measured("count", 40, 100, 202, 210),
                measured("keys", 44, 120, 240, 250),
                measured("bpftrace-count", 40, 2000, 210, 220),
                measured("bpftrace-keys", 44, 2400, 280, 280),
                measured("nobody-again", 0, 0, 201, 199),
            ],
        }
    }

    #[test]
    fn each_tracer_is_told_by_what_it_adds_to_what_nobody_costs() {
        let table = Table::of(&operations(), &measurement()).unwrap();
        let row = |label: &str| {
            let row = table.0.iter().find(|row| row[0] == label);
            row.unwrap_or_else(|| panic!("{label} is missing")).join(", ")
        };
        assert_eq!(row("nobody"), "nobody, , 200.0 million, ");
        assert_eq!(
            row("luo-trace `--kho count`"),
            "luo-trace `--kho count`, 40, +1.00 % / +5.00 %, 100 ms"
        );
        assert_eq!(row("nobody, measured again"), "nobody, measured again, , +0.50 %, ");
    }

    #[test]
    fn luo_trace_is_held_against_bpftrace_on_the_same_functions() {
        let table = Table::of(&operations(), &measurement()).unwrap();
        let shares: Vec<_> = table.0.iter().filter(|row| row[0].contains("as a part")).collect();
        // 2 of 10 and 10 of 20 million instructions; 40 of 80 and 50 of 80; attached in a twentieth of the time.
        assert_eq!(shares[0][2..], ["0.20 / 0.50", "0.05"]);
        assert_eq!(shares[1][2..], ["0.50 / 0.62", "0.05"]);
    }

    #[test]
    fn a_rival_that_costs_nothing_is_not_divided_by() {
        let mut measurement = measurement();
        measurement.tracers[3] = measured("bpftrace-count", 40, 2000, 200, 200);
        let table = Table::of(&operations(), &measurement).unwrap();
        assert!(table.text().contains("- / -"), "{}", table.text());
    }

    #[test]
    fn a_measurement_that_lacks_something_is_refused() {
        let mut measurement = measurement();
        measurement.tracers[1].costs.clear();
        assert!(Table::of(&operations(), &measurement).is_err());
        measurement.tracers.clear();
        assert!(Table::of(&operations(), &measurement).is_err());
    }

    #[test]
    fn a_call_costs_its_part_of_what_all_of_them_cost() {
        let operations = [Operation {
            name: "ioctl".into(),
            work: Work::Repeat {
                call: Call::IoctlOnPipe,
                times: 1_000_000,
            },
        }];
        let measurement = Measurement {
            tracers: vec![
                measured(NOBODY, 0, 0, 300, 300),
                measured(NO_POLICY, 40, 100, 300, 300),
                measured("policy-lockdown", 44, 100, 420, 500),
            ],
        };
        let table = Table::of_calls(&operations, &measurement).unwrap();
        assert_eq!(
            table.0[1..],
            [
                ["nobody", "300", ""],
                ["luo-trace without a policy", "+0", "100 ms"],
                ["luo-trace with `lockdown`", "+120", "100 ms"],
            ]
        );
    }

    #[test]
    fn a_program_is_told_by_what_one_run_of_it_takes() {
        let table = Table::of_programs(&measurement());
        assert_eq!(
            table.0[2],
            ["luo-trace `--kho count`", "count", "5000", "900", "4", "10"]
        );
        assert_eq!(table.0.len(), 1 + measurement().tracers.len());
    }

    #[test]
    fn markdown_and_text_have_every_row_in_columns() {
        let table = Table::of(&operations(), &measurement()).unwrap();
        let markdown = table.markdown();
        let cells = |line: &str| line.matches('|').count();
        assert!(markdown.lines().all(|line| cells(line) == 5), "{markdown}");
        assert!(
            markdown.lines().nth(1).is_some_and(|line| line.starts_with("|---|--:")),
            "{markdown}"
        );
        assert_eq!(table.text().lines().count() + 1, markdown.lines().count());
    }
}
