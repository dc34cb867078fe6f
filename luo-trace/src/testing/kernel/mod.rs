//! A kernel that exists in tests only: LUO's objects, locks and rules, as `kernel/liveupdate/` has them (7.3), with tasks that
//! take turns at every step. An event gets its time when its function returns and its place in the record a step later, as
//! in the real programs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use luo_trace_common::events::{
    CommandLine, FileCall, FlbCall, Header, IMAGE_FILE, INCOMING, ImageCarrier, ImageLoad, Kexec, KhoBalance, OUTGOING,
    Object, Outcome, Plain, SessionOp, SessionRef, SessionRelease, TOKEN_KNOWN,
};
use luo_trace_common::hooks::Hook;
use luo_trace_common::text::Comm;

use super::plan::{Deed, Fault, Plan};
use super::story::{IMAGE, keys, memfd, session};
use crate::event::{Body, Event};
use bodies::{file_call, file_op, files_op, flb_call, flb_op, flb_use, outcome, preserved, with_outcome};

pub use freeze::Left;
pub use lists::Lists;

mod bodies;
mod freeze;
mod lists;
mod play;

/// Every so many turns the machine is held up for so long: longer than the model doubts a record after a gap, and in all
/// shorter than it waits for an operation to end.
const HOLD_UP_EVERY: usize = 16;
const HOLD_UP_NS: u64 = 12_000_000;

const FLBS: usize = 2;
const NAMES: u8 = 4;
const TOKENS: u8 = 4;
const FILES: u8 = 6;
const EEXIST: i64 = -17;
const EINVAL: i64 = -22;
const ENOENT: i64 = -2;
const EBUSY: i64 = -16;
const EIO: i64 = -5;

#[derive(Clone, Copy, Debug)]
struct KFile {
    token: u64,
    /// `None`: not retrieved yet.
    object: Option<Object>,
    /// As the kernel's `retrieve_status`.
    status: i64,
}

#[derive(Clone, Debug)]
struct KSession {
    name: SessionRef,
    incoming: bool,
    retrieved: bool,
    finished: bool,
    files: Vec<KFile>,
}

#[derive(Clone, Copy, Debug)]
enum Lock {
    /// `system_transition_mutex` (`kernel/reboot.c`, 7.3): one task at a time is in `reboot(2)`.
    Transition,
    /// `luo_session_serialize_rwsem`, for reading.
    Read,
    /// The same, for writing: the freeze.
    Write,
    /// A session's mutex, by its id.
    Session(u64),
    /// An FLB's lock, outgoing or incoming.
    Flb(usize, bool),
}

/// A step that a task takes in one turn.
#[derive(Clone, Debug)]
enum Step {
    Deed(Deed),
    /// A traced function is entered.
    Enter,
    /// It returns, with this result.
    Leave(Body, i64),
    /// Its event takes its place in the record.
    Emit(Event),
    /// A record that is no operation.
    Tell(Body),
    /// A page of this key is preserved, or given back.
    Page {
        key: u64,
        added: bool,
    },
    OpenDevice,
    CloseDevice,
    Opened,
    /// A driver takes a reference on global state, where there is some.
    TakeReference {
        flb: usize,
    },
    GiveReference {
        flb: usize,
    },
    Snapshot,
    Take(Lock),
    Give(Lock),
    Insert {
        name: u8,
    },
    Preserve {
        id: u64,
        token: u64,
        file: Object,
        fault: Fault,
    },
    FlbGet {
        flb: usize,
        fault: Fault,
    },
    FlbCreated {
        flb: usize,
    },
    FlbPut {
        flb: usize,
        incoming: bool,
    },
    FlbFinished {
        flb: usize,
    },
    Append {
        id: u64,
        token: u64,
        file: Object,
    },
    Forget {
        file: Object,
    },
    UnpreserveNext {
        id: u64,
    },
    Detach {
        id: u64,
        file: Object,
    },
    FindSession {
        name: u8,
    },
    RetrieveFile {
        id: u64,
        token: u64,
        fault: Fault,
    },
    Retrieved {
        id: u64,
        token: u64,
        result: i64,
    },
    Finish {
        id: u64,
        fault: Fault,
    },
    FinishNext {
        id: u64,
    },
    FinishEnd {
        id: u64,
    },
    Finished {
        id: u64,
    },
    /// The task's hold on a session's descriptor ends.
    Put {
        id: u64,
    },
    Unlink {
        id: u64,
        event: Body,
    },
    Freeze {
        fault: Fault,
    },
}

