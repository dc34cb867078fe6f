//! Made-up hosts: what each recorded in some days, and what went wrong on it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use luo_trace::event::decode::encode;
use luo_trace::journal::{Clock, Header, Host as Identity, Kexec, Writer};
use luo_trace::testing::{IMAGE, Story, header, memfd, session};
use luo_trace_common::events::{Object, SessionRef, VERDICT_CARRIES};
use luo_trace_common::policy::{Mode, Operation};
use serde::Serialize;

use super::engines::EVERY;

/// When the first day begins, in seconds since 1970: 2026-09-21.
pub(crate) const BEGINS: u64 = 1_789_948_800;
const SECOND: u64 = 1_000_000_000;
const HOUR: u64 = 3600;
/// How long after its kernel's boot an agent is attached, in nanoseconds.
const ATTACHED: u64 = 900_000_000;
/// Cycles of the CPU's counter in a microsecond.
const CYCLES: u64 = 2100;
/// How many hosts have something wrong with them, and how many at least have not.
pub(crate) const LEAST: usize = 50;

const FIRST: &str = "7.3.4";
const SECOND_KERNEL: &str = "7.3.5";
const GOOD: &str = "7.3.6";
const BAD: &str = "7.4.0-rc1";
const SLOW: &str = "7.3.6-debug";

/// What goes wrong on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Fault {
    /// Its last update loses a session.
    LostSession,
    /// It departs, and is not heard of again.
    NeverBack,
    /// It departs, the next kernel panics, and the machine boots cold.
    Panic,
    /// Its policy refuses an image.
    Refused,
    /// An operator holds it, and it refuses an image for that.
    Held,
    /// Its last update is between two kernels of which the second is slow.
    Slow,
    /// Its agent dies, with no update near.
    Stopped,
}

impl Fault {
    /// The alerts that tell of it, each with the host.
    pub(crate) fn alerts(self) -> &'static [&'static str] {
        match self {
            Self::LostSession | Self::Panic => &["LuoUpdateLostState"],
            Self::NeverBack => &["LuoAgentDownWhileArmed", "LuoDepartedNotBack"],
            Self::Refused => &["LuoUpdateRefused"],
            Self::Held => &["LuoUpdateRefused", "LuoHostHeldForLong"],
            Self::Slow => &["LuoBlackoutOverBudget"],
            Self::Stopped => &["LuoAgentDown"],
        }
    }

    /// The fault of the host of this number: known ones first, then every third is slow.
    fn of(number: usize) -> Option<Self> {
        match number {
            0..10 => Some(Self::LostSession),
            10..15 => Some(Self::NeverBack),
            15..18 => Some(Self::Panic),
            18..28 => Some(Self::Refused),
            28..38 => Some(Self::Held),
            38..40 => Some(Self::Stopped),
            number if number % 3 == 0 => Some(Self::Slow),
            _ => None,
        }
    }
}

/// One host.
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) cluster: &'static str,
    pub(crate) fault: Option<Fault>,
    /// What its boots recorded, the first one first.
    boots: Vec<Boot>,
}

/// What one boot recorded.
struct Boot {
    header: Header,
    story: Story,
}

impl Boot {
    /// When it is this time of its `CLOCK_MONOTONIC`, in nanoseconds since 1970.
    fn unix(&self, monotonic: u64) -> u64 {
        self.header.clock.realtime_ns + monotonic - self.header.clock.monotonic_ns
    }

    /// Waits until it is so late, in nanoseconds since 1970.
    fn wait_until(&mut self, unix: u64) -> &mut Story {
        let now = self.unix(self.story.now());
        self.story.wait(unix.saturating_sub(now))
    }
}

/// What crosses a kexec: each session with its files' tokens.
const SESSIONS: [(&str, &[u64]); 3] = [("vm-1", &[1, 2]), ("vm-2", &[1]), ("store", &[7])];

