//! bpf(2) itself, for what aya does not have: links to many functions at once, and programs for them.
//!
//! Each structure is the beginning of what `union bpf_attr` has for its command, `include/uapi/linux/bpf.h` (7.3); the kernel takes the
//! rest for zero.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use aya_obj::generated::bpf_insn;

const MAP_UPDATE_ELEM: libc::c_int = 2;
const PROG_LOAD: libc::c_int = 5;
const PROG_TEST_RUN: libc::c_int = 10;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BTF_LOAD: libc::c_int = 18;
const LINK_CREATE: libc::c_int = 28;

/// `BPF_PROG_TYPE_TRACING`.
const TRACING: u32 = 26;
/// `BPF_PROG_TYPE_SYSCALL`: a program that is attached to nothing, and may do what a system call does.
const SYSCALL: u32 = 31;
/// `BPF_F_SLEEPABLE`, which the kernel wants of such a program.
const SLEEPABLE: u32 = 1 << 4;
/// `BPF_FUNC_kallsyms_lookup_name`.
const LOOKUP_NAME: i32 = 179;
/// How much is kept of what the verifier says of a program that it refuses, in bytes: the end of it.
const LOG_LEN: usize = 64 << 10;
/// How much of `struct bpf_prog_info` (7.3) is asked for, in words of 8 bytes: up to `recursion_misses`.
const INFO_WORDS: usize = 27;

/// When a program runs that is attached to functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// A function is entered.
    Enter,
    /// It returns.
    Exit,
}

/// To what a program can be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum To {
    /// The function with this id in the kernel's type information.
    One(u32),
    /// Any functions, of which the program knows no prototype.
    Many,
}

/// What the kernel calls it: `enum bpf_attach_type`.
fn attach_type(when: When, to: To) -> u32 {
    match (when, to) {
        // `BPF_TRACE_FENTRY`, `BPF_TRACE_FEXIT`, `BPF_TRACE_FENTRY_MULTI`, `BPF_TRACE_FEXIT_MULTI`.
        (When::Enter, To::One(_)) => 24,
        (When::Exit, To::One(_)) => 25,
        (When::Enter, To::Many) => 59,
        (When::Exit, To::Many) => 60,
    }
}

/// A program that is to be loaded.
pub(super) struct Program<'a> {
    /// What other tools show.
    pub name: &'a str,
    pub license: &'a CStr,
    pub instructions: &'a [bpf_insn],
    /// Which types its functions have in the program's type information, as `struct bpf_func_info`.
    pub functions: &'a [u8],
    /// The type information, where it has functions besides its main one.
    pub types: Option<BorrowedFd<'a>>,
}

/// Why a program was not loaded.
#[derive(Debug)]
pub(super) struct Refused {
    pub error: io::Error,
    /// What the verifier says of it.
    pub log: String,
}

#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    instructions_len: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_len: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
    types: u32,
    function_size: u32,
    functions: u64,
    functions_len: u32,
    line_size: u32,
    lines: u64,
    lines_len: u32,
    attach_id: u32,
}

impl Load {
    fn of(license: &CStr, instructions: &[bpf_insn]) -> Self {
        Self {
            instructions_len: instructions.len() as u32,
            instructions: instructions.as_ptr() as u64,
            license: license.as_ptr() as u64,
            ..Self::default()
        }
    }
}

/// Length of a `struct bpf_func_info`.
const FUNCTION_SIZE: usize = 8;

/// Loads a program that is to run when functions are entered, or return.
///
/// # Errors
/// What the kernel, or its verifier, has against it.
pub(super) fn load(program: &Program<'_>, when: When, to: To) -> Result<OwnedFd, Refused> {
    let mut attributes = Load {
        kind: TRACING,
        attach_type: attach_type(when, to),
        attach_id: match to {
            To::One(id) => id,
            To::Many => 0,
        },
        ..Load::of(program.license, program.instructions)
    };
    // The last byte stays the NUL.
    for (to, byte) in attributes.name[..15].iter_mut().zip(program.name.bytes()) {
        *to = byte;
    }
    if let Some(types) = program.types {
        attributes.types = types.as_raw_fd().unsigned_abs();
        attributes.function_size = FUNCTION_SIZE as u32;
        attributes.functions = program.functions.as_ptr() as u64;
        attributes.functions_len = (program.functions.len() / FUNCTION_SIZE) as u32;
    }
    // SAFETY: what the attributes point to is borrowed for longer than the call, and only read.
    let error = match unsafe { descriptor(PROG_LOAD, &mut attributes) } {
        Ok(program) => return Ok(program),
        Err(error) => error,
    };
    // Once more, for the reason.
    let mut log = vec![0_u8; LOG_LEN];
    attributes.log_level = 1;
    attributes.log_len = log.len() as u32;
    attributes.log = log.as_mut_ptr() as u64;
    // SAFETY: as above, and the kernel writes within the log.
    match unsafe { descriptor(PROG_LOAD, &mut attributes) } {
        Ok(program) => Ok(program),
        Err(_) => Err(Refused {
            error,
            log: CStr::from_bytes_until_nul(&log).map_or_else(|_| String::new(), |log| log.to_string_lossy().into()),
        }),
    }
}

