//! One kernel's part of a chain of live updates, gathered from its record.

use std::collections::{BTreeMap, BTreeSet};

use luo_trace_common::events::{FlbCall, OUTGOING};
use luo_trace_common::text::{Compatible, SessionName};

use crate::event::{Body, Event};
use crate::journal::{Clock, Header};

/// A stretch of one boot's `CLOCK_MONOTONIC`, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// When it began.
    pub start: u64,
    /// When it ended.
    pub end: u64,
    /// Whether what it is of succeeded.
    pub ok: bool,
}

/// What one boot's record tells.
#[derive(Clone, Debug, Default)]
pub struct Boot {
    /// `uname -r`.
    pub release: String,
    /// Which boot.
    pub boot_id: String,
    /// LUO's own number of this boot in the chain of live updates: 0 after a cold boot; `None`: not known.
    pub update_number: Option<u64>,
    /// How many kexecs lie before it, where the kernel says so.
    pub kexec_count: Option<u64>,
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
    /// When the first session was created.
    pub first_create: Option<u64>,
    /// When the last file was preserved.
    pub last_preserve: Option<u64>,
    /// LUO's freeze, the last attempt.
    pub freeze: Option<Span>,
    /// The reading in of what came.
    pub deserialize: Option<Span>,
    /// When the last file was brought back.
    pub last_retrieve: Option<u64>,
    /// When the last session was finished.
    pub last_finish: Option<u64>,
    /// The sessions by name.
    pub sessions: BTreeMap<SessionName, SessionLine>,
    /// Global state by name.
    pub flbs: BTreeMap<Compatible, FlbLine>,
    /// How many events there are.
    pub events: u64,
    /// How many events are known to be missing.
    pub lost: u64,
}

/// What happened to one session in one boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionLine {
    /// It was created here.
    pub created: Option<u64>,
    /// It was asked for and handed out here.
    pub retrieved: Option<u64>,
    /// Its files were frozen for the jump.
    pub frozen: Option<Span>,
    /// It was closed before any jump.
    pub abandoned: Option<u64>,
    /// Its files were finished.
    pub finished: Option<u64>,
    /// Its files by token.
    pub files: BTreeMap<u64, FileLine>,
}

/// What happened to one file in one boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileLine {
    /// The handler's compatible string.
    pub handler: Compatible,
    /// Size in bytes.
    pub size: u64,
    /// Nanoseconds its preserve took.
    pub preserve: Option<u64>,
    /// Nanoseconds its retrieve took, the first time.
    pub retrieve: Option<u64>,
    /// Operations on it that failed.
    pub failures: u32,
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
    handlers: BTreeSet<Compatible>,
}

impl Boot {
    /// A boot of which nothing but its header is known yet.
    pub fn new(header: &Header) -> Self {
        Self {
            release: header.kernel_release.clone(),
            boot_id: header.boot_id.clone(),
            update_number: header.update_number,
            kexec_count: header.kexec.as_ref().and_then(|kexec| kexec.count),
            clock: header.clock,
            userspace: header.userspace_ns,
            started: header.clock.monotonic_ns.saturating_sub(header.attach_ns),
            attached: header.clock.monotonic_ns,
            ..Self::default()
        }
    }

    /// The order in which boots ran: by the kernels' own count of kexecs, and by the wall clock.
    pub fn order(a: &Self, b: &Self) -> std::cmp::Ordering {
        let key = |boot: &Self| (boot.kexec_count, boot.clock.realtime_ns);
        key(a).cmp(&key(b))
    }

    /// Takes in the next event.
    pub fn apply(&mut self, event: &Event) {
        let end = event.header.ktime;
        let outcome = event.outcome().copied().unwrap_or_default();
        let span = Span {
            start: end.saturating_sub(outcome.duration),
            end,
            ok: outcome.is_ok(),
        };
        self.events += 1;
        match &event.body {
            Body::Gap { lost } => {
                self.events -= 1;
                self.lost += lost;
            }
            Body::SessionCreate(p) if span.ok => {
                self.first_create.get_or_insert(span.start);
                self.sessions.entry(p.session.name).or_default().created = Some(end);
            }
            Body::SessionRetrieve(p) if span.ok => {
                self.sessions.entry(p.session.name).or_default().retrieved = Some(end);
            }
            Body::SessionRelease(p) if p.direction == OUTGOING && span.ok => {
                self.sessions.entry(p.session.name).or_default().abandoned = Some(end);
            }
            Body::FilePreserve(p) => self.file(event, p.session.name, p.token, |file| {
                file.size = p.object.size.max(file.size);
                file.preserve = Some(outcome.duration);
            }),
            Body::FileRetrieve(p) => self.file(event, p.session.name, p.token, |file| {
                file.size = p.object.size.max(file.size);
                file.retrieve.get_or_insert(outcome.duration);
            }),
            Body::FilesFreeze(p) => self.sessions.entry(p.session.name).or_default().frozen = Some(span),
            Body::FilesFinish(p) if span.ok && p.files > 0 => {
                self.last_finish = Some(end);
                self.sessions.entry(p.session.name).or_default().finished = Some(end);
            }
            Body::FlbCallback(call, p) if span.ok => {
                let flb = self.flbs.entry(p.name).or_default();
                flb.handlers.insert(p.handler);
                match call {
                    FlbCall::Preserve => flb.created += 1,
                    FlbCall::Retrieve => flb.restored += 1,
                    FlbCall::Unpreserve | FlbCall::Finish => flb.destroyed += 1,
                }
            }
            Body::FlbPreserve(p) if span.ok => {
                let joined = self.flbs.values_mut().filter(|flb| flb.handlers.contains(&p.handler));
                joined.for_each(|flb| flb.joined += 1);
            }
            Body::SnapshotBegin(p) => self.update_number = p.known_update_number().or(self.update_number),
            Body::Arrival(p) => self.update_number = p.known_update_number().or(self.update_number),
            Body::SessionDeserialize(_) => _ = self.deserialize.get_or_insert(span),
            Body::LiveupdateReboot(_) => self.freeze = Some(span),
            _ => {}
        }
    }

    fn file(&mut self, event: &Event, session: SessionName, token: u64, update: impl FnOnce(&mut FileLine)) {
        let ok = event.outcome().is_some_and(|outcome| outcome.is_ok());
        let end = event.header.ktime;
        let file = self
            .sessions
            .entry(session)
            .or_default()
            .files
            .entry(token)
            .or_default();
        if let (Body::FilePreserve(p) | Body::FileRetrieve(p), true) = (&event.body, file.handler.is_empty()) {
            file.handler = p.handler;
        }
        if !ok {
            file.failures += 1;
            return;
        }
        update(file);
        match event.body {
            Body::FilePreserve(_) => self.last_preserve = Some(end),
            _ => self.last_retrieve = Some(end),
        }
    }
}
