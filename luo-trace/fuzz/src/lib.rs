//! What is fuzzed, and what must hold on any input: nothing panics, and nothing takes more memory than the input pays for.
//!
//! Each function here is one target's body, so that the committed corpus can be replayed by a plain test. Inputs are
//! written so that a fuzzer gets on: what only a checksum or a length would refuse is put right first.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;

use luo_trace::chain::case::{Case, judge};
use luo_trace::chain::{Chain, Hosts};
use luo_trace::event::Body;
use luo_trace::event::decode::Decoder;
use luo_trace::expect::{Day, Expectations};
use luo_trace::image::btf::Btf;
use luo_trace::image::{self, Forecast, Formats, InUse, Platform, Preserved};
use luo_trace::journal::carry::{Memory, Recorder, recover};
use luo_trace::journal::serial::{Log, Serial};
use luo_trace::journal::{Events, Frame, Header, Reader};
use luo_trace::model::{Coverage, Model, Status, Verdict};
use luo_trace::policy::orders::{Order, Standing};
use luo_trace::policy::{Policy, Problem, Replay};
use luo_trace::sink;
use luo_trace::sink::web::{self, WebConfig};
use luo_trace::status;
use luo_trace::testing::image::{bzimage, unified};
use luo_trace::testing::{Story, memfd, session};
use luo_trace_common::policy::{Mode, RULES, VALUES};

// A part of the agent, and of nothing else in it: so the agent itself, with all that it is built from, is not needed here.
#[path = "../../src/kernel/kallsyms.rs"]
#[allow(dead_code, reason = "the running kernel's list is not asked for here")]
mod kallsyms;

#[path = "../../src/host/proc.rs"]
mod proc;

/// What begins every journal, and every frame's kind; see `luo_trace::journal`.
const PREAMBLE: &[u8] = b"LUOJRNL\n\x01\0\0\0";
/// The number of frames' kinds that are known, and one that is not.
const KINDS: u8 = 8;

/// The records of the ring: a length of two bytes, that many bytes of a record, and so on.
///
/// Whatever they are, the decoder, the model and the events' JSON take them, the model keeps no more sessions than it was
/// told of, and a finding and its verdict agree.
pub fn records(input: &[u8]) {
    let mut decoder = Decoder::default();
    let mut model = Model::new(&Coverage::all());
    let mut told = 0;
    let mut broken = Vec::new();
    for record in split(input) {
        let (gap, event) = decoder.decode(&record);
        for event in gap.into_iter().chain(event) {
            assert!(serde_json::to_string(&event).is_ok(), "an event has no JSON: {event:?}");
            broken.extend(model.apply(&event).iter().map(|finding| finding.invariant));
            told += 1;
        }
    }
    broken.extend(model.finish().iter().map(|finding| finding.invariant));
    assert!(model.sessions().count() <= told, "{told} events made more sessions");
    assert!(model.flbs().count() <= told, "{told} events made more global states");
    let violated = |verdict: &Verdict| verdict.status == Status::Violated;
    let violated: Vec<_> = model
        .verdicts()
        .into_iter()
        .filter(violated)
        .map(|verdict| verdict.invariant)
        .collect();
    assert!(
        broken.iter().all(|invariant| violated.contains(invariant)),
        "{broken:?}"
    );
}

/// A journal. Where the first byte is even, the rest is the file. Where it is odd, the rest are frames, each a kind, a length
/// of two bytes, and a payload; the file is made of them, with right lengths and checksums.
///
/// Whatever it holds, it is read to its end and judged, and damage lies within the file.
pub fn journal(input: &[u8]) {
    let Some((mode, rest)) = input.split_first() else {
        return;
    };
    let file = if mode % 2 == 0 { rest.to_vec() } else { framed(rest) };
    let Ok(reader) = Reader::new(&file[..]) else {
        return;
    };
    let mut events = 0;
    let mut gaps = 0;
    let judgement = judge(Events::new(reader), |event| match event.body {
        Body::Gap { .. } => gaps += 1,
        _ => events += 1,
    });
    assert_eq!(judgement.summary.events, events);
    assert!(gaps <= file.len(), "{gaps} gaps in {} bytes", file.len());
    for damage in &judgement.summary.damage {
        assert!(
            damage.offset.saturating_add(damage.bytes) <= file.len() as u64,
            "{damage:?} in {} bytes",
            file.len()
        );
    }
    judgement.conclusion();
}

