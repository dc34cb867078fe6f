//! How many sessions there are, counted in the kernel's own lists, without a lock and believing nothing.

use core::ffi::{c_long, c_void};

use aya_ebpf::helpers::generated::bpf_loop;
use luo_trace_common::OWN_SESSION;
use luo_trace_common::fields::Field;

use crate::kernel::{Address, is_known};
use crate::list::{End, List, Next};
use crate::snapshot::{header, incoming_is_active, incoming_is_unread};

/// How often a list that changes is counted anew.
const TRIES: u32 = 3;
/// How many sessions are counted at most: some milliseconds of them.
const MOST: u32 = 1 << 16;
/// How many bytes tell the recorder's own session: its name, and the NUL.
const OWN: usize = OWN_SESSION.len() + 1;

/// What there is, but for the recorder's own session.
#[repr(C)]
pub struct Count {
    list: List,
    /// How many sessions.
    pub sessions: u64,
    /// How many files they have.
    pub files: u64,
    /// How many of them have files, or were not retrieved.
    pub unfinished: u64,
    /// 1: the list was whole, and was the same all the time.
    pub known: u64,
}

/// Counts the sessions of a direction.
#[inline(always)]
pub fn count(direction: Field, count: &mut Count) {
    let Some(header) = header(direction).filter(|_| is_known(Field::SessionList)) else {
        return;
    };
    for _ in 0..TRIES {
        count.sessions = 0;
        count.files = 0;
        count.unfinished = 0;
        count.known = 0;
        if !count
            .list
            .begin(header.member(Field::HeaderList), header.member(Field::HeaderCount))
        {
            return;
        }
        let mut this = &raw mut *count;
        // SAFETY: the callback has the signature that the helper calls, and its context, which has to lie on the stack, is ours
        // until the helper returns.
        unsafe { bpf_loop(MOST, step as *mut c_void, (&raw mut this).cast(), 0) };
        if count.known != 0 {
            return;
        }
    }
}

#[inline(never)]
extern "C" fn step(_index: u32, context: *mut c_void) -> c_long {
    // SAFETY: see `count`.
    let count = unsafe { &mut **context.cast::<*mut Count>() };
    let link = match count.list.next() {
        Next::Element(link) => link,
        Next::End => {
            count.known = u64::from(matches!(count.list.end(), End::AsCounted));
            return 1;
        }
        Next::Broken => return 1,
    };
    let Some(session) = link.container(Field::SessionList) else {
        return 1;
    };
    if is_own(session) {
        return 0;
    }
    let set = session.member(Field::SessionFileSet);
    let Some(files) = set.and_then(|set| set.read::<u64>(Field::FileSetCount)) else {
        return 1;
    };
    count.sessions += 1;
    count.files = count.files.saturating_add(files);
    let retrieved = session
        .read::<u8>(Field::SessionRetrieved)
        .is_some_and(|retrieved| retrieved != 0);
    count.unfinished += u64::from(files > 0 || !retrieved);
    0
}

/// Whether a session is the recorder's.
#[inline(always)]
fn is_own(session: Address) -> bool {
    let Some(name) = session.read::<[u8; OWN]>(Field::SessionName) else {
        return false;
    };
    (0..OWN).all(|i| name[i] == OWN_SESSION.as_bytes().get(i).copied().unwrap_or(0))
}

/// Whether there are incoming sessions that no process has finished. `incoming` is room to work in.
#[inline(always)]
pub fn incoming_is_unfinished(incoming: &mut Count) -> Option<bool> {
    if incoming_is_unread() {
        // Before 7.2 nothing tells a list that was not read in from one that is finished.
        return is_known(Field::HeaderBlocks).then_some(true);
    }
    if !incoming_is_active() {
        // Nothing came, or the kernel does not tell.
        return header(Field::GlobalIncoming).map(|_| false);
    }
    count(Field::GlobalIncoming, incoming);
    (incoming.known != 0).then_some(incoming.unfinished > 0)
}