/// Loads the type information of programs.
///
/// # Errors
/// Where the kernel does not take it.
pub(super) fn load_types(types: &[u8]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct LoadTypes {
        types: u64,
        log: u64,
        types_len: u32,
        log_len: u32,
    }
    let mut attributes = LoadTypes {
        types: types.as_ptr() as u64,
        log: 0,
        types_len: types.len() as u32,
        log_len: 0,
    };
    // SAFETY: what the attributes point to is borrowed for longer than the call, and only read.
    unsafe { descriptor(BTF_LOAD, &mut attributes) }
}

/// A function of the kernel that a program is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Function {
    /// Its id in the kernel's type information.
    pub id: u32,
    /// What the program is told when it runs for it.
    pub cookie: u64,
}

/// Attaches a program to the function that it was loaded for, until the descriptor is closed.
///
/// # Errors
/// Where it cannot be traced.
pub(super) fn link_to_one(program: BorrowedFd<'_>, when: When, function: Function) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Link {
        program: u32,
        target: u32,
        attach_type: u32,
        flags: u32,
        target_id: u32,
        padding: u32,
        cookie: u64,
    }
    let mut attributes = Link {
        program: program.as_raw_fd().unsigned_abs(),
        target: 0,
        attach_type: attach_type(when, To::One(function.id)),
        flags: 0,
        // That of the load counts.
        target_id: 0,
        padding: 0,
        cookie: function.cookie,
    };
    // SAFETY: the attributes point nowhere.
    unsafe { descriptor(LINK_CREATE, &mut attributes) }
}

/// Attaches a program to all of these functions or to none, until the descriptor is closed.
///
/// # Errors
/// Where one of them cannot be traced, or is there twice.
pub(super) fn link_to_many(program: BorrowedFd<'_>, when: When, functions: &[Function]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Link {
        program: u32,
        target: u32,
        attach_type: u32,
        flags: u32,
        ids: u64,
        cookies: u64,
        len: u32,
        padding: u32,
    }
    let ids: Vec<u32> = functions.iter().map(|function| function.id).collect();
    let cookies: Vec<u64> = functions.iter().map(|function| function.cookie).collect();
    let mut attributes = Link {
        program: program.as_raw_fd().unsigned_abs(),
        target: 0,
        attach_type: attach_type(when, To::Many),
        flags: 0,
        ids: ids.as_ptr() as u64,
        cookies: cookies.as_ptr() as u64,
        len: functions.len() as u32,
        padding: 0,
    };
    // SAFETY: the attributes point to so many ids and cookies, which outlive the call and are only read.
    unsafe { descriptor(LINK_CREATE, &mut attributes) }
}

/// Instructions: a register takes a number, or another one; a number is added to it; a helper is called; the end.
const SET: u8 = 0xb7;
const COPY: u8 = 0xbf;
const ADD: u8 = 0x07;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

const fn instruction(code: u8, to: u8, from: u8, number: i32) -> bpf_insn {
    bpf_insn {
        code,
        _bitfield_align_1: [],
        _bitfield_1: aya_obj::generated::__BindgenBitfieldUnit::new([to | from << 4]),
        off: 0,
        imm: number,
    }
}

/// A question that [`Lookup`] answers, as its program has it.
#[repr(C)]
struct Question {
    address: u64,
    name: [u8; NAME_LEN],
}

/// How long a name can be that is looked up, with its NUL.
const NAME_LEN: usize = 128;

/// Looks symbols up by their names, where the kernel has them in an index. Its list, `/proc/kallsyms`, is made up anew for each reader.
pub(super) struct Lookup(OwnedFd);

impl Lookup {
    /// Loads the program that asks.
    ///
    /// # Errors
    /// Where the kernel has no such programs.
    pub(super) fn load() -> io::Result<Self> {
        let address_at = std::mem::offset_of!(Question, address) as i32;
        let name_at = std::mem::offset_of!(Question, name) as i32;
        // The helper takes the name in register 1, its length in 2, no flags in 3, and where to put the address in 4.
        let instructions = [
            instruction(COPY, 4, 1, 0),
            instruction(ADD, 4, 0, address_at),
            instruction(ADD, 1, 0, name_at),
            instruction(SET, 2, 0, NAME_LEN as i32),
            instruction(SET, 3, 0, 0),
            instruction(CALL, 0, 0, LOOKUP_NAME),
            instruction(EXIT, 0, 0, 0),
        ];
        let mut attributes = Load {
            kind: SYSCALL,
            flags: SLEEPABLE,
            ..Load::of(c"GPL", &instructions)
        };
        // SAFETY: what the attributes point to lives longer than the call, and is only read.
        unsafe { descriptor(PROG_LOAD, &mut attributes) }.map(Self)
    }

