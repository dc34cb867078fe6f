//! A policy on a recorded update: which rule would have fired when, for whom, and with what decision.
//!
//! Where the record was made with a policy on, its decisions tell which calls were asked about, and what was known of them;
//! else the operations' own events do. Everything else is the model's, at that moment. What a record cannot tell is left
//! open both ways, and a decision that comes out the same either way is one.

use std::collections::BTreeSet;
use std::mem;

use luo_trace_common::events::{
    self as abi, FileOp, Header, Image, ImageLoad, ImageVerdict, POLICY_ALLOW, POLICY_CLEAR, POLICY_HOLD,
    POLICY_LOADED, POLICY_OFF, PolicyChange, PolicyDecision,
};
use luo_trace_common::policy::{
    Aspect, CgroupName, CgroupPath, Condition, Decision, Facts, NOT_COUNTED, Operation, Orders, RULE_AGENT_LOSS,
    RULE_HOLD, RULE_NONE, RuleName, Ruling, Selected, Table,
};
use luo_trace_common::text::{Comm, SessionName};

use super::{Compiled, Policy, Selection, level};
use crate::event::{Body, Event};
use crate::image::command_line::CommandLine;
use crate::model::{Coverage, Direction, Model, SessionState};

/// `EPERM` of `include/uapi/asm-generic/errno-base.h` (7.3).
const EPERM: i64 = 1;

/// A recorded call, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// When it was made, or of what is only seen to end, when it ended: nanoseconds of `CLOCK_MONOTONIC`.
    pub time: u64,
    /// The calling thread.
    pub pid: u32,
    /// Its name.
    pub comm: Comm,
    /// What it wanted.
    pub operation: Operation,
    /// Of which session; empty: not known, or of none.
    pub session: SessionName,
    /// What is decided, and by the rule of which name; `None`: the record cannot tell.
    pub ruling: Option<(Decision, RuleName)>,
}

/// Something that is so, or is not, as far as was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Is(bool),
    /// The program that decides does not know.
    Unknown,
    /// The program that decides knows, and the record does not tell.
    Untold,
}

impl Seen {
    fn of(known: Option<bool>) -> Self {
        known.map_or(Self::Unknown, Self::Is)
    }
}

/// What is known when a decision is due, as it lets the fewest rules apply, and the most.
#[derive(Clone, Copy, Debug, Default)]
struct Bounds {
    least: Facts,
    most: Facts,
}

impl Bounds {
    fn condition(&mut self, condition: Condition, seen: Seen) {
        let bit = 1 << condition as u32;
        match seen {
            Seen::Is(true) => (self.least.yes, self.most.yes) = (self.least.yes | bit, self.most.yes | bit),
            Seen::Is(false) => {}
            Seen::Unknown => {
                (self.least.unknown, self.most.unknown) = (self.least.unknown | bit, self.most.unknown | bit);
            }
            Seen::Untold => self.most.yes |= bit,
        }
    }

    /// `None`: the record does not tell.
    fn aspect(&mut self, aspect: Aspect, selected: Option<Selected>) {
        let all = |matched, excepted| Selected { matched, excepted };
        self.least.selected[aspect as usize] = selected.unwrap_or(all(0, !0));
        self.most.selected[aspect as usize] = selected.unwrap_or(all(!0, 0));
    }

    fn not_selected(&mut self, aspect: Aspect) {
        self.least.unselected |= 1 << aspect as u32;
        self.most.unselected |= 1 << aspect as u32;
    }

    fn counts(&mut self, circumstances: &Circumstances) {
        (self.least.sessions, self.most.sessions) = (
            circumstances.sessions.unwrap_or(0),
            circumstances.sessions.unwrap_or(u64::MAX),
        );
        (self.least.files, self.most.files) = (
            circumstances.files.unwrap_or(0),
            circumstances.files.unwrap_or(u64::MAX),
        );
        (self.least.violated, self.most.violated) = (circumstances.violated, circumstances.violated);
    }

    /// What is decided either way.
    fn rule(&self, table: &Table, operation: Operation, orders: Orders) -> Option<Ruling> {
        let rule = |facts| table.rule(operation, table.applying(operation, facts), orders);
        let ruling = rule(&self.least);
        (ruling == rule(&self.most)).then_some(ruling)
    }
}

