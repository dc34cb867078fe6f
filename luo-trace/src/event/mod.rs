//! An event as the rest of the agent knows it: checked, typed, and the same whether it came live or from a journal.

mod by_name;
pub mod decode;
pub mod source;

use std::fmt;

use luo_trace_common::events::{
    self as abi, FileCall, FlbCall, FlbRecord, Header, Kind, Outcome, Payload, PolicyChange, PolicyDecision, SessionRef,
};
use luo_trace_common::hooks::Hook;
use luo_trace_common::policy::{Condition, Mode};
use serde::ser::{Serialize, SerializeMap, Serializer};

pub use by_name::ByName;

/// One thing that happened in the kernel, or a hole in the record of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Where and when; for a gap, of the event that revealed it.
    pub header: Header,
    /// What.
    pub body: Body,
}

/// What is kept of a payload in a [`Body`].
macro_rules! kept {
    ($payload:ident) => { abi::$payload };
    ($payload:ident boxed) => { Box<abi::$payload> };
}

macro_rules! body {
    (events {
        $($(#[$doc:meta])* $value:literal $kind:ident($payload:ident $(, $field:ident: $choice:ident)*) $name:literal $($boxed:ident)?;)*
    } losses { $($losses:tt)* }) => {
        /// What happened. What is some times as long as anything else has a place of its own.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Body {
            $($(#[$doc])* $kind($(abi::$choice,)* kept!($payload $($boxed)?)),)*
            /// This many events were lost since the one before: nothing that depends on them can be decided.
            Gap {
                /// How many events were lost.
                lost: u64,
            },
        }

        impl Body {
            /// The kind of record this comes as; `None` for a gap, which is no record.
            pub fn kind(&self) -> Option<Kind> {
                match self {
                    $(Body::$kind(..) => Some(Kind::$kind),)*
                    Body::Gap { .. } => None,
                }
            }

            /// The session it is about, where it is about one; which one may not be known.
            pub fn session(&self) -> Option<&SessionRef> {
                match self {
                    $(Body::$kind(.., payload) => payload.session(),)*
                    Body::Gap { .. } => None,
                }
            }

            fn outcome(&self) -> Option<&Outcome> {
                match self {
                    $(Body::$kind(.., payload) => payload.outcome(),)*
                    Body::Gap { .. } => None,
                }
            }
        }
    };
}

luo_trace_common::for_each_kind!(body);

/// Names one event within a record: CPU and number on that CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId {
    /// The CPU.
    pub cpu: u32,
    /// The event's number on it.
    pub seq: u64,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.cpu, self.seq)
    }
}

impl Serialize for EventId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One detail of an event, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(untagged)]
pub enum Value {
    /// Text, already escaped.
    Text(String),
    /// A plain number.
    Number(u64),
    /// A number that may be negative.
    Signed(i64),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Text(text) => f.write_str(text),
            Value::Number(number) => number.fmt(f),
            Value::Signed(number) => number.fmt(f),
        }
    }
}

/// Whether a refused preserve is one that happens in every update: systemd, which is process 1, asks LUO to keep each descriptor
/// that a service has stored (systemd 262), and the kernel has ENOENT for those that no handler takes.
pub fn is_usual_refusal(tgid: u32, result: i64) -> bool {
    const ENOENT: i64 = 2;
    tgid == 1 && result == -ENOENT
}

impl Event {
    /// Which event of its record this is.
    pub fn id(&self) -> EventId {
        EventId {
            cpu: self.header.cpu,
            seq: self.header.seq,
        }
    }

    /// When the operation began, in nanoseconds of `CLOCK_MONOTONIC`; `None` where its beginning was not seen.
    pub fn start(&self) -> Option<u64> {
        let duration = self.outcome()?.duration;
        (duration > 0).then(|| self.header.ktime.saturating_sub(duration))
    }

