//! A random story: deeds in several kernels, and the scenario that they come to.

use std::collections::{BTreeMap, BTreeSet};

use testbed_guest::scenario::{Expect, Kexec, Scenario, Step, Together};

use super::author::Author;
use super::deed::{Act, Deed, MEANWHILE, owner};
use super::rules::Rules;
use super::tamper::{self, Tampering};

/// A story.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Story {
    pub(super) seed: u64,
    pub(super) kernels: Vec<Kernel>,
}

/// What is done in one kernel.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Kernel {
    pub(super) acts: Vec<Act>,
    /// Whether sessions that arrived in it and are not finished are left behind.
    pub(super) leaves: bool,
}

/// A story as a scenario.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub(super) scenario: Scenario,
    /// How many operations there are.
    pub(super) operations: usize,
    /// The tampering that came about, by its scenario's name.
    pub(super) tampering: Option<String>,
}

impl Story {
    /// The story of a seed: the same one each time, as long as the testbed's `fault-*` scenarios are the same.
    pub(super) fn of(seed: u64, tamperings: &[Tampering]) -> Story {
        let mut author = Author::new(seed);
        let kernels = author.rng.usize(2..=4);
        let tampering = author.tampering(tamperings, kernels);
        let mut teller = Teller::new(tamperings);
        let mut story = Story {
            seed,
            kernels: vec![Kernel::default(); kernels],
        };
        for (place, kernel) in story.kernels.iter_mut().enumerate() {
            let is_followed = place + 1 < kernels;
            let length = author.rng.usize(40..=110);
            let tampering = tampering.filter(|(kernel, _)| *kernel == place);
            let tampers_at = author.rng.usize(length / 3..length);
            kernel.leaves = author.rng.u8(0..6) == 0;
            teller.begin();
            while kernel.acts.len() < length && !teller.is_over() {
                let acts = match tampering {
                    Some((_, number)) if teller.tampering.is_none() && kernel.acts.len() >= tampers_at => vec![Act {
                        thread: 0,
                        deed: Deed::Tamper(number),
                    }],
                    _ => author.acts(&teller.rules, tampering.is_none()),
                };
                for act in acts {
                    teller.act(&act, is_followed);
                    kernel.acts.push(act);
                }
            }
            teller.end(is_followed.then_some(kernel.leaves));
        }
        story
    }

    /// The scenario that it comes to.
    pub(super) fn tell(&self, tamperings: &[Tampering]) -> Told {
        let mut teller = Teller::new(tamperings);
        for (place, kernel) in self.kernels.iter().enumerate() {
            let is_followed = place + 1 < self.kernels.len();
            teller.begin();
            kernel.acts.iter().for_each(|act| teller.act(act, is_followed));
            teller.end(is_followed.then_some(kernel.leaves));
        }
        teller.told(self.seed)
    }
}

/// Makes a scenario of acts, one after the other.
struct Teller<'a> {
    tamperings: &'a [Tampering],
    rules: Rules,
    kernels: Vec<Vec<Step>>,
    /// What threads do side by side, as far as it has come.
    together: BTreeMap<u8, Vec<Step>>,
    /// What becomes of the agent meanwhile.
    meanwhile: Vec<Step>,
    /// The files that each of them has made.
    made: BTreeSet<(u8, u32)>,
    tampering: Option<&'a Tampering>,
    /// Whether a tampering goes on in the next kernel.
    crosses: bool,
    /// Whether nothing can come any more.
    ended: bool,
}

impl<'a> Teller<'a> {
    fn new(tamperings: &'a [Tampering]) -> Self {
        Self {
            tamperings,
            rules: Rules::default(),
            kernels: Vec::new(),
            together: BTreeMap::new(),
            meanwhile: Vec::new(),
            made: BTreeSet::new(),
            tampering: None,
            crosses: false,
            ended: false,
        }
    }

    /// The next kernel begins.
    fn begin(&mut self) {
        if self.ended {
            return;
        }
        self.kernels.push(Vec::new());
        if let (true, Some(tampering)) = (std::mem::take(&mut self.crosses), self.tampering) {
            self.tell_tampering(tampering, &tampering.scenario.after);
        }
    }

    fn act(&mut self, act: &Act, is_followed: bool) {
        if self.is_over() {
            return;
        }
        match (&act.deed, act.thread) {
            // What was broken has to be told: of an agent that is killed the last words may be missing.
            (Deed::StopAgent | Deed::KillAgent, _) if self.tampering.is_some() => {}
            (&Deed::Tamper(number), 0) => self.tamper(number, is_followed),
            (deed, 0) => {
                self.join();
                let steps = self.rules.apply(deed);
                self.say(steps);
            }
            (deed @ (Deed::Snapshot | Deed::StopAgent | Deed::KillAgent), MEANWHILE) => {
                let steps = self.rules.apply(deed);
                self.meanwhile.extend(steps);
            }
            (deed, thread) if self.is_for(deed, thread) => {
                if let Deed::Preserve { file, .. } = deed {
                    self.made.insert((thread, *file));
                }
                let steps = self.rules.apply(deed);
                self.together.entry(thread).or_default().extend(steps);
            }
            _ => {}
        }
    }