/// What a host holds at a moment, as far as its policy asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Circumstances {
    /// How many outgoing sessions there are, but for the recorder's own.
    pub sessions: Option<u64>,
    /// How many files they have.
    pub files: Option<u64>,
    /// Whether there are incoming sessions that no process has finished.
    pub incoming_unfinished: Option<bool>,
    /// How bad what is violated is: see [`level`].
    pub violated: u64,
    /// Whether an operator holds the host.
    pub held: bool,
}

impl Circumstances {
    /// What the model knows.
    pub fn of(model: &Model, violated: u64, held: bool) -> Self {
        let counts = model.counts_of_others();
        let files = counts
            .files()
            .filter(|files| files.state.direction() == Direction::Outgoing);
        let unfinished = |session: crate::model::SessionView<'_>| {
            session.direction() == Direction::Incoming
                && !session.is_own()
                && (session.state() == SessionState::Pending
                    || session.pending_files() > 0
                    || session.files().next().is_some())
        };
        Self {
            sessions: Some(counts.sessions(Direction::Outgoing)),
            files: Some(files.map(|files| files.files).sum()),
            incoming_unfinished: Some(
                model.waiting().any(|session| !session.is_own()) || model.sessions().any(unfinished),
            ),
            violated,
            held,
        }
    }
}

impl Policy {
    /// The table of the rules that cannot be asked before a file is preserved: those that name its handler. `None`: there are
    /// none.
    pub fn table_after_the_fact(&self) -> Option<Table> {
        let operation = Operation::FilePreserve;
        let rules = self.rules.iter().enumerate();
        let after = rules.filter(|(_, rule)| rule.is_after_the_fact(operation));
        let on = after.fold(0, |set, (number, _)| set | 1 << number);
        let mut table = self.table();
        table.on[operation as usize] = on;
        (on != 0).then_some(table)
    }

    /// Judges a file that was preserved by the rules of [such a table](Self::table_after_the_fact). The circumstances are those
    /// after it, so it counts itself. `None`: no rule applies. The rule is its number in the file.
    pub fn after_the_fact(
        &self,
        table: &Table,
        header: &Header,
        file: &FileOp,
        circumstances: &Circumstances,
    ) -> Option<Ruling> {
        if !file.outcome.is_ok() {
            return None;
        }
        let mut facts = Bounds::default();
        facts.aspect(Aspect::Comm, Some(self.selected(|of| of.comm.contains(&header.comm))));
        facts.aspect(Aspect::Session, Some(self.selected(|of| of.means(&file.session.name))));
        facts.aspect(
            Aspect::Handler,
            Some(self.selected(|of| of.handler.contains(&file.handler))),
        );
        facts.counts(circumstances);
        facts.condition(Condition::Held, Seen::Is(circumstances.held));
        facts.condition(
            Condition::IncomingUnfinished,
            Seen::of(circumstances.incoming_unfinished),
        );
        // Files are never refused by a hold, nor let pass by an allowance.
        let ruling = facts.rule(table, Operation::FilePreserve, Orders::default())?;
        (ruling.rule != RULE_NONE).then_some(ruling)
    }
}

impl Selection {
    fn means(&self, name: &SessionName) -> bool {
        self.session.iter().any(|sessions| sessions.mean(name))
    }

    fn has_cgroup(&self, path: &[CgroupName]) -> bool {
        self.cgroup.iter().any(|above| path.starts_with(above))
    }
}

/// The image that is loaded, and what was found in it.
#[derive(Clone, Copy, Debug, Default)]
struct Loaded {
    image: Image,
    incompatible: Option<bool>,
    lacks_liveupdate: Option<bool>,
}

/// A call that waits for the event that tells what kind of image it loads.
#[derive(Debug)]
struct Waiting {
    pid: u32,
    place: usize,
    bounds: Bounds,
    orders: Orders,
}

