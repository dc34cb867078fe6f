//! The agent's look into the image that is loaded, so that it is known before the jump what the next kernel will do.
//!
//! A load is a sequence of events of one task, and the kernel lets only one be under way: the file it is read from
//! (`image-file`), what policy decided (`policy-decision`, with the load's number), the command line (`image-carrier`), and how
//! it ended (`image-load`). The file is opened when the first of them comes, while the loader still has it, read by a thread,
//! and judged when the load has succeeded; anew when other handlers come into use. Nothing here is certain that was not seen:
//! what was missed, or could not be read, is a verdict "unknown".

use std::collections::BTreeSet;
use std::panic;
use std::thread;

use luo_trace_common::events::{
    IMAGE_LEGACY, IMAGE_NONE, IMAGE_UNKNOWN, Image, ImageVerdict, VERDICT_CARRIES, VERDICT_LOSES, VERDICT_PANICS,
    VERDICT_UNKNOWN,
};
use luo_trace_common::policy::{Operation, Verdict};
use luo_trace_common::text::Name;
use tokio::sync::mpsc;

use crate::event::{Body, Event};
use crate::image::{self, About, Contents, Formats, Outcome, Preserved};

mod open;

use open::ImageAtHand;

/// A file that a thread has looked into.
pub struct Look {
    number: u64,
    found: Result<Contents, String>,
}

/// What was found in an image's file.
enum Found {
    /// It was not looked at yet: the number of the look that is under way, or waits.
    Waiting(u64),
    Contents(Box<Contents>),
    /// Why nothing is known of it.
    Nothing(String),
}

/// A load that is under way.
struct Load {
    tid: u32,
    /// Policy's number of it, where an event told.
    number: Option<u64>,
    found: Found,
    command_line: Option<Vec<u8>>,
}

/// The image that is loaded.
struct Loaded {
    image: Image,
    /// Policy's number of the last load, this image's own or a later one that left it in place.
    number: Option<u64>,
    found: Found,
    command_line: Option<Vec<u8>>,
    /// What was preserved when it was last judged.
    judged: Option<InUse>,
    verdict: Option<ImageVerdict>,
    /// Events were lost since: another may have taken its place.
    doubtful: bool,
}

/// What of the preserved state decides whether a kernel takes it: whether there is any, its handlers, its global state.
type InUse = (bool, BTreeSet<String>, BTreeSet<String>);

/// What the agent knows of the image that is loaded, and of one that is being loaded.
pub struct Target {
    reader: Reader,
    load: Option<Load>,
    loaded: Option<Loaded>,
    formats: Formats,
    for_policy: Option<Verdict>,
}

impl Target {
    /// Knows of no image. What threads find goes to `looks`, and has to come back by [`Target::take`].
    pub fn new(looks: mpsc::UnboundedSender<Look>) -> Self {
        Self {
            reader: Reader::new(looks),
            load: None,
            loaded: None,
            formats: Formats::default(),
            for_policy: None,
        }
    }

    /// Takes in the next event. A file is opened at once, while its loader has it; close to a jump nothing is begun.
    pub fn observe(&mut self, event: &Event, jump_is_near: bool) {
        let tid = event.header.pid;
        match &event.body {
            Body::ImageFile(file) => {
                let opened = match jump_is_near {
                    true => Err("the machine was about to jump when it was loaded".into()),
                    false => open::of_task(tid, file),
                };
                let found = opened.map_or_else(Found::Nothing, |file| self.read(file));
                self.load = Some(Load::new(tid, found));
            }
            Body::PolicyDecision(Operation::KexecLoad, _, p) => self.load_of(tid).number = Some(p.loads),
            Body::ImageCarrier(p) if p.outcome.is_ok() => {
                // One that did not fit is not known.
                self.load_of(tid).command_line = p.whole_command_line().map(<[u8]>::to_vec);
            }
            Body::ImageLoad(p) => {
                let load = self.load.take().filter(|load| load.tid == tid);
                let load = load.unwrap_or_else(|| Load::unseen(tid));
                let stays = self.loaded.as_ref().is_some_and(|loaded| loaded.image.id == p.image.id);
                match p.outcome.is_ok() && !stays {
                    true => self.arm(p.image, load),
                    // It failed, or was an image for a crash.
                    false => self.renew(load.number),
                }
            }
            Body::SnapshotBegin(p) if self.load.is_none() => self.see(p.image),
            Body::Gap { .. } => {
                if let Some(load) = &mut self.load {
                    load.found = Found::Nothing("events were lost while it was loaded".into());
                }
                if let Some(loaded) = &mut self.loaded {
                    loaded.doubtful = true;
                }
            }
            _ => {}
        }
    }

