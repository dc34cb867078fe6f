//! What LUO's lists hold now: the walks of the program `snapshot`, which needs no hook.

use std::cell::RefCell;

use anyhow::{Context, Result, anyhow, bail};
use aya::maps::{MapData, RingBuf};
use aya::programs::RawTracePoint;
use aya::{Ebpf, EbpfLoader};
use luo_trace_common::events::SNAPSHOT_CHANGED;
use luo_trace_common::snapshot::BELIEVE;
use luo_trace_common::variables::Variable;

use super::drive::{drive, repeat};
use super::handover::Handover;
use super::index;
use super::kallsyms::{self, Symbols};
use super::preflight::Types;
use super::signals::HeldSignals;
use super::verifier::explain;
use crate::event::decode::Decoder;
use crate::event::{Body, Event};
use crate::journal::Header;

const PROGRAM: &str = "snapshot";
/// The ring of a snapshot that is taken once, in bytes.
const ONCE_RING: u32 = 256 << 10;

/// Walks over LUO's lists with a loaded program.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    walks: u64,
}

impl Snapshots {
    /// Loads the program.
    ///
    /// # Errors
    /// Where the kernel refuses it, or does not tell where the lists are.
    pub(super) fn load(ebpf: &mut Ebpf, symbols: &Symbols) -> Result<Self> {
        let sessions = Variable::Sessions.symbol();
        if symbols.address(sessions).is_none() {
            bail!(match symbols.has(sessions) {
                true =>
                    "the kernel hides where its variables are: give this process CAP_SYSLOG, and set kernel.kptr_restrict to 0 or 1"
                        .to_owned(),
                false => format!("the kernel does not tell where {sessions} is: it needs CONFIG_KALLSYMS_ALL=y"),
            });
        }
        let program: &mut RawTracePoint = ebpf
            .program_mut(PROGRAM)
            .context("the binary lacks the program")?
            .try_into()?;
        program.load().map_err(explain)?;
        Ok(Self::default())
    }

    /// Walks until a walk was not disturbed and `settled` agrees, a few times at most. `drain` empties the ring, and
    /// gives whether to go on.
    pub(super) fn take(
        &mut self,
        ebpf: &Ebpf,
        mut drain: impl FnMut() -> bool,
        settled: impl FnMut() -> bool,
    ) -> Result<()> {
        let program: &RawTracePoint = ebpf.program(PROGRAM).context("the program is gone")?.try_into()?;
        repeat(|believe| self.walk(program, believe, &mut drain), settled)
    }

    /// Walks once; gives what the program told at the end, or nothing where the walk was given up.
    fn walk(
        &mut self,
        program: &RawTracePoint,
        believe: bool,
        drain: &mut impl FnMut() -> bool,
    ) -> Result<Option<u32>> {
        self.walks += 1;
        drive(program, self.walks, if believe { BELIEVE } else { 0 }, drain)
    }
}

/// Takes a snapshot of what there is, once, without hooking anything and without leaving anything behind: the records of what the
/// previous kernel left, which [`Body::Handover`] ends, and of one walk over LUO's lists, from [`Body::SnapshotBegin`] to
/// [`Body::SnapshotEnd`]. What the kernel says of itself goes into `header`, where it does.
///
/// Since no hook tells of changes, two walks must find the same; where none does, the last one is marked as changed.
///
/// # Errors
/// Where there is no LUO, no privilege, or the kernel hides its variables; [`super::preflight::obstacle`] tells the first two
/// better.
pub fn once(header: &mut Header) -> Result<Vec<Event>> {
    let _held = HeldSignals::hold();
    let offsets = Types::read().btf()?.offsets();
    let symbols = index::look_up(&kallsyms::variables()).context("cannot read the kernel's list of symbols")?;
    let mut ebpf = EbpfLoader::new()
        .btf(None)
        .override_global("FIELDS", &offsets[..], true)
        .override_global("VARIABLES", &symbols.variables()[..], true)
        .map_max_entries("EVENTS", ONCE_RING)
        // What belongs to tasks.
        .allow_unsupported_maps()
        .load(super::OBJECT)
        .context("the kernel refuses luo-trace's maps")?;
    let mut snapshots = Snapshots::load(&mut ebpf, &symbols).context("LUO's lists cannot be walked")?;
    let handover = Handover::load(&mut ebpf).context("what the previous kernel left cannot be read")?;
    let ring = ebpf.take_map("EVENTS").context("the binary lacks the ring buffer")?;
    let mut ring = RingBuf::<MapData>::try_from(ring)?;
    let mut decoder = Decoder::default();
    let walks = RefCell::new(LastTwo::default());
    let mut drain = || {
        while let Some(record) = ring.next() {
            // What this binary's own program sends can be decoded.
            if let (_, Ok(event)) = decoder.decode(&record) {
                walks.borrow_mut().take(event);
            }
        }
        true
    };
    if let Ok(facts) = super::facts::read(&mut ebpf) {
        super::facts::fill(&facts, header);
    }
    handover.take(&mut ebpf, &mut drain)?;
    snapshots.take(&ebpf, drain, || walks.borrow_mut().settled())?;
    walks.into_inner().events()
}

