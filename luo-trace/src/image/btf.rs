//! A kernel's type information (BTF), as far as it is needed here: where members lie, which functions there are,
//! and which of them are callbacks.
//!
//! The format is the kernel's, `Documentation/bpf/btf.rst` and `include/uapi/linux/btf.h` (7.3). Reading is safe on any
//! bytes: what does not fit ends in an error.

use std::collections::HashMap;
use std::hash::BuildHasher;

use ahash::RandomState;
use anyhow::{Context, Result, bail};
use luo_trace_common::fields::{ABSENT, Field};

const MAGIC: u16 = 0xeb9f;
/// Length of the header that is written here.
const HEADER_LEN: u32 = 24;
/// Length of a header that says where the layout of kinds is, from 7.1.
const HEADER_WITH_LAYOUT: usize = 32;

const KIND_INT: u32 = 1;
const KIND_PTR: u32 = 2;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_FWD: u32 = 7;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_RESTRICT: u32 = 11;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_TYPE_TAG: u32 = 18;
const KIND_ENUM64: u32 = 19;

/// How deep members of members may nest before a type is taken to be damaged.
const DEPTH: u32 = 32;

/// How many members are looked at for one. The kernel's largest structures have some hundred.
const MEMBERS: u32 = 1 << 14;

/// Type information, indexed by the names of structures and functions.
pub struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// How long types of each kind are, 4 bytes for a kind; empty where the kernel does not tell. Mirrors `struct btf_layout`.
    layout: &'a [u8],
    /// Where each type begins in `types`; type ids begin at 1.
    offsets: Vec<u32>,
    structures: Ids<'a>,
    /// Structures without a name.
    anonymous: Vec<u32>,
    functions: Ids<'a>,
}

/// The first type of each name.
type Ids<'a> = HashMap<&'a [u8], u32, RandomState>;

/// One type: its kind, the number of what follows, and its size or the type it refers to.
#[derive(Clone, Copy)]
struct Type {
    name: u32,
    kind: u32,
    len: usize,
    bitfields: bool,
    size_or_type: u32,
    /// Where what follows begins in `Btf::types`.
    rest: usize,
}

