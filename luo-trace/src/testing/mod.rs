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
mod look;
mod plan;
mod story;

pub use flood::Flood;
pub use kernel::{Left, Lists};
pub use look::Look;
pub use plan::{Deed, Fault, Plan};
pub use story::{IMAGE, MEMFD, Story, memfd, session};

use luo_trace_common::hooks::Hook;

use crate::event::decode::{Decoder, encode};
use crate::event::{Body, Event};
use crate::journal::{Clock, Header, HookState, Kexec};

/// The header of the boot of this number in a chain of live updates, with every hook attached: 0 is a cold boot. A minute lies
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
/// others: some in a hundred thousand still give a false alarm or a missed one.
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
