//! Which file the image in place came from, by the kernel's events alone.

use std::collections::{BTreeSet, VecDeque};

use luo_trace_common::events::{
    IMAGE_FILE, IMAGE_LEGACY, IMAGE_NONE, IMAGE_UNKNOWN, Image, ImageFile, ImageVerdict, VERDICT_CARRIES,
    VERDICT_LOSES, VERDICT_PANICS, VERDICT_UNKNOWN,
};
use luo_trace_common::policy::ImageBits;
use luo_trace_common::text::Name;

use crate::agent::image_reader;
use crate::event::{Body, Event};
use crate::image::{self, About, Contents, Forecast, Formats, Preserved};

/// What was found in an image's file.
pub enum Found {
    /// It was not looked at yet: the number of the look that is under way, or waits.
    Waiting(u64),
    /// What is in it.
    Contents(Box<Contents>),
    /// Why nothing is known of it.
    Nothing(String),
}

/// A load that is under way.
struct Load {
    tid: u32,
    /// Policy's number of it; 0: none counts.
    number: u32,
    found: Found,
    command_line: Option<Vec<u8>>,
    /// [`Image::id`] of the image that it makes, where that was told.
    makes: Option<u64>,
}

/// The image that is loaded.
struct Loaded {
    image: Image,
    found: Found,
    command_line: Option<Vec<u8>>,
    /// What was preserved when it was last judged.
    judged: Option<InUse>,
    verdict: Option<ImageVerdict>,
    /// Events were lost since: another may have taken its place.
    doubtful: bool,
}

/// How many loads are remembered. The kernel has one under way at a time; the ends of those before it may be still to come.
const LOADS: usize = 8;

/// What of the preserved state decides whether a kernel takes it: whether there is any, its handlers, its global state.
type InUse = (bool, BTreeSet<String>, BTreeSet<String>);

/// What the agent knows of the image that is loaded, and of one that is being loaded.
#[derive(Default)]
pub struct Loads {
    loads: VecDeque<Load>,
    loaded: Option<Loaded>,
    formats: Formats,
    for_policy: Option<(u64, ImageBits)>,
}

impl Loads {
    /// Takes in the next event. Of a file that is about to be read `look` tells whether it is looked into.
    pub fn observe(&mut self, event: &Event, look: impl FnOnce(&ImageFile) -> Found) {
        let tid = event.header.pid;
        match &event.body {
            Body::ImageFile(file) => self.begin(Load {
                tid,
                number: file.load,
                found: look(file),
                command_line: None,
                makes: None,
            }),
            Body::ImageCarrier(p) if p.outcome.is_ok() => {
                if let Some(load) = self.loads.iter_mut().find(|load| load.tid == tid) {
                    load.makes = Some(p.image);
                    // One that did not fit is not known.
                    load.command_line = p.whole_command_line().map(<[u8]>::to_vec);
                }
            }
            Body::ImageLoad(p) => {
                let load = self.end(tid);
                if p.outcome.is_ok() {
                    self.install(p.image, load.filter(|load| load.made(&p.image)));
                }
            }
            // A load under way tells itself when it has ended.
            Body::SnapshotBegin(p) if self.loads.is_empty() => self.see(p.image),
            Body::Gap { .. } | Body::HooksBlind(_) => {
                self.loads.clear();
                if let Some(loaded) = &mut self.loaded {
                    loaded.doubtful = true;
                }
            }
            _ => {}
        }
    }

    fn begin(&mut self, load: Load) {
        self.end(load.tid);
        self.loads.truncate(LOADS - 1);
        self.loads.push_front(load);
    }

    /// Takes the load that this task had under way.
    fn end(&mut self, tid: u32) -> Option<Load> {
        let place = self.loads.iter().position(|load| load.tid == tid)?;
        self.loads.remove(place)
    }

    /// This image is in place when a load has succeeded: that load's own, where it is given; the one from before, where that load
    /// was for a crash; or one that another task has loaded since.
    fn install(&mut self, image: Image, load: Option<Load>) {
        let stays = self.loaded.as_ref().is_some_and(|loaded| loaded.is(&image));
        match load {
            Some(load) => self.arm(image, load.found, load.command_line),
            None if stays => {}
            None => self.arm(image, unseen(), None),
        }
    }

