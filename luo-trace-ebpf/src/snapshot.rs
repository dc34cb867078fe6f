//! What exists now, whenever it began: a walk over LUO's lists, on the agent's demand.
//!
//! The program takes no lock, so it believes nothing: each address is read with a helper that may fail, a link counts only
//! if the next one points back to it, and every list has a bound. Whatever speaks of a change while the walk went on makes
//! it one that changed, which the agent repeats. See `luo_trace_common::snapshot` for how it is driven.

use core::ffi::{c_long, c_void};

use aya_ebpf::btf_maps::Array;
use aya_ebpf::helpers::generated::bpf_loop;
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::RawTracePointContext;
use luo_trace_common::events::{
    INCOMING, Kind, OUTGOING, SNAPSHOT_CHANGED, SNAPSHOT_INCOMING_UNREAD, SNAPSHOT_INCOMPLETE, SnapshotBegin,
    SnapshotEnd, SnapshotFile, SnapshotFlb, SnapshotHandler, SnapshotLink, SnapshotSession,
};
use luo_trace_common::fields::Field;
use luo_trace_common::snapshot::{ABANDON, BELIEVE, DIFFERS, FINISH, START, WALKED};
use luo_trace_common::variables::Variable;

use crate::emit::{emit_from_walk, footprint, has_room, lost, position};
use crate::image::read_image;
use crate::kernel::{Address, is_known, read_object, read_session};
use crate::list::{End, List, Next};

/// How many steps a run takes at most: they are done with preemption off.
const STEPS: u32 = 256;
/// Readers of an `rwsem` are counted from this bit on, below the sign. Mirrors `RWSEM_READER_BIAS` in
/// `kernel/locking/rwsem.c` (7.3).
const READERS: u32 = 8;
/// What stands above the number of readers on PREEMPT_RT. Mirrors `READER_BIAS` and `WRITER_BIAS` in `include/linux/rwbase_rt.h`
/// (7.3).
const RT_BIASES: u32 = 3 << 30;

/// The lists in the order they are walked.
const HANDLERS: u64 = 0;
const FLBS: u64 = 1;
const SESSIONS_OUTGOING: u64 = 2;
const SESSIONS_INCOMING: u64 = 3;
const WALKED_ALL: u64 = SESSIONS_INCOMING + 1;

/// Where the walk is between two runs.
#[btf_map]
static CURSOR: Array<Cursor, 1> = Array::new();

/// See [`CURSOR`].
#[repr(C)]
struct Cursor {
    walk: u64,
    /// Which list.
    phase: u64,
    /// That list; its head is 0 before it is begun.
    outer: List,
    /// The list of what the element belongs to that was visited last; its head is 0 where there is none.
    inner: List,
    /// That element.
    owner: u64,
    flags: u32,
    /// Not 0: a count of the kernel differs from what was walked.
    differs: u32,
    /// Where the ring would be if only the walk wrote to it.
    position: u64,
    /// How many events were lost when it began.
    lost: u64,
    /// The kernel's counts of sessions when the walk came by; -1: not known.
    outgoing: i64,
    incoming: i64,
}

