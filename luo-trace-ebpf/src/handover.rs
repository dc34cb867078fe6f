//! What the previous kernel left for LUO, as it lies in memory until a process opens the device: a walk on the agent's demand.
//!
//! LUO keeps sessions in blocks, each a header and records behind it, that a list of its own leads to; the blocks of a
//! session's files are linked by physical addresses (`kernel/liveupdate/kho_block.c`, 7.2 and 7.3). How far physical addresses
//! lie from those that can be read is the same for all memory, and a block of sessions has both.
//!
//! The program takes no lock and believes nothing: each address is read with a helper that may fail, and every count has a
//! bound. The first open of the device gives the memory back, block by block, so the walk is believed only if at its end
//! none of it had been.

use core::ffi::{c_long, c_void};

use aya_ebpf::btf_maps::Array;
use aya_ebpf::helpers::generated::bpf_loop;
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::RawTracePointContext;
use luo_trace_common::events::{
    ArrivedFile, ArrivedSession, FlbRecord, HANDOVER_NOTHING, HANDOVER_TOO_LATE, HANDOVER_WHOLE, Handover, Kind,
};
use luo_trace_common::fields::Field;
use luo_trace_common::snapshot::{ABANDON, FINISH, START, WALKED};
use luo_trace_common::text::SessionName;
use luo_trace_common::variables::Variable;

use crate::emit::{emit_from_walk, has_room, lost};
use crate::kernel::{Address, is_known, page_shift, size};
use crate::list::{End, List, Next};
use crate::snapshot::{count, header, incoming_is_active, incoming_is_unread};

/// How many steps a run takes at most: they are done with preemption off.
const STEPS: u32 = 256;
/// How many records are sent at most: what lies in memory that is damaged may never end.
const MOST: u64 = 1 << 20;

/// What is walked, in this order.
const SESSIONS: u64 = 0;
const FLBS: u64 = 1;
const WALKED_ALL: u64 = 2;

/// Where the walk is between two runs.
#[btf_map]
static COURSE: Array<Course, 1> = Array::new();

/// See [`COURSE`].
#[repr(C)]
struct Course {
    phase: u64,
    /// The blocks of sessions.
    blocks: List,
    /// The sessions of the block that was visited last.
    sessions: Run,
    /// The session that was visited last.
    session: SessionName,
    /// Physical address of the next block of its files; 0: there is none.
    next: u64,
    /// How many of its files are not visited yet.
    left: u64,
    /// The files of the block that was visited last.
    files: Run,
    flbs: Run,
    /// Physical address of the first block of sessions, when the walk began.
    first: u64,
    /// How far away from its physical address memory can be read.
    distance: u64,
    /// How many of what were sent.
    sent_sessions: u64,
    sent_files: u64,
    sent_flbs: u64,
    /// How many events were lost when it began.
    lost: u64,
    /// Not 0: something is not as it should be, and not everything was read.
    broken: u32,
    /// [`HANDOVER_TOO_LATE`] where there is nothing left to walk.
    flags: u32,
}

/// Records that lie one behind the other.
#[repr(C)]
struct Run {
    /// Address of the next.
    next: u64,
    /// How many are left.
    left: u64,
}

impl Run {
    /// Takes the next record, if there is one.
    #[inline(always)]
    fn take(&mut self, whole: Field) -> Option<Address> {
        let record = self.next;
        self.left = self.left.checked_sub(1)?;
        self.next = record.wrapping_add(size(whole)?);
        Some(Address(record))
    }

    /// Begins with the records of a block, each as large as this; gives false where they cannot be right.
    #[inline(always)]
    fn begin(&mut self, block: Address, whole: Field) -> bool {
        let (Some(header), Some(each), Some(count)) = (
            size(Field::BlockHeader),
            size(whole),
            block.read::<u64>(Field::BlockCount),
        ) else {
            return false;
        };
        let room = (1u64 << page_shift()).saturating_sub(header);
        if count == 0 || count > room / each {
            return false;
        }
        self.next = block.0.wrapping_add(header);
        self.left = count;
        true
    }
}

impl Course {
    #[inline(always)]
    fn start(&mut self) {
        self.phase = WALKED_ALL;
        self.sessions.left = 0;
        self.files.left = 0;
        self.flbs.left = 0;
        self.next = 0;
        self.left = 0;
        self.first = 0;
        self.sent_sessions = 0;
        self.sent_files = 0;
        self.sent_flbs = 0;
        self.broken = 0;
        self.flags = 0;
        self.lost = lost();
        if !incoming_is_active() {
            self.begin_flbs();
        } else if incoming_is_unread() {
            self.begin_sessions();
        } else {
            self.flags = HANDOVER_TOO_LATE;
        }
    }

