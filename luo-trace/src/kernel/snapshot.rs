//! What LUO's lists hold now: the walks of the program `snapshot`, which needs no hook.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use aya::maps::{MapData, RingBuf};
use aya::programs::{RawTracePoint, RawTracePointRunOptions, TestRun};
use aya::{Ebpf, EbpfLoader};
use luo_trace_common::events::SNAPSHOT_CHANGED;
use luo_trace_common::snapshot::{ABANDON, BELIEVE, DIFFERS, FINISH, GO_ON, START, WALKED};
use luo_trace_common::variables::Variable;

use super::btf::Btf;
use super::kallsyms::{self, Symbols};
use super::preflight::VMLINUX_BTF;
use super::signals::HeldSignals;
use crate::decode::Decoder;
use crate::event::{Body, Event};

const PROGRAM: &str = "snapshot";
/// How often a walk is repeated that was disturbed.
const WALKS: u32 = 5;
/// How many walks must find the same before it is believed that the kernel counts wrong.
const BELIEVED: u32 = 3;
/// When a walk is given up. The longest ones, over some hundred thousand files, take a second.
const PATIENCE: Duration = Duration::from_secs(30);
/// The ring of a look, in bytes.
const LOOK_RING: u32 = 256 << 10;

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
        program.load().map_err(super::attach::explain)?;
        Ok(Self::default())
    }

    /// Walks until a walk was not disturbed and `settled` agrees, [`WALKS`] times at most. `drain` empties the ring, and
    /// gives whether to go on.
    pub(super) fn take(
        &mut self,
        ebpf: &Ebpf,
        mut drain: impl FnMut() -> bool,
        mut settled: impl FnMut() -> bool,
    ) -> Result<()> {
        let program: &RawTracePoint = ebpf.program(PROGRAM).context("the program is gone")?.try_into()?;
        let mut alike = 0;
        for _ in 0..WALKS {
            let believe = alike + 1 >= BELIEVED;
            let Some(result) = self.walk(program, believe, &mut drain)? else {
                return Ok(());
            };
            alike = if result & DIFFERS != 0 { alike + 1 } else { 0 };
            if settled() && result & SNAPSHOT_CHANGED == 0 {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Walks once; gives what the program told at the end, or nothing where the walk was given up.
    fn walk(
        &mut self,
        program: &RawTracePoint,
        believe: bool,
        drain: &mut impl FnMut() -> bool,
    ) -> Result<Option<u32>> {
        self.walks += 1;
        let deadline = Instant::now() + PATIENCE;
        let mut go_on = drain();
        let mut result = run(program, START, self.walks)?;
        loop {
            go_on &= drain();
            if result & WALKED != 0 || !go_on || Instant::now() > deadline {
                break;
            }
            result = run(program, GO_ON, 0)?;
        }
        let given_up = result & WALKED == 0;
        let how = match (given_up, believe) {
            (true, _) => ABANDON,
            (false, true) => BELIEVE,
            (false, false) => 0,
        };
        let result = run(program, FINISH, how)?;
        drain();
        Ok((!given_up).then_some(result))
    }
}

fn run(program: &RawTracePoint, what: u64, how: u64) -> Result<u32> {
    let mut options = RawTracePointRunOptions::new();
    options.args[0] = what;
    options.args[1] = how;
    let result = program
        .test_run(options)
        .context("the kernel does not run the program")?;
    Ok(result.return_value)
}

/// Looks at LUO's lists once, without hooking anything and without leaving anything behind: the records of one walk, from
/// [`Body::SnapshotBegin`] to [`Body::SnapshotEnd`].
///
/// Since no hook tells of changes, two walks must find the same; where none does, the last one is marked as changed.
///
/// # Errors
/// Where there is no LUO, no privilege, or the kernel hides its variables; [`super::preflight::obstacle`] tells the first two
/// better.
pub fn look() -> Result<Vec<Event>> {
    let _held = HeldSignals::hold();
    let btf = fs::read(VMLINUX_BTF).with_context(|| format!("cannot read {VMLINUX_BTF}"))?;
    let offsets = Btf::parse(&btf)?.offsets();
    drop(btf);
    let symbols = Symbols::find(&kallsyms::variables()).context("cannot read the kernel's list of symbols")?;
    let mut ebpf = EbpfLoader::new()
        .btf(None)
        .override_global("FIELDS", &offsets[..], true)
        .override_global("VARIABLES", &symbols.variables()[..], true)
        .map_max_entries("EVENTS", LOOK_RING)
        // Of the hooks that are not there.
        .map_max_entries("TASKS", 1)
        .load(super::OBJECT)
        .context("the kernel refuses luo-trace's maps")?;
    let mut snapshots = Snapshots::load(&mut ebpf, &symbols).context("LUO's lists cannot be walked")?;
    let ring = ebpf.take_map("EVENTS").context("the binary lacks the ring buffer")?;
    let records = std::cell::RefCell::new(Records::new(RingBuf::try_from(ring)?));
    snapshots.take(
        &ebpf,
        || records.borrow_mut().drain(),
        || records.borrow_mut().settled(),
    )?;
    records.into_inner().events()
}

/// The records of the walks of a look.
struct Records {
    ring: RingBuf<MapData>,
    decoder: Decoder,
    now: Vec<Event>,
    before: Vec<Event>,
    alike: bool,
}

impl Records {
    fn new(ring: RingBuf<MapData>) -> Self {
        Self {
            ring,
            decoder: Decoder::default(),
            now: Vec::new(),
            before: Vec::new(),
            alike: false,
        }
    }

    /// Takes what is in the ring. A walk's first record begins anew.
    fn drain(&mut self) -> bool {
        while let Some(record) = self.ring.next() {
            let (_, event) = self.decoder.decode(&record);
            let Ok(event) = event else { continue };
            if matches!(event.body, Body::SnapshotBegin(_)) {
                self.before = std::mem::take(&mut self.now);
            }
            self.now.push(event);
        }
        true
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
        Ok(self.now)
    }
}

/// What a walk found, without its own beginning and end.
fn found(events: &[Event]) -> impl Iterator<Item = &Body> {
    let inner = events.len().checked_sub(1).and_then(|end| events.get(1..end));
    inner.into_iter().flatten().map(|event| &event.body)
}
