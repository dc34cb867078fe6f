//! Records of things that happened, made up: what tests, fuzzers and benchmarks feed into the model.
//!
//! - [`Story`] tells a record event by event, so it can tell impossible ones too;
//! - [`Plan`] says what some tasks do, and [`Plan::run`] plays it on a kernel of its own with LUO's locks and rules, in any
//!   interleaving: what comes out is always legal;
//! - [`Flood`] is as long as one likes;
//! - [`image::Kernel`] is a kernel to jump into.

mod flood;
pub mod image;
mod kernel;
mod plan;
mod policy;
mod snapshot;
mod story;

pub use flood::Flood;
pub use kernel::{Left, Lists};
pub use plan::{Deed, Fault, Plan};
pub use snapshot::Snapshot;
pub use story::{IMAGE, MEMFD, Story, memfd, session};

use luo_trace_common::events::{HooksBlind, IMAGE_LEGACY, INCOMING};
use luo_trace_common::hooks::Hook;

use crate::event::decode::{Decoder, encode};
use crate::event::{Body, Event};
use crate::journal::{Clock, Header, HookState, Host, Kexec};

/// The header of the boot of this number in one machine's chain of live updates, with every hook attached: 0 is a cold boot. A minute lies
/// between two boots.
pub fn header(number: u64) -> Header {
    let watched = Hook::ALL.iter().map(|hook| HookState {
        id: hook.id().into(),
        attached: true,
        ..HookState::default()
    });
    Header {
        boot_id: format!("boot-{number}"),
        kernel_release: "7.3.4".into(),
        host: Host {
            name: "host".into(),
            machine: Some("0123456789abcdef".into()),
            ..Host::default()
        },
        update_number: Some(number),
        kexec: (number > 0).then(|| Kexec {
            previous_release: Some("7.3.4".into()),
            count: Some(number),
        }),
        clock: Clock {
            realtime_ns: (1000 + 60 * number) * 1_000_000_000,
            ..Clock::default()
        },
        hooks: watched.collect(),
        ..Header::default()
    }
}

/// The record that is left when the events at the places for which `lost` says so are lost: each loss shows as a gap before
/// the next event that is left, or at the end.
pub fn with_losses(events: &[Event], lost: impl Fn(usize) -> bool) -> Vec<Event> {
    let mut decoder = Decoder::default();
    let mut losses = 0;
    let mut left = Vec::new();
    for (place, event) in events.iter().enumerate() {
        if lost(place) {
            losses += 1;
            continue;
        }
        let mut event = event.clone();
        event.header.lost = losses;
        let (gap, decoded) = decoder.decode(&encode(&event));
        left.extend(gap);
        left.extend(decoded.ok());
    }
    if let Some(last) = events.last() {
        left.extend(decoder.lost_is_now(losses, last.header));
    }
    left
}

/// The record that is left when the same are missing and no record tells so: in batches of these sizes, over and over, each
/// loss shows as a gap before its batch, with the time at which the batch was taken.
pub fn with_misses(events: &[Event], sizes: &[usize], lost: impl Fn(usize) -> bool) -> Vec<Event> {
    let mut left = Vec::new();
    let mut start = 0;
    for size in sizes.iter().cycle() {
        let batch = start..(start + size.max(&1)).min(events.len());
        let Some(last) = events[batch.clone()].iter().max_by_key(|event| event.header.ktime) else {
            break;
        };
        let missed = batch.clone().filter(|&place| lost(place)).count();
        if missed > 0 {
            left.push(Event {
                header: last.header,
                body: Body::Gap { lost: missed as u64 },
            });
        }
        start = batch.end;
        left.extend(batch.filter(|&place| !lost(place)).map(|place| events[place].clone()));
    }
    left
}