    /// This image is loaded, as a walk over the kernel's lists found.
    fn see(&mut self, image: Image) {
        match &mut self.loaded {
            _ if image.mode == IMAGE_UNKNOWN => {}
            Some(loaded) if loaded.is(&image) => {
                if std::mem::take(&mut loaded.doubtful) {
                    (loaded.judged, loaded.verdict) = (None, None);
                }
            }
            _ => self.arm(image, unseen(), None),
        }
    }

    fn arm(&mut self, image: Image, found: Found, command_line: Option<Vec<u8>>) {
        let loaded = Loaded {
            image,
            found,
            command_line,
            judged: None,
            verdict: None,
            doubtful: false,
        };
        self.loaded = (image.mode != IMAGE_NONE).then_some(loaded);
    }

    /// This came of the look of this number. Where neither a load nor a loaded image has it, the image is gone.
    pub fn answer(&mut self, number: u64, answer: Found) {
        let of_load = self.loads.iter_mut().map(|load| &mut load.found);
        let of_loaded = self.loaded.as_mut().map(|loaded| &mut loaded.found);
        let waits = |found: &&mut Found| matches!(found, Found::Waiting(waits) if *waits == number);
        if let Some(found) = of_load.chain(of_loaded).find(waits) {
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

    /// What policy has to know now and was not told yet: of which image, by its id, and what.
    pub fn for_policy(&mut self) -> Option<(u64, ImageBits)> {
        self.for_policy.take()
    }
}

impl Load {
    /// Whether this is the image that it made, of which it was told that it has succeeded: where loads are counted, the kernel's
    /// programs say which one that image came by.
    fn made(&self, image: &Image) -> bool {
        image.mode == IMAGE_FILE && self.number == image.load && self.makes.is_none_or(|made| made == image.id)
    }
}

/// Of an image whose load was not seen.
fn unseen() -> Found {
    Found::Nothing("it was not seen from which file it was loaded".into())
}

impl Loaded {
    /// Whether it is this image, and not another one at the same place.
    fn is(&self, image: &Image) -> bool {
        (self.image.id, self.image.load) == (image.id, image.load)
    }

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
        let judged = image::judge(
            contents,
            preserved,
            formats,
            &image_reader::this_host(),
            self.command_line.as_deref(),
        );
        // A kernel that would panic does not where its command line has it ignore everything.
        let outcome = match (judged.kernel, judged.outcome) {
            (Forecast::Panics, Forecast::Loses) => Forecast::Loses,
            (kernel, _) => kernel,
        };
        let about = match outcome == Forecast::Carries && judged.command_line != Forecast::Carries {
            true => (About::CommandLine, judged.command_line),
            false => (About::Kernel, judged.kernel),
        };
        let reasons = judged.reasons.iter();
        let reasons = reasons.filter(|reason| (reason.about, reason.outcome) == about);
        let reasons: Vec<_> = reasons.map(|reason| reason.text.as_str()).collect();
        let reason = format!("Linux {}: {}", contents.release(), reasons.join("; "));
        verdict(number(outcome), number(judged.command_line), &reason)
    }

    /// The same for policy, of an image whose load it has counted. Of one that no agent could look into it knows nothing, unless
    /// by an agent before this one; of one that kexec_load(2) has loaded it knows by itself.
    fn for_policy(&self) -> Option<(u64, ImageBits)> {
        let verdict = self.verdict?;
        if self.image.load == 0 || matches!(self.found, Found::Nothing(_)) {
            return None;
        }
        let number = u64::from(self.image.load);
        let verdict = ImageBits::new(number, verdict.incompatible(), verdict.lacks_liveupdate());
        Some((self.image.id, verdict))
    }
}

fn number(outcome: Forecast) -> u32 {
    match outcome {
        Forecast::Carries => VERDICT_CARRIES,
        // What is loaded was not refused.
        Forecast::Unknown | Forecast::Refused => VERDICT_UNKNOWN,
        Forecast::Loses => VERDICT_LOSES,
        Forecast::Panics => VERDICT_PANICS,
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

#[cfg(test)]
mod tests;