#[derive(Debug, Default)]
struct Task {
    steps: VecDeque<Step>,
    /// When the functions were entered that it is in, the innermost last.
    entered: Vec<u64>,
    /// Pages that its operation preserved and gave back so far, by their keys.
    pages: [Vec<u64>; 2],
}

#[derive(Debug, Default)]
struct Flb {
    outgoing: i64,
    incoming: i64,
    /// As the kernel's `retrieve_status`.
    status: i64,
    /// Its finish callback has returned.
    finished: bool,
}

#[derive(Debug)]
pub(super) struct Kernel {
    now: u64,
    tasks: Vec<Task>,
    order: Vec<u8>,
    turn: usize,
    sessions: BTreeMap<u64, KSession>,
    /// Sessions with open descriptors, and how many hold each.
    open: BTreeMap<u64, u32>,
    closing: BTreeSet<u64>,
    /// `luo_preserved_files`.
    preserved: BTreeSet<u64>,
    flbs: [Flb; FLBS],
    readers: u32,
    frozen: bool,
    /// What was serialized for the next kernel.
    pub(super) left: Option<Left>,
    held: BTreeSet<(u64, usize, bool)>,
    sequence: [u64; 2],
    next_file: u64,
    walks: u64,
    /// Whether the device is open.
    in_use: bool,
    /// Descriptors of it that can be closed.
    devices: u32,
    /// References that drivers hold, by FLB.
    references: [i64; FLBS],
    /// References that are being given back.
    returning: [i64; FLBS],
    events: Vec<Event>,
}

impl Kernel {
    pub(super) fn new(plan: &Plan) -> Self {
        let mut kernel = Self {
            now: 1_000_000_000,
            tasks: plan
                .tasks
                .iter()
                .map(|deeds| Task {
                    steps: deeds.iter().map(|&deed| Step::Deed(deed)).collect(),
                    ..Task::default()
                })
                .collect(),
            order: plan.order.clone(),
            turn: 0,
            sessions: BTreeMap::new(),
            open: BTreeMap::new(),
            closing: BTreeSet::new(),
            preserved: BTreeSet::new(),
            flbs: Default::default(),
            readers: 0,
            frozen: false,
            left: None,
            held: BTreeSet::new(),
            sequence: [0; 2],
            next_file: u64::from(FILES),
            walks: 0,
            in_use: false,
            devices: 0,
            references: [0; FLBS],
            returning: [0; FLBS],
            events: Vec::new(),
        };
        kernel.boot(&plan.incoming);
        kernel.handover(&plan.incoming);
        kernel.deserialize(&plan.incoming);
        if !plan.tasks.is_empty() && plan.snapshot {
            kernel.snapshot(0);
        }
        kernel
    }

    /// Runs until no task can go on.
    fn run(mut self) -> (Vec<Event>, Self) {
        loop {
            let ready: Vec<usize> = (0..self.tasks.len()).filter(|&t| self.can_run(t)).collect();
            let Some(last) = ready.len().checked_sub(1) else {
                return (std::mem::take(&mut self.events), self);
            };
            let choice = self
                .order
                .get(self.turn % self.order.len().max(1))
                .copied()
                .unwrap_or(0);
            self.turn += 1;
            self.now += 100 + u64::from(choice) * 1000;
            if self.turn.is_multiple_of(HOLD_UP_EVERY) {
                self.now += HOLD_UP_NS;
            }
            let task = ready[usize::from(choice) % (last + 1)];
            if let Some(step) = self.tasks[task].steps.pop_front() {
                self.step(task, step);
            }
        }
    }

    /// `luo_session_deserialize`, at the first open of the device, by the first task.
    fn deserialize(&mut self, incoming: &[u8]) {
        if incoming.is_empty() || self.tasks.is_empty() {
            return;
        }
        let mut files = 0;
        self.tasks[0].entered.push(self.now);
        for (i, &count) in incoming.iter().take(usize::from(NAMES)).enumerate() {
            let name = session(self.free_id(), &format!("s{i}"));
            let count = count % (TOKENS + 1);
            files += i64::from(count);
            let file = |token| KFile {
                token: u64::from(token),
                object: None,
                status: 0,
            };
            let arrived = KSession {
                name,
                incoming: true,
                retrieved: false,
                finished: false,
                files: (0..count).map(file).collect(),
            };
            self.sessions.insert(name.id, arrived);
            self.now += 1000;
            let start = self.now;
            self.now += 1000;
            self.tasks[0].entered.push(start);
            self.at_once(0, Body::FilesDeserialize(files_op(name, usize::from(count))));
        }
        self.now += 1000;
        self.at_once(0, Body::SessionDeserialize(Plain { outcome: outcome(0) }));
        self.flbs.iter_mut().for_each(|flb| flb.incoming = files);
    }

