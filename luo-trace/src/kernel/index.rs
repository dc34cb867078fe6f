//! Where the running kernel keeps its variables and functions, by its own index of names: a hundredth of what its list costs to read.

use std::io;

use luo_trace_common::variables::Variable;

use super::bpf::Lookup;
use super::kallsyms::Symbols;

/// Between these symbols lies the kernel itself, and no module.
const KERNEL: [&str; 2] = ["_text", "_end"];

/// Looks these symbols up in the running kernel, which takes the privilege to load programs: each in the kernel's index, or all in
/// the list, where the index does not have all variables. A kernel linked with ThinLTO has some under names that only the list
/// tells, and one that hides addresses tells there that the symbols exist. Of several functions with one name the index has that
/// which the kernel attaches programs to.
///
/// # Errors
/// Where the list is needed, and cannot be read.
pub(super) fn look_up(names: &[&str]) -> io::Result<Symbols> {
    match indexed(names) {
        Some(found) => Ok(found),
        None => Symbols::find(names),
    }
}

/// What the index has of these; `None` where there is none, or where it lacks a variable.
fn indexed(names: &[&str]) -> Option<Symbols> {
    let lookup = Lookup::load().ok()?;
    let [from, to] = KERNEL.map(|name| lookup.address(name));
    let (from, to) = (from.ok()?, to.ok()?);
    let mut found = Vec::new();
    for name in names {
        let address = lookup.address(name).ok()?;
        if (from..to).contains(&address) {
            found.push(((*name).to_owned(), address));
        }
    }
    let found = Symbols::at(found);
    let has_all = Variable::ALL.iter().all(|variable| found.has(variable.symbol()));
    has_all.then_some(found)
}
