//! One kernel's part of a chain of live updates, gathered from its record.

use std::collections::BTreeMap;

use luo_trace_common::events::{
    self as abi, CommandLine, FileCall, FileOp, FlbCall, FlbCallback, IMAGE_FILE, IMAGE_LEGACY, IMAGE_NONE, INCOMING,
    Image, Keys, KhoBalance, OUTGOING, SessionRelease, fails,
};
use luo_trace_common::hooks::Hook;
use luo_trace_common::text::Compatible;

use super::decisions::Policies;
use super::lines::{Sessions, Span};
use crate::event::{Body, Event, EventId};
use crate::journal::{Clock, Header, Host};
use crate::model::{Coverage, Invariant, Walk};

/// More attempts than this are not kept, but for the newest.
const MOST_ATTEMPTS: usize = 1024;
/// More global states, or handlers, than this are not told apart. No kernel has ten.
const MOST_NAMES: usize = 256;

/// What one boot's record tells.
#[derive(Clone, Debug, Default)]
pub struct Boot {
    /// Which machine it is of, as far as its record says.
    pub host: Host,
    /// Which of the logs that were given its record lies in, with others; `None`: it is a file of its own.
    pub log: Option<usize>,
    /// `uname -r`.
    pub release: String,
    /// Which boot.
    pub boot_id: String,
    /// LUO's own number of this boot in the chain of live updates: 0 after a cold boot; `None`: not known.
    pub update_number: Option<u64>,
    /// How many kexecs lie before it, where the kernel says so.
    pub kexec_count: Option<u64>,
    /// `uname -r` of the kernel before it, where that told.
    pub previous_release: Option<String>,
    /// How its clocks stood.
    pub clock: Clock,
    /// How they stood later, as near to the jump as they were read; `None`: not read again.
    pub late_clock: Option<Clock>,
    /// When the kernel ran init, the first process.
    pub userspace: Option<u64>,
    /// When the agent was started.
    pub started: u64,
    /// When the agent had attached its hooks.
    pub attached: u64,
    /// The time of the latest event.
    pub latest: u64,
    /// When the first session was created.
    pub first_create: Option<u64>,
    /// When the last file was preserved.
    pub last_preserve: Option<u64>,
    /// When the image was loaded that is armed now.
    pub armed: Option<u64>,
    /// The image that is armed now; its mode tells whether that is known.
    pub image: Image,
    /// The command line of the image that is armed now.
    pub command_line: Option<Box<CommandLine>>,
    /// What the agent found in it: the image's id, and the outcome as in [`abi`'s record](luo_trace_common::events::ImageVerdict::outcome).
    pub looked: Option<(u64, u32)>,
    /// LUO's freeze, the last attempt.
    pub freeze: Option<Span>,
    /// The reading in of what came.
    pub deserialize: Option<Span>,
    /// When the last file was brought back.
    pub last_retrieve: Option<u64>,
    /// When the last session was finished.
    pub last_finish: Option<u64>,
    /// The sessions for the next kernel, as they are at the end of the record.
    pub outgoing: Sessions,
    /// The sessions from the previous kernel.
    pub incoming: Sessions,
    /// Global state by name.
    pub flbs: BTreeMap<Compatible, FlbLine>,
    /// The handlers that a walk found.
    pub handlers: Vec<Compatible>,
    /// The attempts at `reboot(LINUX_REBOOT_CMD_KEXEC)`, in their order.
    pub attempts: Vec<Attempt>,
    /// What the previous kernel left, where an agent looked before it was read in.
    pub handover: Option<Handover>,
    /// What LUO's operations did to preserved memory, where `--kho keys` counted it.
    pub pages: Pages,
    /// What policy did, and what an operator ordered.
    pub policy: Policies,
    /// How many events there are.
    pub events: u64,
    /// How many events are known to be missing.
    pub lost: u64,
    pub(crate) known: Known,
    pub(crate) coverage: Coverage,
    pub(crate) walk: Option<Walk>,
    /// Data handles of global state that was brought back.
    pub(crate) flb_data: BTreeMap<Compatible, u64>,
    /// Up to this time events may be missing.
    pub(crate) blind_until: u64,
}