    /// What happens before any task runs: drivers bring their global state back, an image is loaded.
    fn boot(&mut self, incoming: &[u8]) {
        if self.tasks.is_empty() {
            return;
        }
        for flb in 0..FLBS {
            if incoming.iter().any(|count| count % (TOKENS + 1) > 0) {
                self.flbs[flb].status = 1;
                self.moment(flb_call(FlbCall::Retrieve, flb));
            }
        }
        let line = "kho=on liveupdate=on";
        self.moment(Body::ImageCarrier(Box::new(ImageCarrier {
            image: IMAGE.id,
            kho: IMAGE.kho,
            command_line_len: line.len() as u64 + 1,
            command_line: CommandLine::new(line),
            outcome: outcome(0),
        })));
        self.moment(Body::ImageLoad(ImageLoad {
            call: IMAGE_FILE,
            reserved: 0,
            image: IMAGE,
            outcome: outcome(0),
        }));
    }

    /// An operation of the first task that nothing else comes between.
    fn moment(&mut self, body: Body) {
        self.now += 1000;
        let start = self.now;
        self.tasks[0].entered.push(start);
        self.now += 1000;
        self.at_once(0, body);
    }

    fn at_once(&mut self, task: usize, body: Body) {
        let event = self.leave(task, body, 0);
        self.emit(task, event);
    }

    fn free_id(&self) -> u64 {
        // The lowest one that is free: the kernel's allocator likes to hand out what was just given back.
        (1..)
            .find(|&i| !self.sessions.contains_key(&session(i, "").id))
            .unwrap_or(0)
    }

    fn can_run(&self, task: usize) -> bool {
        match self.tasks[task].steps.front() {
            None => false,
            Some(Step::Take(Lock::Read)) => !self.frozen,
            // A task that reboots waits for the previous kernel's sessions to be finished and for references to be given back,
            // which LUO does not ask for.
            Some(Step::Take(Lock::Write)) => !self.frozen && self.readers == 0 && self.is_ready(),
            Some(Step::Take(lock)) => !self.held.contains(&key(*lock)),
            Some(_) => true,
        }
    }

    fn is_ready(&self) -> bool {
        self.references == [0; FLBS] && self.sessions.values().all(|s| !s.incoming || s.finished)
    }

    fn leave(&mut self, task: usize, body: Body, result: i64) -> Event {
        let start = self.tasks[task].entered.pop().unwrap_or(self.now);
        let duration = match body {
            // It tells of the entry.
            Body::KexecEnter(_) => 0,
            _ => (self.now - start).max(1),
        };
        self.event(task, with_outcome(body, Outcome { result, duration }))
    }

    fn event(&self, task: usize, body: Body) -> Event {
        let kind = body.kind();
        let header = Header {
            kind: kind.map_or(0, |kind| kind as u16),
            size: kind.map_or(0, |kind| (size_of::<Header>() + kind.payload_size()) as u16),
            cpu: (task % 2) as u32,
            seq: 0,
            lost: 0,
            ktime: self.now,
            pid: 100 + task as u32,
            tgid: 100,
            comm: Comm::new("task"),
        };
        Event { header, body }
    }

    fn emit(&mut self, task: usize, mut event: Event) {
        let sequence = &mut self.sequence[task % 2];
        *sequence += 1;
        event.header.seq = *sequence;
        self.events.push(event);
    }

    /// A record that is no operation, of this moment.
    fn tell(&mut self, task: usize, body: Body) {
        self.tasks[task].entered.push(self.now);
        let event = self.event(task, body);
        self.tasks[task].entered.pop();
        self.emit(task, event);
    }

    /// What the operation that ends with this did to preserved memory, if anything.
    fn balance(&mut self, task: usize, body: &Body, result: i64) -> Option<Body> {
        let (hook, session, token) = match body {
            Body::FilePreserve(p) => (Hook::FilePreserve, p.session, p.token),
            Body::FilesUnpreserve(p) => (Hook::FilesUnpreserve, p.session, 0),
            _ => return None,
        };
        let [added, removed] = std::mem::take(&mut self.tasks[task].pages);
        let some = !added.is_empty() || !removed.is_empty();
        some.then(|| {
            Body::KhoBalance(KhoBalance {
                operation: hook as u32,
                flags: if hook == Hook::FilePreserve { TOKEN_KNOWN } else { 0 },
                session,
                token,
                added: keys(&added),
                removed: keys(&removed),
                outcome: Outcome { result, duration: 1 },
                ..KhoBalance::default()
            })
        })
    }

