//! What is fuzzed, and what must hold on any input: nothing panics, and nothing takes more memory than the input pays for.
//!
//! Each function here is one target's body, so that the committed corpus can be replayed by a plain test. Inputs are
//! written so that a fuzzer gets on: what only a checksum or a length would refuse is put right first.

use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;

use luo_trace::chain::Chain;
use luo_trace::chain::case::{Case, judge};
use luo_trace::event::Body;
use luo_trace::event::decode::Decoder;
use luo_trace::expect::{Day, Expectations};
use luo_trace::image::btf::Btf;
use luo_trace::image::{self, Formats, InUse, Outcome, Preserved};
use luo_trace::journal::serial::{Log, Serial};
use luo_trace::journal::{Events, Reader};
use luo_trace::model::{Coverage, Model, Status, Verdict};
use luo_trace::policy::{Policy, Problem, Replay};
use luo_trace::sink;
use luo_trace::sink::web::{self, WebConfig};
use luo_trace::status;
use luo_trace::testing::image::bzimage;
use luo_trace::testing::{Story, memfd, session};
use luo_trace_common::policy::{RULES, VALUES};

/// What begins every journal, and every frame's kind; see `luo_trace::journal`.
const PREAMBLE: &[u8] = b"LUOJRNL\n\x01\0\0\0";
/// The number of frames' kinds that are known, and one that is not.
const KINDS: u8 = 7;

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
    judgement.outcome();
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
        judge(Events::new(reader), |_| {}).outcome();
    }
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
                chain: Chain::join(Vec::new()),
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

impl sink::Source for Port {
    fn status(&self) -> status::Status {
        status::Status {
            host: SHOWN.into(),
            ..status::Status::default()
        }
    }
}

impl web::Source for Port {
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

/// A kernel image. The first byte says what the rest is: the whole file, what follows an ELF file's head, or what is packed in
/// a bzImage, with its size behind it.
///
/// Whatever it is, it is refused with a reason, or can be asked for everything and be judged.
pub fn image(input: &[u8]) {
    let Some((mode, rest)) = input.split_first() else {
        return;
    };
    let file = match mode % 3 {
        0 => rest.to_vec(),
        1 => [&[0x7f, b'E', b'L', b'F', 2, 1][..], &[0; 58], rest].concat(),
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
            let judgement = image::judge(&contents, &preserved, &Formats::default(), Some(b"liveupdate=on"));
            // Files whose handler is not known are never known to come over.
            assert!(judgement.outcome > Outcome::Carries);
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