    /// Whether nothing more can be done in this kernel.
    fn is_over(&self) -> bool {
        self.ended || self.crosses
    }

    /// The kernel ends: by a kexec, where it is said what becomes of the sessions that have arrived, or for good.
    fn end(&mut self, kexec: Option<bool>) {
        self.join();
        match kexec {
            Some(leave) if !self.ended => {
                let leave = leave && !self.crosses;
                let steps = self.rules.kexec(leave);
                self.say(steps);
            }
            _ => self.ended = true,
        }
    }

    /// Whether a thread beside others can do it: what comes of it depends on nothing that they do.
    fn is_for(&self, deed: &Deed, thread: u8) -> bool {
        match deed {
            &Deed::Create(session)
            | &Deed::Close(session)
            | &Deed::Preserve { session, .. }
            | &Deed::PreserveOther { session, .. }
            | &Deed::RetrieveSession(session)
            | &Deed::Retrieve { session, .. }
            | &Deed::Finish(session) => owner(session) == thread,
            &Deed::PreserveAgain { session, file, .. } => {
                owner(session) == thread && self.made.contains(&(thread, file))
            }
            Deed::Failing { deed, .. } => self.is_for(deed, thread),
            _ => false,
        }
    }

    /// The threads that went on side by side are waited for.
    fn join(&mut self) {
        self.made.clear();
        let threads: Vec<_> = std::mem::take(&mut self.together).into_values().collect();
        let meanwhile = std::mem::take(&mut self.meanwhile);
        if threads.iter().any(|steps| !steps.is_empty()) {
            self.rules.learn(&threads.concat());
            self.say(vec![Step::Together(Together { threads, meanwhile })]);
        } else {
            self.say(meanwhile);
        }
    }

    fn tamper(&mut self, number: usize, is_followed: bool) {
        self.join();
        let Some(tampering) = self.tamperings.get(number) else {
            return;
        };
        // What it breaks has to be found, so the agent has to see all of it.
        if self.tampering.is_some() || !self.rules.is_watched() || tampering.crosses() && !is_followed {
            return;
        }
        self.tampering = Some(tampering);
        if tampering.is_alone() {
            let steps = [self.rules.finish_all(), self.rules.close_all()].concat();
            self.say(steps);
        }
        if tampering.crosses() {
            self.say(tampering.scenario.before.clone());
            self.crosses = true;
        } else {
            self.tell_tampering(tampering, &tampering.scenario.before);
        }
    }

    /// The last part of a tampering.
    fn tell_tampering(&mut self, tampering: &Tampering, steps: &[Step]) {
        self.rules.learn(steps);
        self.say(steps.to_vec());
        self.ended = tampering.ends();
        if !self.ended {
            self.say(tamper::close_all(steps));
        }
    }

    fn say(&mut self, steps: Vec<Step>) {
        if let Some(kernel) = self.kernels.last_mut() {
            kernel.extend(steps);
        }
    }

    fn told(self, seed: u64) -> Told {
        let updates = self.kernels.len().saturating_sub(1);
        let base = self.tampering.map(|tampering| tampering.scenario.clone());
        let base = base.unwrap_or_else(|| plain(seed));
        let mut findings = self.rules.findings;
        findings.extend(base.expect.findings.iter().cloned());
        let tampering = self.tampering.map(|tampering| tampering.name.clone());
        let with = tampering
            .as_ref()
            .map_or(String::new(), |name| format!(", with {name}"));
        let operations = self.kernels.iter().flatten().map(operations).sum();
        let mut scenario = Scenario {
            summary: format!("Seed {seed}: {operations} operations in {} kernels{with}", updates + 1),
            kexec: if updates > 0 { Kexec::File } else { Kexec::None },
            updates: updates.max(1) as u32,
            before: Vec::new(),
            after: Vec::new(),
            kernels: self.kernels,
            ..base
        };
        scenario.expect = Expect {
            findings: findings.into_iter().collect(),
            ..Expect::default()
        };
        Told {
            scenario,
            operations,
            tampering,
        }
    }
}

/// A scenario without a step, whose agent counts every page.
fn plain(seed: u64) -> Scenario {
    let text = format!("summary = \"Seed {seed}\"\nkexec = \"file\"\nagent_args = [\"--kho\", \"keys\"]");
    // It is one, as a test sees.
    toml::from_str(&text).unwrap_or_else(|why| unreachable!("{why}"))
}

/// How many operations a step is.
fn operations(step: &Step) -> usize {
    match step {
        Step::Together(together) => {
            let threads = together.threads.iter().flatten();
            threads.chain(&together.meanwhile).map(operations).sum()
        }
        Step::Fault(_) | Step::CheckNoBpf(_) => 0,
        _ => 1,
    }
}