/// What of a boot is known as a whole, and not only as far as it was seen.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Known {
    /// All outgoing sessions with all their files.
    pub(crate) outgoing: bool,
    /// All incoming sessions that were read in, ended ones too.
    pub(crate) incoming: bool,
    /// At some time no process had read in what came.
    pub(crate) unread: bool,
    /// When a session was last read in.
    pub(crate) reading: u64,
    /// How each incoming session that is known goes on: nothing that ends one was missed.
    pub(crate) fates: bool,
    /// Everything that was preserved and restored.
    pub(crate) pages: bool,
    /// All registered handlers.
    pub(crate) handlers: bool,
    /// No event is missing so far.
    pub(crate) gapless: bool,
    /// When outgoing sessions or files last changed.
    pub(crate) changed: u64,
    /// How the reading in of what came failed: errno and event.
    pub(crate) unreadable: Option<(i64, EventId)>,
}

/// One attempt at `reboot(LINUX_REBOOT_CMD_KEXEC)`.
#[derive(Clone, Debug, Default)]
pub struct Attempt {
    /// When it began.
    pub entered: Option<u64>,
    /// The image to be jumped into; its mode tells whether that is known.
    pub image: Image,
    /// The writing of the sessions for the next kernel.
    pub serialize: Option<Span>,
    /// LUO's whole part.
    pub reboot: Option<Span>,
    /// When it came back to its caller: the jump did not happen.
    pub returned: Option<u64>,
    /// Global state as it was written for the next kernel.
    pub flbs: Vec<abi::FlbRecord>,
    /// Whether nothing of the attempt was missed.
    pub(super) whole: bool,
    /// The latest event of it.
    pub(super) evidence: Option<EventId>,
}

impl Attempt {
    /// Whether this kernel went on after it.
    pub fn is_over(&self) -> bool {
        self.returned.is_some() || self.reboot.is_some_and(|reboot| !reboot.ok)
    }

    /// Whether only the jump can have followed it.
    pub fn departs(&self) -> bool {
        self.returned.is_none() && self.reboot.is_some_and(|reboot| reboot.ok)
    }

    /// Whether the image is known to carry nothing into the next kernel.
    pub fn carries_nothing(&self) -> bool {
        match self.image.mode {
            IMAGE_LEGACY => true,
            IMAGE_FILE => self.image.kho == 0,
            _ => false,
        }
    }
}

/// What happened to one FLB in one boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlbLine {
    /// How often it was made.
    pub created: u32,
    /// How often it was brought back from the kernel before.
    pub restored: u32,
    /// How often it was taken down.
    pub destroyed: u32,
    /// How many files joined it.
    pub joined: u32,
    /// The handlers whose files it serves, as far as its callbacks told.
    handlers: Vec<Compatible>,
}

/// What LUO's operations did to preserved memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pages {
    /// What they preserved.
    pub added: Keys,
    /// What they gave back.
    pub removed: Keys,
    /// What they brought back from the previous kernel.
    pub restored: Keys,
}

impl Pages {
    fn count(&mut self, p: &KhoBalance) {
        for (sum, keys) in [
            (&mut self.added, p.added),
            (&mut self.removed, p.removed),
            (&mut self.restored, p.restored),
        ] {
            sum.calls = sum.calls.wrapping_add(keys.calls);
            sum.pages = sum.pages.wrapping_add(keys.pages);
            sum.sum = sum.sum.wrapping_add(keys.sum);
        }
    }
}

/// What the previous kernel left for LUO, as it was found before anybody read it in. The sessions themselves are in
/// [`Boot::incoming`], marked [`super::SessionLine::arrived`].
#[derive(Clone, Debug, Default)]
pub struct Handover {
    /// When the reading was over; `None`: it is not.
    pub at: Option<u64>,
    /// The previous kernel left nothing.
    pub nothing: bool,
    /// Everything that it left was found.
    pub whole: bool,
    /// Global state that it left.
    pub flbs: Vec<abi::FlbRecord>,
    pub(super) evidence: Option<EventId>,
    pub(super) sessions: u64,
    pub(super) files: u64,
    pub(super) holes: bool,
}

