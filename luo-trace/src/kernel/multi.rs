//! Attaching by few links to many functions each, where the kernel has such links (`BPF_LINK_TYPE_TRACING_MULTI`: 7.2 and later, where
//! BPF's trampolines share one user of ftrace).
//!
//! Of each family one program is attached to all functions that are entered, and one to all that return. They go on with the program of
//! the hook, which the cookie tells, by an array of programs: see `luo-trace-ebpf/src/dispatch.rs`.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, anyhow, bail};
use aya::Ebpf;
use aya::maps::{Map, MapData};
use aya_obj::btf::BtfFeatures;
use luo_trace_common::hooks::{Family, Hook};

use super::bpf::{self, Function, When};
use super::verifier::tail;

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

/// Of each hook, why it could not be attached at all, or to which of its functions.
pub(super) type Failures = HashMap<Hook, Vec<(String, anyhow::Error)>>;

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

const FAMILIES: [Family; 5] = [Family::Session, Family::File, Family::Flb, Family::Reboot, Family::Kho];

impl Links {
    /// Attaches what it can of these hooks, and tells the rest.
    ///
    /// # Errors
    /// Where no program can be attached at all.
    pub(super) fn attach(ebpf: &Ebpf, object: &[u8], wishes: &[Wish]) -> Result<(Self, Failures)> {
        let programs = Programs::read(object, ebpf, wishes)?;
        let mut failures = Failures::new();
        for end in &ENDS {
            let array = descriptor(
                ebpf.map(end.programs)
                    .context("the binary lacks an array of programs")?,
            )?;
            for wish in wishes {
                let Some(name) = (end.program)(wish.hook) else { continue };
                let put = programs.load(name, end.when).and_then(|program| {
                    bpf::put(array, wish.hook as u32, program.as_fd()).with_context(|| format!("program {name}"))
                });
                if let Err(error) = put {
                    let all = wish
                        .targets
                        .iter()
                        .map(|(target, _)| (target.clone(), anyhow!("{error:#}")));
                    failures.insert(wish.hook, all.collect());
                }
            }
        }
        let mut links = Self::default();
        for family in FAMILIES {
            for end in &ENDS {
                let functions = functions(family, end, wishes, &failures);
                if functions.is_empty() {
                    continue;
                }
                let program = programs.load(end.dispatcher, end.when)?;
                links.link(program.as_fd(), end.when, &functions, &mut |function, error| {
                    let Some(wish) = wishes.iter().find(|wish| wish.hook as u64 == function.cookie) else {
                        return;
                    };
                    let target = wish.targets.iter().find(|(_, id)| *id == function.id);
                    let name = target.map_or_else(String::new, |(name, _)| name.clone());
                    failures.entry(wish.hook).or_default().push((name, error.into()));
                });
                links.programs.push(program);
            }
        }
        Ok((links, failures))
    }

    /// The programs that are attached.
    pub(super) fn programs(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.programs.iter().map(OwnedFd::as_fd)
    }

    /// Attaches a program to these functions. The kernel takes all or none, and does not tell which one it has something against: where
    /// it does not take them, they are tried by halves, until it is known.
    fn link(
        &mut self,
        program: BorrowedFd<'_>,
        when: When,
        functions: &[Function],
        fail: &mut dyn FnMut(&Function, std::io::Error),
    ) {
        match (bpf::link(program, when, functions), functions) {
            (Ok(link), _) => self.links.push(link),
            (Err(error), [function]) => fail(function, error),
            (Err(_), _) => {
                let (some, others) = functions.split_at(functions.len() / 2);
                self.link(program, when, some, fail);
                self.link(program, when, others, fail);
            }
        }
    }
}

/// The functions that are to be attached at one end, but for those of which it is known already that they cannot.
fn functions(family: Family, end: &End, wishes: &[Wish], failures: &Failures) -> Vec<Function> {
    let failed = |hook: &Hook, target: &str| {
        failures
            .get(hook)
            .is_some_and(|all| all.iter().any(|(name, _)| name == target))
    };
    let of_family = wishes
        .iter()
        .filter(|wish| wish.hook.family() == family && (end.program)(wish.hook).is_some());
    of_family
        .flat_map(|wish| wish.targets.iter().map(move |target| (wish.hook, target)))
        .filter(|(hook, (name, _))| !failed(hook, name))
        .map(|(hook, &(_, id))| Function {
            id,
            cookie: hook as u64,
        })
        .collect()
}

/// The compiled programs, with the maps of the loaded ones.
struct Programs {
    object: aya_obj::Object,
    /// The programs' own type information, which the kernel wants of those that pass functions.
    types: OwnedFd,
}

impl Programs {
    fn read(object: &[u8], ebpf: &Ebpf, wishes: &[Wish]) -> Result<Self> {
        let mut object = aya_obj::Object::parse(object)?;
        let hooks = wishes.iter().map(|wish| wish.hook);
        let wanted: HashSet<&str> = hooks
            .flat_map(|hook| ENDS.iter().filter_map(move |end| (end.program)(hook)))
            .chain(ENDS.iter().map(|end| end.dispatcher))
            .collect();
        object.programs.retain(|name, _| wanted.contains(name.as_str()));
        let types = object.fixup_and_sanitize_btf(&all_features())?;
        let types = types
            .context("the binary has no type information of its programs")?
            .to_bytes();
        let types = bpf::load_types(&types).context("the kernel refuses the type information of the programs")?;
        let maps = std::mem::take(&mut object.maps);
        let descriptors = maps
            .iter()
            .map(|(name, map)| {
                let loaded = ebpf.map(name).with_context(|| format!("map {name} was taken"))?;
                Ok((name.as_str(), descriptor(loaded)?.as_raw_fd(), map))
            })
            .collect::<Result<Vec<_>>>()?;
        let texts = object.functions.keys().map(|&(section, _)| section).collect();
        object.relocate_maps(descriptors.into_iter(), &texts)?;
        object.relocate_calls(&texts)?;
        Ok(Self { object, types })
    }

    fn load(&self, name: &str, when: When) -> Result<OwnedFd> {
        let program = self.object.programs.get(name);
        let program = program.with_context(|| format!("the binary lacks program {name}"))?;
        let function = self.object.functions.get(&program.function_key());
        let function = function.with_context(|| format!("program {name} has no code"))?;
        let program = bpf::Program {
            name,
            license: &program.license,
            instructions: &function.instructions,
            functions: &function.func_info.func_info_bytes(),
            types: Some(self.types.as_fd()),
        };
        bpf::load(&program, when).map_err(|refused| {
            anyhow!(
                "the kernel refuses program {name} ({}): {}",
                refused.error,
                tail(&refused.log)
            )
        })
    }
}

/// What the kernel knows of type information: all of it, since it is younger than that.
fn all_features() -> BtfFeatures {
    BtfFeatures::new(true, true, true, true, true, true, true, true)
}

fn descriptor(map: &Map) -> Result<BorrowedFd<'_>> {
    let data: &MapData = match map {
        Map::Array(data)
        | Map::PerCpuArray(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuHashMap(data)
        | Map::RingBuf(data)
        | Map::ProgramArray(data)
        | Map::CgroupArray(data)
        | Map::LpmTrie(data)
        | Map::HashOfMaps(data)
        | Map::ArrayOfMaps(data)
        | Map::CgrpStorage(data)
        | Map::InodeStorage(data)
        | Map::Unsupported(data) => data,
        _ => bail!("the binary has a map of a kind that it should not have"),
    };
    Ok(data.fd().as_fd())
}