    /// How the operation ended; `None` for a gap, and for what is no operation: a record, a snapshot of the kernel's lists.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.body.outcome()
    }

    /// The session it is about, where it is about one and the record tells which.
    pub fn session(&self) -> Option<&SessionRef> {
        self.body.session().filter(|session| !session.name.is_empty())
    }

    /// The event's name: a kind's, or for callbacks the operation's (`file-freeze`, `flb-create`).
    pub fn name(&self) -> &'static str {
        match &self.body {
            Body::FileCallback(call, _) => match call {
                FileCall::Preserve => "file-handler-preserve",
                FileCall::Unpreserve => "file-unpreserve",
                FileCall::Freeze => "file-freeze",
                FileCall::Unfreeze => "file-unfreeze",
                FileCall::Retrieve => "file-handler-retrieve",
                FileCall::CanFinish => "file-can-finish",
                FileCall::Finish => "file-finish",
            },
            // After the kexec the taking down of global state is called finish by the kernel; to users it is the same
            // end of the same thing.
            Body::FlbCallback(FlbCall::Finish, _) => FlbCall::Unpreserve.name(),
            Body::FlbCallback(call, _) => call.name(),
            Body::KhoOp(call, _) => call.name(),
            Body::Gap { .. } => "gap",
            body => body.kind().map_or("gap", Kind::name),
        }
    }

    /// The details beyond time and task, in the order they are shown. What is not known is left out.
    pub fn details(&self) -> Vec<(&'static str, Value)> {
        let mut d = Details::default();
        if let Some(session) = self.session() {
            d.text("session", session.name);
        }
        match &self.body {
            Body::SessionRelease(p) => {
                d.direction(p.direction);
                d.number("files", p.files);
            }
            Body::FilePreserve(p) | Body::FileRetrieve(p) => {
                d.text("token", format_args!("{:#x}", p.token));
                d.name("handler", &p.handler);
                if p.object.file != 0 {
                    d.number("size", p.object.size);
                    d.number("inode", p.object.inode);
                }
            }
            Body::FilesUnpreserve(p)
            | Body::FilesFinish(p)
            | Body::FilesFreeze(p)
            | Body::FilesUnfreeze(p)
            | Body::FilesDeserialize(p) => d.number("files", p.files),
            Body::FileCallback(call, p) => {
                if p.flags & abi::TOKEN_KNOWN != 0 {
                    d.text("token", format_args!("{:#x}", p.token));
                }
                d.name("handler", &p.handler);
                if *call == FileCall::Finish {
                    d.0.push(("retrieve_status", Value::Signed(p.retrieve_status)));
                }
            }
            Body::FlbPreserve(p) | Body::FlbUnpreserve(p) | Body::FlbFinish(p) => d.name("handler", &p.handler),
            Body::FlbCallback(call, p) => {
                d.name("flb", &p.name);
                d.name("handler", &p.handler);
                d.direction(match call {
                    FlbCall::Preserve | FlbCall::Unpreserve => abi::OUTGOING,
                    FlbCall::Retrieve | FlbCall::Finish => abi::INCOMING,
                });
                d.text("data", format_args!("{:#x}", p.data));
            }
            Body::FlbGet(p) | Body::FlbPut(p) => {
                d.name("flb", &p.name);
                d.direction(p.direction);
                d.users(p.users);
            }
            Body::FlbRecord(p) => d.flb_record(p),
            Body::KexecEnter(p) => d.image(&p.image),
            Body::ImageLoad(p) => d.image(&p.image),
            Body::ImageCarrier(p) => d.text("command_line", p.command_line),
            Body::ImageFile(p) => {
                d.number("inode", p.inode);
                d.number("size", p.size);
            }
            Body::ImageVerdict(p) => {
                d.text("outcome", verdict_name(p.outcome));
                d.text("command_line", verdict_name(p.command_line));
                d.text("reason", p.reason);
            }
            Body::PolicyChange(p) => d.policy_change(p),
            Body::PolicyDecision(operation, decision, p) => {
                d.text("operation", operation.name());
                d.text("decision", decision.name());
                d.policy_decision(p);
            }
            Body::KhoOp(_, p) => {
                d.name("subtree", &p.name);
                d.number("pages", p.pages);
                d.within(p.within);
            }
            Body::KhoBalance(p) => {
                d.within(p.operation.saturating_add(1));
                if p.flags & abi::TOKEN_KNOWN != 0 {
                    d.text("token", format_args!("{:#x}", p.token));
                }
                d.number("added_pages", p.added.pages);
                d.number("removed_pages", p.removed.pages);
                d.number("restored_pages", p.restored.pages);
            }
            Body::KhoAnomaly(p) => {
                match p.what {
                    abi::RESTORE_OF_UNPRESERVED => d.text("what", "restore-of-unpreserved"),
                    abi::PRESERVED_IN_SCRATCH => d.text("what", "preserved-in-scratch"),
                    _ => {}
                }
                d.text("address", format_args!("{:#x}", p.address));
                d.within(p.within);
            }
            Body::SnapshotBegin(p) => {
                d.number("walk", p.walk);
                if let Some(number) = p.known_update_number() {
                    d.number("update_number", number);
                }
                d.image(&p.image);
            }
            Body::SnapshotSession(p) => {
                d.direction(p.direction);
                d.number("files", p.files);
            }
            Body::SnapshotFile(p) => {
                d.text("token", format_args!("{:#x}", p.token));
                d.name("handler", &p.handler);
                d.number("size", p.object.size);
            }
            Body::SnapshotFlb(p) => {
                d.name("flb", &p.name);
                d.0.push(("outgoing_users", Value::Signed(p.outgoing_users)));
                d.0.push(("incoming_users", Value::Signed(p.incoming_users)));
            }
            Body::SnapshotHandler(p) => d.name("handler", &p.name),
            Body::SnapshotEnd(p) => {
                d.number("walk", p.walk);
                d.0.push(("outgoing_sessions", Value::Signed(p.outgoing_sessions)));
                d.0.push(("incoming_sessions", Value::Signed(p.incoming_sessions)));
                d.marks(p.flags);
            }
            Body::ArrivedSession(p) => {
                d.text("session", p.name);
                d.number("files", p.files);
            }
            Body::ArrivedFile(p) => {
                d.text("session", p.session);
                d.text("token", format_args!("{:#x}", p.token));
                d.name("handler", &p.handler);
            }
            Body::ArrivedFlb(p) => d.flb_record(p),
            Body::Handover(p) => {
                if let Some(number) = p.known_update_number() {
                    d.number("update_number", number);
                }
                d.number("sessions", p.sessions);
                d.number("files", p.files);
                d.number("flbs", p.flbs);
                d.handover_marks(p.flags);
            }
            Body::HooksBlind(p) => {
                let ids: Vec<_> = p.ids().collect();
                match ids.is_empty() {
                    true => d.text("hooks", "none"),
                    false => d.text("hooks", ids.join(" ")),
                }
                if let Some(cause) = blind_cause(p.cause) {
                    d.text("cause", cause);
                }
            }
            Body::Gap { lost } => d.number("lost", *lost),
            // All of these is in what every event has, and in the session. Each is named, so that a new kind does not compile before
            // it is decided what is shown of it.
            Body::SessionCreate(_)
            | Body::SessionRetrieve(_)
            | Body::SessionDeserialize(_)
            | Body::SessionSerialize(_)
            | Body::DeviceOpen(_)
            | Body::DeviceRelease(_)
            | Body::FlbSerialize(_)
            | Body::LiveupdateReboot(_)
            | Body::KexecReturn(_)
            | Body::SnapshotLink(_) => {}
        }
        d.0
    }
}