    #[inline(always)]
    fn begin_sessions(&mut self) {
        let linked = is_known(Field::BlockList);
        let incoming = header(Field::GlobalIncoming).filter(|_| linked);
        self.first = first_block().unwrap_or(0);
        let blocks = incoming.and_then(|incoming| incoming.member(Field::HeaderBlockList));
        let counter = incoming.and_then(|incoming| incoming.member(Field::HeaderBlockCount));
        if self.first == 0 || !self.blocks.begin(blocks, counter) {
            // Before 7.2 there were arrays.
            return self.give_up();
        }
        self.phase = SESSIONS;
    }

    #[inline(always)]
    fn begin_flbs(&mut self) {
        self.phase = WALKED_ALL;
        if !is_known(Field::FlbCompatible) {
            // A kernel before 7.0, which has no FLBs.
            return;
        }
        let Some(flbs) = Address::of(Variable::Flbs).filter(|_| is_known(Field::FlbArrivedHeader)) else {
            return self.give_up();
        };
        let Some(header) = flbs.follow(Field::FlbArrivedHeader) else {
            return;
        };
        let count = header.read::<u64>(Field::FlbHeaderCount);
        let (Some(count), Some(each)) = (count, size(Field::FlbRecord)) else {
            return self.give_up();
        };
        let Some(first) = flbs
            .follow(Field::FlbArrivedRecords)
            .filter(|_| count <= (1 << page_shift()) / each)
        else {
            return self.give_up();
        };
        self.flbs.next = first.0;
        self.flbs.left = count;
        self.phase = FLBS;
    }

    /// Nothing that would come now could be trusted.
    #[inline(always)]
    fn give_up(&mut self) {
        self.broken = 1;
        self.phase = WALKED_ALL;
    }

    /// Takes one step; gives whether there is another.
    #[inline(always)]
    fn step(&mut self) -> bool {
        if self.sent_sessions + self.sent_files > MOST {
            self.give_up();
        }
        match self.phase {
            SESSIONS => self.step_sessions(),
            FLBS => self.visit_flb(),
            _ => {}
        }
        self.phase < WALKED_ALL
    }

    #[inline(always)]
    fn step_sessions(&mut self) {
        if let Some(file) = self.files.take(Field::FileRecord) {
            self.visit_file(file);
        } else if self.next != 0 {
            self.begin_files();
        } else if self.left != 0 {
            // The previous kernel counts more of the session's files than it wrote.
            self.broken = 1;
            self.left = 0;
        } else if let Some(session) = self.sessions.take(Field::SessionRecord) {
            self.visit_session(session);
        } else {
            self.next_block();
        }
    }

    /// Goes on to the next block of sessions.
    #[inline(always)]
    fn next_block(&mut self) {
        match self.blocks.next() {
            Next::Element(link) => {
                let block = link.container(Field::BlockList);
                let Some(block) = block.and_then(|block| block.follow(Field::BlockAddress)) else {
                    return self.give_up();
                };
                if self.sent_sessions == 0 {
                    self.distance = block.0.wrapping_sub(self.first);
                }
                if !self.sessions.begin(block, Field::SessionRecord) {
                    self.give_up();
                }
            }
            Next::End => match self.blocks.end() {
                End::AsCounted => self.begin_flbs(),
                End::Changed | End::Differs => self.give_up(),
            },
            Next::Broken => self.give_up(),
        }
    }

    /// Goes on to the next block of a session's files.
    #[inline(always)]
    fn begin_files(&mut self) {
        let block = Address(self.next.wrapping_add(self.distance));
        let aligned = self.next & ((1 << page_shift()) - 1) == 0;
        let Some(next) = block.read::<u64>(Field::BlockNext).filter(|_| aligned) else {
            return self.give_up();
        };
        // A block has at least one file, so blocks that lead back to each other come to an end here.
        if !self.files.begin(block, Field::FileRecord) || self.files.left > self.left {
            return self.give_up();
        }
        self.left -= self.files.left;
        self.next = next;
    }

    #[inline(always)]
    fn visit_session(&mut self, record: Address) {
        record.read_name(Field::SessionRecordName, &mut self.session);
        let (Some(files), Some(next)) = (
            record.read::<u64>(Field::SessionRecordCount),
            record.read::<u64>(Field::SessionRecordFiles),
        ) else {
            return self.give_up();
        };
        self.left = files;
        self.next = next;
        self.sent_sessions += 1;
        let name = &self.session;
        emit_from_walk(Kind::ArrivedSession, |event: &mut ArrivedSession| {
            event.name = *name;
            event.files = files;
        });
    }

