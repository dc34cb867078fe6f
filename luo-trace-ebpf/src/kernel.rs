//! Reading kernel memory by fields whose offsets the agent has looked up.

use core::mem::MaybeUninit;
use core::ptr;

use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_kernel_str};
use luo_trace_common::events::{Object, SessionRef};
use luo_trace_common::fields::{ABSENT, Field};
use luo_trace_common::hooks::Hook;
use luo_trace_common::text::Name;
use luo_trace_common::variables::Variable;

/// Offset of each [`Field`] in this kernel, written by the agent before the programs are loaded.
#[unsafe(no_mangle)]
static FIELDS: [u32; Field::COUNT] = [ABSENT; Field::COUNT];

/// Address of each [`Variable`] of this kernel, written by the agent before the programs are loaded; 0: not known.
#[unsafe(no_mangle)]
static VARIABLES: [u64; Variable::COUNT] = [0; Variable::COUNT];

/// What each hook is attached to, written by the agent before the programs are loaded: 0 nothing, else which of its
/// alternative targets, from 1. The verifier knows the number, so that code for another kernel's function is never looked at.
#[unsafe(no_mangle)]
static TARGETS: [u32; Hook::ALL.len()] = [0; Hook::ALL.len()];

/// Base 2 logarithm of the size of a page, written by the agent before the programs are loaded.
#[unsafe(no_mangle)]
static PAGE_SHIFT: u32 = 12;

/// `ANON_INODE_FS_MAGIC` in `include/uapi/linux/magic.h`: files there share one inode, which therefore tells nothing.
const ANON_INODE_FS_MAGIC: u64 = 0x0904_1934;

/// An address in the kernel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Address(pub u64);

impl Address {
    /// The address of a variable, or `None` where it is not known.
    #[inline(always)]
    pub fn of(variable: Variable) -> Option<Address> {
        // SAFETY: within the array. Volatile, as in `offset`.
        match unsafe { ptr::read_volatile(&raw const VARIABLES[variable as usize]) } {
            0 => None,
            address => Some(Address(address)),
        }
    }

    /// The address of a member, or `None` where this kernel has no such member or there is no structure.
    #[inline(always)]
    pub fn member(self, field: Field) -> Option<Address> {
        match offset(field) {
            ABSENT => None,
            _ if self.0 == 0 => None,
            offset => Some(Address(self.0.wrapping_add(u64::from(offset)))),
        }
    }

    /// The structure that this is a member of.
    #[inline(always)]
    pub fn container(self, field: Field) -> Option<Address> {
        match offset(field) {
            ABSENT => None,
            offset => Some(Address(self.0.wrapping_sub(u64::from(offset)))),
        }
    }

    /// Reads a member by value.
    #[inline(always)]
    pub fn read<T: Copy>(self, field: Field) -> Option<T> {
        self.member(field)?.read_here()
    }

    /// Reads what lies at this address.
    #[inline(always)]
    pub fn read_here<T: Copy>(self) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        let from = self.0 as *const _;
        // SAFETY: the helper writes exactly `size_of::<T>()` bytes or fails, and the callers read plain numbers.
        unsafe {
            match bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, from) {
                0 => Some(value.assume_init()),
                _ => None,
            }
        }
    }

    /// Reads a member that is a pointer; null gives `None`.
    #[inline(always)]
    pub fn follow(self, field: Field) -> Option<Address> {
        self.read::<u64>(field).filter(|&address| address != 0).map(Address)
    }

    /// Reads a name into place. What cannot be read stays empty.
    #[inline(always)]
    pub fn read_name<const N: usize>(self, field: Field, name: &mut Name<N>) {
        if let Some(from) = self.member(field) {
            from.read_name_here(name);
        }
    }

    /// Reads this many bytes into place, but for what does not fit before a NUL.
    #[inline(always)]
    pub fn read_bytes<const N: usize>(self, len: u64, name: &mut Name<N>) {
        let len = len.min(N as u64 - 1) as u32;
        // SAFETY: the helper writes at most `N` bytes to memory of `N` bytes, and zeros what it cannot read.
        unsafe { bpf_probe_read_kernel(name.0.as_mut_ptr().cast(), len, self.0 as *const _) };
    }

    /// Reads a name that begins at this address.
    #[inline(always)]
    pub fn read_name_here<const N: usize>(self, name: &mut Name<N>) {
        // SAFETY: the helper writes at most `N` bytes to memory of `N` bytes, and zeros it where it fails.
        unsafe { bpf_probe_read_kernel(name.0.as_mut_ptr().cast(), N as u32, self.0 as *const _) };
    }
}