impl Cursor {
    /// Sends a record of what was found.
    #[inline(always)]
    fn send<P: 'static>(&mut self, kind: Kind, fill: impl FnOnce(&mut P)) {
        emit_from_walk(kind, fill);
        self.position += footprint::<P>();
    }

    /// Begins a walk.
    #[inline(always)]
    fn start(&mut self, walk: u64) {
        self.walk = walk;
        self.phase = HANDLERS;
        self.outer.head = 0;
        self.inner.head = 0;
        self.flags = 0;
        self.differs = 0;
        self.outgoing = -1;
        self.incoming = -1;
        self.lost = lost();
        self.position = position();
        self.send(Kind::SnapshotBegin, |event: &mut SnapshotBegin| {
            event.walk = walk;
            event.update_number = Address::of(Variable::Luo)
                .and_then(|luo| luo.read::<u64>(Field::LuoUpdateNumber))
                .unwrap_or(u64::MAX);
            read_image(&mut event.image);
        });
    }

    /// Begins the list of this phase; gives false where it cannot be walked.
    #[inline(always)]
    fn begin_phase(&mut self) -> bool {
        let begun = match self.phase {
            HANDLERS => {
                let linked = is_known(Field::HandlerList);
                self.outer
                    .begin(Address::of(Variable::Handlers).filter(|_| linked), None)
            }
            FLBS => {
                if !is_known(Field::FlbCompatible) {
                    // A kernel before 7.0, which has no FLBs.
                    return false;
                }
                let linked = is_known(Field::FlbList);
                let global = Address::of(Variable::Flbs).filter(|_| linked);
                self.outer
                    .begin(global.and_then(|global| global.member(Field::FlbGlobalList)), None)
            }
            SESSIONS_OUTGOING => {
                let begun = self.begin_sessions(Field::GlobalOutgoing);
                self.outgoing = if begun { self.outer.count } else { -1 };
                begun
            }
            _ => {
                if incoming_is_unread() {
                    self.flags |= SNAPSHOT_INCOMING_UNREAD;
                    return false;
                }
                let begun = self.begin_sessions(Field::GlobalIncoming);
                self.incoming = if begun { self.outer.count } else { -1 };
                begun
            }
        };
        if !begun {
            self.flags |= SNAPSHOT_INCOMPLETE;
        }
        begun
    }

    #[inline(always)]
    fn begin_sessions(&mut self, direction: Field) -> bool {
        let linked = is_known(Field::SessionList);
        let Some(header) = header(direction).filter(|_| linked) else {
            return false;
        };
        self.outer
            .begin(header.member(Field::HeaderList), header.member(Field::HeaderCount))
    }

    /// Takes one step; gives whether there is another.
    #[inline(always)]
    fn step(&mut self) -> bool {
        if self.inner.head != 0 {
            match self.inner.next() {
                Next::Element(link) if self.phase == HANDLERS => self.visit_link(link),
                Next::Element(link) => self.visit_file(link),
                Next::End => {
                    let end = self.inner.end();
                    self.judge(end);
                }
                Next::Broken => return self.give_up(),
            }
            return true;
        }
        if self.outer.head == 0 {
            if !self.begin_phase() {
                self.phase += 1;
            }
            return self.phase < WALKED_ALL;
        }
        match self.outer.next() {
            Next::Element(link) => match self.phase {
                HANDLERS => self.visit_handler(link),
                FLBS => self.visit_flb(link),
                SESSIONS_OUTGOING => self.visit_session(link, OUTGOING),
                _ => self.visit_session(link, INCOMING),
            },
            Next::End => {
                let end = self.outer.end();
                self.judge(end);
                self.phase += 1;
            }
            Next::Broken => return self.give_up(),
        }
        self.phase < WALKED_ALL
    }

    /// What a list's end says of the walk.
    #[inline(always)]
    fn judge(&mut self, end: End) {
        match end {
            End::AsCounted => {}
            End::Changed => self.flags |= SNAPSHOT_CHANGED,
            End::Differs => self.differs = 1,
        }
    }

    /// The lists are not whole: nothing that would come now could be trusted.
    #[inline(always)]
    fn give_up(&mut self) -> bool {
        self.flags |= SNAPSHOT_CHANGED;
        self.phase = WALKED_ALL;
        false
    }

    #[inline(always)]
    fn visit_handler(&mut self, link: Address) {
        let Some(handler) = link.container(Field::HandlerList) else {
            return;
        };
        self.send(Kind::SnapshotHandler, |event: &mut SnapshotHandler| {
            event.handler = handler.0;
            handler.read_name(Field::HandlerCompatible, &mut event.name);
        });
        self.owner = handler.0;
        if is_known(Field::FlbLinkList) {
            self.inner.begin(handler.member(Field::HandlerFlbs), None);
        }
    }

    #[inline(always)]
    fn visit_link(&mut self, link: Address) {
        let Some(flb) = link
            .container(Field::FlbLinkList)
            .and_then(|link| link.follow(Field::FlbLinkFlb))
        else {
            self.flags |= SNAPSHOT_INCOMPLETE;
            return;
        };
        let handler = self.owner;
        self.send(Kind::SnapshotLink, |event: &mut SnapshotLink| {
            event.handler = handler;
            event.flb = flb.0;
        });
    }

    #[inline(always)]
    fn visit_flb(&mut self, link: Address) {
        let Some(flb) = link.container(Field::FlbList) else {
            return;
        };
        self.send(Kind::SnapshotFlb, |event: &mut SnapshotFlb| {
            let users = |count: Field| flb.read::<i32>(count).map_or(-1, i64::from);
            event.flb = flb.0;
            flb.read_name(Field::FlbCompatible, &mut event.name);
            event.outgoing_users = users(Field::FlbOutgoingCount);
            event.incoming_users = users(Field::FlbIncomingCount);
            event.outgoing_data = flb.read(Field::FlbOutgoingData).unwrap_or(0);
            event.incoming_data = flb.read(Field::FlbIncomingData).unwrap_or(0);
            event.retrieve_status = flb.read::<i32>(Field::FlbIncomingStatus).map_or(0, i64::from);
            event.finished = flb.read::<u8>(Field::FlbIncomingFinished).map_or(0, u64::from);
        });
    }

    #[inline(always)]
    fn visit_session(&mut self, link: Address, direction: u32) {
        let Some(session) = link.container(Field::SessionList) else {
            return;
        };
        let set = session.member(Field::SessionFileSet);
        let list = set.and_then(|set| set.member(Field::FileSetList));
        let counter = set.and_then(|set| set.member(Field::FileSetCount));
        self.owner = session.0;
        if !is_known(Field::LuoFileList) || !self.inner.begin(list, counter) {
            self.flags |= SNAPSHOT_INCOMPLETE;
            self.inner.count = 0;
        }
        let files = self.inner.count;
        self.send(Kind::SnapshotSession, |event: &mut SnapshotSession| {
            read_session(session, &mut event.session);
            event.direction = direction;
            if direction == INCOMING {
                event.retrieved = session.read::<u8>(Field::SessionRetrieved).map_or(0, u32::from);
            }
            event.files = files as u64;
        });
    }

    #[inline(always)]
    fn visit_file(&mut self, link: Address) {
        let Some(luo_file) = link.container(Field::LuoFileList) else {
            return;
        };
        let session = self.owner;
        self.send(Kind::SnapshotFile, |event: &mut SnapshotFile| {
            event.session = session;
            event.token = luo_file.read(Field::LuoFileToken).unwrap_or(0);
            event.data = luo_file.read(Field::LuoFileData).unwrap_or(0);
            event.retrieve_status = match luo_file.read::<i32>(Field::LuoFileRetrieveStatus) {
                Some(status) => i64::from(status),
                None => luo_file.read::<u8>(Field::LuoFileRetrieved).map_or(0, i64::from),
            };
            let handler = luo_file.follow(Field::LuoFileHandler);
            let mut get_id = None;
            if let Some(handler) = handler {
                handler.read_name(Field::HandlerCompatible, &mut event.handler);
                get_id = handler
                    .follow(Field::HandlerOps)
                    .and_then(|ops| ops.follow(Field::FileOpsGetId));
            }
            if let Some(file) = luo_file.follow(Field::LuoFileFile) {
                read_object(file, get_id.is_some(), &mut event.object);
            }
        });
    }

    /// Ends the walk; gives what the agent is told.
    #[inline(always)]
    fn finish(&mut self, how: u64) -> u32 {
        // First who is at it, then what was told: whoever has left by now has told before.
        let disturbed = how & ABANDON != 0
            || self.phase < WALKED_ALL
            || lists_are_in_use() != Some(false)
            || position() != self.position
            || lost() != self.lost
            || (self.outgoing != -1 && count(Field::GlobalOutgoing) != self.outgoing)
            || (self.incoming != -1 && count(Field::GlobalIncoming) != self.incoming);
        if disturbed {
            self.flags |= SNAPSHOT_CHANGED;
        }
        let differs = self.differs != 0 && self.flags & SNAPSHOT_CHANGED == 0;
        if differs && how & BELIEVE == 0 {
            self.flags |= SNAPSHOT_CHANGED;
        }
        let (walk, flags) = (self.walk, self.flags);
        let (outgoing, incoming) = (self.outgoing, self.incoming);
        self.send(Kind::SnapshotEnd, |event: &mut SnapshotEnd| {
            event.walk = walk;
            event.flags = flags;
            event.outgoing_sessions = outgoing;
            event.incoming_sessions = incoming;
        });
        flags | if differs { DIFFERS } else { 0 }
    }
}