impl Host {
    /// The host of this number, over so many days; the random numbers decide when what happens, and how long it takes.
    pub(crate) fn new(number: usize, days: u64, random: &mut fastrand::Rng) -> Self {
        let fault = Fault::of(number);
        let mut host = Self {
            name: format!("host-{:04}", number + 1),
            cluster: ["east", "west"][number % 2],
            fault,
            boots: Vec::new(),
        };
        let end = (BEGINS + days * 24 * HOUR) * SECOND;
        // Hours of the whole time, in percent.
        let hour = |from: u64, to: u64, random: &mut fastrand::Rng| {
            let span = days * 24 * HOUR;
            (BEGINS + span * from / 100 + random.u64(0..span * (to - from) / 100)) * SECOND
        };
        host.boots_cold(FIRST, BEGINS * SECOND + random.u64(0..600 * SECOND));
        host.updates(SECOND_KERNEL, hour(10, 30, random), &SESSIONS, random);
        let second = hour(50, 75, random);
        match fault {
            Some(Fault::LostSession) => host.updates(BAD, second, &SESSIONS[..2], random),
            Some(Fault::Slow) => host.updates(SLOW, second, &SESSIONS, random),
            Some(Fault::NeverBack) => {
                // For a day it is known that it was armed.
                _ = host.departs(end - random.u64(2..20) * HOUR * SECOND, random);
            }
            Some(Fault::Panic) => {
                let departed = host.departs(second, random);
                host.boots_cold(SECOND_KERNEL, departed + random.u64(60..180) * SECOND);
            }
            Some(Fault::Refused) => host.refuses("legacy-image", second),
            Some(Fault::Held) => {
                host.last().wait_until(second).hold("a disk is being replaced");
                host.refuses("hold", second + random.u64(60..600) * SECOND);
            }
            Some(Fault::Stopped) => _ = host.last().wait_until(second).snapshot(|_| ()),
            // Few enough that those which lose something are among the last 20 that took this step.
            None if number < LEAST => host.updates(BAD, second, &SESSIONS, random),
            None => host.updates(GOOD, second, &SESSIONS, random),
        }
        if !matches!(fault, Some(Fault::NeverBack | Fault::Stopped)) {
            host.last().wait_until(end).snapshot(|_| ());
        }
        host
    }

