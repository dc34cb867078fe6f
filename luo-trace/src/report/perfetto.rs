//! The report as a trace for Perfetto and other viewers of Chrome's JSON trace format: each kernel is a process, and has a
//! track for its phases and one for each session with the operations on its files.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::Report;
use super::json::{File, Policy, Session, Stretch, Update};

/// One trace event. `ts` and `dur` are microseconds.
#[derive(Clone, Debug, Serialize)]
struct Slice {
    name: String,
    cat: &'static str,
    ph: &'static str,
    ts: f64,
    dur: f64,
    pid: usize,
    tid: usize,
    args: Map<String, Value>,
}

/// The track of a kernel's phases; sessions follow.
const PHASES: usize = 1;

/// The report in Chrome's JSON trace format.
pub fn perfetto(report: &Report) -> Value {
    let mut trace = Trace {
        zero: zero(report),
        events: Vec::new(),
        tracks: vec![PHASES; report.kernels.len()],
    };
    for (place, kernel) in report.kernels.iter().enumerate() {
        let name = format!("kernel {}: {}", place + 1, kernel.release);
        trace.name("process_name", place, 0, &name);
        trace.name("thread_name", place, PHASES, "phases");
        kernel.policy.iter().for_each(|line| trace.policy(place, line));
    }
    for update in &report.updates {
        trace.update(update);
    }
    json!({
        "displayTimeUnit": "ms",
        "otherData": { "tool": format!("luo-trace {}", env!("CARGO_PKG_VERSION")), "result": report.result },
        "traceEvents": trace.events,
    })
}

/// The earliest moment that is told: viewers want times that are not negative.
fn zero(report: &Report) -> i64 {
    let kernels = report.kernels.iter().map(|kernel| kernel.start_ns);
    let phases = report.updates.iter().flat_map(|update| &update.phases);
    kernels.chain(phases.map(|phase| phase.start_ns)).min().unwrap_or(0)
}

struct Trace {
    zero: i64,
    events: Vec<Value>,
    /// The last track of each kernel.
    tracks: Vec<usize>,
}

impl Trace {
    fn name(&mut self, what: &str, kernel: usize, track: usize, name: &str) {
        let (pid, args) = (kernel + 1, json!({ "name": name }));
        self.events
            .push(json!({ "name": what, "ph": "M", "pid": pid, "tid": track, "args": args }));
        if what == "thread_name" {
            let args = json!({ "sort_index": track });
            self.events
                .push(json!({ "name": "thread_sort_index", "ph": "M", "pid": pid, "tid": track, "args": args }));
        }
    }

    /// A track of its own for what may lie across others.
    fn track(&mut self, kernel: usize, name: &str) -> usize {
        let Some(track) = self.tracks.get_mut(kernel) else {
            return PHASES;
        };
        *track += 1;
        let track = *track;
        self.name("thread_name", kernel, track, name);
        track
    }

    fn slice(&mut self, place: (usize, usize), name: &str, cat: &'static str, stretch: Stretch, args: Value) {
        let slice = Slice {
            name: name.to_owned(),
            cat,
            ph: "X",
            ts: stretch.start_ns.saturating_sub(self.zero) as f64 / 1e3,
            dur: stretch.duration_ns as f64 / 1e3,
            pid: place.0 + 1,
            tid: place.1,
            args: args.as_object().cloned().unwrap_or_default(),
        };
        self.events.extend(serde_json::to_value(slice).ok());
    }

    /// A moment of policy, over all tracks of its kernel.
    fn policy(&mut self, kernel: usize, line: &Policy) {
        let ts = line.time_ns.saturating_sub(self.zero) as f64 / 1e3;
        let args = json!({ "text": line.text });
        self.events.push(json!({
            "name": line.what, "cat": "policy", "ph": "i", "s": "p", "ts": ts, "pid": kernel + 1, "tid": PHASES, "args": args,
        }));
    }

    fn update(&mut self, update: &Update) {
        for phase in &update.phases {
            let stretch = Stretch {
                start_ns: phase.start_ns,
                duration_ns: phase.duration_ns,
            };
            if let Some(kernel) = phase.kernel {
                let args = json!({ "update": update.number, "blackout": phase.blackout });
                self.slice((kernel, PHASES), &phase.name, "phase", stretch, args);
            }
        }
        for session in &update.sessions {
            self.session(update, session);
        }
    }

    fn session(&mut self, update: &Update, session: &Session) {
        type Pick = fn(&File) -> Option<Stretch>;
        let before: [(&'static str, Pick); 2] = [("preserve", |file| file.preserve), ("freeze", |file| file.freeze)];
        let after: [(&'static str, Pick); 2] = [("retrieve", |file| file.retrieve), ("finish", |file| file.finish)];
        for (kernel, operations) in [(update.from, before), (update.to, after)] {
            let Some(kernel) = kernel else { continue };
            let mut slices: Vec<(Stretch, &'static str, &File)> = Vec::new();
            for file in &session.files {
                let done = operations
                    .iter()
                    .filter_map(|(name, pick)| Some((pick(file)?, *name, file)));
                slices.extend(done);
            }
            slices.sort_by_key(|(stretch, ..)| (stretch.start_ns, std::cmp::Reverse(stretch.duration_ns)));
            let mut lanes: Vec<(i64, usize)> = Vec::new();
            for (stretch, name, file) in slices {
                let track = self.lane(&mut lanes, kernel, &session.name, stretch);
                let args = json!({
                    "session": session.name,
                    "token": file.token,
                    "handler": file.handler,
                    "bytes": file.bytes,
                });
                let title = format!("{name} {}", file.token);
                self.slice((kernel, track), &title, name, stretch, args);
            }
            if let Some(freeze) = session.freeze.filter(|_| Some(kernel) == update.from) {
                let track = self.lane(&mut lanes, kernel, &session.name, freeze);
                let args = json!({ "session": session.name, "files": session.files.len() });
                self.slice((kernel, track), "freeze of the session", "session", freeze, args);
            }
        }
        if let (Some(freeze), Some(duration_ns), Some(kernel)) = (session.freeze, session.blackout_ns, update.to) {
            let track = self.track(kernel, &format!("{} blackout", session.name));
            let start_ns = freeze.start_ns;
            let args = json!({ "session": session.name });
            let stretch = Stretch { start_ns, duration_ns };
            self.slice((kernel, track), "blackout", "session", stretch, args);
        }
    }

    /// The first track of a session on which nothing goes on at that time: slices of one track must not overlap.
    fn lane(&mut self, lanes: &mut Vec<(i64, usize)>, kernel: usize, session: &str, stretch: Stretch) -> usize {
        let end = stretch.start_ns.saturating_add_unsigned(stretch.duration_ns);
        if let Some(lane) = lanes.iter_mut().find(|lane| lane.0 <= stretch.start_ns) {
            lane.0 = end;
            return lane.1;
        }
        let track = self.track(kernel, session);
        lanes.push((end, track));
        track
    }
}