/// The `struct luo_session_header` of a direction.
#[inline(always)]
pub fn header(direction: Field) -> Option<Address> {
    Address::of(Variable::Sessions).and_then(|global| global.member(direction))
}

/// The kernel's count of sessions; -1: not known.
#[inline(always)]
pub fn count(direction: Field) -> i64 {
    header(direction)
        .and_then(|header| header.read::<i64>(Field::HeaderCount))
        .unwrap_or(-1)
}

/// Whether the previous kernel sent sessions.
#[inline(always)]
pub fn incoming_is_active() -> bool {
    let active = header(Field::GlobalIncoming).and_then(|header| header.read::<u8>(Field::HeaderActive));
    active.is_some_and(|active| active != 0)
}

/// Whether the previous kernel sent sessions that no process has read in. They are read in at the first open of the device, which
/// leaves `active` as it is and takes the blocks down.
#[inline(always)]
pub fn incoming_is_unread() -> bool {
    let Some(header) = header(Field::GlobalIncoming).filter(|_| incoming_is_active()) else {
        return false;
    };
    match header.read::<u64>(Field::HeaderBlocks) {
        Some(blocks) => blocks != 0,
        // Before 7.2 nothing tells an empty list from one that was not read in.
        None => header
            .member(Field::HeaderList)
            .is_none_or(|list| list.follow(Field::ListNext) == Some(list)),
    }
}

