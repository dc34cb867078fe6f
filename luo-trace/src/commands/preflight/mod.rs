//! `luo-trace preflight`: will this kernel take what is preserved here?

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args as ClapArgs;
use luo_trace_common::events::SNAPSHOT_CHANGED;
use luo_trace_common::text::Name;
use serde_json::{Value, json};

use super::{Format, Socket};
use crate::agent::image_reader::{self, Unknown};
use crate::event::Body;
use crate::exit::Exit;
use crate::host::{self, loading::Loading};
use crate::image::{
    self, Contents, Evidence, Forecast, Formats, InUse, Judgement, Machine, Platform, Preserved, Reason,
};
use crate::input;
use crate::journal::{Header, each};
use crate::kernel::preflight::{Obstacle, obstacle};
use crate::sink::control::client;
use crate::status::Status;
use crate::text::units::{bytes, count};

mod lines;
#[cfg(test)]
mod tests;

use lines::Origin;

/// The largest file that is read, in bytes: no kernel is as large when it is unpacked.
const FILE_MAX: u64 = image::UNPACKED_MAX;

/// Options of `luo-trace preflight`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The kernel: a bzImage, an arm64 Image, also compressed or as EFI zboot, a vmlinux, or a unified kernel image
    #[arg(long, value_name = "IMAGE")]
    kernel: PathBuf,
    /// The command line it will have; left out, a unified image's own, else this host's, as with `kexec --reuse-cmdline`
    #[arg(long, value_name = "STRING")]
    cmdline: Option<String>,
    /// Take what was preserved when this record ended, not what is preserved now; of several, the latest boot's
    #[arg(long, value_name = "JOURNAL", num_args = 1.., conflicts_with_all = ["handler", "flb"])]
    journal: Vec<PathBuf>,
    /// Take files of this handler, not what is preserved now: its compatible string, as `memfd-v2`
    #[arg(long, value_name = "NAME")]
    handler: Vec<String>,
    /// Take this global state, not what is preserved now: its compatible string
    #[arg(long, value_name = "NAME")]
    flb: Vec<String>,
    /// The format that this host's LUO writes, instead of what is known of it: `luo-v5`
    #[arg(long, value_name = "FORMAT")]
    luo_format: Option<String>,
    /// The format that this host's KHO writes, instead of what is known of it: `kho-v4`
    #[arg(long, value_name = "FORMAT")]
    kho_format: Option<String>,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    socket: Socket,
}

/// What has to come over.
struct Host {
    /// Who says so, in words.
    source: String,
    preserved: Preserved,
    formats: Formats,
    platform: Platform,
    /// Whether it lets images be loaded, where this is the host.
    loading: Option<Loading>,
    /// The command line of the kernel that runs, where this is its host.
    command_line: Option<String>,
}

/// Reads the image and says what will become of what is preserved.
///
/// With `--format json` the output is one object, stable from version to version but for keys that are added:
///
/// - `outcome`: `carries`, `loses`, `panics`, `refused` or `unknown`; `kernel` and `command_line`: the same, of each alone;
/// - `reasons`: the worst first, each with `outcome`, `about` (`kernel` or `command-line`), `text` and `source`
///   (`configuration`, `types`, `strings`, `command-line` or `host`);
/// - `image`: `path`, and where it could be unpacked `kind`, `compression` (or null), `unpacked_bytes`, `release`, `banner`,
///   `kho` and `luo` (`there`, `source`), `kho_by_default` (or null), `kho_formats`, `luo_formats`, `takes_modules`,
///   `machine`, `page_bytes` and `signed` (or null), `built_in_line` (`line`, and its `place`: `before` or `after` the given one,
///   `override` or `force` in its place, `where-none-is-given`; or null), and `versioned`: words that look like compatible
///   strings;
/// - `preserved`: `source` (in words), `sessions`, `handlers` and `flbs` (`name` and `count`), `incomplete` (why there may
///   be more, or null); `running`: the formats `luo` and `kho` (or null); `line`: the command line that is given (or null),
///   `line_of`: whose that is (`given`, `image`, `host`, or null); `line_taken`: the one that the kernel makes of it (or null).
///
/// The exit status is 0 when it will carry, 1 when it will lose, panic or be refused, 3 when that cannot be told.
///
/// # Errors
/// Where the image or what is preserved cannot be read, or stdout cannot be written.
pub fn run(args: &Args) -> Result<Exit> {
    let (exit, text) = judged(args)?;
    super::stdout()
        .write_all(text.as_bytes())
        .context("cannot write to stdout")?;
    Ok(exit)
}