impl<'a> Btf<'a> {
    /// Reads and indexes type information such as `/sys/kernel/btf/vmlinux` holds.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let magic = bytes.get(..2).map(|b| u16::from_le_bytes([b[0], b[1]]));
        if magic != Some(MAGIC) {
            bail!("this is no BTF of a little-endian kernel: it does not begin with {MAGIC:#x}");
        }
        let header_len = word(bytes, 4)? as usize;
        let section = |offset: usize| -> Result<&'a [u8]> {
            let start = header_len
                .checked_add(word(bytes, offset)? as usize)
                .context("section out of bounds")?;
            let end = start
                .checked_add(word(bytes, offset + 4)? as usize)
                .context("section out of bounds")?;
            bytes.get(start..end).context("BTF is shorter than its header says")
        };
        let mut btf = Btf {
            types: section(8)?,
            strings: section(16)?,
            layout: if header_len < HEADER_WITH_LAYOUT {
                &[]
            } else {
                section(24)?
            },
            offsets: vec![0],
            structures: Ids::with_hasher(hasher()),
            anonymous: Vec::new(),
            functions: Ids::with_hasher(hasher()),
        };
        let (mut structures, mut functions) = (Vec::new(), Vec::new());
        let mut at = 0;
        while at < btf.types.len() {
            let ty = btf.type_at(at)?;
            let id = u32::try_from(btf.offsets.len()).context("too many types")?;
            match ty.kind {
                KIND_STRUCT if ty.name == 0 => btf.anonymous.push(id),
                KIND_STRUCT => structures.push((ty.name, id)),
                KIND_FUNC => functions.push((ty.name, id)),
                _ => {}
            }
            btf.offsets.push(u32::try_from(at).context("BTF is too large")?);
            at = ty.rest.checked_add(btf.rest_len(&ty)?).context("BTF is too large")?;
        }
        btf.structures = btf.ids(&structures);
        btf.functions = btf.ids(&functions);
        Ok(btf)
    }

    /// Indexes types by the names that lie at these places.
    fn ids(&self, named: &[(u32, u32)]) -> Ids<'a> {
        let mut ids = Ids::with_capacity_and_hasher(named.len(), hasher());
        for &(name, id) in named {
            ids.entry(self.string(name)).or_insert(id);
        }
        ids
    }

    /// Type information that has nothing but these functions, under the same ids, and is small and quick to search for that.
    pub fn only_functions<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> Vec<u8> {
        // Whatever else there is becomes a type without name or content.
        let mut types = [0, KIND_FWD << 24, 0].repeat(self.offsets.len() - 1);
        let mut strings = vec![0u8];
        for name in names {
            let Some(&id) = self.functions.get(name.as_bytes()) else {
                continue;
            };
            let at = (id as usize - 1) * 3;
            types[at] = strings.len() as u32;
            types[at + 1] = KIND_FUNC << 24;
            strings.extend(name.bytes().chain([0]));
        }
        let len = size_of_val(&types[..]) as u32;
        let header = [
            u32::from(MAGIC) | 1 << 16,
            HEADER_LEN,
            0,
            len,
            len,
            strings.len() as u32,
        ];
        let words = header.into_iter().chain(types);
        words.flat_map(u32::to_le_bytes).chain(strings).collect()
    }

    /// Whether the kernel has a traceable function of this name.
    pub fn has_function(&self, name: &str) -> bool {
        self.functions.contains_key(name.as_bytes())
    }

    /// The id of a traceable function.
    pub fn function(&self, name: &str) -> Option<u32> {
        self.functions.get(name.as_bytes()).copied()
    }

    /// Where a member lies in its structure, or how large the whole structure is, in bytes; `None` where this kernel has no
    /// such member.
    pub fn offset(&self, field: Field) -> Option<u32> {
        let mut id = self.structure(field.structure())?;
        if field.path().is_empty() {
            return Some(self.get(id)?.size_or_type);
        }
        let mut offset = 0_u32;
        for name in field.path().split('.') {
            let (member_offset, member_type) = self.member(id, name.as_bytes(), DEPTH, &mut { MEMBERS })?;
            offset = offset.checked_add(member_offset)?;
            id = member_type;
        }
        Some(offset)
    }

    /// A structure by its name, or by the names of its members as [`Field::structure`] has them.
    fn structure(&self, name: &str) -> Option<u32> {
        let Some(members) = name.strip_prefix('(').and_then(|name| name.strip_suffix(')')) else {
            return self.structures.get(name.as_bytes()).copied();
        };
        let has_all = |&id: &u32| {
            members
                .split(", ")
                .all(|member| self.member(id, member.as_bytes(), DEPTH, &mut { MEMBERS }).is_some())
        };
        // Where there are two, neither can be told to be the right one.
        let mut found = self.anonymous.iter().copied().filter(has_all);
        found.next().filter(|_| found.next().is_none())
    }

    /// The offsets of all fields, in the order the programs expect, with [`ABSENT`] for those this kernel lacks.
    pub fn offsets(&self) -> [u32; Field::COUNT] {
        let mut offsets = [ABSENT; Field::COUNT];
        for &field in Field::ALL {
            offsets[field as usize] = self.offset(field).unwrap_or(ABSENT);
        }
        offsets
    }

    /// Every function whose one parameter points to this structure, by name.
    pub fn callbacks(&self, argument: &str) -> Vec<&'a str> {
        let Some(&structure) = self.structures.get(argument.as_bytes()) else {
            return Vec::new();
        };
        // Many functions are of one type: each type is looked at once.
        let takes: Vec<bool> = (0..self.offsets.len() as u32)
            .map(|id| self.takes_only(id, structure))
            .collect();
        let is_callback = |&(_, &id): &(&&[u8], &u32)| {
            let ty = self.get(id).map_or(0, |function| function.size_or_type);
            takes.get(ty as usize) == Some(&true)
        };
        let mut found: Vec<&str> = self
            .functions
            .iter()
            .filter(is_callback)
            .filter_map(|(name, _)| std::str::from_utf8(name).ok())
            .collect();
        found.sort_unstable();
        found
    }

    /// Whether this is the type of functions whose one parameter points to this structure.
    fn takes_only(&self, proto: u32, structure: u32) -> bool {
        let one_parameter = || {
            let proto = self.get(proto)?;
            if proto.kind != KIND_FUNC_PROTO || proto.len != 1 {
                return None;
            }
            let pointer = self.get(self.skip_modifiers(word(self.types, proto.rest + 4).ok()?)?)?;
            (pointer.kind == KIND_PTR).then(|| self.skip_modifiers(pointer.size_or_type))?
        };
        one_parameter() == Some(structure)
    }

    /// Finds a member by name, also within anonymous members: its offset in bytes and its type. `budget` is how many members
    /// may still be looked at: in damaged information, members may contain each other.
    fn member(&self, id: u32, name: &[u8], depth: u32, budget: &mut u32) -> Option<(u32, u32)> {
        let ty = self.get(self.skip_modifiers(id)?)?;
        if depth == 0 || !matches!(ty.kind, KIND_STRUCT | KIND_UNION) {
            return None;
        }
        for i in 0..ty.len {
            *budget = budget.checked_sub(1)?;
            let at = ty.rest + i * 12;
            let member_name = self.string(word(self.types, at).ok()?);
            let member_type = word(self.types, at + 4).ok()?;
            let raw = word(self.types, at + 8).ok()?;
            let bits = if ty.bitfields { raw & 0x00ff_ffff } else { raw };
            let is_bitfield = ty.bitfields && raw >> 24 != 0;
            if member_name == name {
                return (!is_bitfield && bits % 8 == 0).then_some((bits / 8, member_type));
            }
            if member_name.is_empty()
                && let Some((offset, found)) = self.member(member_type, name, depth - 1, budget)
            {
                // In damaged information, members may lie anywhere.
                return Some(((bits / 8).checked_add(offset)?, found));
            }
        }
        None
    }

    fn skip_modifiers(&self, mut id: u32) -> Option<u32> {
        for _ in 0..DEPTH {
            let ty = self.get(id)?;
            match ty.kind {
                KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_TYPE_TAG => id = ty.size_or_type,
                _ => return Some(id),
            }
        }
        None
    }

    fn get(&self, id: u32) -> Option<Type> {
        let offset = self.offsets.get(id as usize).filter(|_| id != 0)?;
        self.type_at(*offset as usize).ok()
    }

    fn type_at(&self, at: usize) -> Result<Type> {
        let words = self.types.get(at..).and_then(|tail| tail.as_chunks().0.first_chunk());
        let words: &[[u8; 4]; 3] = words.context(CUT_OFF)?;
        let [name, info, size_or_type] = words.map(u32::from_le_bytes);
        Ok(Type {
            name,
            // Before 7.1 there were 5 bits and 16, and the others were 0.
            kind: info >> 24 & 0x7f,
            len: (info & 0x00ff_ffff) as usize,
            bitfields: info >> 31 != 0,
            size_or_type,
            rest: at + 12,
        })
    }

    /// How many bytes follow a type of this kind. Of a kind that is newer than this version of luo-trace the layout tells: an element
    /// of its own, and those that it counts.
    fn rest_len(&self, ty: &Type) -> Result<usize> {
        let kind = ty.kind as usize;
        let of_layout = self.layout.as_chunks::<4>().0.get(kind);
        Ok(match ty.kind {
            KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
            KIND_ARRAY => 12,
            KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => ty.len * 12,
            KIND_ENUM | KIND_FUNC_PROTO => ty.len * 8,
            0..=KIND_ENUM64 => 0,
            _ => match of_layout {
                Some(&[own, each, ..]) => usize::from(own) + ty.len * usize::from(each),
                None => bail!(
                    "BTF kind {kind} is newer than this version of luo-trace, and the kernel does not tell how long it is: use a newer \
                     luo-trace"
                ),
            },
        })
    }

    fn string(&self, offset: u32) -> &'a [u8] {
        let tail = self.strings.get(offset as usize..).unwrap_or_default();
        let len = memchr::memchr(0, tail).unwrap_or(tail.len());
        &tail[..len]
    }
}

