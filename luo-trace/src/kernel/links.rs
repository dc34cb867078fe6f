//! What is attached to functions by the kernel's trampolines, in either [`Way`].
//!
//! The kernel patches the beginnings of many functions as quickly as that of one. Where it has links to many functions at once
//! (`BPF_LINK_TYPE_TRACING_MULTI`: 7.2 and later, where BPF's trampolines share one user of ftrace), one program is
//! attached to all functions that are entered, and one to all that return. They go on with the program of the hook, which the cookie
//! tells, by an array of programs: see `luo-trace-ebpf/src/dispatch.rs`. What runs for each page has no time for that: such a hook has
//! a link of its own. Where the kernel has no such links, each function has the hook's program itself.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Error, Result, anyhow};
use aya::Ebpf;
use luo_trace_common::hooks::{Hook, KhoDetail};

use super::bpf::{self, Function, To, When};
use super::programs::{Programs, descriptor};
use super::way::Way;

/// What is attached. Dropping it detaches it.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// The programs that are attached, which the kernel skips where they run already.
    programs: Vec<OwnedFd>,
    links: Vec<OwnedFd>,
}

/// A hook that is to be attached to these functions, by their names and ids.
#[derive(Debug)]
pub(super) struct Wish {
    pub hook: Hook,
    pub targets: Vec<(String, u32)>,
}

/// Of each hook, to which of its functions it could not be attached, and why.
#[derive(Debug, Default)]
pub(super) struct Failures(HashMap<(Hook, u32), Error>);

impl Failures {
    /// Why the hook is not attached to this function, if it is not.
    pub(super) fn take(&mut self, hook: Hook, id: u32) -> Option<Error> {
        self.0.remove(&(hook, id))
    }

    fn has(&self, hook: Hook, id: u32) -> bool {
        self.0.contains_key(&(hook, id))
    }

    fn add(&mut self, hook: Hook, id: u32, error: Error) {
        self.0.insert((hook, id), error);
    }
}

/// What runs at one end of a function, and where the programs for that are.
struct End {
    when: When,
    dispatcher: &'static str,
    programs: &'static str,
    program: fn(Hook) -> Option<&'static str>,
}

const ENDS: [End; 2] = [
    End {
        when: When::Enter,
        dispatcher: "dispatch_enter",
        programs: "ENTER",
        program: Hook::enter,
    },
    End {
        when: When::Exit,
        dispatcher: "dispatch_exit",
        programs: "EXIT",
        program: Hook::exit,
    },
];

/// The programs that can be asked for.
pub(super) fn programs() -> HashSet<&'static str> {
    let of_hooks = |end: &'static End| Hook::ALL.iter().filter_map(|&hook| (end.program)(hook));
    let dispatchers = ENDS.iter().map(|end| end.dispatcher);
    ENDS.iter().flat_map(of_hooks).chain(dispatchers).collect()
}

impl Links {
    /// Attaches what it can of these hooks, and tells the rest.
    ///
    /// # Errors
    /// Where no program can be attached at all.
    pub(super) fn attach(ebpf: &Ebpf, programs: &Programs, way: Way, wishes: &[Wish]) -> Result<(Self, Failures)> {
        let mut links = Self::default();
        let mut failures = Failures::default();
        match way {
            Way::Multi => links.attach_at_once(ebpf, programs, wishes, &mut failures)?,
            Way::Each => links.attach_each(programs, wishes, &mut failures),
        }
        Ok((links, failures))
    }

    fn attach_each(&mut self, programs: &Programs, wishes: &[Wish], failures: &mut Failures) {
        for wish in wishes {
            let cookie = wish.hook as u64;
            for &(_, id) in &wish.targets {
                let programs = ENDS
                    .iter()
                    .filter_map(|end| Some((end, (end.program)(wish.hook)?, programs)));
                for (end, name, programs) in programs {
                    let attached = self.attach_one(programs, name, end.when, Function { id, cookie });
                    if let Err(error) = attached {
                        failures.add(wish.hook, id, error);
                        break;
                    }
                }
            }
        }
    }

    /// Attaches a program to one function.
    ///
    /// # Errors
    /// Where the kernel does not do it.
    pub(super) fn attach_one(&mut self, programs: &Programs, name: &str, when: When, function: Function) -> Result<()> {
        let program = programs.load(name, when, To::One(function.id))?;
        let link = bpf::link_to_one(program.as_fd(), when, function);
        self.links
            .push(link.map_err(refusal).with_context(|| format!("program {name}"))?);
        self.programs.push(program);
        Ok(())
    }