    fn open_device(&mut self, task: usize) {
        let busy = std::mem::replace(&mut self.in_use, true);
        let end = |result| Step::Leave(Body::DeviceOpen(Plain::default()), result);
        if busy {
            return self.first(task, [end(EBUSY)]);
        }
        let read_in = Step::Leave(Body::SessionDeserialize(Plain::default()), 0);
        self.first(task, [Step::Enter, read_in, end(0), Step::Opened]);
    }

    fn take_reference(&mut self, task: usize, flb: usize) {
        let there = self.flbs[flb].outgoing > 0;
        if there {
            self.flbs[flb].outgoing += 1;
            self.references[flb] += 1;
        }
        let event = Body::FlbGet(flb_use(flb, self.flbs[flb].outgoing));
        let give = Step::Give(Lock::Flb(flb, false));
        self.first(task, [give, Step::Leave(event, if there { 0 } else { ENOENT })]);
    }

    fn first(&mut self, task: usize, steps: impl IntoIterator<Item = Step, IntoIter: DoubleEndedIterator>) {
        for step in steps.into_iter().rev() {
            self.tasks[task].steps.push_front(step);
        }
    }

    fn step(&mut self, task: usize, step: Step) {
        match step {
            Step::Deed(deed) => self.begin(task, deed),
            Step::Enter => self.tasks[task].entered.push(self.now),
            Step::Leave(body, result) => {
                let balance = self.balance(task, &body, result);
                let event = self.leave(task, body, result);
                self.first(task, [Step::Emit(event)]);
                if let Some(balance) = balance {
                    self.first(task, [Step::Tell(balance)]);
                }
            }
            Step::Tell(body) => self.tell(task, body),
            Step::Page { key, added } => self.tasks[task].pages[usize::from(!added)].push(key),
            Step::OpenDevice => self.open_device(task),
            Step::Opened => self.devices += 1,
            Step::CloseDevice => self.in_use = false,
            Step::TakeReference { flb } => self.take_reference(task, flb),
            Step::GiveReference { flb } => {
                self.references[flb] -= 1;
                self.returning[flb] -= 1;
                self.flb_put(task, flb, false);
                // It is no operation on files: no event tells of the memory that it gives back.
                self.tasks[task].pages = Default::default();
            }
            Step::Snapshot => self.snapshot(task),
            Step::Emit(event) => self.emit(task, event),
            Step::Take(Lock::Read) => self.readers += 1,
            Step::Take(Lock::Write) => self.frozen = true,
            Step::Take(lock) => _ = self.held.insert(key(lock)),
            Step::Give(Lock::Read) => self.readers -= 1,
            Step::Give(Lock::Write) => self.frozen = false,
            Step::Give(lock) => _ = self.held.remove(&key(lock)),
            Step::Insert { name } => self.insert(task, name),
            Step::Preserve { id, token, file, fault } => self.preserve(task, id, token, file, fault),
            Step::FlbGet { flb, fault } => self.flb_get(task, flb, fault),
            Step::FlbCreated { flb } => {
                self.flbs[flb].outgoing = 1;
                self.tasks[task].pages[0].push(1000 + flb as u64);
            }
            Step::FlbFinished { flb } => self.flbs[flb].finished = true,
            Step::FlbPut { flb, incoming } => self.flb_put(task, flb, incoming),
            Step::Append { id, token, file } => {
                let file = preserved(token, file);
                self.sessions.entry(id).and_modify(|s| s.files.push(file));
            }
            Step::Forget { file } => _ = self.preserved.remove(&file.identity),
            Step::UnpreserveNext { id } => self.unpreserve_next(task, id),
            Step::Detach { id, file } => {
                self.preserved.remove(&file.identity);
                self.sessions.entry(id).and_modify(|s| _ = s.files.pop());
            }
            Step::FindSession { name } => self.find_session(task, name),
            Step::RetrieveFile { id, token, fault } => self.retrieve_file(task, id, token, fault),
            Step::Retrieved { id, token, result } => self.retrieved(task, id, token, result),
            Step::Finish { id, fault } => self.finish(task, id, fault),
            Step::FinishNext { id } => self.finish_next(task, id),
            Step::FinishEnd { id } => _ = self.sessions.entry(id).and_modify(|s| _ = s.files.pop()),
            Step::Finished { id } => _ = self.sessions.entry(id).and_modify(|s| s.finished = true),
            Step::Put { id } => self.put(task, id),
            Step::Unlink { id, event } => {
                self.sessions.remove(&id);
                self.first(task, [Step::Give(Lock::Read), Step::Leave(event, 0)]);
            }
            Step::Freeze { fault } => self.freeze(task, fault),
        }
    }

