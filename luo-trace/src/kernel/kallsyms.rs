//! Where the running kernel keeps its variables and functions, as `/proc/kallsyms` lists them. `index` asks the kernel itself.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader};

use luo_trace_common::variables::Variable;

/// Where the kernel lists its symbols.
const KALLSYMS: &str = "/proc/kallsyms";

/// Some of the kernel's symbols, by name. Symbols of modules are not looked at.
#[derive(Debug, Default)]
pub struct Symbols(HashMap<String, Found>);

#[derive(Debug)]
struct Found {
    /// Of the first symbol of this name.
    address: u64,
    /// There are more of this name, as static functions may be.
    is_one_of_many: bool,
}

impl Symbols {
    /// Symbols with their addresses, of which there is one each.
    pub(super) fn at(found: impl IntoIterator<Item = (String, u64)>) -> Self {
        let is_one_of_many = false;
        let only = |address| Found {
            address,
            is_one_of_many,
        };
        Self(found.into_iter().map(|(name, address)| (name, only(address))).collect())
    }

    /// Looks these symbols up in the running kernel's list, in one pass, which takes no privilege.
    ///
    /// # Errors
    /// Where the list cannot be read.
    pub fn find(names: &[&str]) -> io::Result<Self> {
        // The kernel makes the list up while it is read, some pages at a time.
        Self::parse(BufReader::with_capacity(1 << 16, File::open(KALLSYMS)?), names)
    }

    /// Reads such a list. A name as it is goes before one that ThinLTO has promoted, `luo_global.llvm.7012338126640032091`, which is
    /// taken where it is the only one: two are two variables. What other parts of a compiler put behind a name, `.isra`,
    /// `.constprop`, `.cold`, stands for something else.
    pub(super) fn parse(mut list: impl BufRead, names: &[&str]) -> io::Result<Self> {
        let names: HashSet<&str> = names.iter().copied().collect();
        let mut found = HashMap::<String, Found>::new();
        let mut promoted: HashMap<&str, Option<u64>> = HashMap::new();
        let mut line = Vec::new();
        while found.len() < names.len() && list.read_until(b'\n', &mut line)? > 0 {
            match symbol(&line) {
                Some(Symbol::OfModule) => break,
                Some(Symbol::OfKernel(address, name)) if names.contains(name) => {
                    let is_one_of_many = false;
                    let first = || Found {
                        address,
                        is_one_of_many,
                    };
                    found
                        .entry(name.to_owned())
                        .and_modify(|found| found.is_one_of_many = true)
                        .or_insert_with(first);
                }
                Some(Symbol::OfKernel(address, name)) => {
                    let of = promoted_from(name).and_then(|of| names.get(of));
                    if let Some(of) = of {
                        let only = promoted.entry(of).and_modify(|only| *only = None);
                        only.or_insert(Some(address));
                    }
                }
                None => {}
            }
            line.clear();
        }
        for (name, address) in promoted {
            if let Some(address) = address {
                found.entry(name.to_owned()).or_insert(Found {
                    address,
                    is_one_of_many: false,
                });
            }
        }
        Ok(Self(found))
    }

    /// Whether the kernel has this symbol, which was asked for.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The address of a symbol that was asked for: `None` where the kernel has no such symbol, or hides its address.
    pub fn address(&self, name: &str) -> Option<u64> {
        self.0
            .get(name)
            .map(|found| found.address)
            .filter(|&address| address != 0)
    }

    /// The same, but `None` too where the kernel has more than one symbol of this name, as far as the list was read: up to the last of
    /// those that were asked for.
    pub fn only_address(&self, name: &str) -> Option<u64> {
        let found = self.0.get(name).filter(|found| !found.is_one_of_many)?;
        Some(found.address).filter(|&address| address != 0)
    }

    /// The addresses of all variables, in the order the programs expect, with 0 for those that are not known.
    pub fn variables(&self) -> [u64; Variable::COUNT] {
        let mut addresses = [0; Variable::COUNT];
        for &variable in Variable::ALL {
            addresses[variable as usize] = self.address(variable.symbol()).unwrap_or(0);
        }
        addresses
    }
}

/// The names of all variables.
pub fn variables() -> Vec<&'static str> {
    Variable::ALL.iter().map(|variable| variable.symbol()).collect()
}

enum Symbol<'a> {
    OfKernel(u64, &'a str),
    OfModule,
}