/// The log of a serial line. Where the first byte is even, the rest is the log. Where it is odd, the rest are frames as in
/// [`journal`], sent through a serial line on which the line that the second byte names gets lost.
///
/// Whatever it holds, every recording in it is read to its end and judged.
pub fn serial(input: &[u8]) {
    let log = match input {
        [mode, lost, rest @ ..] if mode % 2 == 1 => sent(rest, usize::from(*lost)),
        [_, rest @ ..] => rest.to_vec(),
        [] => return,
    };
    let Ok(found) = Log::read(&log[..]) else {
        unreachable!("memory can always be read");
    };
    for recording in found.recordings {
        let Ok(reader) = Reader::new(recording) else {
            unreachable!("what has no beginning is no recording");
        };
        judge(Events::new(reader), |_| {}).conclusion();
    }
}

/// Memory that came over a kexec. Where the first byte is even, the rest is the memory, in the layout's version that the byte names,
/// with the checksum of its beginning put right. Where it is odd, a byte each says how long a record is that was kept; the two
/// before them say which byte of the memory is damaged, and the next one how.
///
/// Whatever it holds, what comes out is read to its end and judged; what damage leaves is what was kept, in its order, and no more
/// is told to be lost than there was.
pub fn carried(input: &[u8]) {
    match input {
        [mode, rest @ ..] if mode % 2 == 0 => {
            let mut memory = rest.to_vec();
            memory.resize(memory.len().max(64), 0);
            memory[..8].copy_from_slice(b"LUOCARRY");
            memory[8..12].copy_from_slice(&u32::from(mode / 2 % 4).to_le_bytes());
            let crc = crc32fast::hash(&memory[..24]);
            memory[24..28].copy_from_slice(&crc.to_le_bytes());
            if let Ok(recovered) = recover(&memory)
                && let Ok(reader) = Reader::new(&recovered.journal[..])
            {
                judge(Events::new(reader), |_| {}).conclusion();
            }
        }
        [_, low, high, flip, lengths @ ..] => damaged(usize::from(u16::from_le_bytes([*low, *high])), *flip, lengths),
        _ => {}
    }
}

/// Keeps records of these lengths, damages a byte, and looks at what is left.
fn damaged(at: usize, flip: u8, lengths: &[u8]) {
    struct Kept(Vec<u8>);
    impl Memory for &mut Kept {
        fn size(&self) -> usize {
            self.0.len()
        }
        fn write(&mut self, at: usize, bytes: &[u8]) {
            self.0[at..at + bytes.len()].copy_from_slice(bytes);
        }
        fn publish(&mut self, at: usize, value: u64) {
            self.write(at, &value.to_le_bytes());
        }
    }
    let mut kept = Kept(vec![0; 6 << 10]);
    let Ok(mut recorder) = Recorder::begin(&mut kept, &Header::default()) else {
        unreachable!("there is room for a header and some records");
    };
    let record = |(number, len): (u64, &u8)| [&number.to_le_bytes()[..], &vec![b'.'; usize::from(*len)]].concat();
    (0..)
        .zip(lengths)
        .map(record)
        .for_each(|record| recorder.record(&record));
    let places = kept.0.len();
    kept.0[at % places] ^= flip;
    let Ok(recovered) = recover(&kept.0) else { return };
    // The header of the journal is for its reader to judge.
    let Ok(mut reader) = Reader::new(&recovered.journal[..]) else {
        return;
    };
    let mut next = 0;
    while let Some(frame) = reader.next() {
        if let Frame::Event(bytes) = frame {
            let number = bytes
                .first_chunk()
                .map_or(u64::MAX, |number| u64::from_le_bytes(*number));
            assert!(number >= next, "record {number} after {next}");
            assert_eq!(
                lengths.get(number as usize).map(|len| record((number, len))).as_deref(),
                Some(bytes)
            );
            next = number + 1;
        }
    }
    assert!(
        recovered.records.saturating_add(recovered.lost) <= lengths.len() as u64,
        "{recovered:?}"
    );
}