    /// This image is loaded, as a walk over the kernel's lists found.
    fn see(&mut self, image: Image) {
        match &mut self.loaded {
            _ if image.mode == IMAGE_UNKNOWN => {}
            Some(loaded) if loaded.image.id == image.id => {
                if std::mem::take(&mut loaded.doubtful) {
                    (loaded.judged, loaded.verdict) = (None, None);
                }
            }
            _ => self.arm(image, Load::unseen(0)),
        }
    }

    /// Has a file read as soon as nothing else is.
    fn read(&mut self, file: ImageAtHand) -> Found {
        let (number, overtaken) = self.reader.read(file);
        if let Some(overtaken) = overtaken {
            self.answer(
                overtaken,
                Found::Nothing("another was loaded before there was time to look into it".into()),
            );
        }
        Found::Waiting(number)
    }

    /// The load that this task has under way. One that began unseen begins now.
    fn load_of(&mut self, tid: u32) -> &mut Load {
        let load = self.load.take().filter(|load| load.tid == tid);
        self.load.insert(load.unwrap_or_else(|| Load::unseen(tid)))
    }

    fn arm(&mut self, image: Image, load: Load) {
        let loaded = Loaded {
            image,
            number: load.number,
            found: load.found,
            command_line: load.command_line,
            judged: None,
            verdict: None,
            doubtful: false,
        };
        self.loaded = (image.mode != IMAGE_NONE).then_some(loaded);
    }

    /// A later load left the image in place: what is known of it holds on, under that one's number.
    fn renew(&mut self, number: Option<u64>) {
        if let Some(loaded) = &mut self.loaded {
            loaded.number = number;
            self.for_policy = loaded.for_policy().or(self.for_policy.take());
        }
    }

    /// Takes what a thread has found.
    pub fn take(&mut self, look: Look) {
        self.reader.go_on();
        let found = look.found.map(Box::new);
        self.answer(look.number, found.map_or_else(Found::Nothing, Found::Contents));
    }

    /// This came of the look of this number. Where neither a load nor a loaded image has it, the image is gone.
    fn answer(&mut self, number: u64, answer: Found) {
        let of_load = self.load.as_mut().map(|load| &mut load.found);
        let of_loaded = self.loaded.as_mut().map(|loaded| &mut loaded.found);
        let waits = |found: &&mut Found| matches!(found, Found::Waiting(waits) if *waits == number);
        if let Some(found) = of_load.into_iter().chain(of_loaded).find(waits) {
            *found = answer;
        }
    }

    /// Whether there is an image that could be judged now.
    pub fn is_ready(&self) -> bool {
        self.loaded
            .as_ref()
            .is_some_and(|loaded| !loaded.doubtful && !matches!(loaded.found, Found::Waiting(_)))
    }

    /// Judges the image, where that was not done or other things are preserved than when it was. Gives what is new. `formats`
    /// are those that this kernel writes: it is asked for them once for each image.
    pub fn judge(&mut self, preserved: &Preserved, formats: impl FnOnce() -> Formats) -> Option<ImageVerdict> {
        if !self.is_ready() {
            return None;
        }
        let loaded = self.loaded.as_mut()?;
        let in_use = in_use(preserved);
        if loaded.judged.as_ref() == Some(&in_use) {
            return None;
        }
        if loaded.judged.is_none() {
            self.formats = formats();
        }
        loaded.judged = Some(in_use);
        let verdict = loaded.verdict(preserved, &self.formats);
        if loaded.verdict == Some(verdict) {
            return None;
        }
        loaded.verdict = Some(verdict);
        self.for_policy = loaded.for_policy().or(self.for_policy.take());
        Some(verdict)
    }

    /// Policy counts this many loads by now. Where it was not asked about the last of them, no event has its number.
    pub fn policy_counts(&mut self, loads: u64) {
        if let Some(loaded) = self.loaded.as_mut().filter(|loaded| loaded.number.is_none()) {
            loaded.number = Some(loads);
            self.for_policy = loaded.for_policy().or(self.for_policy.take());
        }
    }

    /// What policy has to know now and was not told yet.
    pub fn for_policy(&mut self) -> Option<Verdict> {
        self.for_policy.take()
    }
}

impl Load {
    fn new(tid: u32, found: Found) -> Self {
        Self {
            tid,
            number: None,
            found,
            command_line: None,
        }
    }