impl Handover {
    /// Whether the reading is over.
    pub(super) fn is_over(&self) -> bool {
        self.at.is_some()
    }

    /// Events are missing.
    pub(super) fn lose(&mut self) {
        self.holes = true;
    }
}

impl Boot {
    /// A boot of which nothing but its header is known yet.
    pub fn new(header: &Header) -> Self {
        let kexec = header.kexec.as_ref();
        Self {
            host: header.host.clone(),
            release: header.kernel_release.clone(),
            boot_id: header.boot_id.clone(),
            update_number: header.update_number,
            kexec_count: kexec.and_then(|kexec| kexec.count),
            previous_release: kexec.and_then(|kexec| kexec.previous_release.clone()),
            clock: header.clock,
            userspace: header.userspace_ns,
            started: header.clock.monotonic_ns.saturating_sub(header.attach_ns),
            attached: header.clock.monotonic_ns,
            coverage: header.coverage(),
            known: Known {
                gapless: true,
                fates: true,
                ..Known::default()
            },
            ..Self::default()
        }
    }

    /// A later run of the agent took the record up: what that one's hooks do not tell is not known of the whole.
    pub fn resume(&mut self, header: &Header) {
        self.coverage = self.coverage.and(header.coverage());
    }

    /// Whether it has every hook without which nothing can be said about this.
    pub(super) fn covers(&self, invariant: Invariant) -> bool {
        invariant.needs().iter().all(|&hook| self.coverage.has(hook))
    }

    /// Whether its record ends in the jump to the next kernel, as far as can be seen from this side.
    pub fn departs(&self) -> bool {
        self.attempts.last().is_some_and(Attempt::departs)
    }

    /// Whether it was told before this attempt that the kernel in the image cannot take what was preserved.
    pub(super) fn foretold(&self, attempt: &Attempt) -> bool {
        let foretells = |&(image, outcome): &(u64, u32)| image == attempt.image.id && fails(outcome) == Some(true);
        self.looked.as_ref().is_some_and(foretells) && self.known.outgoing && !self.outgoing.is_empty()
    }

    /// Whether the outgoing sessions, with all their files, are all there are.
    pub(super) fn knows_outgoing(&self) -> bool {
        self.known.outgoing && self.outgoing.dropped == 0
    }

    /// Takes in the next event.
    pub fn apply(&mut self, event: &Event) {
        if let Body::Gap { lost } = event.body {
            return self.lose(lost, event.header.ktime);
        }
        if let Body::HooksBlind(p) = &event.body {
            self.coverage = self.coverage.but_for(p.hooks);
            return self.lose(0, event.header.ktime);
        }
        self.events += 1;
        self.latest = self.latest.max(event.header.ktime);
        self.walk(event);
        self.policy.observe(event);
        let (at, id) = (event.header.ktime, event.id());
        let outcome = event.outcome().copied().unwrap_or_default();
        let span = Span {
            start: at.saturating_sub(outcome.duration),
            end: at,
            ok: outcome.is_ok(),
        };
        match &event.body {
            Body::SessionCreate(p) if span.ok => {
                self.first_create.get_or_insert(span.start);
                self.known.changed = at;
                if let Some(line) = self.outgoing.begin(&p.session, id) {
                    line.created = Some(at);
                }
            }
            Body::SessionRetrieve(p) if span.ok => {
                if let Some(line) = self.incoming.meet(&p.session, id) {
                    line.retrieved = Some(at);
                }
            }
            Body::SessionRelease(p) if span.ok => self.release(p, span),
            Body::FilePreserve(p) => self.preserve(p, span, event),
            Body::FileRetrieve(p) => self.retrieve(p, span, id),
            Body::FilesUnpreserve(p) if span.ok => {
                self.known.changed = at;
                self.outgoing.clear(&p.session);
                if let Some(line) = self.outgoing.find(&p.session) {
                    line.says = Some(p.files);
                }
            }
            Body::FilesFreeze(p) => {
                if let Some(line) = self.outgoing.meet(&p.session, id) {
                    line.frozen = Some(span);
                    line.says = Some(p.files);
                }
            }
            Body::FilesFinish(p) if span.ok => self.finish(p, at, id),
            Body::FilesDeserialize(p) => {
                if let Some(line) = self.incoming.meet(&p.session, id) {
                    line.says = Some(p.files).filter(|_| span.ok);
                }
                self.known.reading = at;
            }
            Body::FileCallback(call, p) if p.flags & abi::TOKEN_KNOWN != 0 => {
                let sessions = match call {
                    FileCall::Freeze => &mut self.outgoing,
                    FileCall::Finish => &mut self.incoming,
                    _ => return,
                };
                if let Some(file) = sessions.known_file(&p.session, p.token) {
                    match call {
                        FileCall::Freeze => file.freeze = Some(span),
                        _ => file.finish = Some(span),
                    }
                    file.failures += u32::from(!span.ok);
                }
            }
            Body::FlbCallback(call, p) if span.ok => self.flb(*call, p),
            Body::FlbPreserve(p) if span.ok => {
                let joined = self.flbs.values_mut().filter(|flb| flb.handlers.contains(&p.handler));
                joined.for_each(|flb| flb.joined += 1);
            }
            Body::KhoBalance(p) => self.pages.count(p),
            Body::SessionDeserialize(_) => self.read_in(span, outcome.result, id),
            _ => self.departure(event, span),
        }
    }

