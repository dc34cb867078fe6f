//! The kernel's side: the only place that knows aya, BPF and BTF.
//!
//! [`preflight`] finds out whether this host can be traced at all, [`Tracer::attach`] loads the programs and attaches the
//! hooks, and the [`Ring`] gives the records they send. Whatever comes out of here is bytes for [`crate::event::decode`].

mod attach;
mod bpf;
mod drive;
mod facts;
mod handover;
mod index;
pub mod kallsyms;
mod links;
#[cfg(feature = "bpf-log")]
mod log;
pub mod lsm;
mod memory;
mod misses;
mod plan;
pub mod preflight;
mod programs;
mod ring;
mod shared;
mod sight;
mod signals;
pub mod snapshot;
#[cfg(test)]
mod tests;
mod verifier;
mod way;

pub use attach::{AttachError, Tracer};
pub use plan::prospects;
pub use ring::Ring;
pub use way::Way;

/// The compiled programs, or nothing in a debug build without the BPF toolchain.
#[cfg(bpf_object)]
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("LUO_TRACE_BPF_OBJECT"));
#[cfg(not(bpf_object))]
static OBJECT: &[u8] = &[];