/// The answer, and how it is printed.
fn judged(args: &Args) -> Result<(Exit, String)> {
    let path = args.kernel.display();
    let contents = match image_reader::read(&open(&args.kernel)?) {
        Ok(contents) => Ok(contents),
        Err(Unknown::Unreadable(why)) => bail!("{path} cannot be judged: {why}"),
        Err(unknown) => Err(unknown.to_string()),
    };
    let mut host = Host::find(args)?;
    host.formats.luo = args.luo_format.clone().or(host.formats.luo);
    host.formats.kho = args.kho_format.clone().or(host.formats.kho);
    let origin = Origin::of(args, contents.as_ref().ok(), &host);
    let judgement = match &contents {
        Ok(contents) => {
            let judge =
                |line: image::Line<'_>| image::judge(contents, &host.preserved, &host.formats, &host.platform, line);
            let judged = origin.judged(judge);
            let objections = host
                .loading
                .iter()
                .flat_map(|loading| loading.objections(contents.signed));
            objections.fold(judged, |judged, objection| {
                judged.objected(objection.sure, objection.text)
            })
        }
        Err(why) => unread(why),
    };
    let report = Report {
        path: &args.kernel,
        contents: contents.as_ref().ok(),
        origin: &origin,
        host: &host,
        judgement: &judgement,
    };
    let text = match args.format {
        Format::Text => report.text(),
        Format::Json => serde_json::to_string_pretty(&report.json())? + "\n",
    };
    let exit = match judgement.outcome {
        Forecast::Carries => Exit::Held,
        Forecast::Unknown => Exit::Inconclusive,
        Forecast::Loses | Forecast::Panics | Forecast::Refused => Exit::Violated,
    };
    Ok((exit, text))
}

fn open(path: &Path) -> Result<File> {
    let cannot = || format!("cannot read {}", path.display());
    let file = input::open(path).with_context(cannot)?;
    if file.metadata().with_context(cannot)?.len() > FILE_MAX {
        bail!("{} is larger than any kernel: {} MiB", path.display(), FILE_MAX >> 20);
    }
    Ok(file)
}

/// What is said of an image that cannot be unpacked.
fn unread(why: &str) -> Judgement {
    Judgement {
        outcome: Forecast::Unknown,
        kernel: Forecast::Unknown,
        command_line: Forecast::Unknown,
        reasons: vec![Reason {
            outcome: Forecast::Unknown,
            about: image::About::Kernel,
            text: why.to_owned(),
            source: Evidence::Strings,
        }],
    }
}

impl Host {
    /// What the options say, else what a journal or this host tells.
    fn find(args: &Args) -> Result<Self> {
        if !args.handler.is_empty() || !args.flb.is_empty() {
            return Ok(Self::given(args));
        }
        if !args.journal.is_empty() {
            return Self::recorded(&args.journal);
        }
        let asked = client::status(&args.socket.path)?;
        let asked = asked.map(|status| Self::now("the running agent", &status));
        Ok(match (asked, obstacle()) {
            (Some(host), _) if host.preserved.incomplete.is_none() => host,
            // A snapshot needs nothing to have been seen before.
            (_, None) => Self::now("one snapshot of the kernel's lists", &super::status::snapshot()?),
            (Some(host), Some(_)) => host,
            (None, Some(why)) => Self::without(why),
        })
    }

    fn given(args: &Args) -> Self {
        let used = |names: &[String]| {
            let used = names.iter().map(|name| InUse {
                name: name.clone(),
                count: 0,
            });
            used.collect()
        };
        Self {
            source: "as given".into(),
            preserved: Preserved {
                sessions: 1,
                handlers: used(&args.handler),
                flbs: used(&args.flb),
                incomplete: None,
            },
            formats: Formats::default(),
            platform: image_reader::this_host(),
            loading: None,
            command_line: None,
        }
    }