/// Tries a policy on a record.
#[derive(Debug)]
pub struct Replay<'a> {
    policy: &'a Policy,
    compiled: Compiled,
    /// See [`Policy::table_after_the_fact`].
    after: Option<Table>,
    model: Model,
    /// Whether the hooks tell of all sessions and files.
    covered: bool,
    /// What there is is not known, until a walk tells.
    blind: bool,
    /// Sessions of the previous kernel wait that no process has read in.
    unread: bool,
    violated: u64,
    held_until: u64,
    allowed_until: u64,
    /// The orders are those of this run's agent, which tells at its start which ones it found.
    orders_told: bool,
    /// The operations of which the record tells every call by a decision.
    told_of: u32,
    /// Calls that a decision told of, whose own event comes.
    decided: BTreeSet<(u32, Operation)>,
    /// Threads of which a file for an image was seen.
    opened: BTreeSet<u32>,
    loaded: Option<Loaded>,
    /// What the command line of the newest image that carries says.
    line: Option<(u64, Option<bool>)>,
    waiting: Vec<Waiting>,
    found: Vec<Replayed>,
}

impl<'a> Replay<'a> {
    /// Of a record that has not begun.
    pub fn new(policy: &'a Policy, coverage: &Coverage) -> Self {
        use luo_trace_common::hooks::Hook::{FilePreserve, FilesUnpreserve, SessionCreate, SessionRelease};
        let needed = [SessionCreate, SessionRelease, FilePreserve, FilesUnpreserve];
        Self {
            policy,
            compiled: policy.compile(),
            after: policy.table_after_the_fact(),
            model: Model::new(coverage),
            covered: needed.into_iter().all(|hook| coverage.has(hook)),
            blind: true,
            unread: false,
            violated: 0,
            held_until: 0,
            allowed_until: 0,
            orders_told: false,
            told_of: 0,
            decided: BTreeSet::new(),
            opened: BTreeSet::new(),
            loaded: None,
            line: None,
            waiting: Vec::new(),
            found: Vec::new(),
        }
    }

    /// Another run of the agent begins: no agent ran in between. Orders stand, since they outlive an agent, until one with a
    /// policy tells which it found.
    pub fn run(&mut self, coverage: &Coverage) {
        let mut next = Self::new(self.policy, coverage);
        (next.held_until, next.allowed_until) = (self.held_until, self.allowed_until);
        self.settle();
        next.found = mem::take(&mut self.found);
        *self = next;
    }

    /// Takes the next event of the record.
    pub fn apply(&mut self, event: &Event) {
        self.ask(event);
        self.take(event);
        let worst = self
            .model
            .apply(event)
            .iter()
            .map(|finding| level(finding.invariant.severity()))
            .max();
        self.violated = self.violated.max(worst.unwrap_or(0));
        if let Body::FilePreserve(p) = &event.body {
            self.ask_after(&event.header, p);
        }
    }

    /// The record ends here: everything that was asked, in its order.
    pub fn finish(mut self) -> Vec<Replayed> {
        self.settle();
        self.found
    }

    /// Asks the policy about the call that this event tells of, if it tells of one.
    fn ask(&mut self, event: &Event) {
        let header = &event.header;
        match &event.body {
            // One that the agent made after the fact is no call: a program always knows the user.
            Body::PolicyDecision(_, _, p) if p.unselected >> Aspect::Uid as u32 & 1 != 0 => {}
            Body::PolicyDecision(operation, decision, p) => self.ask_again(header, *operation, *decision, p),
            // It is asked before the kernel looks whether it can be made.
            Body::SessionCreate(p) => {
                self.ask_anew(header, Operation::SessionCreate, p.session.name, Seen::Is(false), None);
            }
            Body::FilePreserve(p) => {
                self.ask_anew(header, Operation::FilePreserve, p.session.name, Seen::Is(false), None);
            }
            Body::ImageLoad(p) => {
                let legacy = p.call == abi::IMAGE_LEGACY;
                self.resolve(|waiting| waiting.pid == header.pid, Seen::Is(legacy));
                let was_asked = self.was_asked(header, p);
                if was_asked {
                    self.ask_anew(header, Operation::KexecLoad, SessionName::EMPTY, Seen::Is(legacy), None);
                }
            }
            Body::KexecEnter(p) => {
                let legacy = is_legacy(&p.image);
                self.ask_anew(
                    header,
                    Operation::KexecReboot,
                    SessionName::EMPTY,
                    legacy,
                    Some(&p.image),
                );
            }
            _ => {}
        }
    }