/// What the last two walks of a snapshot found.
#[derive(Default)]
struct LastTwo {
    /// What the previous kernel left, which comes before the first walk.
    arrived: Vec<Event>,
    now: Vec<Event>,
    before: Vec<Event>,
    alike: bool,
}

impl LastTwo {
    /// Takes a record. A walk's first one begins anew.
    fn take(&mut self, event: Event) {
        match event.body {
            Body::ArrivedSession(_) | Body::ArrivedFile(_) | Body::ArrivedFlb(_) | Body::Handover(_) => {
                return self.arrived.push(event);
            }
            Body::SnapshotBegin(_) => self.before = std::mem::take(&mut self.now),
            _ => {}
        }
        self.now.push(event);
    }

    /// Whether the last two walks found the same.
    fn settled(&mut self) -> bool {
        self.alike = found(&self.now).eq(found(&self.before));
        self.alike
    }

    fn events(mut self) -> Result<Vec<Event>> {
        let Some(Body::SnapshotEnd(end)) = self.now.last_mut().map(|event| &mut event.body) else {
            return Err(anyhow!("the walk over LUO's lists has no end"));
        };
        if !self.alike {
            end.flags |= SNAPSHOT_CHANGED;
        }
        self.arrived.append(&mut self.now);
        Ok(self.arrived)
    }
}

/// What a walk found, without its own beginning and end.
fn found(events: &[Event]) -> impl Iterator<Item = &Body> {
    let inner = events.len().checked_sub(1).and_then(|end| events.get(1..end));
    inner.into_iter().flatten().map(|event| &event.body)
}

#[cfg(test)]
mod tests {
    use luo_trace_common::events::{Header, SnapshotBegin, SnapshotEnd, SnapshotSession};
    use zerocopy::FromZeros;

    use super::*;

    /// The records of a snapshot whose walks found sessions with these numbers of files.
    fn once(walks: &[&[u64]]) -> Vec<Event> {
        let mut last_two = LastTwo::default();
        for (walk, sessions) in (1..).zip(walks) {
            let header = Header::new_zeroed();
            let mut take = |body| last_two.take(Event { header, body });
            take(Body::SnapshotBegin(SnapshotBegin {
                walk,
                ..SnapshotBegin::default()
            }));
            for &files in *sessions {
                take(Body::SnapshotSession(SnapshotSession {
                    files,
                    ..SnapshotSession::default()
                }));
            }
            take(Body::SnapshotEnd(SnapshotEnd {
                walk,
                ..SnapshotEnd::default()
            }));
            last_two.settled();
        }
        last_two.events().expect("the walk has an end")
    }

    fn flags(events: &[Event]) -> u32 {
        match events.last().map(|event| &event.body) {
            Some(Body::SnapshotEnd(end)) => end.flags,
            other => panic!("the last record is {other:?}"),
        }
    }

    #[test]
    fn a_snapshot_in_which_two_walks_found_the_same_is_whole() {
        let events = once(&[&[1, 2], &[3], &[3]]);
        assert_eq!(events.len(), 3);
        assert_eq!(flags(&events), 0);
    }

    #[test]
    fn a_snapshot_in_which_no_two_walks_found_the_same_has_changed() {
        assert_eq!(flags(&once(&[&[1, 2]])), SNAPSHOT_CHANGED);
        assert_eq!(flags(&once(&[&[1], &[1, 2], &[1]])), SNAPSHOT_CHANGED);
    }
}