    /// The open session of this number, of one direction, with one more holder.
    fn hold(&mut self, number: u8, incoming: bool) -> Option<u64> {
        let of_direction =
            |id: &&u64| !self.closing.contains(id) && self.sessions.get(id).is_some_and(|s| s.incoming == incoming);
        let ids: Vec<u64> = self.open.keys().filter(of_direction).copied().collect();
        let id = *ids.get(usize::from(number) % ids.len().max(1))?;
        *self.open.get_mut(&id)? += 1;
        Some(id)
    }

    fn begin(&mut self, task: usize, deed: Deed) {
        match deed {
            Deed::Create { name } => {
                self.first(
                    task,
                    [Step::Enter, Step::Take(Lock::Read), Step::Insert { name: name % NAMES }],
                );
            }
            Deed::Preserve {
                session,
                token,
                file,
                fault,
            } => {
                if let Some(id) = self.hold(session, false) {
                    let (token, file) = (u64::from(token % TOKENS), memfd(u64::from(file % FILES)));
                    self.ioctl(task, id, Step::Preserve { id, token, file, fault });
                }
            }
            Deed::RetrieveSession { name } => {
                self.first(
                    task,
                    [
                        Step::Enter,
                        Step::Take(Lock::Read),
                        Step::FindSession { name: name % NAMES },
                    ],
                );
            }
            Deed::Retrieve { session, token, fault } => {
                if let Some(id) = self.hold(session, true) {
                    self.ioctl(
                        task,
                        id,
                        Step::RetrieveFile {
                            id,
                            token: u64::from(token % TOKENS),
                            fault,
                        },
                    );
                }
            }
            Deed::Finish { session, fault } => {
                if let Some(id) = self.hold(session, true) {
                    self.ioctl(task, id, Step::Finish { id, fault });
                }
            }
            Deed::Close { session } => {
                let ids: Vec<u64> = self
                    .open
                    .keys()
                    .copied()
                    .filter(|id| !self.closing.contains(id))
                    .collect();
                if let Some(&id) = ids.get(usize::from(session) % ids.len().max(1)) {
                    self.closing.insert(id);
                    self.first(task, [Step::Put { id }]);
                }
            }
            Deed::Open => self.first(task, [Step::Enter, Step::OpenDevice]),
            Deed::Shut if self.devices > 0 => {
                self.devices -= 1;
                let closed = Step::Leave(Body::DeviceRelease(Plain::default()), 0);
                self.first(task, [Step::Enter, Step::CloseDevice, closed]);
            }
            Deed::Shut => {}
            Deed::Get { flb } => {
                let flb = usize::from(flb) % FLBS;
                let lock = Step::Take(Lock::Flb(flb, false));
                self.drive(task, [Step::Enter, lock, Step::TakeReference { flb }]);
            }
            Deed::Put { flb } => {
                let flb = usize::from(flb) % FLBS;
                if self.references[flb] > self.returning[flb] {
                    self.returning[flb] += 1;
                    let lock = Lock::Flb(flb, false);
                    let event = Body::FlbPut(flb_use(flb, -1));
                    let steps = [
                        Step::Enter,
                        Step::Take(lock),
                        Step::GiveReference { flb },
                        Step::Give(lock),
                    ];
                    self.drive(
                        task,
                        steps.into_iter().chain([Step::Leave(event, 0)]).collect::<Vec<_>>(),
                    );
                }
            }
            Deed::Snapshot => self.first(task, [Step::Snapshot]),
            Deed::Reboot { fault } => self.first(
                task,
                [
                    Step::Take(Lock::Transition),
                    Step::Enter,
                    Step::Leave(
                        Body::KexecEnter(Kexec {
                            image: IMAGE,
                            ..Kexec::default()
                        }),
                        0,
                    ),
                    Step::Enter,
                    Step::Enter,
                    Step::Enter,
                    Step::Take(Lock::Write),
                    Step::Freeze { fault },
                ],
            ),
        }
    }

