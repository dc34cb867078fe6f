//! How often programs did not run although their function was called.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::Result;
use aya::Ebpf;
use aya::programs::Program;
use luo_trace_common::fields::{ABSENT, Field};

use super::bpf::{self, Info};
use super::kallsyms::Symbols;
use super::memory::Memory;

/// Where the kernel keeps how far the variables of each CPU are from those that the linker laid out.
pub(super) const CPU_OFFSETS: &str = "__per_cpu_offset";

/// Of how many programs the counters are read where they lie. There are fewer, however hooks are attached.
const PROGRAMS: usize = 256;

/// The programs, by descriptors of their own.
///
/// The kernel skips a program where the same program is already running on the CPU, since another task was preempted in it,
/// and a kprobe's also where a task was preempted while reading or writing a map by bpf(2). It counts that with the program.
/// (Returns that a kretprobe has no room for are told by the programs themselves.)
///
/// The counts are read where the kernel keeps them, all in one call, since that is done for each batch of records. Where they cannot
/// be found, each program is asked for its count, which is no use of a map, and skips nothing.
pub(super) struct Misses {
    programs: Vec<OwnedFd>,
    /// How many counters are added up; 0: each program is asked.
    counters: u64,
}

/// For how many counters there has to be room.
pub(super) fn room() -> usize {
    PROGRAMS * possible_cpus().unwrap_or(0).max(1)
}

impl Misses {
    /// Watches every program that is loaded now, and these others; `memory` reads their counts from now on.
    ///
    /// # Errors
    /// Where there is no room for their descriptors.
    pub(super) fn watch<'a>(
        ebpf: &Ebpf,
        others: impl Iterator<Item = BorrowedFd<'a>>,
        memory: &Memory,
        offsets: &[u32; Field::COUNT],
        symbols: &Symbols,
    ) -> Result<Self> {
        let own = ebpf.programs().filter_map(|(_, program)| descriptor(program));
        let others = others.map(|program| program.try_clone_to_owned());
        let programs = own.chain(others).collect::<io::Result<Vec<_>>>()?;
        let found = find(&programs, memory, offsets, symbols).filter(|counters| memory.set_counters(counters));
        let counters = found.map_or(0, |counters| counters.len() as u64);
        Ok(Self { programs, counters })
    }

    /// How often a program was skipped until `memory` was read, or until now where it was not.
    pub(super) fn count(&self, memory: &Memory, was_read: bool) -> u64 {
        let told = memory.told();
        match was_read && self.counters > 0 && told.counters == self.counters {
            true => told.sum,
            false => self
                .programs
                .iter()
                .map(|program| bpf::info(program.as_fd()).misses)
                .sum(),
        }
    }
}

fn descriptor(program: &Program) -> Option<io::Result<OwnedFd>> {
    let fd = match program {
        Program::FEntry(program) => program.fd(),
        Program::FExit(program) => program.fd(),
        Program::KProbe(program) => program.fd(),
        // The others do not watch the kernel.
        _ => return None,
    };
    // One that is not loaded misses nothing.
    Some(fd.ok()?.as_fd().try_clone_to_owned())
}

/// Where the kernel counts for each of these programs on each CPU; `None` where that is not certain. A program is the private data of
/// the file that its descriptor stands for.
fn find(programs: &[OwnedFd], memory: &Memory, offsets: &[u32; Field::COUNT], symbols: &Symbols) -> Option<Vec<u64>> {
    let members = |structures: &[u64], field: Field| -> Option<Vec<u64>> {
        let offset = Some(offsets[field as usize]).filter(|&offset| offset != ABSENT)?;
        let at = |&structure: &u64| (structure != 0).then(|| structure.wrapping_add(offset.into()));
        structures.iter().map(at).collect()
    };
    let follow = |structures: &[u64], field: Field| memory.words(&members(structures, field)?);
    memory.read().ok()?;
    let files = follow(&[memory.told().task], Field::TaskFiles)?;
    let table = follow(&files, Field::FilesTable)?;
    let table = *follow(&table, Field::TableFiles)?.first()?;
    let slot = |program: &OwnedFd| table.wrapping_add(u64::from(program.as_raw_fd().unsigned_abs()) * 8);
    let files = memory.words(&programs.iter().map(slot).collect::<Vec<_>>())?;
    let found = follow(&files, Field::FilePrivate)?;
    let told: Vec<Info> = programs.iter().map(|program| bpf::info(program.as_fd())).collect();
    let numbers = follow(&follow(&found, Field::ProgramAux)?, Field::AuxId)?;
    let are_they = numbers
        .iter()
        .zip(&told)
        .all(|(&number, told)| number as u32 == told.id);
    let stats = members(&follow(&found, Field::ProgramStats)?, Field::StatsMisses)?;
    let cpus = symbols.address(CPU_OFFSETS)?;
    let cpus: Vec<u64> = (0..possible_cpus()? as u64)
        .map(|cpu| cpus.wrapping_add(cpu * 8))
        .collect();
    let cpus = memory.words(&cpus)?;
    let on_each = |&stats: &u64| cpus.iter().map(move |&cpu| stats.wrapping_add(cpu));
    are_they.then(|| stats.iter().flat_map(on_each).collect())
}

/// How many CPUs the kernel can have, where they are numbered without gaps.
fn possible_cpus() -> Option<usize> {
    without_gaps(&fs::read_to_string("/sys/devices/system/cpu/possible").ok()?)
}

/// How many CPUs such a list has, where it is one range from 0 on.
fn without_gaps(list: &str) -> Option<usize> {
    let last = list.trim().strip_prefix('0')?;
    match last.strip_prefix('-') {
        Some(last) => last.parse::<usize>().ok()?.checked_add(1),
        None => last.is_empty().then_some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_counted_where_they_are_numbered_without_gaps() {
        assert_eq!(without_gaps("0\n"), Some(1));
        assert_eq!(without_gaps("0-255\n"), Some(256));
        for list in ["", "0-3,8-11", "0,2", "4-7"] {
            assert_eq!(without_gaps(list), None, "{list}");
        }
    }
}
