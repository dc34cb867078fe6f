//! A random story: deeds in several kernels, and the scenario that they come to.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use testbed_guest::scenario::{Expect, Kexec, Scenario, Step, Stranger, Together};

use super::deed::{Act, DEVICES, Deed, Handler, MEANWHILE, Made, NAMES, Name, THREADS, TOKENS, Token, owner};
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
        let mut author = Author {
            rng: Rng::with_seed(seed),
            files: 0,
        };
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
            (deed @ (Deed::Look | Deed::StopAgent | Deed::KillAgent), MEANWHILE) => {
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

/// Thinks up what is done.
struct Author {
    rng: Rng,
    /// How many files there are so far.
    files: u32,
}

/// What can be thought up, and how often.
const KINDS: [(Kind, u32); 24] = [
    (Kind::Create, 12),
    (Kind::CreateMisnamed, 2),
    (Kind::Close, 4),
    (Kind::Preserve, 24),
    (Kind::PreserveAgain, 8),
    (Kind::PreserveOther, 4),
    (Kind::Refill, 4),
    (Kind::RetrieveSession, 12),
    (Kind::Retrieve, 18),
    (Kind::Finish, 4),
    (Kind::While, 6),
    (Kind::Together, 5),
    (Kind::FreezeFails, 3),
    (Kind::RebootToNothing, 1),
    (Kind::Load, 1),
    (Kind::LoadWhatIsNoKernel, 1),
    (Kind::LoadLegacy, 1),
    (Kind::Unload, 1),
    (Kind::OpenTwice, 2),
    (Kind::Shut, 3),
    (Kind::Status, 2),
    (Kind::Look, 4),
    (Kind::EndAgent, 1),
    (Kind::StartAgent, 10),
];

#[derive(Debug, Clone, Copy)]
enum Kind {
    Create,
    CreateMisnamed,
    Close,
    Preserve,
    PreserveAgain,
    PreserveOther,
    Refill,
    RetrieveSession,
    Retrieve,
    Finish,
    While,
    Together,
    FreezeFails,
    RebootToNothing,
    Load,
    LoadWhatIsNoKernel,
    LoadLegacy,
    Unload,
    OpenTwice,
    Shut,
    Status,
    Look,
    EndAgent,
    StartAgent,
}

/// What a handler may fail with.
const ERRORS: [&str; 5] = ["EIO", "ENOMEM", "EBUSY", "EAGAIN", "EACCES"];

impl Author {
    /// The kernel that is to break a promise, and which one, in more than half of the stories.
    fn tampering(&mut self, tamperings: &[Tampering], kernels: usize) -> Option<(usize, usize)> {
        let number = self.rng.choice(0..tamperings.len())?;
        // One over a kexec begins in a kernel that another one follows.
        let last = kernels - usize::from(tamperings[number].crosses());
        let kernel = self.rng.usize(0..last);
        (self.rng.u8(0..5) < 3).then_some((kernel, number))
    }

    /// What comes next: one act, or several threads' acts. What a kernel breaks has to be found, so its agent is not disturbed.
    fn acts(&mut self, rules: &Rules, may_end_agent: bool) -> Vec<Act> {
        match self.kind() {
            Kind::EndAgent if !may_end_agent => Vec::new(),
            Kind::Together => self.together(rules, may_end_agent),
            kind => vec![Act {
                thread: 0,
                deed: self.deed(kind, rules, 0),
            }],
        }
    }

    fn kind(&mut self) -> Kind {
        let mut left = self.rng.u32(0..KINDS.iter().map(|(_, weight)| weight).sum());
        for (kind, weight) in KINDS {
            match left.checked_sub(weight) {
                None => return kind,
                Some(rest) => left = rest,
            }
        }
        Kind::Look
    }

    fn together(&mut self, rules: &Rules, may_end_agent: bool) -> Vec<Act> {
        let acts = self.rng.usize(4..16);
        let act = |author: &mut Self| {
            let thread = author.rng.u8(1..=THREADS);
            let kind = author.kind();
            let deed = author.deed(kind, rules, thread);
            Act { thread, deed }
        };
        let mut acts: Vec<_> = (0..acts).map(|_| act(self)).collect();
        let deed = match self.rng.u8(0..8) {
            0 if may_end_agent => Deed::KillAgent,
            1 if may_end_agent => Deed::StopAgent,
            0..5 => Deed::Look,
            _ => return acts,
        };
        let thread = MEANWHILE;
        acts.push(Act { thread, deed });
        acts
    }

    fn deed(&mut self, kind: Kind, rules: &Rules, thread: u8) -> Deed {
        let deed = self.plain_deed(kind, rules, thread);
        let may_fail = matches!(
            kind,
            Kind::Create | Kind::Preserve | Kind::RetrieveSession | Kind::Finish
        );
        if may_fail && self.rng.u8(0..6) == 0 {
            return Deed::Failing {
                nth: self.rng.u32(1..=24),
                deed: Box::new(deed),
            };
        }
        deed
    }

    fn plain_deed(&mut self, kind: Kind, rules: &Rules, thread: u8) -> Deed {
        match kind {
            Kind::Create | Kind::Together => Deed::Create(self.any_name(thread)),
            Kind::CreateMisnamed => Deed::CreateMisnamed { long: self.rng.bool() },
            Kind::Close => Deed::Close(self.open_name(rules, thread)),
            Kind::Preserve => self.preserve(rules, thread),
            Kind::PreserveAgain => Deed::PreserveAgain {
                session: self.outgoing_name(rules, thread),
                token: self.token(),
                file: self.rng.choice(rules.held()).unwrap_or_default(),
            },
            Kind::PreserveOther => Deed::PreserveOther {
                session: self.open_name(rules, thread),
                token: self.token(),
                what: self.one_of([Stranger::Null, Stranger::Session, Stranger::Named, Stranger::Closed]),
            },
            Kind::Refill => {
                let file = self.rng.choice(rules.held()).unwrap_or_default();
                let seed = self.new_file();
                Deed::Refill { file, seed }
            }
            Kind::RetrieveSession => match self.mine(rules.waiting(), thread) {
                Some(session) if self.rng.u8(0..5) > 0 => Deed::RetrieveSession(session),
                _ => Deed::RetrieveSession(self.any_name(thread)),
            },
            Kind::Retrieve => self.retrieve(rules, thread),
            Kind::Finish => Deed::Finish(self.open_name(rules, thread)),
            Kind::While => self.misbehave(rules, thread),
            Kind::FreezeFails => Deed::FreezeFails {
                passes: self.rng.u32(0..4),
                errno: self.one_of(ERRORS),
            },
            Kind::RebootToNothing => Deed::RebootToNothing,
            Kind::Load => Deed::Load,
            Kind::LoadWhatIsNoKernel => Deed::LoadWhatIsNoKernel,
            Kind::LoadLegacy => Deed::LoadLegacy,
            Kind::Unload => Deed::Unload,
            Kind::OpenTwice => Deed::OpenTwice,
            Kind::Shut => Deed::Shut,
            Kind::Status => Deed::Status,
            Kind::Look => Deed::Look,
            Kind::EndAgent => self.one_of([Deed::StopAgent, Deed::KillAgent]),
            Kind::StartAgent => Deed::StartAgent,
        }
    }

    fn preserve(&mut self, rules: &Rules, thread: u8) -> Deed {
        Deed::Preserve {
            session: self.outgoing_name(rules, thread),
            token: self.token(),
            file: self.new_file(),
            made: self.made(),
        }
    }

    fn retrieve(&mut self, rules: &Rules, thread: u8) -> Deed {
        let session = self.open_name(rules, thread);
        let arrived = self.rng.choice(rules.arrived(session));
        let token = match arrived {
            Some(token) if self.rng.u8(0..8) > 0 => token,
            _ => self.token(),
        };
        Deed::Retrieve { session, token }
    }

    fn misbehave(&mut self, rules: &Rules, thread: u8) -> Deed {
        let errno = self.one_of(ERRORS);
        let (handler, deed) = match self.rng.u8(0..4) {
            0 => (Handler::CannotPreserve(errno), self.preserve(rules, thread)),
            1 => {
                let passes = self.rng.u32(0..2);
                (Handler::CannotMakeFlb(passes, errno), self.preserve(rules, thread))
            }
            2 => (Handler::CannotRetrieve(errno), self.retrieve(rules, thread)),
            _ => (Handler::RefusesToFinish, Deed::Finish(self.open_name(rules, thread))),
        };
        let deed = match deed {
            // Only handlers of devices can be told to.
            Deed::Preserve {
                session, token, file, ..
            } => Deed::Preserve {
                session,
                token,
                file,
                made: self.device(),
            },
            deed => deed,
        };
        let deed = Box::new(deed);
        Deed::While { handler, deed }
    }

    fn made(&mut self) -> Made {
        if self.rng.u8(0..5) < 2 {
            return self.device();
        }
        let page = 4096;
        let size = match self.rng.u8(0..12) {
            0 => 0,
            1 => 1,
            2 => page - 1,
            3..=5 => page,
            6 => page + 1,
            7 => page * self.rng.u64(2..40),
            8 => 1 << 20,
            9 => (2 << 20) + self.rng.u64(0..page),
            10 => self.rng.u64(0..1 << 20),
            _ => page * self.rng.u64(512..3000),
        };
        Made::Memfd {
            size,
            sealed: self.rng.u8(0..4) == 0,
            holes: self.rng.u8(0..4) == 0,
        }
    }

    fn device(&mut self) -> Made {
        let node = self.rng.usize(0..DEVICES.len());
        let size = match self.rng.bool() {
            true => self.rng.u64(0..=DEVICES[node].room),
            false => self.rng.u64(0..64),
        };
        Made::Device { node, size }
    }

    fn new_file(&mut self) -> u32 {
        self.files += 1;
        self.files
    }

    fn token(&mut self) -> Token {
        self.rng.u8(0..TOKENS.len() as Token)
    }

    fn one_of<T, const N: usize>(&mut self, all: [T; N]) -> T {
        let place = self.rng.usize(0..N);
        all.into_iter()
            .nth(place)
            .unwrap_or_else(|| unreachable!("{place} of {N}"))
    }

    /// Any name that the thread may use.
    fn any_name(&mut self, thread: u8) -> Name {
        let names: Vec<_> = (0..NAMES).filter(|name| is_mine(*name, thread)).collect();
        self.rng.choice(names).unwrap_or_default()
    }

    fn mine(&mut self, names: Vec<Name>, thread: u8) -> Option<Name> {
        self.rng.choice(
            names
                .into_iter()
                .filter(|name| is_mine(*name, thread))
                .collect::<Vec<_>>(),
        )
    }

    /// One that is open, where there is one.
    fn open_name(&mut self, rules: &Rules, thread: u8) -> Name {
        self.mine(rules.open(), thread).unwrap_or_else(|| self.any_name(thread))
    }

    /// The name of an outgoing session, mostly.
    fn outgoing_name(&mut self, rules: &Rules, thread: u8) -> Name {
        let outgoing = rules.open().into_iter().filter(|name| rules.is_outgoing(*name));
        match self.mine(outgoing.collect(), thread) {
            Some(session) if self.rng.u8(0..10) > 0 => session,
            _ => self.open_name(rules, thread),
        }
    }
}

fn is_mine(name: Name, thread: u8) -> bool {
    thread == 0 || owner(name) == thread
}