    /// The address of a symbol, of the first one of this name that the kernel has, else of a module's; 0 where there is none.
    ///
    /// # Errors
    /// Where the name is too long, or the kernel does not tell addresses.
    pub(super) fn address(&self, name: &str) -> io::Result<u64> {
        let mut question = Question {
            address: 0,
            name: [0; NAME_LEN],
        };
        // The last byte stays the NUL.
        let place = question.name[..NAME_LEN - 1].get_mut(..name.len());
        place
            .ok_or(io::ErrorKind::InvalidInput)?
            .copy_from_slice(name.as_bytes());
        let mut attributes = TestRun {
            fd: self.0.as_raw_fd().unsigned_abs(),
            context_sizes: [size_of::<Question>() as u32, 0],
            context: [&raw mut question as u64, 0],
            ..TestRun::default()
        };
        // SAFETY: the kernel reads and writes the question, which is as long as the attributes say, and lives through the call.
        unsafe { bpf(PROG_TEST_RUN, &mut attributes) }?;
        match (attributes.result as i32).checked_neg() {
            Some(0) => Ok(question.address),
            Some(libc::ENOENT) => Ok(0),
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Err(io::ErrorKind::Other.into()),
        }
    }
}

/// Whether the kernel has links to many functions at once: it has no word against a program for them, and of a link to no function at
/// all it says that it makes no sense, where one without such links says that there are none. Nothing is attached for that.
pub(super) fn has_links_to_many() -> bool {
    let program = Program {
        name: "probe",
        license: c"GPL",
        instructions: &[instruction(SET, 0, 0, 0), instruction(EXIT, 0, 0, 0)],
        functions: &[],
        types: None,
    };
    [When::Enter, When::Exit].into_iter().all(|when| {
        load(&program, when, To::Many).is_ok_and(|program| {
            let refused = link_to_many(program.as_fd(), when, &[]).err();
            refused.and_then(|error| error.raw_os_error()) == Some(libc::EINVAL)
        })
    })
}

/// Puts a program into an array of programs.
///
/// # Errors
/// Where the array has no such place, or has programs of another kind.
pub(super) fn put(array: BorrowedFd<'_>, place: u32, program: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Update {
        map: u32,
        padding: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let value = program.as_raw_fd();
    let mut attributes = Update {
        map: array.as_raw_fd().unsigned_abs(),
        padding: 0,
        key: &raw const place as u64,
        value: &raw const value as u64,
        flags: 0,
    };
    // SAFETY: key and value have the 4 bytes that an array of programs takes of each.
    unsafe { bpf(MAP_UPDATE_ELEM, &mut attributes) }.map(drop)
}

/// What the kernel tells of a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Info {
    /// Its number.
    pub id: u32,
    /// How often it was skipped.
    pub misses: u64,
}

/// Asks about a program; zeros where the kernel does not tell.
pub(super) fn info(program: BorrowedFd<'_>) -> Info {
    #[repr(C)]
    struct Ask {
        fd: u32,
        len: u32,
        info: u64,
    }
    let mut info = [0u64; INFO_WORDS];
    let mut attributes = Ask {
        fd: program.as_raw_fd().unsigned_abs(),
        len: size_of_val(&info) as u32,
        info: info.as_mut_ptr() as u64,
    };
    // SAFETY: the kernel writes at most `len` bytes to `info`. Where it writes none, zeros are there.
    _ = unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut attributes) };
    // The first word is the type and the number, of 4 bytes each.
    let [_, id] = zerocopy::transmute!(info[0]);
    Info {
        id,
        misses: info[INFO_WORDS - 1],
    }
}

#[repr(C)]
#[derive(Default)]
struct TestRun {
    fd: u32,
    result: u32,
    data_sizes: [u32; 2],
    data: [u64; 2],
    repeat: u32,
    duration: u32,
    context_sizes: [u32; 2],
    context: [u64; 2],
    flags: u32,
    cpu: u32,
    batch: u32,
    padding: u32,
}

/// Runs a program that is attached to nothing, without any argument.
///
/// # Errors
/// Where the kernel does not run it.
pub(super) fn run(program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = TestRun {
        fd: program.as_raw_fd().unsigned_abs(),
        ..TestRun::default()
    };
    // SAFETY: the attributes point nowhere; the kernel writes within them.
    unsafe { bpf(PROG_TEST_RUN, &mut attributes) }.map(drop)
}

/// A command that gives a descriptor.
///
/// # Safety
/// As for [`bpf`].
unsafe fn descriptor<T>(command: libc::c_int, attributes: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: as the caller promises.
    let fd = unsafe { bpf(command, attributes) }?;
    // SAFETY: the kernel has just opened it for this process, close-on-exec, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The system call.
///
/// # Safety
/// The attributes are laid out as the command wants them, and what they point to is valid for what it does with that.
unsafe fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the attributes are of the size given; the rest is as the caller promises.
    match unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) } {
        -1 => Err(io::Error::last_os_error()),
        answer => Ok(answer as libc::c_int),
    }
}
