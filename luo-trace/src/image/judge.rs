//! Whether a kernel image will take what is preserved.

use serde::Serialize;

use super::command_line::{CommandLine, Taken};
use super::{Contents, Evidence, Formats, Found, InUse, Platform, Preserved};

/// What becomes of what is preserved, from the best to the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Forecast {
    /// It comes over, or there is nothing that could be lost.
    Carries,
    /// That is not known.
    Unknown,
    /// Some or all of it is lost.
    Loses,
    /// The next kernel panics while it boots.
    Panics,
    /// The running kernel will not load it: nothing of the others comes to pass.
    Refused,
}

impl Forecast {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Carries => "will carry",
            Self::Unknown => "cannot tell",
            Self::Loses => "will lose",
            Self::Panics => "will panic",
            Self::Refused => "will be refused",
        }
    }

    /// In a word, of one reason.
    pub fn mark(self) -> &'static str {
        match self {
            Self::Carries => "ok",
            Self::Unknown => "unknown",
            Self::Loses => "lost",
            Self::Panics => "panic",
            Self::Refused => "refused",
        }
    }
}

/// What a reason is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum About {
    /// The kernel in the image.
    Kernel,
    /// The command line that it is to be booted with.
    CommandLine,
}

/// One thing that speaks for or against an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// What follows from it alone.
    pub outcome: Forecast,
    /// What it is about.
    pub about: About,
    /// It, in a sentence without its full stop.
    pub text: String,
    /// What says so.
    pub source: Evidence,
}

/// What was found, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Judgement {
    /// All in all.
    pub outcome: Forecast,
    /// What the kernel alone does, whatever its command line.
    pub kernel: Forecast,
    /// What the command line alone does.
    pub command_line: Forecast,
    /// Why, what decides first.
    pub reasons: Vec<Reason>,
}

impl Judgement {
    /// The same, where the running kernel may refuse to load the image, for this reason.
    #[must_use]
    pub fn objected(mut self, sure: bool, text: String) -> Self {
        let outcome = if sure { Forecast::Refused } else { Forecast::Unknown };
        self.outcome = self.outcome.max(outcome);
        self.kernel = self.kernel.max(outcome);
        let worse = |reason: &Reason| reason.outcome > outcome;
        let place = self.reasons.iter().take_while(|reason| worse(reason)).count();
        self.reasons.insert(
            place,
            Reason {
                outcome,
                about: About::Kernel,
                text,
                source: Evidence::Host,
            },
        );
        self
    }
}

/// Judges an image: what it has, what is preserved now, what the running kernel writes on which machine, and the command line
/// that it is to be booted with, where that is known.
pub fn judge<'a>(
    contents: &'a Contents,
    preserved: &Preserved,
    running: &Formats,
    here: &Platform,
    command_line: impl Into<Line<'a>>,
) -> Judgement {
    let line = command_line.into().or_inside(contents);
    let taken = contents.built_in.takes(line.line);
    let kho_is_off = taken
        .as_ref()
        .is_some_and(|taken| taken.has_kho_off(contents.kho_by_default));
    let mut reasons = Reasons(Vec::new());
    reasons.platform(contents, here);
    if contents.unified.as_ref().is_some_and(|unified| unified.others) {
        let text = "the image has profiles with other kernels, which were not looked into: this is the first one's";
        reasons.say(Forecast::Unknown, Evidence::Strings, text);
    }
    kernel(&mut reasons, contents, preserved, running);
    if let Some(why) = &preserved.incomplete {
        let text = format!("what is preserved may not be known in full: {why}");
        reasons.say(Forecast::Unknown, Evidence::Host, text);
    }
    let of_kernel = reasons.worst(About::Kernel);
    match line.doubt {
        Some(why) => reasons.of_line(Forecast::Unknown, Evidence::CommandLine, why),
        None => reasons.line(contents, taken.as_ref()),
    }
    let of_line = reasons.worst(About::CommandLine);
    let mut outcome = of_kernel.max(of_line);
    if outcome == Forecast::Panics && kho_is_off {
        // Without KHO the next kernel does not look at what would have it panic.
        outcome = Forecast::Loses;
    }
    reasons.0.sort_by_key(|reason| std::cmp::Reverse(reason.outcome));
    if preserved.is_empty() && outcome != Forecast::Panics {
        outcome = Forecast::Carries;
        let text = "nothing is preserved, so nothing would be lost";
        reasons.say(Forecast::Carries, Evidence::Host, text);
        // It goes before everything that would speak against the image.
        reasons.0.rotate_right(1);
    }
    Judgement {
        outcome,
        kernel: of_kernel,
        command_line: of_line,
        reasons: reasons.0,
    }
}

/// The line that a kernel is given.
#[derive(Clone, Debug, Default)]
pub struct Line<'a> {
    /// It; `None`: not known, unless it lies in a unified image.
    pub line: Option<&'a [u8]>,
    /// Why another may be given, that would decide otherwise.
    pub doubt: Option<String>,
}

