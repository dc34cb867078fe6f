//! A measurement of what tracers cost: what the host asks for, and what the guest answers.

use serde::{Deserialize, Serialize};

use super::Size;

/// Does operations under one tracer after another, and leaves a [`Measurement`] in `/host/bench.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bench {
    /// What is measured.
    pub operations: Vec<Operation>,
    /// Under whom, in this order.
    pub tracers: Vec<Tracer>,
    /// How often each operation is done; the round that took least counts.
    pub rounds: u32,
}

/// Something that is measured as a whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// What it is called.
    pub name: String,
    /// What is done.
    pub work: Work,
}

/// What is done in an [`Operation`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// Creates sessions and preserves files in each, under the tokens 0, 1 and so on. Making the files and closing the
    /// sessions is not measured.
    Preserve {
        /// How many sessions.
        sessions: u32,
        /// How many files in each.
        files: u32,
        /// The size of each file.
        size: Size,
    },
    /// Makes a call again and again.
    Repeat {
        /// Which.
        call: Call,
        /// How often.
        times: u32,
    },
}

impl Work {
    /// How many calls its cost is shared by: those to preserve a file, or where none is preserved, to create a session.
    pub fn calls(self) -> u32 {
        match self {
            Work::Preserve { sessions, files, .. } => sessions * files.max(1),
            Work::Repeat { times, .. } => times,
        }
    }
}

/// A call that does next to nothing besides passing one of the kernel's security hooks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Call {
    /// How much a pipe holds: `file_ioctl`.
    IoctlOnPipe,
    /// A file is opened and closed: `file_alloc_security` for the open, nothing for the close.
    OpenAndClose,
    /// `sethostname(2)` with a name that is too long: `capable` once, with `CAP_SYS_ADMIN`.
    Sethostname,
    /// `reboot(2)` with a wrong magic number: `capable` once, with `CAP_SYS_BOOT`.
    RebootNothing,
    /// `kexec_load(2)` that unloads where nothing is loaded: `capable` once, with `CAP_SYS_BOOT`, and `kernel_load_data`.
    UnloadNothing,
}

/// Somebody who looks on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tracer {
    /// What it is called; a file name, too.
    pub name: String,
    /// What it is.
    pub how: How,
}

/// What a tracer is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// No process looks on.
    Nobody,
    /// The agent, with these arguments and a journal.
    Agent {
        /// The arguments.
        arguments: Vec<String>,
    },
    /// bpftrace counts entries and exits, by BPF trampolines, of the functions that an earlier tracer was attached to.
    Bpftrace {
        /// The earlier tracer's name.
        like: String,
    },
    /// The kernel records entries and exits of those functions by kprobes of its own.
    Kprobes {
        /// The earlier tracer's name.
        like: String,
    },
}

/// What came of a [`Bench`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// One for each tracer, in the order asked for.
    pub tracers: Vec<Measured>,
}

/// What one tracer cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The tracer's name.
    pub name: String,
    /// From its start until it was attached everywhere, in nanoseconds.
    pub attach_ns: u64,
    /// From when it was asked to stop until its process had ended, in nanoseconds; 0 where there is none.
    pub detach_ns: u64,
    /// How many kernel functions it was attached to.
    pub functions: u64,
    /// One for each operation, in the order asked for.
    pub costs: Vec<Cost>,
    /// Its BPF programs, over one more round of all operations with its process stopped.
    pub programs: Vec<ProgramCost>,
}

/// What one BPF program did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProgramCost {
    /// The first 15 bytes of its name.
    pub name: String,
    /// How many instructions the verifier looked at, along all ways through it.
    pub verified: u32,
    /// The size of its machine code in bytes.
    pub code: u32,
    /// How often it ran.
    pub runs: u64,
    /// How long, in all, in nanoseconds; without the trampoline or probe that calls it.
    pub run_ns: u64,
}

/// What one operation took, in nanoseconds of the guest's clock.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// The operation, while the tracer's own process was kept from running: what it costs in the kernel.
    pub paused_ns: u64,
    /// The operation with the tracer's process running, and what that had left to do afterwards.
    pub total_ns: u64,
    /// How long the tracer's process ran for it, where it has one.
    #[serde(default)]
    pub process_ns: u64,
}