    /// What leads to the jump, and what comes from it.
    fn departure(&mut self, event: &Event, span: Span) {
        let (at, id) = (event.header.ktime, event.id());
        match &event.body {
            Body::KexecEnter(p) => {
                let whole = at > self.blind_until;
                let attempt = self.new_attempt();
                (attempt.entered, attempt.image, attempt.evidence) = (Some(at), p.image, Some(id));
                attempt.whole = whole;
            }
            Body::SessionSerialize(_) => {
                let attempt = self.attempt();
                (attempt.serialize, attempt.evidence) = (Some(span), Some(id));
            }
            Body::FlbRecord(p) => {
                let attempt = self.attempt();
                if attempt.flbs.len() < MOST_NAMES {
                    attempt.flbs.push(*p);
                }
            }
            Body::LiveupdateReboot(_) => {
                self.freeze = Some(span);
                let attempt = self.attempt();
                (attempt.reboot, attempt.evidence) = (Some(span), Some(id));
            }
            Body::KexecReturn(_) => {
                if self.attempts.is_empty() {
                    self.new_attempt();
                }
                if let Some(attempt) = self.attempts.last_mut() {
                    attempt.returned = Some(at);
                }
            }
            Body::ImageVerdict(p) => self.looked = Some((p.image, p.outcome)),
            Body::ImageLoad(p) if span.ok => {
                self.looked = self.looked.filter(|(image, _)| *image == p.image.id);
                self.image = p.image;
                self.armed = Some(at).filter(|_| p.image.mode != IMAGE_NONE);
                if p.image.mode != IMAGE_FILE {
                    self.command_line = None;
                }
            }
            Body::ImageCarrier(p) if span.ok => self.command_line = Some(Box::new(p.command_line)),
            Body::SnapshotBegin(p) => {
                self.image = p.image;
                self.update_number = self.update_number.or(p.known_update_number());
            }
            Body::ArrivedSession(_) | Body::ArrivedFile(_) | Body::ArrivedFlb(_) | Body::Handover(_) => {
                self.arrive(event);
            }
            _ => {}
        }
    }