    /// Whether policy is asked about a load that ended so. A crash image leaves the other one as it is.
    fn was_asked(&mut self, header: &Header, p: &ImageLoad) -> bool {
        let opened = self.opened.remove(&header.pid);
        match (p.outcome.is_ok(), p.call) {
            (true, _) => {
                p.image.mode != abi::IMAGE_NONE && self.loaded.is_none_or(|loaded| loaded.image.id != p.image.id)
            }
            (false, abi::IMAGE_LEGACY) => p.outcome.result != -EPERM,
            (false, _) => opened,
        }
    }

    /// Asks about a call about which no program was asked, or whose decision has come before.
    fn ask_anew(&mut self, header: &Header, on: Operation, session: SessionName, legacy: Seen, image: Option<&Image>) {
        if self.decided.remove(&(header.pid, on)) || self.told_of >> on as u32 & 1 != 0 {
            return;
        }
        let orders = self.orders(header.ktime);
        let mut bounds = self.bounds(header, on, &session, &self.circumstances(orders.held), image);
        bounds.condition(Condition::LegacyImage, legacy);
        bounds.aspect(Aspect::Uid, None);
        bounds.aspect(Aspect::Cgroup, None);
        self.found(header, on, session, orders, |table| bounds.rule(table, on, orders));
    }

    /// Asks about a call that another policy was asked about: what was known then is known now.
    fn ask_again(&mut self, header: &Header, on: Operation, decision: Decision, p: &PolicyDecision) {
        let has = |bits: u32, condition: Condition| bits >> condition as u32 & 1 != 0;
        let mut orders = self.orders(header.ktime);
        orders.held |= p.rule == RULE_HOLD;
        orders.allowed |= decision == Decision::Allowed;
        orders.stale |= p.rule == RULE_AGENT_LOSS || has(p.yes, Condition::AgentStale);
        let mut circumstances = self.circumstances(orders.held);
        let counted = |number, ours| Some(number).filter(|&number| number != NOT_COUNTED).or(ours);
        circumstances.sessions = counted(p.sessions, circumstances.sessions);
        circumstances.files = counted(p.files, circumstances.files);
        let image = (on == Operation::KexecReboot).then_some(&p.image);
        let mut bounds = self.bounds(header, on, &p.session.name, &circumstances, image);
        let policy = self.policy;
        bounds.aspect(Aspect::Uid, Some(policy.selected(|of| of.uid.contains(&p.uid))));
        bounds.aspect(Aspect::Cgroup, self.of_cgroup(&p.cgroup));
        bounds.least.unselected |= p.unselected;
        bounds.most.unselected |= p.unselected;
        let legacy = match on {
            Operation::KexecReboot => is_legacy(&p.image),
            Operation::KexecLoad if !has(p.yes, Condition::LegacyImage) => Seen::Untold,
            Operation::KexecLoad => Seen::Is(true),
            _ => Seen::Is(false),
        };
        if legacy != Seen::Untold {
            bounds.condition(Condition::LegacyImage, legacy);
        }
        for facts in [&mut bounds.least, &mut bounds.most] {
            facts.yes = facts.yes & !p.unknown | p.yes;
            facts.unknown = facts.unknown & !p.yes | p.unknown;
        }
        self.decided.insert((header.pid, on));
        let place = self.found.len();
        self.found(header, on, p.session.name, orders, |table| {
            bounds.rule(table, on, orders)
        });
        if legacy == Seen::Untold && self.found.len() > place {
            let pid = header.pid;
            self.waiting.push(Waiting {
                pid,
                place,
                bounds,
                orders,
            });
        }
    }