    /// When its agent ran, in nanoseconds since 1970.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (u64, u64)> {
        self.boots.iter().map(|boot| {
            let last = boot.story.events.last().map_or(0, |event| event.header.ktime);
            (boot.header.clock.realtime_ns, boot.unix(last))
        })
    }

    /// The step that its last update took, where that went wrong.
    pub(crate) fn wrong_step(&self) -> Option<(&'static str, &'static str)> {
        (self.fault == Some(Fault::LostSession)).then_some((SECOND_KERNEL, BAD))
    }

    /// Writes its journals into a directory, and gives their size in bytes.
    pub(crate) fn write(&self, dir: &Path) -> Result<u64> {
        let cannot = || format!("cannot write journals into {}", dir.display());
        let mut bytes = 0;
        for boot in &self.boots {
            let (mut writer, path) = Writer::open(dir, &boot.header).with_context(cannot)?;
            for event in &boot.story.events {
                writer.append([encode(event).as_slice()]).with_context(cannot)?;
            }
            bytes += fs::metadata(path).with_context(cannot)?.len();
        }
        Ok(bytes)
    }

    fn last(&mut self) -> &mut Boot {
        self.boots.last_mut().expect("a host begins with a boot")
    }

    fn boots_cold(&mut self, release: &str, attached: u64) {
        self.boots(release, attached, None).snapshot(|_| ());
    }

    /// Another boot, whose agent is attached at this time; `update` is the number of the update that brought it.
    fn boots(&mut self, release: &str, attached: u64, update: Option<u64>) -> &mut Story {
        let previous = self.boots.last().map(|boot| boot.header.kernel_release.clone());
        let header = Header {
            boot_id: format!("{}-{}", self.name, self.boots.len()),
            kernel_release: release.into(),
            host: Identity {
                name: self.name.clone(),
                machine: Some(format!("{:0>32}", self.name)),
                ..Identity::default()
            },
            update_number: Some(update.unwrap_or(0)),
            kexec: update.map(|count| Kexec {
                previous_release: previous,
                count: Some(count),
            }),
            clock: Clock {
                monotonic_ns: ATTACHED,
                realtime_ns: attached,
                boottime_ns: ATTACHED,
                tsc: Some((attached - BEGINS * SECOND) / 1000 * CYCLES),
                tsc_khz: Some(CYCLES * 1000),
                counter_invariant: Some(true),
            },
            ..header(0)
        };
        let mut story = Story::new();
        let early = story.now();
        story.wait(ATTACHED - early + 1).policy(Mode::Enforce);
        self.boots.push(Boot { header, story });
        &mut self.last().story
    }

    /// A live update into this kernel, in which of what left these sessions arrive.
    fn updates(&mut self, release: &str, at: u64, arrive: &[(&str, &[u64])], random: &mut fastrand::Rng) {
        let number = self.last().header.update_number.unwrap_or(0) + 1;
        let jumped = self.departs(at, random);
        let story = self.boots(release, jumped + random.u64(1_000..1_500) * 1_000_000, Some(number));
        story.handover(arrive, &[]).snapshot(|snapshot| _ = snapshot.unread());
        let sessions: Vec<_> = (1..)
            .zip(arrive)
            .map(|(id, (name, tokens))| (session(id, name), *tokens))
            .collect();
        for (arrived, tokens) in &sessions {
            story.arrive(*arrived, tokens.len() as u64);
        }
        story.read_in();
        let brings = if release == SLOW { 3_000..4_000 } else { 50..300 };
        for (arrived, tokens) in sessions {
            story.retrieve_session(arrived);
            for &token in tokens {
                takes(story, random.u64(brings.clone())).retrieve(arrived, token, file(arrived, token));
            }
            story.finish_files(arrived, tokens.len() as u64, |_| ());
            story.release_incoming(arrived, 0, |story| _ = story.finish_files(arrived, 0, |_| ()));
        }
    }

    /// What comes before a jump, and the jump; gives when it was, in nanoseconds since 1970.
    fn departs(&mut self, at: u64, random: &mut fastrand::Rng) -> u64 {
        let boot = self.last();
        let story = boot.wait_until(at);
        story.passed(Operation::KexecLoad).load("kho=on liveupdate=on");
        story.look_into(VERDICT_CARRIES, VERDICT_CARRIES, "it has LUO and every handler");
        let sessions: Vec<(SessionRef, &[u64])> = (11..)
            .zip(SESSIONS)
            .map(|(id, (name, tokens))| (session(id, name), tokens))
            .collect();
        for (kept, tokens) in &sessions {
            story.create(*kept);
            for &token in *tokens {
                takes(story, random.u64(5..200)).preserve(*kept, token, file(*kept, token));
            }
        }
        // A rule that reads what another one records lags by an evaluation for each: it has to know of the load when the host falls silent.
        story.wait(2 * EVERY * SECOND);
        story.passed(Operation::KexecReboot);
        let freezes = random.u64(100..400);
        story.reboot_with(IMAGE, |story| {
            for (kept, tokens) in &sessions {
                takes(story, freezes).freeze_files(*kept, tokens.len() as u64);
            }
            story.serialize();
        });
        let now = boot.story.now();
        boot.unix(now)
    }

    fn refuses(&mut self, rule: &str, at: u64) {
        self.last().wait_until(at).refused(Operation::KexecLoad, rule);
    }
}

/// The file of this token: no two sessions have one in common.
fn file(session: SessionRef, token: u64) -> Object {
    let name = session
        .name
        .to_string()
        .bytes()
        .fold(0, |sum, byte| sum * 31 + u64::from(byte));
    memfd(0x1000 + name % 0x1000 * 16 + token)
}

/// What is told next takes so many milliseconds.
fn takes(story: &mut Story, milliseconds: u64) -> &mut Story {
    let began = story.now();
    let span = Duration::from_millis(milliseconds);
    story.wait(span.as_nanos() as u64).since(began)
}