    /// One whose file was not seen.
    fn unseen(tid: u32) -> Self {
        Self::new(
            tid,
            Found::Nothing("it was not seen from which file it was loaded".into()),
        )
    }
}

impl Loaded {
    fn verdict(&self, preserved: &Preserved, formats: &Formats) -> ImageVerdict {
        let verdict = |outcome, command_line, reason: &str| ImageVerdict {
            image: self.image.id,
            outcome,
            command_line,
            reason: Name::new(reason),
        };
        let contents = match &self.found {
            _ if self.image.mode == IMAGE_LEGACY => {
                let why = "it was loaded by kexec_load(2), which carries nothing";
                return verdict(VERDICT_LOSES, VERDICT_UNKNOWN, why);
            }
            Found::Contents(contents) => contents,
            Found::Nothing(why) => return verdict(VERDICT_UNKNOWN, VERDICT_UNKNOWN, why),
            Found::Waiting(_) => return verdict(VERDICT_UNKNOWN, VERDICT_UNKNOWN, "it is being looked into"),
        };
        let judged = image::judge(contents, preserved, formats, self.command_line.as_deref());
        // A kernel that would panic does not where its command line has it ignore everything.
        let outcome = match (judged.kernel, judged.outcome) {
            (Outcome::Panics, Outcome::Loses) => Outcome::Loses,
            (kernel, _) => kernel,
        };
        let about = match outcome == Outcome::Carries && judged.command_line != Outcome::Carries {
            true => (About::CommandLine, judged.command_line),
            false => (About::Kernel, judged.kernel),
        };
        let reasons = judged.reasons.iter();
        let reasons = reasons.filter(|reason| (reason.about, reason.outcome) == about);
        let reasons: Vec<_> = reasons.map(|reason| reason.text.as_str()).collect();
        let reason = format!("Linux {}: {}", contents.release(), reasons.join("; "));
        verdict(number(outcome), number(judged.command_line), &reason)
    }

    /// The same for policy. Of an image that no agent could look into it knows nothing, unless by an agent before this one.
    fn for_policy(&self) -> Option<Verdict> {
        let (verdict, number) = (self.verdict?, self.number?);
        if matches!(self.found, Found::Nothing(_)) && self.image.mode != IMAGE_LEGACY {
            return None;
        }
        Some(Verdict::new(number, verdict.incompatible(), verdict.lacks_liveupdate()))
    }
}

fn number(outcome: Outcome) -> u32 {
    match outcome {
        Outcome::Carries => VERDICT_CARRIES,
        Outcome::Unknown => VERDICT_UNKNOWN,
        Outcome::Loses => VERDICT_LOSES,
        Outcome::Panics => VERDICT_PANICS,
    }
}

fn in_use(preserved: &Preserved) -> InUse {
    let names = |used: &[image::InUse]| used.iter().map(|used| used.name.clone()).collect();
    (
        preserved.sessions > 0,
        names(&preserved.handlers),
        names(&preserved.flbs),
    )
}

/// Reads files in a thread, one at a time. Of those that wait only the newest is read.
struct Reader {
    looks: mpsc::UnboundedSender<Look>,
    last: u64,
    busy: bool,
    waiting: Option<(u64, ImageAtHand)>,
}

impl Reader {
    fn new(looks: mpsc::UnboundedSender<Look>) -> Self {
        Self {
            looks,
            last: 0,
            busy: false,
            waiting: None,
        }
    }

    /// Reads a file as soon as nothing else is read. Gives the number of the look, and of one that will not be.
    fn read(&mut self, file: ImageAtHand) -> (u64, Option<u64>) {
        self.last += 1;
        let overtaken = self.waiting.replace((self.last, file));
        self.start();
        (self.last, overtaken.map(|(number, _)| number))
    }

    /// A look is over.
    fn go_on(&mut self) {
        self.busy = false;
        self.start();
    }

    fn start(&mut self) {
        if self.busy {
            return;
        }
        let Some((number, file)) = self.waiting.take() else {
            return;
        };
        self.busy = true;
        let looks = self.looks.clone();
        let answer = move || {
            let found = panic::catch_unwind(|| open::read(file)).unwrap_or_else(|_| {
                Err("luo-trace could not read it, which is a mistake in luo-trace: report it with the image".into())
            });
            _ = looks.send(Look { number, found });
        };
        if let Err(error) = thread::Builder::new().name("image".into()).spawn(answer) {
            let found = Err(format!("there was no thread to read it: {error}"));
            _ = self.looks.send(Look { number, found });
        }
    }
}

#[cfg(test)]
mod tests;