    fn ask_after(&mut self, header: &Header, p: &FileOp) {
        let Some(table) = &self.after else { return };
        let circumstances = self.circumstances(self.orders(header.ktime).held);
        if let Some(ruling) = self.policy.after_the_fact(table, header, p, &circumstances) {
            let ruling = Some((ruling.decision, self.name(ruling)));
            self.found.push(Replayed {
                ruling,
                ..replayed(header, Operation::FilePreserve, p.session.name)
            });
        }
    }

    /// Notes what is decided, where the policy asks at all.
    fn found(
        &mut self,
        header: &Header,
        on: Operation,
        session: SessionName,
        orders: Orders,
        rule: impl FnOnce(&Table) -> Option<Ruling>,
    ) {
        if self.compiled.table.asks(on, orders) {
            let ruling = rule(&self.compiled.table).map(|ruling| (ruling.decision, self.name(ruling)));
            self.found.push(Replayed {
                ruling,
                ..replayed(header, on, session)
            });
        }
    }

    fn name(&self, ruling: Ruling) -> RuleName {
        match ruling.rule {
            RULE_HOLD => RuleName::new(super::file::OWN_RULES[0]),
            RULE_AGENT_LOSS => RuleName::new(super::file::OWN_RULES[1]),
            rule => self.compiled.names.get(rule as usize).copied().unwrap_or_default(),
        }
    }

    /// Decides what has waited to know what kind of image was loaded.
    fn resolve(&mut self, is: impl Fn(&Waiting) -> bool, legacy: Seen) {
        let (ready, waiting) = mem::take(&mut self.waiting).into_iter().partition(is);
        self.waiting = waiting;
        for Waiting {
            place,
            mut bounds,
            orders,
            ..
        } in ready
        {
            bounds.condition(Condition::LegacyImage, legacy);
            let ruling = bounds.rule(&self.compiled.table, Operation::KexecLoad, orders);
            self.found[place].ruling = ruling.map(|ruling| (ruling.decision, self.name(ruling)));
        }
    }

    fn settle(&mut self) {
        self.resolve(|_| true, Seen::Untold);
    }

    fn orders(&self, now: u64) -> Orders {
        Orders {
            held: now < self.held_until,
            allowed: now < self.allowed_until,
            stale: false,
        }
    }

    fn circumstances(&self, held: bool) -> Circumstances {
        let known = Circumstances::of(&self.model, self.violated, held);
        let incoming = known.incoming_unfinished.map(|unfinished| unfinished || self.unread);
        match self.blind || !self.covered {
            true => Circumstances {
                violated: self.violated,
                held,
                ..Circumstances::default()
            },
            false => Circumstances {
                incoming_unfinished: incoming,
                ..known
            },
        }
    }

    /// What is known of a call, but for what kind of image it is about, and the caller's user and control group.
    fn bounds(
        &self,
        header: &Header,
        on: Operation,
        session: &SessionName,
        circumstances: &Circumstances,
        image: Option<&Image>,
    ) -> Bounds {
        let mut bounds = Bounds::default();
        let of_image = matches!(on, Operation::KexecLoad | Operation::KexecReboot);
        bounds.aspect(
            Aspect::Comm,
            Some(self.policy.selected(|of| of.comm.contains(&header.comm))),
        );
        if of_image {
            let preserved = circumstances.sessions.map(|_| self.policy.preserved_in(&self.model));
            for aspect in [Aspect::Session, Aspect::Handler] {
                bounds.aspect(aspect, preserved.map(|preserved| preserved[aspect as usize]));
            }
        } else {
            match session.is_empty() {
                true => bounds.not_selected(Aspect::Session),
                false => bounds.aspect(Aspect::Session, Some(self.policy.selected(|of| of.means(session)))),
            }
            bounds.not_selected(Aspect::Handler);
        }
        bounds.counts(circumstances);
        let unfinished = circumstances.incoming_unfinished.map_or(Seen::Untold, Seen::Is);
        bounds.condition(Condition::IncomingUnfinished, unfinished);
        bounds.condition(Condition::Held, Seen::Is(circumstances.held));
        let (incompatible, lacks) = image.map_or((Seen::Unknown, Seen::Unknown), |image| self.verdict(image));
        bounds.condition(Condition::TargetIncompatible, incompatible);
        bounds.condition(Condition::CmdlineMissingLiveupdate, lacks);
        bounds
    }

