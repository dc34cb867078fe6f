//! The kernel to jump into: whether it can carry what is preserved.

use std::borrow::Cow;

use luo_trace_common::events::{
    self as abi, Image, ImageVerdict, VERDICT_CARRIES, VERDICT_LOSES, VERDICT_PANICS, fails,
};
use luo_trace_common::text::Compatible;

use super::scene::Moment;
use crate::event::{Body, Event, EventId};
use crate::image::command_line::CommandLine;

/// Whether an image takes what is preserved into the next kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Carries {
    Yes,
    Unknown,
    /// Why it does not, and the events that tell.
    No(Cow<'static, str>, Vec<EventId>),
}

/// What the agent found when it looked into an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Looked {
    image: u64,
    /// The event of its load.
    pub(super) load: EventId,
    pub(super) outcome: u32,
    command_line: u32,
    reason: String,
    /// The handlers that were in use then: of others it tells nothing.
    handlers: Vec<Compatible>,
}

impl Looked {
    /// Whether the kernel in it loses something, or panics.
    pub(super) fn fails(&self) -> bool {
        fails(self.outcome) == Some(true)
    }

    /// Whether it tells of all these handlers.
    pub(super) fn tells_of(&self, mut handlers: impl Iterator<Item = Compatible>) -> bool {
        handlers.all(|handler| self.handlers.contains(&handler))
    }

    /// What is told of one that fails.
    pub(super) fn why(&self) -> Cow<'_, str> {
        match (self.reason.is_empty(), self.outcome) {
            (false, _) => self.reason.as_str().into(),
            (true, VERDICT_PANICS) => "the kernel in it will panic".into(),
            (true, _) => "the kernel in it loses what is preserved".into(),
        }
    }
}

/// What is told of a command line that the agent found to be wanting for the kernel in the image.
fn why_line_fails(line: &CommandLine) -> Cow<'static, str> {
    match line {
        CommandLine::Lacks(what) => format!("its command line {what}").into(),
        CommandLine::Takes | CommandLine::Unknown => {
            "its command line does not switch LUO on in the kernel that it is for".into()
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Images {
    /// The image of the reboot that is under way, and its event.
    entering: Option<(Image, EventId)>,
    /// What the newest image's command line says, by the image's id.
    newest: Option<(u64, EventId, CommandLine)>,
    /// The image of which it was told that it carries nothing.
    told: u64,
    /// The image that is loaded, and the event of its load.
    loaded: Option<(Image, EventId)>,
    /// What was found in it.
    looked: Option<Looked>,
    /// Whether it was told that the kernel in it cannot take what is preserved.
    incompatible: bool,
}

impl Images {
    /// The image of the reboot that is under way.
    pub(super) fn entering(&self) -> Option<(Image, EventId)> {
        self.entering
    }

    /// Whether it was already told of this image that it carries nothing.
    pub(super) fn was_told(&self, image: &Image) -> bool {
        image.id != 0 && self.told == image.id
    }

    pub(super) fn carries(&self, image: &Image) -> Carries {
        match image.mode {
            abi::IMAGE_LEGACY => return Carries::No("the image was loaded by kexec_load(2)".into(), vec![]),
            abi::IMAGE_FILE if image.kho == 0 => return Carries::No("the image was loaded without KHO".into(), vec![]),
            abi::IMAGE_FILE => {}
            _ => return Carries::Unknown,
        }
        match &self.newest {
            Some((id, event, line)) if *id == image.id => match (line, self.line_of(image)) {
                (_, VERDICT_LOSES) => Carries::No(why_line_fails(line), vec![*event]),
                (CommandLine::Takes, _) | (_, VERDICT_CARRIES) => Carries::Yes,
                // What it lacks may be built into the image.
                (CommandLine::Lacks(_) | CommandLine::Unknown, _) => Carries::Unknown,
            },
            _ => Carries::Unknown,
        }
    }

    /// What the agent found of the command line of an image.
    fn line_of(&self, image: &Image) -> u32 {
        self.looked(image).map_or(0, |looked| looked.command_line)
    }

    /// What the agent found in an image that can carry at all.
    pub(super) fn looked(&self, image: &Image) -> Option<&Looked> {
        let can = image.mode == abi::IMAGE_FILE && image.kho != 0;
        self.looked.as_ref().filter(|looked| can && looked.image == image.id)
    }

    /// What the agent finds by this record, where it is about the image that is loaded and that one can carry at all: of
    /// another one it is told what is wrong as soon as it is loaded.
    pub(super) fn look(&self, p: &ImageVerdict) -> Option<Looked> {
        let (image, load) = self.loaded?;
        let about = image.id == p.image && image.mode == abi::IMAGE_FILE && image.kho != 0;
        about.then(|| Looked {
            image: p.image,
            load,
            outcome: p.outcome,
            command_line: p.command_line,
            reason: p.reason.to_string(),
            handlers: Vec::new(),
        })
    }

    /// The handlers that were in use when the agent last looked.
    pub(super) fn looked_with(&mut self, handlers: impl Iterator<Item = Compatible>) {
        if let Some(looked) = &mut self.looked {
            looked.handlers = handlers.collect();
        }
    }

    /// Whether this record tells, and nothing told before, that the command line of the image that is loaded does not do; why,
    /// and which image that is.
    pub(super) fn line_fails(&self, p: &ImageVerdict) -> Option<(Cow<'static, str>, &Image, EventId)> {
        let looked = self.look(p).filter(|looked| looked.command_line == VERDICT_LOSES)?;
        let (image, _) = self.loaded.as_ref()?;
        let newest = self.newest.as_ref().filter(|(id, ..)| *id == image.id);
        let line = newest.map_or(&CommandLine::Unknown, |(.., line)| line);
        Some((why_line_fails(line), image, looked.load))
    }

    /// Whether it was told of the image that is loaded that its kernel cannot take what is preserved.
    pub(super) fn is_found_incompatible(&self) -> bool {
        self.incompatible
    }

    /// Events were lost: another image may have been loaded, even at the same place.
    pub(super) fn lose(&mut self) {
        (self.loaded, self.looked, self.incompatible) = (None, None, false);
    }

    /// `sessions` tells whether sessions exist, so that what is wrong with a new image was told.
    pub(super) fn apply(&mut self, event: &Event, moment: Moment, sessions: bool) {
        match &event.body {
            Body::ImageCarrier(p) if p.outcome.is_ok() => self.newest = Some((p.image, moment.id, CommandLine::of(p))),
            Body::ImageLoad(p) if p.outcome.is_ok() => {
                self.load(&p.image, moment.id);
                let fails = matches!(self.carries(&p.image), Carries::No(..));
                self.told = if sessions && fails { p.image.id } else { 0 };
            }
            Body::ImageVerdict(p) => {
                if sessions && let Some((_, image, _)) = self.line_fails(p) {
                    self.told = image.id;
                }
                self.looked = self.look(p);
                let fails = self.looked.as_ref().is_some_and(Looked::fails);
                self.incompatible = fails && (self.incompatible || sessions);
            }
            Body::KexecEnter(p) => self.entering = Some((p.image, moment.id)),
            Body::KexecReturn(_) => self.entering = None,
            _ => {}
        }
    }

    /// This image is loaded now. Where it is the one that was, only a crash image was loaded.
    fn load(&mut self, image: &Image, event: EventId) {
        if self.loaded.is_some_and(|(loaded, _)| loaded.id == image.id) {
            return;
        }
        self.lose();
        self.loaded = (image.mode != abi::IMAGE_NONE).then_some((*image, event));
    }
}
