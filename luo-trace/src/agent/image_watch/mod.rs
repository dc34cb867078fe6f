//! The agent's look into the image that is loaded, so that it is known before the jump what the next kernel will do.
//!
//! A load is a sequence of events of one task: the file it is read from (`image-file`, with the number of the load), the command
//! line (`image-carrier`), and how it ended (`image-load`, with the image in place and the number of the load that this one came
//! by). The file is opened when the first of them comes, while the loader still has it, read by a thread, and judged when the load
//! has succeeded; anew when other handlers come into use. What other tasks do in between changes nothing: a file is taken for an
//! image's only where the kernel's own numbers say so. Nothing here is certain that was not seen: what was missed, or could not be
//! read, is a verdict "unknown".

use std::panic;
use std::thread;

use luo_trace_common::events::{ImageFile, ImageVerdict};
use luo_trace_common::policy::ImageBits;
use tokio::sync::mpsc;

use crate::event::Event;
use crate::host::namespace;
use crate::image::{Contents, Formats, Preserved};

mod loads;
mod open;

use loads::{Found, Loads};
use open::ImageAtHand;

/// A file that a thread has looked into.
pub struct Look {
    number: u64,
    found: Result<Contents, String>,
}

/// What the agent knows of the image that is loaded, and of one that is being loaded.
pub struct Target {
    reader: Reader,
    loads: Loads,
    /// The numbers of tasks are those of another pid namespace than this process sees.
    foreign: bool,
}

impl Target {
    /// Knows of no image. What threads find goes to `looks`, and has to come back by [`Target::take`].
    /// Where `foreign`, this process sees other tasks than the kernel's programs tell of, and no file is looked for.
    pub fn new(looks: mpsc::UnboundedSender<Look>, foreign: bool) -> Self {
        Self {
            reader: Reader::new(looks),
            loads: Loads::default(),
            foreign,
        }
    }

    /// Takes in the next event. A file is opened at once, while its loader has it; close to a jump nothing is begun.
    pub fn observe(&mut self, event: &Event, jump_is_near: bool) {
        let tid = event.header.pid;
        let mut overtaken = None;
        let look = |file: &ImageFile| {
            let opened = match jump_is_near {
                _ if self.foreign => Err(namespace::FOREIGN.into()),
                true => Err("the machine was about to jump when it was loaded".into()),
                false => open::of_task(tid, file),
            };
            let read = |file| {
                let number;
                (number, overtaken) = self.reader.read(file);
                Found::Waiting(number)
            };
            opened.map_or_else(Found::Nothing, read)
        };
        self.loads.observe(event, look);
        if let Some(overtaken) = overtaken {
            let why = "another was loaded before there was time to look into it";
            self.loads.answer(overtaken, Found::Nothing(why.into()));
        }
    }

    /// Takes what a thread has found.
    pub fn take(&mut self, look: Look) {
        self.reader.go_on();
        let found = look.found.map(Box::new);
        self.loads
            .answer(look.number, found.map_or_else(Found::Nothing, Found::Contents));
    }

    /// Whether there is an image that could be judged now.
    pub fn is_ready(&self) -> bool {
        self.loads.is_ready()
    }

    /// Judges the image, where that was not done or other things are preserved than when it was. Gives what is new. `formats`
    /// are those that this kernel writes: it is asked for them once for each image.
    pub fn judge(&mut self, preserved: &Preserved, formats: impl FnOnce() -> Formats) -> Option<ImageVerdict> {
        self.loads.judge(preserved, formats)
    }

    /// What policy has to know now and was not told yet: of which image, by its id, and what.
    pub fn for_policy(&mut self) -> Option<(u64, ImageBits)> {
        self.loads.for_policy()
    }
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