    /// A driver's own operation. It is done within one of LUO's here, so that none is under way while LUO serializes: what is
    /// written then is compared with what was seen to end.
    fn drive(&mut self, task: usize, steps: impl IntoIterator<Item = Step>) {
        let steps = steps.into_iter();
        let steps: Vec<_> = [Step::Take(Lock::Read)]
            .into_iter()
            .chain(steps)
            .chain([Step::Give(Lock::Read)])
            .collect();
        self.first(task, steps);
    }

    /// An operation on a session's descriptor, with what surrounds each.
    fn ioctl(&mut self, task: usize, id: u64, operation: Step) {
        self.first(
            task,
            [
                Step::Take(Lock::Read),
                Step::Take(Lock::Session(id)),
                Step::Enter,
                operation,
                Step::Give(Lock::Session(id)),
                Step::Give(Lock::Read),
                Step::Put { id },
            ],
        );
    }

    fn insert(&mut self, task: usize, name: u8) {
        let name = format!("s{name}");
        let taken = self
            .sessions
            .values()
            .any(|s| !s.incoming && s.name.name == session(0, &name).name);
        let new = if taken {
            SessionRef {
                id: 0,
                ..session(0, &name)
            }
        } else {
            session(self.free_id(), &name)
        };
        if !taken {
            let created = KSession {
                name: new,
                incoming: false,
                retrieved: false,
                finished: false,
                files: Vec::new(),
            };
            self.sessions.insert(new.id, created);
        }
        let event = Body::SessionCreate(SessionOp {
            session: new,
            outcome: outcome(0),
        });
        let result = if taken { EEXIST } else { 0 };
        self.first(task, [Step::Give(Lock::Read), Step::Leave(event, result)]);
        if !taken {
            self.install(task, new.id);
        }
    }

    /// The descriptor of a session is there after the event about it: no process can use it before.
    fn install(&mut self, task: usize, id: u64) {
        let steps = &mut self.tasks[task].steps;
        let after = steps
            .iter()
            .position(|s| matches!(s, Step::Deed(_)))
            .unwrap_or(steps.len());
        // A hold that is taken and put at once would close it, so it begins with the one of the descriptor table.
        steps.insert(after, Step::Put { id: id | INSTALL });
    }

    fn preserve(&mut self, task: usize, id: u64, token: u64, file: Object, fault: Fault) {
        let Some(kept) = self.sessions.get(&id) else { return };
        let name = kept.name;
        let refused = if kept.files.iter().any(|f| f.token == token) {
            EEXIST
        } else if !self.preserved.insert(file.identity) {
            EBUSY
        } else {
            0
        };
        if refused != 0 {
            return self.first(
                task,
                [Step::Leave(Body::FilePreserve(file_op(name, token, None)), refused)],
            );
        }
        let fails = fault == Fault::Handler;
        // What follows when the FLBs are there; a failure of one of them cuts it off, see `flb_get`.
        let called = file_call(FileCall::Preserve, name, Some(token), preserved(token, file));
        let mut then = vec![Step::Enter, Step::Leave(called, if fails { EIO } else { 0 })];
        if fails {
            then.extend([true, false].map(|added| Step::Page { key: file.file, added }));
            then.extend(leave_flbs(false));
            then.push(Step::Forget { file });
        } else {
            then.push(Step::Page {
                key: file.file,
                added: true,
            });
            then.push(Step::Append { id, token, file });
        }
        let object = (!fails).then_some(file);
        then.push(Step::Leave(
            Body::FilePreserve(file_op(name, token, object)),
            if fails { EIO } else { 0 },
        ));
        self.first(task, then);
        let get = |flb| [Step::Take(Lock::Flb(flb, false)), Step::FlbGet { flb, fault }];
        self.first(
            task,
            [Step::Enter]
                .into_iter()
                .chain((0..FLBS).flat_map(get).collect::<Vec<_>>())
                .chain([Step::Leave(Body::FlbPreserve(flb_op()), 0)])
                .collect::<Vec<_>>(),
        );
    }