/// The record that is left when these hooks see nothing while the batches from the first to before the second of `during` come, and
/// the agent learns of each change with the batch in which it happens: as it tells that before what may be missing, and after.
pub fn with_blindness(events: &[Event], hooks: &[Hook], sizes: &[usize], during: std::ops::Range<usize>) -> Vec<Event> {
    let bits = HooksBlind::bits(hooks.iter().copied());
    let tell = |hooks: u64, at: &Event| Event {
        header: at.header,
        body: Body::HooksBlind(HooksBlind {
            hooks,
            ..HooksBlind::default()
        }),
    };
    let mut left = Vec::new();
    let mut start = 0;
    for (number, size) in sizes.iter().cycle().enumerate() {
        let batch = &events[start..(start + size.max(&1)).min(events.len())];
        let Some(last) = batch.iter().max_by_key(|event| event.header.ktime) else {
            break;
        };
        start += batch.len();
        let is_blind = during.contains(&number);
        if number == during.start && is_blind {
            left.push(tell(bits, last));
        }
        let seen = |event: &&Event| !is_blind || hook_of(&event.body).is_none_or(|hook| !hooks.contains(&hook));
        left.extend(batch.iter().filter(seen).cloned());
        if number + 1 == during.end && is_blind {
            left.push(tell(0, last));
        }
    }
    left
}

/// The hook that tells this; `None` of what is told by no hook.
pub fn hook_of(body: &Body) -> Option<Hook> {
    Some(match body {
        Body::SessionCreate(_) => Hook::SessionCreate,
        Body::SessionRetrieve(_) => Hook::SessionRetrieve,
        Body::SessionRelease(_) => Hook::SessionRelease,
        Body::SessionDeserialize(_) => Hook::SessionDeserialize,
        Body::SessionSerialize(_) => Hook::SessionSerialize,
        Body::DeviceOpen(_) => Hook::DeviceOpen,
        Body::DeviceRelease(_) => Hook::DeviceRelease,
        Body::FilePreserve(_) => Hook::FilePreserve,
        Body::FileRetrieve(_) => Hook::FileRetrieve,
        Body::FilesUnpreserve(_) => Hook::FilesUnpreserve,
        Body::FilesFinish(_) => Hook::FilesFinish,
        Body::FilesFreeze(_) => Hook::FilesFreeze,
        Body::FilesUnfreeze(_) => Hook::FilesUnfreeze,
        Body::FilesDeserialize(_) => Hook::FilesDeserialize,
        Body::FileCallback(..) => Hook::FileCallback,
        Body::FlbPreserve(_) => Hook::FlbPreserve,
        Body::FlbUnpreserve(_) => Hook::FlbUnpreserve,
        Body::FlbFinish(_) => Hook::FlbFinish,
        Body::FlbSerialize(_) | Body::FlbRecord(_) => Hook::FlbSerialize,
        Body::FlbCallback(..) => Hook::FlbCallback,
        Body::FlbGet(p) if p.direction == INCOMING => Hook::FlbGetIncoming,
        Body::FlbGet(_) => Hook::FlbGetOutgoing,
        Body::FlbPut(p) if p.direction == INCOMING => Hook::FlbPutIncoming,
        Body::FlbPut(_) => Hook::FlbPutOutgoing,
        Body::KexecEnter(_) | Body::KexecReturn(_) => Hook::Kexec,
        Body::LiveupdateReboot(_) => Hook::LiveupdateReboot,
        Body::ImageLoad(p) if p.image.mode == IMAGE_LEGACY => Hook::ImageLoadLegacy,
        Body::ImageLoad(_) => Hook::ImageLoadFile,
        Body::ImageCarrier(_) => Hook::ImageCarrier,
        Body::ImageFile(_) => Hook::ImageFile,
        Body::KhoBalance(_) | Body::KhoAnomaly(_) => Hook::KhoKeyAdd,
        Body::KhoOp(call, _) => return Hook::ALL.iter().copied().find(|hook| hook.id() == call.name()),
        _ => return None,
    })
}

/// The record with one event changed, or left out without a trace.
pub fn with_change(events: &[Event], place: usize, change: impl FnOnce(&mut Body) -> bool) -> Vec<Event> {
    let mut events = events.to_vec();
    if let Some(event) = events.get_mut(place)
        && !change(&mut event.body)
    {
        events.remove(place);
    }
    events
}

/// How random schedules and other made-up input are tried, this many. A failure is printed and not written down: the plan is short
/// enough to copy into a test. The same ones in every run, so that a failure is owed to the change at hand. `PROPTEST_RNG_SEED=NUMBER` looks at
/// others.
#[cfg(test)]
pub fn cases(cases: u32) -> proptest::test_runner::Config {
    use proptest::test_runner::{Config, RngSeed};

    let config = Config::default();
    let rng_seed = match config.rng_seed {
        RngSeed::Random => RngSeed::Fixed(7),
        given => given,
    };
    Config {
        cases,
        failure_persistence: None,
        rng_seed,
        ..config
    }
}