/// Whether this kernel has a member.
#[inline(always)]
pub fn is_known(field: Field) -> bool {
    offset(field) != ABSENT
}

/// How large a structure is, or `None` where this kernel has no such structure. `whole` is a field without a path.
#[inline(always)]
pub fn size(whole: Field) -> Option<u64> {
    match offset(whole) {
        ABSENT | 0 => None,
        size => Some(u64::from(size)),
    }
}

/// Reads a string that ends with a NUL, or is cut off. What follows its NUL stays as it is. Gives how many bytes were read with
/// the NUL, or a negative errno.
#[inline(always)]
pub fn read_string<const N: usize>(from: u64, to: &mut Name<N>) -> i64 {
    // SAFETY: the helper writes at most `N` bytes to memory of `N` bytes.
    unsafe { bpf_probe_read_kernel_str(to.0.as_mut_ptr().cast(), N as u32, from as *const _) }
}

/// An object of the kernel that the verifier knows the type of, so that members are read without a helper.
pub struct Trusted(pub *const u8);

impl Trusted {
    /// Reads a member by value, or the beginning of it; `None` where this kernel has no such member.
    #[inline(always)]
    pub fn load<T: Copy>(&self, field: Field) -> Option<T> {
        self.load_further(field, 0)
    }

    /// Reads what lies so many bytes after a member's beginning.
    #[inline(always)]
    pub fn load_further<T: Copy>(&self, field: Field, further: u32) -> Option<T> {
        match offset(field) {
            ABSENT => None,
            _ => Some(self.get(field, further)),
        }
    }

    /// Reads what lies so many bytes after the beginning of a member that every kernel has.
    #[inline(always)]
    pub fn get<T: Copy>(&self, field: Field, further: u32) -> T {
        let place = self.0.wrapping_add((offset(field).wrapping_add(further)) as usize);
        // SAFETY: the verifier lets programs read members of this object only. Volatile, so that it is read here, by one instruction of
        // this size.
        unsafe { ptr::read_volatile(place.cast()) }
    }
}

/// Which of its alternative targets a hook is attached to, from 1; 0: none.
#[inline(always)]
pub fn target(hook: Hook) -> u32 {
    // SAFETY: within the array. Volatile, as in `offset`.
    unsafe { ptr::read_volatile(&raw const TARGETS[hook as usize]) }
}

/// Base 2 logarithm of the size of a page.
#[inline(always)]
pub fn page_shift() -> u32 {
    // SAFETY: a static. Volatile, as in `offset`.
    unsafe { ptr::read_volatile(&raw const PAGE_SHIFT) }
}

#[inline(always)]
fn offset(field: Field) -> u32 {
    // SAFETY: within the array. Volatile, since the agent changes what the compiler believes to be constant.
    unsafe { ptr::read_volatile(&raw const FIELDS[field as usize]) }
}

/// Reads who a session is. `session` is a `struct luo_session *`.
#[inline(always)]
pub fn read_session(session: Address, to: &mut SessionRef) {
    to.id = session.0;
    session.read_name(Field::SessionName, &mut to.name);
}

/// The session that a `struct luo_file_set *` belongs to.
#[inline(always)]
pub fn session_of(file_set: u64) -> Option<Address> {
    match file_set {
        0 => None,
        set => Address(set).container(Field::SessionFileSet),
    }
}

/// Reads what tells a `struct file *` apart from others. `unique_inode`: whether the handler tells objects apart by
/// something better than the open file, as LUO's `luo_get_id` does from 7.1 on.
#[inline(always)]
pub fn read_object(file: Address, unique_inode: bool, to: &mut Object) {
    to.file = file.0;
    to.identity = if unique_inode { 0 } else { file.0 };
    let Some(inode) = file.follow(Field::FileInode) else {
        return;
    };
    to.inode = inode.read::<u64>(Field::InodeNumber).unwrap_or(0);
    to.size = inode.read::<u64>(Field::InodeSize).unwrap_or(0);
    let magic = inode
        .follow(Field::InodeSuper)
        .and_then(|sb| sb.read::<u64>(Field::SuperMagic));
    if unique_inode && magic.is_some_and(|magic| magic != ANON_INODE_FS_MAGIC) {
        to.identity = inode.0;
    }
}