    /// What the latest of these records tells at its end.
    fn recorded(journals: &[PathBuf]) -> Result<Self> {
        let mut latest: Option<(u64, Self)> = None;
        let mut unreadable = Vec::new();
        for path in journals {
            unreadable.extend(each(path, |source| {
                let began = source.events.header().clock.realtime_ns;
                if latest.as_ref().is_none_or(|(before, _)| *before < began) {
                    latest = Some((began, Self::at_end_of(source)));
                }
            })?);
        }
        let (_, mut host) = latest.context("there is no journal")?;
        if let Some(unreadable) = unreadable.first() {
            host.preserved.incomplete = Some(format!("a journal that may be the latest cannot be read, {unreadable}"));
        }
        Ok(host)
    }

    fn at_end_of(mut source: crate::journal::Opened) -> Self {
        let events = &mut source.events;
        let (mut run, mut current) = (events.run(), events.header().model());
        // Whether everything is known: from the beginning, or since a walk over LUO's lists.
        let (mut whole, mut walk_is_whole) = (!events.header().late, false);
        while let Some(event) = events.next() {
            if events.run() != run {
                (run, current) = (events.run(), events.header().model());
            }
            match &event.body {
                Body::Gap { .. } | Body::HooksBlind(_) => (whole, walk_is_whole) = (false, false),
                Body::SnapshotBegin(_) => walk_is_whole = true,
                Body::SnapshotEnd(end) => whole |= walk_is_whole && end.flags & SNAPSHOT_CHANGED == 0,
                _ => {}
            }
            current.apply(&event);
        }
        let header = events.header();
        let incomplete = (!whole).then(|| "events are missing from the record".to_owned());
        Self {
            source: format!(
                "{}, at its end; Linux {}",
                source.name.display(),
                escaped(&header.kernel_release)
            ),
            preserved: Preserved {
                incomplete,
                ..Preserved::of_model(&current)
            },
            formats: Formats {
                luo: header.luo_format.clone(),
                kho: header.kho_format.clone(),
            },
            platform: recorded_on(header),
            loading: None,
            command_line: None,
        }
    }

    fn now(source: &str, status: &Status) -> Self {
        Self {
            source: source.into(),
            preserved: Preserved::of_status(status),
            formats: Formats {
                luo: status.luo_format.clone(),
                kho: status.kho_format.clone(),
            },
            platform: image_reader::this_host(),
            loading: Some(host::loading::loading()),
            command_line: own_command_line(),
        }
    }

    /// What is said of a host of which no agent can take a snapshot.
    fn without(why: Obstacle) -> Self {
        // Without LUO nothing can be preserved.
        let nothing = matches!(why, Obstacle::NoLuo | Obstacle::LuoOff | Obstacle::KhoFailed);
        Self {
            source: format!("no agent runs, and {why}"),
            preserved: Preserved {
                incomplete: (!nothing).then(|| why.to_string()),
                ..Preserved::default()
            },
            formats: Formats::default(),
            platform: image_reader::this_host(),
            loading: Some(host::loading::loading()),
            command_line: own_command_line(),
        }
    }
}

/// The machine that a record is of. The size of its pages is not recorded: it is known where the machine has but one.
fn recorded_on(header: &Header) -> Platform {
    let machine = Machine::of_name(&header.machine);
    Platform {
        machine,
        page_size: machine.and_then(Machine::page_size),
    }
}

fn own_command_line() -> Option<String> {
    Some(fs::read_to_string("/proc/cmdline").ok()?.trim_end().to_owned())
}

/// Text from outside, for a terminal.
fn escaped(text: &str) -> String {
    Name::<512>::new(text).to_string()
}

struct Report<'a> {
    path: &'a Path,
    contents: Option<&'a Contents>,
    origin: &'a Origin,
    host: &'a Host,
    judgement: &'a Judgement,
}