    fn flb_get(&mut self, task: usize, flb: usize, fault: Fault) {
        let give = Step::Give(Lock::Flb(flb, false));
        if self.flbs[flb].outgoing > 0 {
            self.flbs[flb].outgoing += 1;
            return self.first(task, [give]);
        }
        if !matches!(fault, Fault::Flb(i) if usize::from(i) % FLBS == flb) {
            let made = Step::Leave(flb_call(FlbCall::Preserve, flb), 0);
            return self.first(task, [Step::Enter, made, Step::FlbCreated { flb }, give]);
        }
        // It fails: the ones before are put back, and the preserve fails.
        let steps = &mut self.tasks[task].steps;
        let mut end = None;
        while let Some(step) = steps.pop_front() {
            if let Step::Leave(Body::FilePreserve(p), _) = step {
                end = Some(p);
                break;
            }
            if let Step::Append { file, .. } | Step::Forget { file } = step {
                self.preserved.remove(&file.identity);
            }
        }
        let Some(p) = end else { return };
        let failed = Step::Leave(flb_call(FlbCall::Preserve, flb), EIO);
        let puts: Vec<Step> = (0..flb).rev().flat_map(|flb| put_flb(flb, false)).collect();
        let mut steps = vec![Step::Enter, failed, give];
        steps.extend(puts);
        steps.push(Step::Leave(Body::FlbPreserve(flb_op()), EIO));
        steps.push(Step::Leave(Body::FilePreserve(file_op(p.session, p.token, None)), EIO));
        self.first(task, steps);
    }

    fn flb_put(&mut self, task: usize, flb: usize, incoming: bool) {
        let count = if incoming {
            &mut self.flbs[flb].incoming
        } else {
            &mut self.flbs[flb].outgoing
        };
        *count -= 1;
        if *count > 0 {
            return;
        }
        if incoming {
            self.first(task, [Step::FlbFinished { flb }]);
        } else {
            self.tasks[task].pages[1].push(1000 + flb as u64);
        }
        let call = if incoming { FlbCall::Finish } else { FlbCall::Unpreserve };
        self.first(task, [Step::Enter, Step::Leave(flb_call(call, flb), 0)]);
    }

    /// One reference to a session's descriptor less. With the last one comes the release, by its last holder.
    fn put(&mut self, task: usize, id: u64) {
        if id & INSTALL == INSTALL {
            self.open.insert(id & !INSTALL, 1);
            return;
        }
        let Some(holders) = self.open.get_mut(&id) else { return };
        *holders -= 1;
        if *holders > 0 {
            return;
        }
        self.open.remove(&id);
        self.closing.remove(&id);
        let Some(kept) = self.sessions.get(&id) else { return };
        let released = SessionRelease {
            session: kept.name,
            direction: if kept.retrieved { INCOMING } else { OUTGOING },
            reserved: 0,
            files: kept.files.len() as u64,
            outcome: outcome(0),
        };
        let (inner, name, files) = (kept.retrieved, kept.name, kept.files.len());
        let mut steps = vec![
            Step::Enter,
            Step::Take(Lock::Read),
            Step::Take(Lock::Session(id)),
            Step::Enter,
        ];
        if inner {
            steps.push(Step::Finish { id, fault: Fault::None });
        } else {
            steps.push(Step::UnpreserveNext { id });
            steps.push(Step::Leave(Body::FilesUnpreserve(files_op(name, files)), 0));
        }
        steps.push(Step::Give(Lock::Session(id)));
        steps.push(Step::Unlink {
            id,
            event: Body::SessionRelease(released),
        });
        self.first(task, steps);
    }

    fn unpreserve_next(&mut self, task: usize, id: u64) {
        let Some(kept) = self.sessions.get(&id) else { return };
        let Some(last) = kept.files.last().copied() else { return };
        let Some(file) = last.object else { return };
        let mut steps = vec![
            Step::Enter,
            Step::Leave(file_call(FileCall::Unpreserve, kept.name, None, last), 0),
        ];
        steps.extend(leave_flbs(false));
        let page = Step::Page {
            key: file.file,
            added: false,
        };
        steps.extend([page, Step::Detach { id, file }, Step::UnpreserveNext { id }]);
        self.first(task, steps);
    }

    fn find_session(&mut self, task: usize, name: u8) {
        let asked = session(0, &format!("s{name}"));
        let found = self
            .sessions
            .values_mut()
            .find(|s| s.incoming && s.name.name == asked.name);
        let (found, result) = match found {
            None => (SessionRef { id: 0, ..asked }, ENOENT),
            Some(s) if s.retrieved => (SessionRef { id: 0, ..asked }, EINVAL),
            Some(s) => {
                s.retrieved = true;
                (s.name, 0)
            }
        };
        let event = Body::SessionRetrieve(SessionOp {
            session: found,
            outcome: outcome(0),
        });
        self.first(task, [Step::Give(Lock::Read), Step::Leave(event, result)]);
        if result == 0 {
            self.install(task, found.id);
        }
    }