/// Orders. Where the first byte is even, the rest is the file in which they are kept over the agent's end, and where it is odd a
/// request at the agent's socket.
///
/// Whatever it is, it is refused with a reason, or can be taken and kept, and what is kept is read as the same.
pub fn orders(input: &[u8]) {
    const BOOT: &str = "b";
    const NOW: u64 = 1 << 40;
    let Some((mode, rest)) = input.split_first() else {
        return;
    };
    let standing = if mode % 2 == 0 {
        match Standing::kept(rest, BOOT, NOW) {
            Ok(standing) => standing,
            Err(why) => {
                assert!(!why.is_empty());
                Standing::of_damage(&why, NOW)
            }
        }
    } else {
        let Ok(order) = serde_json::from_slice::<Order>(rest) else {
            return;
        };
        let mut standing = Standing::default();
        match order.check() {
            Ok(()) => assert!(!standing.take(&order, 0, Mode::Enforce, NOW).told.is_empty()),
            Err(why) => assert!(!why.contains('\n'), "{why}"),
        }
        standing
    };
    assert_eq!(
        Standing::kept(standing.keep(BOOT).as_bytes(), BOOT, NOW),
        Ok(standing.clone())
    );
    standing.found();
    standing.joined(u64::MAX, NOW + 1, NOW).expire(u64::MAX);
}

/// The kernel's list of its symbols.
///
/// Whatever it is, only symbols are found that were asked for, at an address that stands before their name.
pub fn symbols(input: &[u8]) {
    let names = kallsyms::variables();
    let Ok(found) = kallsyms::Symbols::parse(input, &names) else {
        unreachable!("memory can always be read");
    };
    let mut first: BTreeMap<&str, u64> = BTreeMap::new();
    for line in input
        .split(|&byte| byte == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok())
    {
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        if let [address, _, name] = words[..]
            && let Ok(address) = u64::from_str_radix(address, 16)
        {
            first.entry(name).or_insert(address);
        }
    }
    for name in names {
        if let Some(address) = found.address(name) {
            let promoted = format!("{name}.llvm.");
            let mut of_thin_lto = first.iter().filter(|(symbol, _)| symbol.starts_with(&promoted));
            let mut is_promoted = || of_thin_lto.any(|(_, at)| *at == address);
            assert!(first.get(name) == Some(&address) || is_promoted(), "{name}");
        }
    }
    assert!(
        found
            .variables()
            .iter()
            .all(|address| *address == 0 || first.values().any(|of| of == address))
    );
}

/// Texts of `/proc`: up to the first NUL one of a process or a descriptor, and after it the process's mounts.
///
/// Whatever they are, what is read stands in a line of them that has the name, and what the kernel would write of a number in
/// them is read as that number.
pub fn proc_texts(input: &[u8]) {
    let end = input.iter().position(|&byte| byte == 0).unwrap_or(input.len());
    let (text, mounts) = input.split_at(end);
    let (text, mounts) = (String::from_utf8_lossy(text), String::from_utf8_lossy(mounts));
    let mounts = mounts.trim_start_matches('\0');
    let has = |name: &str, value: &str| text.lines().any(|line| line.starts_with(name) && line.contains(value));
    if let Some(pid) = proc::pid(&text) {
        assert!(pid > 0 && has("Pid:", &pid.to_string()));
    }
    if let Some(login) = proc::login(&text) {
        assert!(login < u32::MAX && text.contains(&login.to_string()));
    }
    if let Some(capabilities) = proc::effective_capabilities(&text) {
        assert!(has("CapEff:", "") && text.to_lowercase().contains(&format!("{capabilities:x}")));
    }
    if let Some((major, minor)) = proc::device_of_mount(&text, mounts) {
        assert!(has("mnt_id:", ""));
        assert!(mounts.contains(&major.to_string()) && mounts.contains(&minor.to_string()));
    }
    let Some(number) = input.first_chunk().map(|bytes| u32::from_le_bytes(*bytes)) else {
        return;
    };
    // What a process can put into these texts beside what the kernel says is at the end of a line, where no line begins.
    let chosen: String = mounts.chars().filter(|c| !c.is_whitespace()).collect();
    let fdinfo = format!("pos:\t0\nmnt_id:\t{number}\nPid:\t{number}\n");
    assert_eq!(proc::pid(&fdinfo), Some(number).filter(|&pid| pid > 0));
    assert_eq!(
        proc::login(&number.to_string()),
        Some(number).filter(|&uid| uid < u32::MAX)
    );
    let status = format!("Name:\t{chosen}\nCapEff:\t{number:016x}\n");
    assert_eq!(proc::effective_capabilities(&status), Some(number.into()));
    let mountinfo =
        format!("x{number} 1 7:7 / /{chosen} rw\n{number} 1 8:{number} / /{chosen} rw - ext4 {chosen} rw\n");
    assert_eq!(proc::device_of_mount(&fdinfo, &mountinfo), Some((8, number)));
}

