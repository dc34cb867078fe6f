//! A record of any length: sessions that stay, and others that come and go for ever.

use luo_trace_common::hooks::Hook;

use super::plan::{Deed, Fault, Plan};
use super::story::{Story, memfd, session};
use crate::event::{Body, Event};
use crate::journal::{Header, HookState};

/// Sessions that stay, and the files in each.
const STAYING: (u64, u64) = (100, 20);
/// How many different pieces the record is made of, over and over.
const PIECES: u8 = 32;
/// How often each of a piece's three tasks makes a session and gives it up.
const ROUNDS: u8 = 8;
/// Time between two pieces, in nanoseconds.
const PAUSE: u64 = 1_000_000;

/// Events of a legal record without an end, in little memory: each piece of it is played once on the made-up kernel, begins
/// and ends with nothing of its own, and comes again and again at later times.
#[derive(Debug)]
pub struct Flood {
    pieces: Vec<Vec<Event>>,
    piece: usize,
    place: usize,
    /// What is added to the piece's times.
    later: u64,
    newest: u64,
    sequence: [u64; 2],
}

impl Flood {
    /// A record from its beginning.
    pub fn new() -> Self {
        let pieces = std::iter::once(staying()).chain((0..PIECES).map(piece)).collect();
        Self {
            pieces,
            piece: 0,
            place: 0,
            later: 0,
            newest: 0,
            sequence: [0; 2],
        }
    }

    /// What a journal of it begins with: every hook was attached.
    pub fn header() -> Header {
        let attached = |hook: &Hook| HookState {
            id: hook.id().into(),
            attached: true,
            ..HookState::default()
        };
        Header {
            boot_id: "made-up".into(),
            hooks: Hook::ALL.iter().map(attached).collect(),
            ..Header::default()
        }
    }
}

impl Default for Flood {
    fn default() -> Self {
        Self::new()
    }
}

impl Iterator for Flood {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        if self.place == self.pieces[self.piece].len() {
            // The first piece, of what stays, does not come again.
            self.piece = self.piece % (self.pieces.len() - 1) + 1;
            self.place = 0;
            let first = self.pieces[self.piece].iter().map(|event| event.header.ktime).min()?;
            self.later = (self.newest + PAUSE).saturating_sub(first);
        }
        let mut event = self.pieces[self.piece][self.place].clone();
        self.place += 1;
        let sequence = &mut self.sequence[event.header.cpu as usize % 2];
        *sequence += 1;
        event.header.seq = *sequence;
        event.header.ktime += self.later;
        self.newest = self.newest.max(event.header.ktime);
        Some(event)
    }
}

fn staying() -> Vec<Event> {
    let mut story = Story::new();
    let (sessions, files) = STAYING;
    for number in 1..=sessions {
        // Far from the made-up kernel's.
        let stays = session(0x10_0000 + number, &format!("stays-{number}"));
        story.create(stays);
        for token in 0..files {
            story.preserve(stays, token, memfd(0x1000 + number * files + token));
        }
    }
    story.events
}

/// Three tasks that make sessions, preserve files into each other's, with a failure here and there, and close them.
fn piece(number: u8) -> Vec<Event> {
    let faults = [Fault::None, Fault::None, Fault::Handler, Fault::Flb(number % 2)];
    let task = |task: u8| {
        let round = |round: u8| {
            let preserve = move |token: u8| Deed::Preserve {
                session: task,
                token,
                file: task + 3 * (token % 2),
                fault: faults[usize::from(token + round + number) % 8 % faults.len()],
            };
            let create = [Deed::Create { name: task }];
            create
                .into_iter()
                .chain((0..4).map(preserve))
                .chain([Deed::Close { session: task }])
        };
        // What is left of others' is closed by the last task.
        let rest = std::iter::repeat_n(Deed::Close { session: 0 }, 4);
        (0..ROUNDS).flat_map(round).chain(rest).collect()
    };
    let plan = Plan {
        tasks: (0..3).map(task).collect(),
        order: (1..60)
            .map(|turn: u8| turn.wrapping_mul(number.wrapping_mul(2) | 1).rotate_left(3))
            .collect(),
        ..Plan::default()
    };
    let mut events = plan.run();
    events.retain(|event| !matches!(event.body, Body::ImageLoad(_) | Body::ImageCarrier(_)));
    events
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Coverage, Model, Status};

    #[test]
    fn a_flood_is_legal_and_leaves_only_what_stays() {
        // Given every piece, and the first ones once more,
        let flood = Flood::new();
        let all: usize = flood.pieces.iter().map(Vec::len).sum();
        let again: usize = flood.pieces[1..4].iter().map(Vec::len).sum();
        let mut model = Model::new(&Coverage::all());
        let mut last = 0;
        for event in flood.take(all + again) {
            last = event.header.ktime.max(last);
            // then nothing is found,
            assert_eq!(model.apply(&event), &[]);
        }
        assert_eq!(model.finish(), &[]);
        assert!(model.verdicts().iter().all(|verdict| verdict.status == Status::Ok));
        // and nothing is alive but what stays.
        assert_eq!(model.counts().outgoing_sessions, STAYING.0);
        assert_eq!(
            model.counts().files().map(|count| count.files).sum::<u64>(),
            STAYING.0 * STAYING.1
        );
    }
}