impl<'a> From<Option<&'a [u8]>> for Line<'a> {
    fn from(line: Option<&'a [u8]>) -> Self {
        Self { line, doubt: None }
    }
}

impl<'a> Line<'a> {
    /// The same, with what a unified image says of it.
    fn or_inside(mut self, contents: &'a Contents) -> Self {
        let Some(unified) = &contents.unified else {
            return self;
        };
        let verdict = |line: Option<&[u8]>| {
            let taken = contents.built_in.takes(line);
            taken.map(|taken| taken.verdict(contents.kho_by_default))
        };
        let inside = unified.lines.iter().map(|line| line.as_deref().map(str::as_bytes));
        let first = inside.clone().next().flatten();
        let said = self.line.is_some();
        self.line = self.line.or(first);
        let decides = verdict(self.line);
        let all_agree = inside.clone().all(|other| verdict(other) == decides);
        let doubt = match said {
            // With Secure Boot the stub throws away what it is given; what loads the image without the stub need not.
            true if first.is_some() && !all_agree => Some(
                "the line that is given and the one in the image differ in whether LUO is on, and which of them counts is the loader's \
                 choice",
            ),
            false if !all_agree => Some(
                "the image has profiles whose lines differ in whether LUO is on: give the one's line with --cmdline",
            ),
            _ => None,
        };
        self.doubt = self.doubt.or_else(|| doubt.map(str::to_owned));
        self
    }
}

struct Reasons(Vec<Reason>);

impl Reasons {
    fn say(&mut self, outcome: Forecast, source: Evidence, text: impl Into<String>) {
        let about = match source {
            Evidence::CommandLine => About::CommandLine,
            _ => About::Kernel,
        };
        let text = text.into();
        self.0.push(Reason {
            outcome,
            about,
            text,
            source,
        });
    }

    fn worst(&self, about: About) -> Forecast {
        let about = self.0.iter().filter(|reason| reason.about == about);
        about.map(|reason| reason.outcome).max().unwrap_or(Forecast::Carries)
    }

    fn of_line(&mut self, outcome: Forecast, source: Evidence, text: String) {
        let about = About::CommandLine;
        self.0.push(Reason {
            outcome,
            about,
            text,
            source,
        });
    }

    fn line(&mut self, contents: &Contents, taken: Option<&Taken<'_>>) {
        let Some(taken) = taken else {
            let text = "the command line is not known: give it with --cmdline".to_owned();
            return self.of_line(Forecast::Unknown, Evidence::CommandLine, text);
        };
        // What says so, and how a sentence about the line begins.
        let (source, it) = match taken.instead {
            None => (Evidence::CommandLine, "it".to_owned()),
            Some(option) => {
                let it = format!("the kernel ignores the line it is given ({option}), and its own");
                (Evidence::Configuration, it)
            }
        };
        match taken.verdict(contents.kho_by_default) {
            CommandLine::Takes => {
                // Where an own line is built in is told by the configuration alone.
                let unless = match contents.built_in.known {
                    true => "",
                    false => ", unless the kernel has one of its own built in, which this image does not tell",
                };
                self.of_line(Forecast::Carries, source, format!("{it} switches LUO on{unless}"));
            }
            CommandLine::Unknown if taken.open => self.of_line(
                Forecast::Unknown,
                Evidence::Configuration,
                "a bootconfig in the image (CONFIG_CMDLINE_FROM_BOOTCONFIG) comes before the line, and what it switches on or off \
                 cannot be read: put kho=on and liveupdate=on on the line"
                    .to_owned(),
            ),
            CommandLine::Unknown => self.of_line(
                Forecast::Unknown,
                source,
                format!("{it} has no kho=on, and whether this kernel does without is not known"),
            ),
            CommandLine::Lacks(what) => {
                self.of_line(Forecast::Loses, source, format!("{it} {what}: everything is lost"));
            }
        }
    }

    /// Whether this machine can run it at all, and works in the same pages. KHO does not carry between sizes of pages, and no
    /// format names them: `include/linux/kho/abi/block.h` (7.3).
    fn platform(&mut self, contents: &Contents, here: &Platform) {
        if let (Some(its), Some(this)) = (contents.machine, here.machine)
            && its != this
        {
            let text = format!(
                "it is another machine's kernel, which cannot run here: it is for {its}, and this host is {this}"
            );
            return self.say(Forecast::Loses, Evidence::Host, text);
        }
        let kib = |size: u64| format!("{} KiB", size >> 10);
        match (contents.page_size, here.page_size) {
            (Some(its), Some(this)) if its != this => {
                let text = format!(
                    "its pages have {}, and this host's {}: KHO does not carry between sizes of pages, everything is lost",
                    kib(its),
                    kib(this)
                );
                self.say(Forecast::Loses, Evidence::Host, text);
            }
            // Where the architecture leaves a choice, the answer is part of what was looked at.
            (Some(its), Some(_)) if contents.machine.is_some_and(|machine| machine.page_size().is_none()) => {
                let text = format!("its pages have {}, as this host's", kib(its));
                self.say(Forecast::Carries, Evidence::Host, text);
            }
            (None, Some(_)) | (Some(_), None)
                if contents.machine.is_some_and(|machine| machine.page_size().is_none()) =>
            {
                let of = if contents.page_size.is_none() {
                    "its"
                } else {
                    "this host's"
                };
                let text = format!("KHO does not carry between sizes of pages, and {of} is not known");
                self.say(Forecast::Unknown, Evidence::Host, text);
            }
            _ => {}
        }
    }