/// A policy.
///
/// Whatever it is, it is refused at places that are in it, or it fits into the kernel's tables, and is warned of and decided by.
pub fn policy(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let lines = 1 + text.matches('\n').count();
    let is_inside = |problem: &Problem| problem.place.line <= lines && problem.place.column <= text.len() + 1;
    let policy = match Policy::read(text) {
        Ok(policy) => policy,
        Err(problems) => {
            assert!(
                !problems.told.is_empty() && problems.told.iter().all(is_inside),
                "{problems}"
            );
            return;
        }
    };
    assert!(policy.warnings().iter().all(is_inside));
    let compiled = policy.compile();
    assert!(compiled.names.len() <= RULES);
    let entries = [
        compiled.comms.len(),
        compiled.uids.len(),
        compiled.cgroups.len(),
        compiled.sessions.len(),
    ];
    assert!(entries.iter().all(|&entries| entries <= VALUES), "{entries:?}");
    let mut replay = Replay::new(&policy, &Coverage::all());
    let mut story = Story::new();
    story
        .orderly()
        .create(session(1, "vm-1"))
        .preserve(session(1, "vm-1"), 1, memfd(1))
        .reboot();
    story.events.iter().for_each(|event| replay.apply(event));
    replay.finish();
}

/// A file of expectations.
///
/// Whatever it is, it is refused with a reason, or nothing can be held against it.
pub fn expect(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let today = Day {
        year: 2026,
        month: 1,
        day: 31,
    };
    match Expectations::parse(text) {
        Err(why) => assert!(!why.is_empty()),
        Ok(expectations) => {
            let case = Case {
                records: Vec::new(),
                chain: Chain::join(Vec::new(), Hosts::Told),
                repeated: Vec::new(),
                unreadable: Vec::new(),
            };
            let checks = expectations.check(&case, today, text);
            let lines = text.lines().count().max(1);
            assert!(checks.iter().all(|check| check.line.is_none_or(|line| line <= lines)));
            assert!(checks.iter().all(|check| !check.message.contains('\n')), "{checks:?}");
        }
    }
}

/// The file of `--web-config`.
///
/// Whatever it is, it is refused with a reason, or every password in it is a hash that can be tried.
pub fn web_config(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    match WebConfig::read(text) {
        Err(why) => assert!(!why.is_empty()),
        Ok(config) => {
            assert!(
                config
                    .users
                    .values()
                    .all(|hash| hash.starts_with("$2") && hash.len() == 60)
            );
            assert!(config.users.keys().all(|user| !user.is_empty() && !user.contains(':')));
        }
    }
}

/// What the port of [`http`] may be asked for by, and what its answers have in them.
const HOST: &str = "node-7";
const SHOWN: &str = "luo_update_number 7";

struct Port;

impl sink::StatusSource for Port {
    fn status(&self) -> status::Status {
        status::Status {
            host: SHOWN.into(),
            ..status::Status::default()
        }
    }
}

impl web::PageSource for Port {
    fn metrics(&self) -> String {
        SHOWN.into()
    }

    fn ready(&self) -> Result<(), String> {
        Ok(())
    }
}

/// What a client sends to the agent's HTTP port.
///
/// Whatever it is, the port answers once at most, and shows nothing to one that asks for a host of another name.
pub fn http(input: &[u8]) {
    let answer = web::answer(input, HOST, Arc::new(Port));
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1."), "{answer}");
    assert!(answer.matches(SHOWN).count() <= 2, "more than one answer: {answer}");
    if answer.contains(SHOWN) {
        let input = String::from_utf8_lossy(input);
        let lines = input.trim_start().lines().take_while(|line| !line.is_empty());
        let hosts = lines.filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("host").then_some(value.trim())
        });
        hosts.for_each(|host| assert!(is_ours(host), "shown to {host:?}: {answer}"));
    }
}

/// Whether a `Host` is one of those that the port answers, told in another way than it tells.
fn is_ours(host: &str) -> bool {
    let digits = |port: &str| port.chars().all(|digit| digit.is_ascii_digit());
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let names = [HOST, "localhost", machine.trim()].map(str::to_lowercase);
    let is_name = |name: &str| !name.is_empty() && names.contains(&name.trim_end_matches('.').to_lowercase());
    let bare = host.trim_start_matches('[').split(']').next().unwrap_or_default();
    let name = host
        .rsplit_once(':')
        .filter(|(_, port)| digits(port))
        .map_or(host, |(name, _)| name);
    is_name(name) || name.parse::<IpAddr>().is_ok() || host.parse::<IpAddr>().is_ok() || bare.parse::<IpAddr>().is_ok()
}