/// Whether a process is changing sessions or files now; `None`: not known. LUO's operations hold this semaphore for reading; its
/// writer is `luo_session_serialize`, which keeps it for good and changes no list.
#[inline(always)]
fn lists_are_in_use() -> Option<bool> {
    let lock = Address::of(Variable::SessionsInUse)?;
    match lock.read::<u64>(Field::SemaphoreCount) {
        Some(holders) => Some(holders << 1 >> 1 >> READERS != 0),
        None => Some(lock.read::<u32>(Field::SemaphoreReaders)? & !RT_BIASES != 0),
    }
}

/// Runs a part of a walk. It is attached to nothing: the agent runs it by `BPF_PROG_TEST_RUN`.
// Written out, because `#[raw_tracepoint]` drops the result.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp")]
pub fn snapshot(ctx: *mut c_void) -> u32 {
    let ctx = RawTracePointContext::new(ctx);
    let (what, how) = (ctx.arg::<u64>(0), ctx.arg::<u64>(1));
    let Some(cursor) = cursor() else { return WALKED };
    match what {
        FINISH => return cursor.finish(how),
        START => cursor.start(how),
        _ => {}
    }
    // SAFETY: the callback has the signature that the helper calls, and takes no context.
    unsafe { bpf_loop(STEPS, step as *mut c_void, core::ptr::null_mut(), 0) };
    match cursor.phase {
        WALKED_ALL.. => WALKED,
        _ => 0,
    }
}

#[inline(never)]
extern "C" fn step(_index: u32, _ctx: *mut c_void) -> c_long {
    let Some(cursor) = cursor() else { return 1 };
    // The hooks' events come first: a walk can wait until the ring is emptied.
    c_long::from(!has_room() || !cursor.step())
}

#[inline(always)]
fn cursor() -> Option<&'static mut Cursor> {
    // SAFETY: the map's only slot; the agent runs this program once at a time.
    CURSOR.get_ptr_mut(0).map(|cursor| unsafe { &mut *cursor })
}