/// Reads a line such as `ffffffff822bff80 d luo_session_global`; a module's name follows in brackets.
fn symbol(line: &[u8]) -> Option<Symbol<'_>> {
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    let address = u64::from_str_radix(words.next()?, 16).ok()?;
    let name = words.nth(1)?;
    Some(match words.next() {
        Some(_) => Symbol::OfModule,
        None => Symbol::OfKernel(address, name),
    })
}

/// The name that a symbol had before ThinLTO made it visible to other files: clang puts `.llvm.` and a number behind it.
fn promoted_from(name: &str) -> Option<&str> {
    let (of, number) = name.split_once(".llvm.")?;
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then_some(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &[u8] = b"0000000000000000 A fixed_percpu_data\n\
        ffffffff81000000 T _text\n\
        ffffffff822bff80 d luo_session_global\n\
        ffffffff82556c80 b luo_global\n\
        not a symbol\n\
        ffffffffc0001000 d luo_flb_global\t[luo_test]\n\
        ffffffffc0002000 d luo_file_handler_list\n";

    fn find(list: &[u8], names: &[&str]) -> Symbols {
        Symbols::parse(list, names).expect("a slice can be read")
    }

    #[test]
    fn a_variable_of_the_kernel_has_its_address_and_one_of_a_module_has_none() {
        // Given a list whose modules begin with luo_flb_global, when everything is looked up,
        let symbols = find(LIST, &variables());
        // then what comes before is known, and neither the module's symbol nor anything after it.
        assert_eq!(symbols.address("luo_session_global"), Some(0xffff_ffff_822b_ff80));
        assert_eq!(symbols.address("luo_global"), Some(0xffff_ffff_8255_6c80));
        assert!(!symbols.has("luo_flb_global"));
        let addresses = symbols.variables();
        assert_eq!(addresses[Variable::Luo as usize], 0xffff_ffff_8255_6c80);
        assert_eq!(addresses[Variable::Handlers as usize], 0);
    }

    #[test]
    fn an_address_that_is_hidden_is_not_known_though_the_symbol_is_there() {
        // Given a list as a user without privilege reads it,
        let symbols = find(b"0000000000000000 d luo_session_global\n", &variables());
        // then the symbol is there, and its address is not.
        assert!(symbols.has("luo_session_global"));
        assert_eq!(symbols.address("luo_session_global"), None);
    }

    #[test]
    fn of_two_functions_with_one_name_neither_is_the_only_one() {
        let list = b"ffffffff81000000 t luo_open\nffffffff81000100 t luo_open\nffffffff81000200 t luo_release\n";
        let symbols = find(list, &["luo_open", "luo_release"]);
        assert_eq!(symbols.address("luo_open"), Some(0xffff_ffff_8100_0000));
        assert_eq!(symbols.only_address("luo_open"), None);
        assert_eq!(symbols.only_address("luo_release"), Some(0xffff_ffff_8100_0200));
    }

    #[test]
    fn a_name_that_thin_lto_has_promoted_is_found_where_it_is_the_only_one() {
        // Given a kernel that was linked with ThinLTO: some names promoted, one twice, one there as it is, too,
        let list = b"ffffffff81000010 d luo_session_global.llvm.7012338126640032091\n\
            ffffffff81000020 b luo_global.llvm.1\n\
            ffffffff81000030 b luo_global.llvm.2\n\
            ffffffff81000040 d kho_out.llvm.3\n\
            ffffffff81000050 d kho_out\n\
            ffffffff81000060 t luo_flb_global.llvm.4.cold\n\
            ffffffff81000070 t luo_flb_global.isra.0\n\
            ffffffff81000080 t luo_flb_global.constprop.0\n\
            ffffffff81000090 t luo_flb_global.cold\n\
            ffffffff810000a0 t luo_flb_global.llvm.\n";
        let symbols = find(list, &["luo_session_global", "luo_global", "kho_out", "luo_flb_global"]);
        // then the only one is taken, of two none, what is there as it is goes before, and nothing else is a promoted name.
        assert_eq!(symbols.address("luo_session_global"), Some(0xffff_ffff_8100_0010));
        assert!(!symbols.has("luo_global"));
        assert_eq!(symbols.address("kho_out"), Some(0xffff_ffff_8100_0050));
        assert!(!symbols.has("luo_flb_global"));
    }

    #[test]
    fn only_what_was_asked_for_is_found() {
        let symbols = find(LIST, &["_text"]);
        assert!(symbols.has("_text"));
        assert!(!symbols.has("luo_session_global"));
    }
}