/// Type information, as of a kernel.
///
/// Whatever it is, it is refused or can be asked for everything.
pub fn btf(input: &[u8]) {
    let Ok(btf) = Btf::parse(input) else {
        return;
    };
    btf.offsets();
    btf.has_function("luo_open");
    let small = btf.only_functions(["luo_open"]);
    assert!(Btf::parse(&small).is_ok_and(|small| small.has_function("luo_open") == btf.has_function("luo_open")));
    for argument in ["liveupdate_file_op_args", "liveupdate_flb_op_args", "a"] {
        assert!(btf.callbacks(argument).len() <= input.len());
    }
}

/// A kernel image. The first byte says what the rest is: the whole file, what follows an ELF file's head, what is packed in
/// a bzImage, with its size behind it, or what follows the header of an EFI program with three sections.
///
/// Whatever it is, it is refused with a reason, or can be asked for everything and be judged.
pub fn image(input: &[u8]) {
    /// Where the table of sections begins in an EFI program of [`unified`].
    const TABLE_AT: usize = 0x80 + 24 + 0xf0;
    let Some((mode, rest)) = input.split_first() else {
        return;
    };
    let file = match mode % 4 {
        0 => rest.to_vec(),
        1 => [&[0x7f, b'E', b'L', b'F', 2, 1][..], &[0; 58], rest].concat(),
        3 => [&unified(&[("", &[][..]); 3])[..TABLE_AT], rest].concat(),
        _ => bzimage(rest),
    };
    match image::read(&file) {
        Err(why) => assert!(!why.to_string().is_empty()),
        Ok(contents) => {
            assert!(contents.unpacked <= image::UNPACKED_MAX);
            assert!(contents.banner.chars().all(|character| matches!(character, ' '..='~')));
            // What is listed is among the words.
            for word in contents.versioned.iter().chain(&contents.luo_formats) {
                assert_ne!(contents.knows(word.as_bytes()), Some(false), "{word}");
            }
            let used = |name: &str| InUse {
                name: name.into(),
                count: 1,
            };
            let preserved = Preserved {
                sessions: 1,
                handlers: vec![used("memfd-v2"), used("")],
                flbs: vec![used("pci-v1")],
                incomplete: None,
            };
            let judgement = image::judge(
                &contents,
                &preserved,
                &Formats::default(),
                &Platform::default(),
                Some(&b"liveupdate=on"[..]),
            );
            // Files whose handler is not known are never known to come over.
            assert!(judgement.outcome > Forecast::Carries);
        }
    }
}

/// The records in an input of [`records`], each with the size in its header put right.
fn split(mut input: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    while let Some((len, rest)) = input.split_first_chunk::<2>() {
        let len = usize::from(u16::from_le_bytes(*len)).min(rest.len());
        let mut record = rest[..len].to_vec();
        // `luo_trace_common::events::Header` begins with the kind and the size.
        if let Some(size) = record.get_mut(2..4) {
            size.copy_from_slice(&(len as u16).to_le_bytes());
        }
        records.push(record);
        input = &rest[len..];
    }
    records
}

/// The file that an input of [`journal`] stands for.
fn framed(mut input: &[u8]) -> Vec<u8> {
    let mut file = PREAMBLE.to_vec();
    let crc = crc32fast::hash(&file);
    file.extend(crc.to_le_bytes());
    while let Some((head, rest)) = input.split_first_chunk::<3>() {
        let len = usize::from(u16::from_le_bytes([head[1], head[2]])).min(rest.len());
        let start = file.len();
        file.extend((len as u32).to_le_bytes());
        file.extend(u16::from(head[0] % (KINDS + 1)).to_le_bytes());
        file.extend(&rest[..len]);
        let crc = crc32fast::hash(&file[start..]);
        file.extend(crc.to_le_bytes());
        input = &rest[len..];
    }
    file
}

/// The log of a serial line through which the frames of an input of [`journal`] went, without one of its lines.
fn sent(input: &[u8], lost: usize) -> Vec<u8> {
    let mut log = Vec::new();
    if Serial::new(&mut log).write_all(&framed(input)).is_err() {
        unreachable!("memory takes everything");
    }
    let lines = log.split_inclusive(|&byte| byte == b'\n').enumerate();
    lines
        .filter(|(place, _)| *place != lost)
        .flat_map(|(_, line)| line.to_vec())
        .collect()
}
