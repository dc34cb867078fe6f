//! Keeps account of what is decided about the invariants that take a chain.

use std::borrow::Cow;

use luo_trace_common::hooks::Hook;

use super::Place;
use crate::model::{Evidence, Finding, Id, Invariant, Origin, Status, Subject, Verdict};

/// Of each invariant so many findings are told; of the rest only the number.
const MOST_FINDINGS: usize = 64;

#[derive(Clone, Debug, Default)]
struct Tally {
    ok: u64,
    violated: u64,
    undecidable: u64,
    missing: Vec<&'static str>,
    switched_off: Vec<&'static str>,
}

/// What is decided, invariant by invariant.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// What update it is of; of all, none.
    origin: Origin,
    tallies: Vec<(Invariant, Tally)>,
    findings: Vec<Finding>,
}

/// What a finding says.
#[derive(Debug)]
pub(super) struct Breach {
    pub(super) object: Subject,
    pub(super) expected: Cow<'static, str>,
    pub(super) seen: Cow<'static, str>,
    pub(super) evidence: Vec<Evidence>,
    pub(super) time_ns: u64,
}

/// What is decided about one of them.
#[derive(Debug)]
pub(super) struct Account<'a> {
    invariant: Invariant,
    origin: &'a Origin,
    tally: &'a mut Tally,
    findings: &'a mut Vec<Finding>,
}

impl Account<'_> {
    /// Whether these boots have every hook without which nothing can be said about it.
    pub(super) fn covers<'a>(&mut self, boots: impl IntoIterator<Item = Place<'a>>) -> bool {
        let mut covers = true;
        for Place { boot, .. } in boots {
            let absent = |hook: &&Hook| !boot.coverage.has(**hook);
            for hook in self.invariant.needs().iter().filter(absent) {
                covers = false;
                let ids = if boot.coverage.is_switched_off(*hook) {
                    &mut self.tally.switched_off
                } else {
                    &mut self.tally.missing
                };
                if !ids.contains(&hook.id()) {
                    ids.push(hook.id());
                }
            }
        }
        covers
    }

    /// It held for one object.
    pub(super) fn hold(&mut self) {
        self.tally.ok += 1;
    }

    /// It cannot be told for one object.
    pub(super) fn doubt(&mut self) {
        self.tally.undecidable += 1;
    }

    /// It was broken.
    pub(super) fn violate(&mut self, breach: Breach) {
        self.tally.violated += 1;
        let invariant = self.invariant;
        let Breach {
            object,
            expected,
            seen,
            evidence,
            time_ns,
        } = breach;
        let finding = Finding {
            id: Id::default(),
            invariant,
            object,
            expected,
            seen,
            advice: invariant.advice(),
            evidence,
            time_ns,
        };
        // A longer record of the same may know more events of it.
        let finding = finding.named(self.origin, self.findings, 1);
        tell(self.findings, finding);
    }
}

/// Adds a finding, where there is room for more of its invariant.
fn tell(findings: &mut Vec<Finding>, finding: Finding) {
    let told = findings.iter().filter(|told| told.invariant == finding.invariant);
    if told.count() < MOST_FINDINGS {
        findings.push(finding);
    }
}

impl Tally {
    fn add(&mut self, more: &Self) {
        self.ok += more.ok;
        self.violated += more.violated;
        self.undecidable += more.undecidable;
        for (hooks, more) in [
            (&mut self.missing, &more.missing),
            (&mut self.switched_off, &more.switched_off),
        ] {
            for hook in more.iter().filter(|hook| !hooks.contains(hook)).collect::<Vec<_>>() {
                hooks.push(hook);
            }
        }
    }
}

impl Ledger {
    /// Of one update.
    pub(super) fn of(origin: Origin) -> Self {
        Self {
            origin,
            ..Self::default()
        }
    }

    /// The account of an invariant.
    pub(super) fn account(&mut self, invariant: Invariant) -> Account<'_> {
        let place = self
            .tallies
            .iter()
            .position(|(of, _)| *of == invariant)
            .unwrap_or_else(|| {
                self.tallies.push((invariant, Tally::default()));
                self.tallies.len() - 1
            });
        Account {
            invariant,
            origin: &self.origin,
            tally: &mut self.tallies[place].1,
            findings: &mut self.findings,
        }
    }

    /// Adds what another holds.
    pub(super) fn add(&mut self, more: &Self) {
        for (invariant, tally) in &more.tallies {
            self.account(*invariant).tally.add(tally);
        }
        for finding in &more.findings {
            tell(&mut self.findings, finding.clone());
        }
    }

    /// What was found, and what is known about each invariant that takes a chain, in the order of the catalogue.
    pub(super) fn close(mut self) -> (Vec<Finding>, Vec<Verdict>) {
        let all = Invariant::ALL
            .iter()
            .copied()
            .filter(|invariant| invariant.is_of_a_chain());
        let verdicts: Vec<_> = all.map(|invariant| self.verdict(invariant)).collect();
        let shown = |verdict: &Verdict| {
            // Without a look into the image it takes an update to tell.
            verdict.invariant != Invariant::TargetCompatible || verdict.ok + verdict.violated > 0
        };
        (self.findings, verdicts.into_iter().filter(shown).collect())
    }

    fn verdict(&mut self, invariant: Invariant) -> Verdict {
        let tally = std::mem::take(self.account(invariant).tally);
        let blind = !tally.missing.is_empty() || !tally.switched_off.is_empty();
        let status = match (tally.violated, tally.undecidable) {
            (1.., _) => Status::Violated,
            (0, 0) if !blind => Status::Ok,
            _ => Status::Unknown,
        };
        Verdict {
            invariant,
            status,
            ok: tally.ok,
            violated: tally.violated,
            undecidable: tally.undecidable,
            open: 0,
            missing_hooks: tally.missing,
            switched_off_hooks: tally.switched_off,
        }
    }
}