    #[inline(always)]
    fn visit_file(&mut self, record: Address) {
        let (Some(token), Some(data)) = (
            record.read::<u64>(Field::FileRecordToken),
            record.read::<u64>(Field::FileRecordData),
        ) else {
            return self.give_up();
        };
        self.sent_files += 1;
        let session = &self.session;
        emit_from_walk(Kind::ArrivedFile, |event: &mut ArrivedFile| {
            event.session = *session;
            event.token = token;
            event.data = data;
            record.read_name(Field::FileRecordHandler, &mut event.handler);
        });
    }

    #[inline(always)]
    fn visit_flb(&mut self) {
        let Some(record) = self.flbs.take(Field::FlbRecord) else {
            self.phase = WALKED_ALL;
            return;
        };
        let (Some(data), Some(users)) = (
            record.read::<u64>(Field::FlbRecordData),
            record.read::<u64>(Field::FlbRecordCount),
        ) else {
            return self.give_up();
        };
        self.sent_flbs += 1;
        emit_from_walk(Kind::ArrivedFlb, |event: &mut FlbRecord| {
            record.read_name(Field::FlbRecordName, &mut event.name);
            event.data = data;
            event.users = users;
        });
    }

    /// Ends the walk.
    #[inline(always)]
    fn finish(&self, how: u64) {
        let disturbed = how & ABANDON != 0 || self.phase < WALKED_ALL || self.broken != 0 || lost() != self.lost;
        let whole = self.flags == 0 && !disturbed && self.is_still_there();
        let flags = self.flags | if whole { HANDOVER_WHOLE } else { 0 };
        emit_from_walk(Kind::Handover, |event: &mut Handover| {
            event.update_number = update_number().unwrap_or(u64::MAX);
            event.sessions = self.sent_sessions;
            event.files = self.sent_files;
            event.flbs = self.sent_flbs;
            event.flags = flags;
        });
    }

    /// Whether none of the memory that was walked has been given back. `luo_session_deserialize` counts a session before it
    /// gives back the blocks of its files, and none of them goes again before the blocks of sessions are given back.
    #[inline(always)]
    fn is_still_there(&self) -> bool {
        self.first == 0 || (first_block() == Some(self.first) && count(Field::GlobalIncoming) == 0)
    }
}

/// Physical address of the first block of sessions that are not read in.
#[inline(always)]
fn first_block() -> Option<u64> {
    header(Field::GlobalIncoming).and_then(|incoming| incoming.read::<u64>(Field::HeaderBlocks))
}

/// LUO's number of this boot, where it is known.
#[inline(always)]
fn update_number() -> Option<u64> {
    Address::of(Variable::Luo).and_then(|luo| luo.read::<u64>(Field::LuoUpdateNumber))
}

/// Whether the previous kernel left nothing, which stays so. An update without a session is no less one.
#[inline(always)]
fn is_nothing() -> bool {
    !incoming_is_active() && update_number().unwrap_or(0) == 0
}

/// What is run instead of [`handover`] where there was no live update: the verifier takes long over a whole walk. It says that it has
/// walked where there is nothing to walk, and tells so at the end.
// Written out, like `snapshot`.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp")]
pub fn no_handover(ctx: *mut c_void) -> u32 {
    if RawTracePointContext::new(ctx).arg::<u64>(0) != FINISH {
        return if is_nothing() { WALKED } else { 0 };
    }
    emit_from_walk(Kind::Handover, |event: &mut Handover| {
        event.update_number = update_number().unwrap_or(u64::MAX);
        event.flags = HANDOVER_NOTHING;
    });
    0
}

/// Runs a part of the walk. It is attached to nothing: the agent runs it by `BPF_PROG_TEST_RUN`.
// Written out, like `snapshot`.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp")]
pub fn handover(ctx: *mut c_void) -> u32 {
    let ctx = RawTracePointContext::new(ctx);
    let (what, how) = (ctx.arg::<u64>(0), ctx.arg::<u64>(1));
    let Some(course) = course() else { return WALKED };
    match what {
        FINISH => {
            course.finish(how);
            return 0;
        }
        START => course.start(),
        _ => {}
    }
    // SAFETY: the callback has the signature that the helper calls, and takes no context.
    unsafe { bpf_loop(STEPS, step as *mut c_void, core::ptr::null_mut(), 0) };
    match course.phase {
        WALKED_ALL.. => WALKED,
        _ => 0,
    }
}

#[inline(never)]
extern "C" fn step(_index: u32, _ctx: *mut c_void) -> c_long {
    let Some(course) = course() else { return 1 };
    // The hooks' events come first: a walk can wait until the ring is emptied.
    c_long::from(!has_room() || !course.step())
}

#[inline(always)]
fn course() -> Option<&'static mut Course> {
    // SAFETY: the map's only slot; the agent runs this program once at a time.
    COURSE.get_ptr_mut(0).map(|course| unsafe { &mut *course })
}