impl Report<'_> {
    fn json(&self) -> Value {
        let mut image = json!({ "path": self.path.display().to_string() });
        if let (Some(contents), Some(image)) = (self.contents, image.as_object_mut()) {
            let more = json!({
                "kind": contents.kind,
                "compression": contents.compression.map(|compression| compression.name()),
                "unpacked_bytes": contents.unpacked,
                "release": contents.release(),
                "banner": contents.banner,
                "kho": contents.kho,
                "luo": contents.luo,
                "kho_by_default": contents.kho_by_default,
                "kho_formats": contents.kho_formats,
                "luo_formats": contents.luo_formats,
                "takes_modules": contents.takes_modules,
                "machine": contents.machine.map(|machine| machine.to_string()),
                "page_bytes": contents.page_size,
                "signed": contents.signed,
                "built_in_line": contents.built_in.line.as_ref().map(|(line, place)| json!({ "line": line, "place": place })),
                "versioned": contents.versioned,
            });
            image.extend(more.as_object().cloned().unwrap_or_default());
        }
        let Preserved {
            sessions,
            handlers,
            flbs,
            incomplete,
        } = &self.host.preserved;
        json!({
            "outcome": self.judgement.outcome,
            "kernel": self.judgement.kernel,
            "command_line": self.judgement.command_line,
            "reasons": self.judgement.reasons,
            "image": image,
            "preserved": {
                "source": self.host.source,
                "sessions": sessions,
                "handlers": handlers,
                "flbs": flbs,
                "incomplete": incomplete,
            },
            "running": self.host.formats,
            "line": self.origin.line(self.contents),
            "line_of": self.origin.key(),
            "line_taken": self.taken(),
        })
    }

    fn text(&self) -> String {
        let outcome = self.judgement.outcome.words();
        let mut lines = vec![format!("{}: {outcome}\n", self.path.display())];
        let mut row = |name: &str, text: String| lines.push(format!("  {name:<13}{text}"));
        if let Some(contents) = self.contents {
            let packed = contents
                .compression
                .map_or("not packed", |compression| compression.name());
            let size = bytes(contents.unpacked);
            row(
                "image",
                format!("Linux {}, {}, {packed}, {size}", contents.release(), contents.kind),
            );
        }
        row("preserved", self.preserved());
        row("", format!("({})", self.host.source));
        let Formats { luo, kho } = &self.host.formats;
        let or_unknown = |format: &Option<String>| format.as_deref().map_or("not known".into(), escaped);
        row(
            "formats here",
            format!("LUO {}, KHO {}", or_unknown(luo), or_unknown(kho)),
        );
        row(
            "command line",
            match self.origin.line(self.contents) {
                None => "not known".into(),
                Some(line) => format!("{}{}", escaped(line), self.origin.words()),
            },
        );
        if let Some(taken) = self
            .taken()
            .filter(|taken| Some(taken.as_str()) != self.origin.line(self.contents))
        {
            row("it makes it", escaped(&taken));
        }
        lines.push(String::new());
        for reason in &self.judgement.reasons {
            let (mark, source) = (reason.outcome.mark(), reason.source.words());
            lines.push(format!("  {mark:<13}{} ({source})", escaped(&reason.text)));
        }
        lines.join("\n") + "\n"
    }

    /// The line that the kernel makes of the one that it is given.
    fn taken(&self) -> Option<String> {
        let taken = self
            .contents?
            .built_in
            .takes(self.origin.line(self.contents).map(str::as_bytes))?;
        Some(String::from_utf8_lossy(&taken.line).into_owned())
    }

    fn preserved(&self) -> String {
        let Preserved {
            sessions,
            handlers,
            flbs,
            ..
        } = &self.host.preserved;
        if self.host.preserved.is_empty() {
            return "nothing".into();
        }
        let of = |used: &InUse| match used.count {
            0 => escaped(&used.name),
            count => format!("{} ({count})", escaped(&used.name)),
        };
        let list = |what: &str, used: &[InUse]| match used {
            [] => String::new(),
            used => format!(", {what} {}", used.iter().map(of).collect::<Vec<_>>().join(" ")),
        };
        let sessions = count(*sessions, "session");
        format!("{sessions}{}{}", list("files of", handlers), list("global state", flbs))
    }
}