    /// KHO or LUO: whether it is built in.
    fn built_in(&mut self, name: &str, found: Found) -> bool {
        match found.there {
            true => self.say(Forecast::Carries, found.source, format!("{name} is built in")),
            false => self.say(
                Forecast::Loses,
                found.source,
                format!("{name} is not built in: everything is lost"),
            ),
        }
        found.there
    }

    /// Whether the image has the format that the running kernel writes; `None`: not known.
    fn format(&mut self, name: &str, running: Option<&String>, image: &[String]) -> Option<bool> {
        match running {
            None => {
                let text = format!(
                    "cannot tell whether the format is the same: which one this host's {name} writes is not known"
                );
                self.say(Forecast::Unknown, Evidence::Host, text);
                None
            }
            Some(_) if image.is_empty() => {
                let text = format!("the image does not name the format that its {name} reads");
                self.say(Forecast::Unknown, Evidence::Strings, text);
                None
            }
            Some(running) if image.contains(running) => {
                let text = format!("{name} reads what this host writes, {running}");
                self.say(Forecast::Carries, Evidence::Strings, text);
                Some(true)
            }
            Some(_) => Some(false),
        }
    }

    /// Whether the image knows a handler, or a global state. `lost`: what is lost without it.
    fn knows(&mut self, contents: &Contents, what: &str, used: &InUse, lost: &str) {
        let InUse { name, .. } = used;
        match contents.knows(name.as_bytes()) {
            Some(true) => self.say(
                Forecast::Carries,
                Evidence::Strings,
                format!("it knows the {what} {name}"),
            ),
            Some(false) if contents.takes_modules => self.say(
                Forecast::Unknown,
                Evidence::Strings,
                format!("the {what} {name} is not built in; a module may bring it"),
            ),
            Some(false) => self.say(
                Forecast::Loses,
                Evidence::Strings,
                format!("it does not know the {what} {name}: {lost}"),
            ),
            None => {
                let name = if name.is_empty() { "of some files" } else { name };
                let text = format!("the {what} {name} cannot be looked for");
                self.say(Forecast::Unknown, Evidence::Strings, text);
            }
        }
    }
}

fn kernel(reasons: &mut Reasons, contents: &Contents, preserved: &Preserved, running: &Formats) {
    // Mirrors `kho_populate` in `kernel/liveupdate/kexec_handover.c` and `luo_early_startup` in
    // `kernel/liveupdate/luo_core.c` (7.3): a KHO format that is not known is ignored, and LUO's makes the kernel panic.
    if !reasons.built_in("KHO", contents.kho) {
        return;
    }
    let kho = reasons.format("KHO", running.kho.as_ref(), &contents.kho_formats);
    if let (Some(false), Some(writes)) = (kho, &running.kho) {
        let reads = contents.kho_formats.join(", ");
        let text = format!("this host's KHO writes {writes} and the image's reads {reads}: it ignores everything");
        return reasons.say(Forecast::Loses, Evidence::Strings, text);
    }
    if !reasons.built_in("LUO", contents.luo) {
        return;
    }
    let luo = reasons.format("LUO", running.luo.as_ref(), &contents.luo_formats);
    if let (Some(false), Some(writes)) = (luo, &running.luo) {
        let reads = contents.luo_formats.join(", ");
        let differs = format!("this host's LUO writes {writes} and the image's reads {reads}");
        return match kho {
            Some(true) => reasons.say(
                Forecast::Panics,
                Evidence::Strings,
                format!("{differs}: it panics while it boots"),
            ),
            _ => reasons.say(
                Forecast::Loses,
                Evidence::Strings,
                format!("{differs}: it panics while it boots, or everything is lost"),
            ),
        };
    }
    // Mirrors `luo_session_deserialize` in `kernel/liveupdate/luo_session.c` and `luo_open` (7.3): the first file without a
    // handler ends the reading, and the device cannot be opened from then on.
    for handler in &preserved.handlers {
        let lost = match handler.count {
            0 => "its files are lost".to_owned(),
            1 => "its file is lost".to_owned(),
            count => format!("its {count} files are lost"),
        };
        let lost = format!("{lost}, and LUO then brings back no session at all");
        reasons.knows(contents, "file handler", handler, &lost);
    }
    for flb in &preserved.flbs {
        reasons.knows(contents, "global state", flb, "it is lost");
    }
}