#[derive(Default)]
struct Details(Vec<(&'static str, Value)>);

impl Details {
    fn text(&mut self, key: &'static str, value: impl fmt::Display) {
        self.0.push((key, Value::Text(value.to_string())));
    }

    fn name(&mut self, key: &'static str, value: &luo_trace_common::text::Compatible) {
        if !value.is_empty() {
            self.text(key, value);
        }
    }

    fn number(&mut self, key: &'static str, value: u64) {
        self.0.push((key, Value::Number(value)));
    }

    fn direction(&mut self, direction: u32) {
        match direction {
            abi::OUTGOING => self.text("direction", "outgoing"),
            abi::INCOMING => self.text("direction", "incoming"),
            _ => {}
        }
    }

    fn users(&mut self, users: i64) {
        if users >= 0 {
            self.0.push(("users", Value::Signed(users)));
        }
    }

    fn image(&mut self, image: &abi::Image) {
        if let Some(name) = image_name(image) {
            self.text("image", name);
        }
    }

    fn flb_record(&mut self, p: &FlbRecord) {
        self.name("flb", &p.name);
        self.number("users", p.users);
        self.text("data", format_args!("{:#x}", p.data));
    }

    fn policy_change(&mut self, p: &PolicyChange) {
        let Some(what) = change_name(p.what) else { return };
        self.text("what", what);
        if let Some(mode) = Mode::from_raw(p.mode) {
            self.text("mode", mode.name());
        }
        if !p.text.is_empty() {
            self.text("text", p.text);
        }
    }

    fn policy_decision(&mut self, p: &PolicyDecision) {
        if !p.rule_name.is_empty() {
            self.text("rule", p.rule_name);
        }
        self.number("uid", p.uid.into());
        if !p.cgroup.is_empty() {
            self.text("cgroup", p.cgroup);
        }
        self.conditions("because", p.yes);
        self.conditions("unknown", p.unknown);
    }

    fn conditions(&mut self, key: &'static str, bits: u32) {
        let set = Condition::ALL
            .iter()
            .filter(|&&condition| bits >> condition as u32 & 1 != 0);
        let names: Vec<_> = set.map(|condition| condition.name()).collect();
        if !names.is_empty() {
            self.text(key, names.join(" "));
        }
    }

    /// What a walk over LUO's lists says against itself.
    fn marks(&mut self, flags: u32) {
        self.flags(
            flags,
            &[
                (abi::SNAPSHOT_CHANGED, "changed"),
                (abi::SNAPSHOT_INCOMPLETE, "incomplete"),
                (abi::SNAPSHOT_INCOMING_UNREAD, "incoming-unread"),
            ],
        );
    }

    /// How far the reading of what the previous kernel left came.
    fn handover_marks(&mut self, flags: u32) {
        self.flags(
            flags,
            &[
                (abi::HANDOVER_WHOLE, "whole"),
                (abi::HANDOVER_TOO_LATE, "too-late"),
                (abi::HANDOVER_NOTHING, "nothing"),
            ],
        );
    }

    fn flags(&mut self, flags: u32, marks: &[(u32, &str)]) {
        let marks = marks.iter().filter(|(flag, _)| flags & flag != 0);
        let marks: Vec<_> = marks.map(|&(_, name)| name).collect();
        if !marks.is_empty() {
            self.text("marks", marks.join(" "));
        }
    }

    /// The operation that something is part of, by its number and one.
    fn within(&mut self, within: u32) {
        let hook = within.checked_sub(1).and_then(|i| Hook::ALL.get(i as usize));
        if let Some(hook) = hook {
            self.text("within", hook.id());
        }
    }
}

/// What a change of policy is called; `None` of what a newer version knows.
pub(crate) fn change_name(what: u32) -> Option<&'static str> {
    Some(match what {
        abi::POLICY_LOADED => "loaded",
        abi::POLICY_OFF => "off",
        abi::POLICY_HOLD => "hold",
        abi::POLICY_ALLOW => "allow",
        abi::POLICY_CLEAR => "clear",
        abi::POLICY_EXPIRED => "expired",
        abi::POLICY_ADOPTED => "adopted",
        _ => return None,
    })
}

/// Why hooks see nothing, in a word; `None` where all see, and of a cause that a newer version knows.
pub(crate) fn blind_cause(cause: u32) -> Option<&'static str> {
    Some(match cause {
        abi::BLIND_KPROBES_OFF => "kprobes-off",
        abi::BLIND_FTRACE_OFF => "ftrace-off",
        abi::BLIND_FTRACE_DEAD => "ftrace-dead",
        abi::BLIND_UNPATCHED => "unpatched",
        abi::BLIND_FOR_A_MOMENT => "for-a-moment",
        _ => return None,
    })
}