    /// The rules that name a control group, or one above it. A path that was cut tells what lies above the cut.
    fn of_cgroup(&self, path: &CgroupPath) -> Option<Selected> {
        let bytes = path.as_bytes();
        if bytes.is_empty() {
            return None;
        }
        let names: Vec<_> = bytes
            .split(|&byte| byte == b'/')
            .filter(|name| !name.is_empty())
            .map(CgroupName::new)
            .collect();
        Some(self.policy.selected(|of| of.has_cgroup(&names)))
    }

    /// What is known of the image that is jumped into.
    fn verdict(&self, image: &Image) -> (Seen, Seen) {
        match (&self.loaded, image.mode) {
            (_, abi::IMAGE_NONE) => (Seen::Is(false), Seen::Is(false)),
            (Some(loaded), _) if loaded.image.id == image.id => {
                (Seen::of(loaded.incompatible), Seen::of(loaded.lacks_liveupdate))
            }
            _ => (Seen::Untold, Seen::Untold),
        }
    }

    /// Takes in what is not the model's.
    fn take(&mut self, event: &Event) {
        match &event.body {
            Body::Gap { .. } | Body::HooksBlind(_) => {
                (self.blind, self.loaded) = (true, None);
                self.decided.clear();
            }
            Body::SnapshotEnd(p) if p.flags & (abi::SNAPSHOT_CHANGED | abi::SNAPSHOT_INCOMPLETE) == 0 => {
                self.blind = false;
                self.unread = p.flags & abi::SNAPSHOT_INCOMING_UNREAD != 0;
            }
            Body::SessionDeserialize(_) => self.unread = false,
            Body::ImageFile(_) => _ = self.opened.insert(event.header.pid),
            Body::ImageCarrier(p) if p.outcome.is_ok() => {
                let lacks = match CommandLine::of(p) {
                    CommandLine::Lacks(_) => Some(true),
                    CommandLine::Takes => Some(false),
                    CommandLine::Unknown => None,
                };
                self.line = Some((p.image, lacks));
            }
            Body::ImageLoad(p) if p.outcome.is_ok() => self.load(&p.image),
            Body::ImageVerdict(p) => self.judge(p),
            Body::PolicyChange(p) => self.change(p),
            _ => {}
        }
    }

    fn load(&mut self, image: &Image) {
        if self.loaded.is_none_or(|loaded| loaded.image.id != image.id) {
            self.loaded = Some(Loaded {
                image: *image,
                incompatible: None,
                lacks_liveupdate: self.line.filter(|(id, _)| *id == image.id).and_then(|(_, lacks)| lacks),
            });
        }
    }

    fn judge(&mut self, p: &ImageVerdict) {
        let Some(loaded) = self.loaded.as_mut().filter(|loaded| loaded.image.id == p.image) else {
            return;
        };
        loaded.incompatible = p.incompatible();
        loaded.lacks_liveupdate = p.lacks_liveupdate().or(loaded.lacks_liveupdate);
    }

    fn change(&mut self, p: &PolicyChange) {
        if !mem::replace(&mut self.orders_told, true) {
            (self.held_until, self.allowed_until) = (0, 0);
        }
        match p.what {
            POLICY_LOADED => self.told_of = p.operations,
            POLICY_OFF => self.told_of = 0,
            POLICY_HOLD => self.held_until = p.until,
            POLICY_ALLOW => self.allowed_until = p.until,
            POLICY_CLEAR => (self.held_until, self.allowed_until) = (0, 0),
            _ => {}
        }
    }
}

fn replayed(header: &Header, operation: Operation, session: SessionName) -> Replayed {
    Replayed {
        time: header.ktime,
        pid: header.pid,
        comm: header.comm,
        operation,
        session,
        ruling: None,
    }
}

/// Of the image that is loaded.
fn is_legacy(image: &Image) -> Seen {
    match image.mode {
        abi::IMAGE_LEGACY => Seen::Is(true),
        abi::IMAGE_FILE | abi::IMAGE_NONE => Seen::Is(false),
        _ => Seen::Unknown,
    }
}