    /// Events are missing: what is known as a whole is so no more.
    fn lose(&mut self, lost: u64, until: u64) {
        self.lost = self.lost.saturating_add(lost);
        self.blind_until = self.blind_until.max(until);
        self.walk = None;
        self.looked = None;
        self.known = Known {
            changed: self.known.changed,
            unreadable: self.known.unreadable,
            ..Known::default()
        };
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.whole = false;
        }
        if let Some(handover) = self.handover.as_mut().filter(|handover| !handover.is_over()) {
            handover.lose();
        }
    }

    fn new_attempt(&mut self) -> &mut Attempt {
        if self.attempts.len() >= MOST_ATTEMPTS {
            self.attempts.pop();
        }
        self.attempts.push(Attempt::default());
        let last = self.attempts.len() - 1;
        &mut self.attempts[last]
    }

    /// The attempt that is under way; one whose beginning was not seen begins now.
    fn attempt(&mut self) -> &mut Attempt {
        match self.attempts.last() {
            Some(attempt) if !attempt.is_over() => {
                let last = self.attempts.len() - 1;
                &mut self.attempts[last]
            }
            _ => self.new_attempt(),
        }
    }

    fn release(&mut self, p: &SessionRelease, span: Span) {
        let outgoing = match p.direction {
            OUTGOING => true,
            INCOMING => false,
            _ => self.outgoing.find(&p.session).is_some(),
        };
        if outgoing {
            self.known.changed = span.end;
            self.outgoing.abandon(&p.session, span);
        }
    }

    fn preserve(&mut self, p: &FileOp, span: Span, event: &Event) {
        let id = event.id();
        if !span.ok {
            // Whether a file of this token is there is not this operation's to tell.
            match self.outgoing.known_file(&p.session, p.token) {
                Some(file) => file.failures += 1,
                None => {
                    if let Some(line) = self.outgoing.meet(&p.session, id) {
                        line.refuse(&event.header, p.outcome.result);
                    }
                }
            }
            return;
        }
        self.known.changed = span.end;
        self.last_preserve = Some(span.end);
        if let Some(file) = self.outgoing.file(&p.session, p.token, id) {
            file.learn(&p.handler, p.object.size, p.data);
            file.preserve = Some(span);
        }
    }

    fn retrieve(&mut self, p: &FileOp, span: Span, id: EventId) {
        // Where a handler was found, there is a file of this token.
        let file = if span.ok || !p.handler.is_empty() {
            self.incoming.file(&p.session, p.token, id)
        } else {
            self.incoming.known_file(&p.session, p.token)
        };
        if let Some(file) = file {
            file.learn(&p.handler, p.object.size, p.data);
            if span.ok {
                file.retrieve.get_or_insert(span);
            } else {
                file.failures += 1;
                file.refused.get_or_insert(p.outcome.result);
            }
        }
        if let Some(line) = self.incoming.meet(&p.session, id) {
            line.refusals += u32::from(!line.files.contains_key(&p.token));
            // As many as the kernel counts were asked for: there are no others.
            line.listed |= line.says == Some(line.files.len() as u64);
        }
        if span.ok {
            self.last_retrieve = Some(span.end);
        }
    }

    fn finish(&mut self, p: &abi::FilesOp, at: u64, id: EventId) {
        if p.files > 0 {
            self.last_finish = Some(at);
        }
        if let Some(line) = self.incoming.meet(&p.session, id) {
            line.finished.get_or_insert(at);
            // A second finish finds no files any more.
            line.says = line.says.or(Some(p.files));
        }
    }

    fn read_in(&mut self, span: Span, result: i64, id: EventId) {
        self.deserialize.get_or_insert(span);
        if !span.ok {
            self.known.unreadable.get_or_insert((result, id));
            return;
        }
        // It is called at every open, and reads at the first.
        let first = self.known.unread || (span.start > self.attached && self.known.reading > span.start);
        self.known.incoming |= first && self.known.gapless && self.coverage.has(Hook::FilesDeserialize);
    }

    fn flb(&mut self, call: FlbCall, p: &FlbCallback) {
        if self.flbs.len() >= MOST_NAMES && !self.flbs.contains_key(&p.name) {
            return;
        }
        let flb = self.flbs.entry(p.name).or_default();
        if !p.handler.is_empty() && !flb.handlers.contains(&p.handler) && flb.handlers.len() < MOST_NAMES {
            flb.handlers.push(p.handler);
        }
        match call {
            FlbCall::Preserve => flb.created += 1,
            FlbCall::Retrieve => {
                flb.restored += 1;
                self.flb_data.insert(p.name, p.data);
            }
            FlbCall::Unpreserve | FlbCall::Finish => flb.destroyed += 1,
        }
    }
}