/// What the agent says of an image, or of its command line.
pub(crate) fn verdict_name(verdict: u32) -> &'static str {
    match verdict {
        abi::VERDICT_CARRIES => "carries",
        abi::VERDICT_LOSES => "loses",
        abi::VERDICT_PANICS => "panics",
        _ => "unknown",
    }
}

/// What is known of an image, in words: whether one is loaded, and whether it carries preserved memory.
pub fn image_name(image: &abi::Image) -> Option<&'static str> {
    match image.mode {
        abi::IMAGE_NONE => Some("none"),
        abi::IMAGE_FILE if image.kho != 0 => Some("carries"),
        abi::IMAGE_FILE => Some("carries nothing"),
        abi::IMAGE_LEGACY => Some("legacy"),
        _ => None,
    }
}

impl Serialize for Event {
    /// The stable JSON form: one flat object. `result` is `"ok"` or an errno's name.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("event", self.name())?;
        map.serialize_entry("id", &self.id())?;
        map.serialize_entry("time_ns", &self.header.ktime)?;
        map.serialize_entry("pid", &self.header.tgid)?;
        map.serialize_entry("tid", &self.header.pid)?;
        map.serialize_entry("comm", &self.header.comm.to_string())?;
        for (key, value) in self.details() {
            map.serialize_entry(key, &value)?;
        }
        if let Some(outcome) = self.outcome() {
            map.serialize_entry("result", &crate::text::errno::result(outcome.result))?;
            if outcome.duration > 0 {
                map.serialize_entry("duration_ns", &outcome.duration)?;
            }
        }
        map.end()
    }
}
