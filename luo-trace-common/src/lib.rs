//! The ABI between luo-trace's eBPF programs and its agent, and nothing else.
//!
//! Both sides compile this crate, so neither can disagree about a layout:
//!
//! - [`events`]: what the programs send through the ring buffer, and what a journal holds;
//! - [`hooks`]: the table of kernel functions that are traced, from which attaching, `luo-trace hooks` and metric labels come;
//! - [`fields`]: the members of kernel structures the programs read, whose offsets the agent looks up in the running kernel's BTF;
//! - [`variables`]: the variables of the kernel the programs read, whose addresses come from `/proc/kallsyms`;
//! - [`facts`]: what the kernel says of itself for a journal's header;
//! - [`policy`]: what policy may refuse, and how it is decided;
//! - [`snapshot`]: how the agent has the kernel's lists walked;
//! - [`text`]: names of fixed size as the kernel keeps them, and how they are shown.
#![no_std]

pub mod events;
pub mod facts;
pub mod fields;
pub mod hooks;
pub mod policy;
pub mod sight;
pub mod snapshot;
pub mod text;
pub mod variables;

/// Name of the session in which the recorder has itself carried over a kexec. It is left out of what operators count.
pub const OWN_SESSION: &str = "luo-trace";
