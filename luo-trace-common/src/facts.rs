//! What the kernel says of itself for a journal's header: the program `facts` notes it once, on the agent's demand.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::text::Name;

/// A number that this kernel does not tell.
pub const NOT_TOLD: u64 = u64::MAX;

/// A kernel's release with its NUL, and zeros up to a multiple of eight bytes. Mirrors `__NEW_UTS_LEN` in
/// `include/uapi/linux/utsname.h` (7.3).
pub type Release = Name<72>;

/// The name of a format, with what follows it in memory.
pub type Format = Name<16>;

/// What the program found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Facts {
    /// LUO's own number of this boot in the chain of live updates, or [`NOT_TOLD`].
    pub update_number: u64,
    /// How many kexecs lie between the last cold boot and this one, or [`NOT_TOLD`]; 7.1 and later.
    pub kexec_count: u64,
    /// The kernel before this one; empty after a cold boot, or where it is not told.
    pub previous_release: Release,
    /// How fast the kernel says the CPU's counter runs, in kHz; 0: it does not say.
    pub counter_khz: u32,
    /// 1: the kernel has found that the CPU's counter cannot be relied on.
    pub counter_unstable: u32,
    /// 1: there are sessions, or those of the previous kernel have been read in.
    pub in_use: u32,
    /// Keeps the size a multiple of eight bytes; 0.
    pub reserved: u32,
    /// How much scratch memory KHO keeps for the next kernel to start in, in bytes, or [`NOT_TOLD`].
    pub scratch_bytes: u64,
    /// The format of what LUO writes for the next kernel, `luo-v5`; empty where it is not told.
    pub luo_format: Format,
    /// The format of what KHO writes, `kho-v4`; empty where it is not told.
    pub kho_format: Format,
}