fn word(bytes: &[u8], at: usize) -> Result<u32> {
    let bytes = bytes
        .get(at..)
        .and_then(|tail| tail.first_chunk::<4>())
        .context(CUT_OFF)?;
    Ok(u32::from_le_bytes(*bytes))
}

const CUT_OFF: &str = "BTF ends in the middle of a type";

/// How names are hashed: quickly, and from random numbers on, since it is the maker of an image who chooses the names.
fn hasher() -> RandomState {
    // Of the standard library, as for the words of an image: what comes with `ahash` may open a device.
    let random = std::hash::RandomState::new();
    let [a, b, c, d] = [0_u64, 1, 2, 3].map(|number| random.hash_one(number));
    RandomState::with_seeds(a, b, c, d)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Type information of structures whose members are all one 8-byte integer, which is type 1.
    fn blob(structures: &[(&str, &[(&str, u32)])]) -> Vec<u8> {
        let mut strings = vec![0u8];
        let mut string = |text: &str| match text {
            "" => 0,
            text => {
                let at = strings.len() as u32;
                strings.extend(text.bytes().chain([0]));
                at
            }
        };
        let mut types = vec![string("u64"), KIND_INT << 24, 8, 64];
        for (name, members) in structures {
            types.extend([string(name), KIND_STRUCT << 24 | members.len() as u32, 64]);
            for (member, offset) in *members {
                types.extend([string(member), 1, offset * 8]);
            }
        }
        let types: Vec<u8> = types.into_iter().flat_map(u32::to_le_bytes).collect();
        let header = [24, 0, types.len(), types.len(), strings.len()];
        let mut blob = vec![0x9f, 0xeb, 1, 0];
        blob.extend(header.into_iter().flat_map(|word| (word as u32).to_le_bytes()));
        blob.extend(types);
        blob.extend(strings);
        blob
    }

    #[test]
    fn a_structure_without_a_name_is_found_by_its_members() {
        // Given two without a name of which one has all the members, and one with a name that has them, too,
        let blob = blob(&[
            ("", &[("enabled", 0), ("count", 8)]),
            ("", &[("enabled", 0), ("luo_ser_out", 8), ("liveupdate_num", 16)]),
            ("luo_ser", &[("enabled", 0), ("liveupdate_num", 24)]),
        ]);
        let btf = Btf::parse(&blob).expect("parses");
        // then the member's offset is that of the one without a name.
        assert_eq!(btf.offset(Field::LuoUpdateNumber), Some(16));
    }

    #[test]
    fn of_two_structures_without_a_name_neither_is_guessed_at() {
        let twice: (&str, &[(&str, u32)]) = ("", &[("enabled", 0), ("liveupdate_num", 16)]);
        let blob = blob(&[twice, twice]);
        let btf = Btf::parse(&blob).expect("parses");
        assert_eq!(btf.offset(Field::LuoUpdateNumber), None);
    }

    /// Type information as 7.1 and later write it: with a kind that is not known yet, of 8 bytes and 4 more for each element, between
    /// a type that is known and a structure; and a structure of more members than 16 bits count. With a layout, or without.
    pub(in crate::image) fn of_the_future(with_layout: bool) -> Vec<u8> {
        const FUTURE: u32 = 33;
        const MEMBERS: u32 = 0x1_0001;
        let strings = b"\0u64\0future\0luo_file\0token\0luo_preserve_file\0large\0";
        let at = |name: &str| {
            let place = strings.windows(name.len()).position(|part| part == name.as_bytes());
            place.expect("it is there") as u32
        };
        let mut types = vec![at("u64"), KIND_INT << 24, 8, 64];
        types.extend([
            at("future"),
            FUTURE << 24 | 2,
            8,
            0xffff_ffff,
            0xffff_ffff,
            0xffff_ffff,
            0xffff_ffff,
        ]);
        types.extend([at("large"), KIND_STRUCT << 24 | MEMBERS, 8]);
        (0..MEMBERS).for_each(|_| types.extend([at("u64"), 1, 0]));
        types.extend([at("luo_file"), KIND_STRUCT << 24 | 1, 88, at("token"), 1, 80 * 8]);
        types.extend([0, KIND_FUNC_PROTO << 24, 0]);
        types.extend([at("luo_preserve_file"), KIND_FUNC << 24, 5]);
        let types: Vec<u8> = types.into_iter().flat_map(u32::to_le_bytes).collect();
        let mut layout = [0; (FUTURE as usize + 1) * 4];
        layout[FUTURE as usize * 4..].copy_from_slice(&[8, 4, 0, 0]);
        let layout = if with_layout { &layout[..] } else { &[] };
        let (types_len, strings_len) = (types.len() as u32, strings.len() as u32);
        let layout_at = types_len + strings_len;
        let header = [32, 0, types_len, types_len, strings_len, layout_at, layout.len() as u32];
        let mut blob = vec![0x9f, 0xeb, 1, 0];
        blob.extend(header.into_iter().flat_map(u32::to_le_bytes));
        [&blob, &types, &strings[..], layout].concat()
    }

    #[test]
    fn a_kind_that_is_not_known_yet_is_skipped_by_its_layout() {
        let blob = of_the_future(true);
        let btf = Btf::parse(&blob).expect("the layout tells how long it is");
        assert_eq!(btf.offset(Field::LuoFileToken), Some(80));
        assert_eq!(btf.function("luo_preserve_file"), Some(6));
        // What is made of it for the loader has none of it.
        let small = btf.only_functions(["luo_preserve_file"]);
        assert_eq!(
            Btf::parse(&small).expect("parses").function("luo_preserve_file"),
            Some(6)
        );
        // Cut anywhere it is refused.
        for len in (0..blob.len()).step_by(1009) {
            assert!(Btf::parse(&blob[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn without_a_layout_a_kind_that_is_not_known_is_an_error_that_says_so() {
        let error = Btf::parse(&of_the_future(false))
            .err()
            .expect("it cannot be skipped")
            .to_string();
        assert!(error.contains("kind 33"), "{error}");
    }

    #[test]
    fn a_function_keeps_its_id_where_nothing_else_is_left() {
        // Given type information with structures and functions, of which one function is kept,
        let blob = include_bytes!("../kernel/testdata/v7_1.btf");
        let whole = Btf::parse(blob).expect("parses");
        let small = whole.only_functions(["memfd_luo_preserve", "no_such_function"]);
        // then that one is found under the same id, and there is nothing else.
        let btf = Btf::parse(&small).expect("parses");
        let name: &[u8] = b"memfd_luo_preserve";
        assert_eq!(
            btf.functions.into_iter().collect::<Vec<_>>(),
            [(name, whole.functions[name])]
        );
        assert!(btf.structures.is_empty());
    }
}
