//! The compiled programs that are attached to functions, ready to be loaded by bpf(2): aya loads each for one function only.

use std::collections::HashSet;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, anyhow, bail};
use aya::Ebpf;
use aya::maps::{Map, MapData};
use aya_obj::btf::BtfFeatures;
use luo_trace_common::hooks::KhoDetail;

use super::bpf::{self, To, When};
use super::verifier::tail;

/// How the name of a program ends that settles accounts of keys, where there is another one that does not.
const WITH_KEYS: &str = "_keys";

/// The compiled programs, with the maps of the loaded ones.
pub(super) struct Programs {
    object: aya_obj::Object,
    /// The programs' own type information, which the kernel wants of those that pass functions.
    types: OwnedFd,
}

impl Programs {
    /// Reads those of these names from the binary's object, whose maps are there. Where keys are counted, one that has another form
    /// for that is taken in that form.
    ///
    /// # Errors
    /// Where the object is damaged, or the kernel does not take the types of the programs.
    pub(super) fn read(object: &[u8], ebpf: &Ebpf, wanted: &HashSet<&str>, detail: KhoDetail) -> Result<Self> {
        let mut object = aya_obj::Object::parse(object)?;
        let with_keys = |name: &str| format!("{name}{WITH_KEYS}");
        let mut programs = std::mem::take(&mut object.programs);
        object.programs = wanted
            .iter()
            .filter_map(|&name| {
                let other = (detail == KhoDetail::Keys).then(|| programs.remove(&with_keys(name)));
                Some((name.to_owned(), other.flatten().or_else(|| programs.remove(name))?))
            })
            .collect();
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

    /// Loads one.
    ///
    /// # Errors
    /// Where there is none of this name, or the kernel refuses it.
    pub(super) fn load(&self, name: &str, when: When, to: To) -> Result<OwnedFd> {
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
        bpf::load(&program, when, to).map_err(|refused| {
            anyhow!(
                "the kernel refuses program {name} ({}): {}",
                refused.error,
                tail(&refused.log)
            )
        })
    }
}

/// What the kernel knows of type information: all of it, since LUO is younger than that.
fn all_features() -> BtfFeatures {
    BtfFeatures::new(true, true, true, true, true, true, true, true)
}

/// A map's descriptor.
///
/// # Errors
/// Where it is of a kind that the binary does not have.
pub(super) fn descriptor(map: &Map) -> Result<BorrowedFd<'_>> {
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

#[cfg(all(test, bpf_object))]
mod tests {
    use super::*;
    use crate::kernel::OBJECT;

    #[test]
    fn a_program_that_settles_accounts_stands_beside_one_that_does_not() {
        let object = aya_obj::Object::parse(OBJECT).expect("the binary's own object is whole");
        let others: Vec<_> = object
            .programs
            .keys()
            .filter_map(|name| name.strip_suffix(WITH_KEYS))
            .collect();
        assert!(!others.is_empty());
        for name in others {
            assert!(object.programs.contains_key(name), "{name}");
        }
    }
}
