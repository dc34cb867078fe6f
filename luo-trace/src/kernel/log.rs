//! Log lines from inside the kernel, for development: compiled in by the feature `bpf-log` only.

use anyhow::{Context, Result};
use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};

/// The lines that the programs write, on their way to stderr.
pub(super) struct KernelLog(EbpfLogger<Stderr>);

impl KernelLog {
    /// Takes the programs' lines from here on.
    pub(super) fn start(ebpf: &mut Ebpf) -> Result<Self> {
        EbpfLogger::init_with_logger(ebpf, Stderr)
            .map(Self)
            .context("the programs' log cannot be read")
    }

    /// Prints what the programs wrote since the last time.
    pub(super) fn flush(&mut self) {
        self.0.flush();
    }
}

/// Prints every line.
struct Stderr;

impl Log for Stderr {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        eprintln!("luo-trace: kernel: {}: {}", record.target(), record.args());
    }

    fn flush(&self) {}
}
