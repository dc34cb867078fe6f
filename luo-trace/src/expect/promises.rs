//! The checks that need no file of expectations: whether the records are whole, and whether LUO kept its promises. A file
//! may make them milder.

use std::collections::BTreeMap;

use super::file::{Allowance, Day};
use super::{Expectations, Lines};
use crate::chain::case::Case;
use crate::expect::formats::{Answer, Check, Group};
use crate::model::{Finding, Invariant, Status, Verdict};
use crate::text::units::count;

/// More findings of one invariant than this are only counted.
const MOST_FINDINGS: usize = 4;

impl Expectations {
    /// Whether each record is a full proof.
    pub(super) fn of_records(&self, case: &Case) -> Vec<Check> {
        let records = case.records.iter().zip(1..).map(|(record, place)| {
            let gaps = record.judgement.gaps();
            let summary = &record.judgement.summary;
            let (answer, message) = match gaps.is_empty() {
                true => (Answer::Pass, format!("{} events, none lost", summary.events)),
                false => (self.doubtful(), gaps.join("; ")),
            };
            Check {
                group: Group::Record,
                name: format!("record of boot {place} is whole"),
                answer,
                message,
                findings: Vec::new(),
                line: None,
            }
        });
        let mut checks: Vec<_> = records.collect();
        let missing = case.chain.doubts();
        checks.push(Check {
            group: Group::Record,
            name: "no boot is missing between the records".into(),
            answer: if missing.is_empty() {
                Answer::Pass
            } else {
                Answer::Inconclusive
            },
            message: if missing.is_empty() {
                format!("{} in a row", count(case.records.len() as u64, "boot"))
            } else {
                missing.join("; ")
            },
            findings: Vec::new(),
            line: None,
        });
        checks.extend(case.unreadable.iter().map(|unreadable| Check {
            group: Group::Record,
            name: "every journal can be read".into(),
            answer: Answer::Inconclusive,
            message: unreadable.to_string(),
            findings: Vec::new(),
            line: None,
        }));
        checks
    }

    /// What it comes to that events are missing.
    fn doubtful(&self) -> Answer {
        if self.allow_loss {
            Answer::Skip
        } else {
            Answer::Inconclusive
        }
    }

    /// Whether each promise was kept, over all records, and whether an allowance to break one has ended.
    pub(super) fn of_promises(&self, case: &Case, today: Day, lines: &Lines<'_>) -> Vec<Check> {
        let mut verdicts: BTreeMap<Invariant, Vec<&Verdict>> = BTreeMap::new();
        let boots = case.records.iter().flat_map(|record| &record.judgement.verdicts);
        for verdict in boots.chain(&case.chain.verdicts) {
            verdicts.entry(verdict.invariant).or_default().push(verdict);
        }
        let allowed = |invariant: Invariant| {
            let mut allowances = self.allow.iter().map(|allowance| allowance.get_ref());
            allowances.find(|allowance| allowance.invariant == invariant && allowance.until >= today)
        };
        let mut checks: Vec<_> = verdicts
            .into_iter()
            .map(|(invariant, verdicts)| {
                let findings: Vec<_> = case
                    .findings()
                    .filter(|finding| finding.invariant == invariant)
                    .collect();
                self.promise(invariant, &verdicts, &findings, allowed(invariant))
            })
            .collect();
        let ended = self.allow.iter().filter(|allowance| allowance.get_ref().until < today);
        checks.extend(ended.map(|allowance| Check {
            group: Group::Expectation,
            name: format!("allowance of {}", allowance.get_ref().invariant.id()),
            answer: Answer::Fail,
            message: format!(
                "it ended on {}: mend what it was for ({}), or give it another day with a reason",
                allowance.get_ref().until,
                shown(&allowance.get_ref().reason)
            ),
            findings: Vec::new(),
            line: lines.of(allowance),
        }));
        checks
    }

    fn promise(
        &self,
        invariant: Invariant,
        verdicts: &[&Verdict],
        findings: &[&Finding],
        allowed: Option<&Allowance>,
    ) -> Check {
        let with = |status| verdicts.iter().filter(move |verdict| verdict.status == status);
        let violated = !findings.is_empty() || with(Status::Violated).next().is_some();
        let severity = invariant.severity();
        let undecided = with(Status::Unknown).find(|verdict| !verdict.is_unwatched());
        let (answer, message) = if let Some(allowance) = allowed {
            let seen = if violated { "violated" } else { "not violated" };
            let message = format!(
                "{seen}, and allowed until {}: {}",
                allowance.until,
                shown(&allowance.reason)
            );
            (Answer::Pass, message)
        } else if violated && self.fail_on.fails(severity) {
            (Answer::Fail, told(findings))
        } else if violated {
            (
                Answer::Pass,
                format!("let pass, its severity being {}: {}", severity.name(), told(findings)),
            )
        } else if let Some(verdict) = undecided {
            (self.doubtful(), why_unknown(verdict))
        } else if with(Status::Unknown).next().is_some() {
            (
                Answer::Skip,
                "not watched with the agent's option --kho as it was".into(),
            )
        } else {
            let held: u64 = verdicts.iter().map(|verdict| verdict.ok).sum();
            (Answer::Pass, format!("held {held} times"))
        };
        Check {
            group: Group::Invariant,
            name: invariant.id().into(),
            answer,
            message,
            findings: findings.iter().map(|&finding| finding.clone()).collect(),
            line: None,
        }
    }
}

/// Findings as one line.
fn told(findings: &[&Finding]) -> String {
    let shown = findings.iter().take(MOST_FINDINGS).map(|finding| {
        let Finding {
            object, expected, seen, ..
        } = finding;
        format!("{object}: expected {expected}; seen {seen}")
    });
    let mut text = shown.collect::<Vec<_>>().join(". ");
    let more = findings.len().saturating_sub(MOST_FINDINGS);
    if more > 0 {
        text += &format!(". And {more} more");
    }
    text
}

fn why_unknown(verdict: &Verdict) -> String {
    if verdict.missing_hooks.is_empty() {
        "the record has holes where it would show".into()
    } else {
        format!("not attached: {}", verdict.missing_hooks.join(", "))
    }
}

/// Text from the file of expectations, on one line.
fn shown(text: &str) -> luo_trace_common::text::Name<256> {
    luo_trace_common::text::Name::new(text)
}