    /// Attaches a program to as many of these functions as it can, at once where the kernel has that.
    pub(super) fn attach_some(
        &mut self,
        programs: &Programs,
        way: Way,
        name: &str,
        when: When,
        functions: &[Function],
    ) {
        let at_once = |links: &mut Self| -> Result<()> {
            let program = programs.load(name, when, To::Many)?;
            links.links.push(bpf::link_to_many(program.as_fd(), when, functions)?);
            links.programs.push(program);
            Ok(())
        };
        if way == Way::Multi && at_once(self).is_ok() {
            return;
        }
        for &function in functions {
            // The others do without it.
            _ = self.attach_one(programs, name, when, function);
        }
    }

    fn attach_at_once(
        &mut self,
        ebpf: &Ebpf,
        programs: &Programs,
        wishes: &[Wish],
        failures: &mut Failures,
    ) -> Result<()> {
        let (of_pages, of_calls): (Vec<&Wish>, Vec<&Wish>) =
            wishes.iter().partition(|wish| wish.hook.detail() == KhoDetail::Keys);
        for end in &ENDS {
            fill(ebpf, programs, end, &of_calls, failures)?;
            for wish in &of_pages {
                self.attach_alone(programs, end, wish, failures);
            }
        }
        for end in &ENDS {
            let functions: Vec<_> = of_calls
                .iter()
                .filter(|wish| (end.program)(wish.hook).is_some())
                .flat_map(|wish| wish.targets.iter().map(|&(_, id)| (wish.hook, id)))
                .filter(|&(hook, id)| !failures.has(hook, id))
                .collect();
            if !functions.is_empty() {
                let program = programs.load(end.dispatcher, end.when, To::Many)?;
                self.link(program, end.when, &functions, failures);
            }
        }
        Ok(())
    }

    /// Attaches a hook's own program to its functions.
    fn attach_alone(&mut self, programs: &Programs, end: &End, wish: &Wish, failures: &mut Failures) {
        let Some(name) = (end.program)(wish.hook) else { return };
        let functions: Vec<_> = wish.targets.iter().map(|&(_, id)| (wish.hook, id)).collect();
        match programs.load(name, end.when, To::Many) {
            Ok(program) => self.link(program, end.when, &functions, failures),
            Err(error) => functions
                .iter()
                .for_each(|&(hook, id)| failures.add(hook, id, anyhow!("{error:#}"))),
        }
    }

    fn link(&mut self, program: OwnedFd, when: When, functions: &[(Hook, u32)], failures: &mut Failures) {
        self.link_some(program.as_fd(), when, functions, failures);
        self.programs.push(program);
    }

    /// Attaches a program to these functions. The kernel takes all or none, and does not tell which one it has something against: where
    /// it does not take them, they are tried by halves, until it is known.
    fn link_some(&mut self, program: BorrowedFd<'_>, when: When, functions: &[(Hook, u32)], failures: &mut Failures) {
        let all: Vec<_> = functions
            .iter()
            .map(|&(hook, id)| Function {
                id,
                cookie: hook as u64,
            })
            .collect();
        match (bpf::link_to_many(program, when, &all), functions) {
            (Ok(link), _) => self.links.push(link),
            (Err(error), &[(hook, id)]) => failures.add(hook, id, refusal(error)),
            (Err(_), _) => {
                let (some, others) = functions.split_at(functions.len() / 2);
                self.link_some(program, when, some, failures);
                self.link_some(program, when, others, failures);
            }
        }
    }

    /// The programs that are attached.
    pub(super) fn programs(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.programs.iter().map(OwnedFd::as_fd)
    }
}

/// Why a function takes no program. On x86-64 it has room for 38 (`BPF_MAX_TRAMP_LINKS` in `include/linux/bpf.h`, 7.3).
fn refusal(error: std::io::Error) -> anyhow::Error {
    match error.raw_os_error() {
        Some(libc::E2BIG) => {
            anyhow!(
                "other tracers have taken all the room for programs on it: end one of them, and start the agent anew"
            )
        }
        _ => error.into(),
    }
}

/// Puts the hooks' programs for one end where the dispatcher finds them. Many hooks have the same.
fn fill(ebpf: &Ebpf, programs: &Programs, end: &End, wishes: &[&Wish], failures: &mut Failures) -> Result<()> {
    let array = descriptor(
        ebpf.map(end.programs)
            .context("the binary lacks an array of programs")?,
    )?;
    let mut loaded = HashMap::new();
    for wish in wishes {
        let Some(name) = (end.program)(wish.hook) else { continue };
        let program = loaded
            .entry(name)
            .or_insert_with(|| programs.load(name, end.when, To::Many));
        let put = match program {
            Ok(program) => bpf::put(array, wish.hook as u32, program.as_fd())
                .map_err(|error| anyhow!("program {name} has no place: {error}")),
            Err(error) => Err(anyhow!("{error:#}")),
        };
        if let Err(error) = put {
            for &(_, id) in &wish.targets {
                failures.add(wish.hook, id, anyhow!("{error:#}"));
            }
        }
    }
    Ok(())
}