    fn retrieve_file(&mut self, task: usize, id: u64, token: u64, fault: Fault) {
        let Some(kept) = self.sessions.get(&id) else { return };
        let name = kept.name;
        let file = kept.files.iter().find(|f| f.token == token);
        let (object, result) = match file {
            None => (None, ENOENT),
            Some(f) if f.status != 0 => (f.object, f.status.min(0)),
            Some(_) => {
                let result = if fault == Fault::Handler { EIO } else { 0 };
                let object = (result == 0).then(|| memfd(self.next_file));
                self.next_file += 1;
                let called = file_call(
                    FileCall::Retrieve,
                    name,
                    Some(token),
                    KFile {
                        token,
                        object,
                        status: 0,
                    },
                );
                let after = Step::Retrieved { id, token, result };
                return self.first(task, [Step::Enter, Step::Leave(called, result), after]);
            }
        };
        self.first(
            task,
            [Step::Leave(Body::FileRetrieve(file_op(name, token, object)), result)],
        );
    }

    fn retrieved(&mut self, task: usize, id: u64, token: u64, result: i64) {
        // The number of the file that the callback gave: the last one of this task's.
        let given = self.events.iter().rev().find_map(|e| match &e.body {
            Body::FileCallback(FileCall::Retrieve, p) if e.header.pid == 100 + task as u32 => Some(p.file),
            _ => None,
        });
        let object = given.filter(|&file| file != 0).map(|file| memfd(file - memfd(0).file));
        let Some(kept) = self.sessions.get_mut(&id) else { return };
        let name = kept.name;
        for file in kept.files.iter_mut().filter(|f| f.token == token) {
            file.object = object;
            file.status = if result == 0 { 1 } else { result };
        }
        self.preserved.extend(object.map(|o| o.identity));
        self.first(
            task,
            [Step::Leave(Body::FileRetrieve(file_op(name, token, object)), result)],
        );
    }

    fn finish(&mut self, task: usize, id: u64, fault: Fault) {
        let Some(kept) = self.sessions.get(&id) else { return };
        let (name, files) = (kept.name, kept.files.clone());
        let end = |result| Step::Leave(Body::FilesFinish(files_op(name, files.len())), result);
        let mut steps = Vec::new();
        for (i, file) in files.iter().enumerate() {
            let refuses = fault == Fault::Handler && i + 1 == files.len();
            let asked = file_call(FileCall::CanFinish, name, None, *file);
            steps.extend([Step::Enter, Step::Leave(asked, if refuses { EBUSY } else { 0 })]);
            if refuses {
                steps.push(end(EBUSY));
                return self.first(task, steps);
            }
        }
        steps.extend([Step::FinishNext { id }, Step::Finished { id }, end(0)]);
        self.first(task, steps);
    }

    fn finish_next(&mut self, task: usize, id: u64) {
        let Some(kept) = self.sessions.get(&id) else { return };
        let Some(file) = kept.files.last().copied() else { return };
        let mut steps = vec![
            Step::Enter,
            Step::Leave(file_call(FileCall::Finish, kept.name, None, file), 0),
        ];
        steps.extend(leave_flbs(true));
        steps.extend(file.object.map(|file| Step::Forget { file }));
        steps.extend([Step::FinishEnd { id }, Step::FinishNext { id }]);
        self.first(task, steps);
    }
}

/// Marks, in [`Step::Put`], a descriptor that is installed.
const INSTALL: u64 = 1;

fn key(lock: Lock) -> (u64, usize, bool) {
    match lock {
        Lock::Session(id) => (id, 0, false),
        Lock::Flb(flb, incoming) => (0, flb, incoming),
        Lock::Read | Lock::Write => (u64::MAX, 0, false),
        Lock::Transition => (u64::MAX, 1, false),
    }
}

fn put_flb(flb: usize, incoming: bool) -> [Step; 3] {
    let lock = Lock::Flb(flb, incoming);
    [Step::Take(lock), Step::FlbPut { flb, incoming }, Step::Give(lock)]
}

/// `luo_flb_file_unpreserve` or `luo_flb_file_finish`.
fn leave_flbs(incoming: bool) -> Vec<Step> {
    let end = if incoming {
        Body::FlbFinish(flb_op())
    } else {
        Body::FlbUnpreserve(flb_op())
    };
    let puts = (0..FLBS).rev().flat_map(|flb| put_flb(flb, incoming));
    [Step::Enter]
        .into_iter()
        .chain(puts)
        .chain([Step::Leave(end, 0)])
        .collect()
}
