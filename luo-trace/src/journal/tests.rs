//! Journals as they are written, torn, damaged and taken up again.

use std::cell::RefCell;
use std::fs;
use std::io::{self, Write};
use std::rc::Rc;

use luo_trace_common::events::{self as abi, Kind, Outcome, SessionOp, SessionRef};
use luo_trace_common::text::{Comm, SessionName};
use proptest::prelude::*;

use super::*;
use crate::event::decode::encode;
use crate::event::{Body, Event};
use crate::testing::cases;

fn header() -> Header {
    Header {
        boot_id: "0b0e7c1d-0000-4000-8000-000000000001".into(),
        kernel_release: "7.3.4".into(),
        hooks: vec![HookState {
            id: "session-create".into(),
            attached: true,
            ..HookState::default()
        }],
        abi_version: abi::ABI_VERSION,
        ..Header::default()
    }
}

fn event(seq: u64, lost: u64) -> Event {
    let header = abi::Header {
        kind: Kind::SessionCreate as u16,
        size: 56 + 88,
        cpu: 0,
        seq,
        lost,
        ktime: 1000 * seq,
        pid: 7,
        tgid: 7,
        comm: Comm::new("vmm"),
    };
    let session = SessionRef {
        id: seq,
        name: SessionName::new(format!("vm-{seq}")),
    };
    let outcome = Outcome {
        result: 0,
        duration: 10,
    };
    Event {
        header,
        body: Body::SessionCreate(SessionOp { session, outcome }),
    }
}

fn gap(after: &Event, lost: u64) -> Event {
    Event {
        header: after.header,
        body: Body::Gap { lost },
    }
}

/// A disk that can be full, and tear a write in two.
#[derive(Clone, Default)]
struct Disk(Rc<RefCell<DiskState>>);

#[derive(Default)]
struct DiskState {
    bytes: Vec<u8>,
    room: Option<usize>,
    cuts_fail: bool,
}

impl Disk {
    fn bytes(&self) -> Vec<u8> {
        self.0.borrow().bytes.clone()
    }

    fn room(&self, room: Option<usize>) {
        self.0.borrow_mut().room = room;
    }
}

impl Write for Disk {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let mut disk = self.0.borrow_mut();
        let len = disk.room.map_or(buf.len(), |room| room.min(buf.len()));
        if len == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if let Some(room) = &mut disk.room {
            *room -= len;
        }
        disk.bytes.extend(&buf[..len]);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Store for Disk {
    fn cut(&mut self, len: u64) -> io::Result<()> {
        let mut disk = self.0.borrow_mut();
        if disk.cuts_fail {
            return Err(io::ErrorKind::Other.into());
        }
        disk.bytes.truncate(len as usize);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn append<S: Store>(writer: &mut Writer<S>, events: &[Event]) -> io::Result<()> {
    let records: Vec<_> = events.iter().map(encode).collect();
    writer.append(records.iter().map(Vec::as_slice))
}

fn journal_of(events: &[Event]) -> Vec<u8> {
    let disk = Disk::default();
    let mut writer = Writer::begin(disk.clone(), &header()).unwrap();
    append(&mut writer, events).unwrap();
    writer
        .end(&End {
            reason: "told to stop".into(),
            kernel_lost: 0,
        })
        .unwrap();
    disk.bytes()
}

fn read(bytes: &[u8]) -> (Vec<Event>, Summary) {
    let mut events = Events::new(Reader::new(bytes).unwrap());
    let all: Vec<_> = events.by_ref().collect();
    (all, events.summary().clone())
}

/// Where each frame of a journal without damage begins, and where the last one ends.
fn frame_starts(bytes: &[u8]) -> Vec<usize> {
    let mut reader = Reader::new(bytes).unwrap();
    let mut starts = vec![reader.whole() as usize];
    while reader.next().is_some() {
        starts.push(reader.whole() as usize);
    }
    starts
}

#[test]
fn what_was_written_is_read_with_its_header_and_its_end() {
    let written = [event(1, 0), event(2, 0), event(3, 0)];
    let (events, summary) = read(&journal_of(&written));
    assert_eq!(events, written);
    assert_eq!(summary.end.unwrap().reason, "told to stop");
    assert_eq!((summary.events, summary.lost, summary.damaged), (3, 0, 0));
    assert_eq!(Reader::new(&journal_of(&[])[..]).unwrap().header(), &header());
}

#[test]
fn the_header_tells_what_the_hooks_cover() {
    // Given a hook that is attached, one attached in part, one without a function, one switched off, and one missing,
    let state = |hook: Hook, change: fn(&mut HookState)| {
        let mut state = HookState {
            id: hook.id().into(),
            ..HookState::default()
        };
        change(&mut state);
        state
    };
    let header = Header {
        hooks: vec![
            state(Hook::SessionCreate, |state| state.attached = true),
            state(Hook::FileCallback, |state| {
                state.attached = true;
                state.reason = Some("not all".into());
            }),
            state(Hook::FlbPutOutgoing, |state| state.nothing_to_tell = true),
            state(Hook::KhoKeyAdd, |state| state.switched_off = true),
            state(Hook::DeviceOpen, |_| ()),
        ],
        ..header()
    };
    // then the first and the one with nothing to tell are covered, and only the one switched off is said to be that.
    let coverage = header.coverage();
    let having = |is: &dyn Fn(Hook) -> bool| Hook::ALL.iter().copied().filter(|&hook| is(hook)).collect::<Vec<_>>();
    assert_eq!(
        having(&|hook| coverage.has(hook)),
        [Hook::SessionCreate, Hook::FlbPutOutgoing]
    );
    assert_eq!(having(&|hook| coverage.is_switched_off(hook)), [Hook::KhoKeyAdd]);
    let missing: Vec<_> = header.hooks.iter().filter(|state| state.is_missing()).collect();
    assert_eq!(missing.len(), 1, "{missing:?}");
}

#[test]
fn a_hook_of_an_older_journal_is_attached_or_missing_as_it_was() {
    let old: HookState = serde_json::from_str(r#"{"id":"kexec","attached":false,"reason":"inlined"}"#).unwrap();
    assert!(old.is_missing() && !old.is_covered());
}

#[test]
fn the_kernels_losses_are_gaps_also_those_told_only_at_the_end() {
    let disk = Disk::default();
    let mut writer = Writer::begin(disk.clone(), &header()).unwrap();
    append(&mut writer, &[event(1, 0), event(4, 2)]).unwrap();
    writer
        .end(&End {
            reason: String::new(),
            kernel_lost: 5,
        })
        .unwrap();

    let (events, summary) = read(&disk.bytes());
    let first_gap = gap(&event(4, 2), 2);
    assert_eq!(events, [event(1, 0), first_gap, event(4, 2), gap(&event(4, 2), 3)]);
    assert_eq!(summary.lost, 5);
}

#[test]
fn a_journal_cut_at_any_byte_gives_every_event_before_the_cut_and_tells_the_loss() {
    let written = [event(1, 0), event(2, 0), event(3, 0)];
    let bytes = journal_of(&written);
    let starts = frame_starts(&bytes);
    for cut in 0..bytes.len() {
        if cut < starts[0] {
            let error = Reader::new(&bytes[..cut]).unwrap_err();
            let told = matches!(error, OpenError::Damaged { reason: Reason::Cut });
            assert!(told || cut == 0, "cut at {cut}: {error:?}");
            continue;
        }
        let whole = starts.iter().filter(|&&start| start <= cut).count() - 1;
        let (events, summary) = read(&bytes[..cut]);
        assert_eq!(events[..whole], written[..whole], "cut at {cut}");
        assert_eq!(summary.end, None, "cut at {cut}");
        if starts.contains(&cut) {
            assert_eq!(summary.damaged, 0, "cut at {cut}, between two frames");
        } else {
            let damage = &summary.damage[0];
            assert_eq!(damage.reason, Reason::Cut, "cut at {cut}");
            assert_eq!(damage.offset as usize, starts[whole], "cut at {cut}");
            assert_eq!(damage.offset + damage.bytes, cut as u64);
            assert!(matches!(events.last().unwrap().body, Body::Gap { .. }), "cut at {cut}");
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_costs_its_own_frame_at_least_and_is_told() {
    let written = [event(1, 0), event(2, 0), event(3, 0)];
    let bytes = journal_of(&written);
    let starts = frame_starts(&bytes);
    for (at, bit) in (0..bytes.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << bit;
        if at < starts[0] {
            assert!(
                Reader::new(&damaged[..]).is_err(),
                "bit {bit} of byte {at} in the beginning"
            );
            continue;
        }
        let whole = starts.iter().filter(|&&start| start <= at).count() - 1;
        let (events, summary) = read(&damaged);
        assert_eq!(events[..whole], written[..whole], "bit {bit} of byte {at}");
        assert_eq!(summary.damaged, 1, "bit {bit} of byte {at}");
        assert_eq!(summary.damage[0].offset as usize, starts[whole]);
        assert!(matches!(events[whole].body, Body::Gap { .. }), "bit {bit} of byte {at}");
        // What is read after the damage was written so: nothing is made up.
        for event in &events[whole + 1..] {
            assert!(
                written[whole + 1..].contains(event),
                "bit {bit} of byte {at}: {event:?}"
            );
        }
        let after_length = at >= starts[whole] + 4;
        let last = whole + 2 == starts.len();
        assert_eq!(
            summary.damage[0].resumed,
            after_length && !last,
            "bit {bit} of byte {at}"
        );
    }
}

#[test]
fn after_damage_a_restarted_count_of_losses_is_believed() {
    // Given a journal whose second run begins in a damaged frame.
    let disk = Disk::default();
    let mut writer = Writer::begin(disk.clone(), &header()).unwrap();
    append(&mut writer, &[event(1, 9)]).unwrap();
    let damaged = disk.bytes().len() + 20;
    append(&mut writer, &[event(2, 9)]).unwrap();
    append(&mut writer, &[event(1, 0), event(5, 3)]).unwrap();
    let mut bytes = disk.bytes();
    bytes[damaged] ^= 1;

    // Then the second run's own losses are seen, although they are fewer than the first run's.
    let (events, _) = read(&bytes);
    let kinds: Vec<_> = events.iter().map(Event::name).collect();
    assert_eq!(
        kinds,
        [
            "gap",
            "session-create",
            "gap",
            "session-create",
            "gap",
            "session-create"
        ]
    );
    assert_eq!(events[4].body, Body::Gap { lost: 3 });
}

#[test]
fn frames_and_fields_of_a_newer_writer_are_skipped_and_counted() {
    let mut bytes = frame::preamble(frame::HEAD_VERSION).to_vec();
    let mut json = serde_json::to_value(header()).unwrap();
    json["colour"] = "blue".into();
    frame::put_json(&mut bytes, kind::HEADER, &json).unwrap();
    frame::put(&mut bytes, 999, b"from the future");
    frame::put(&mut bytes, kind::EVENT, &encode(&event(1, 0)));
    let (events, summary) = read(&bytes);
    assert_eq!(events, [event(1, 0)]);
    assert_eq!(summary.unknown_frames, 1);
}

#[test]
fn a_header_of_an_older_writer_has_defaults_for_what_it_lacks() {
    let mut bytes = frame::preamble(frame::HEAD_VERSION).to_vec();
    let json = serde_json::json!({
        "boot_id": "b", "kernel_release": "7.2.13", "abi_version": 1, "clock": {"monotonic_ns": 1, "realtime_ns": 2},
    });
    frame::put_json(&mut bytes, kind::HEADER, &json).unwrap();
    let reader = Reader::new(&bytes[..]).unwrap();
    assert_eq!(reader.header().kexec, None);
    assert_eq!(reader.header().clock.realtime_ns, 2);
}

#[test]
fn a_newer_format_is_refused_with_its_version() {
    let mut bytes = journal_of(&[]);
    bytes[8..12].copy_from_slice(&7u32.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..12]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    let error = Reader::new(&bytes[..]).unwrap_err().to_string();
    assert!(error.contains("version 7"), "{error}");
}

#[test]
fn something_else_is_not_taken_for_a_journal() {
    for bytes in [&b""[..], b"x", b"{\"event\": \"session-create\"}\n", &[0; 4096]] {
        assert!(matches!(Reader::new(bytes), Err(OpenError::Foreign)), "{bytes:?}");
    }
}

#[test]
fn a_full_disk_costs_what_it_had_no_room_for_and_the_journal_says_how_much() {
    // Given a journal with one event, on a disk that fills up in the middle of the next batch.
    let disk = Disk::default();
    let mut writer = Writer::begin(disk.clone(), &header()).unwrap();
    append(&mut writer, &[event(1, 0)]).unwrap();
    let before = disk.bytes();
    disk.room(Some(300));

    // When two batches fail,
    assert!(append(&mut writer, &[event(2, 0), event(3, 0)]).is_err());
    assert_eq!(disk.bytes(), before, "the torn write is undone");
    disk.room(Some(0));
    assert!(append(&mut writer, &[event(4, 0)]).is_err());
    // and there is room again,
    disk.room(None);
    append(&mut writer, &[event(5, 0)]).unwrap();

    // then the journal tells of three lost records where they are missing.
    let (events, summary) = read(&disk.bytes());
    assert_eq!(events, [event(1, 0), gap(&event(1, 0), 3), event(5, 0)]);
    assert_eq!((summary.lost, summary.damaged, writer.lost()), (3, 0, 3));
}

#[test]
fn a_disk_that_is_all_but_full_takes_nothing_until_there_is_room_for_much() {
    // Given a disk that had no room for a batch,
    let disk = Disk::default();
    let mut writer = Writer::begin(disk.clone(), &header()).unwrap();
    append(&mut writer, &[event(1, 0)]).unwrap();
    let before = disk.bytes();
    disk.room(Some(300));
    assert!(append(&mut writer, &[event(2, 0), event(3, 0)]).is_err());
    // when a smaller one comes that would fit,
    disk.room(Some(1000));
    // then it is not written either, or the journal would fail and recover over and over.
    assert!(append(&mut writer, &[event(4, 0)]).is_err());
    assert_eq!(disk.bytes(), before, "nothing is left of the attempt");
}

#[test]
fn a_torn_write_that_cannot_be_undone_at_once_is_undone_before_the_next() {
    let disk = Disk::default();
    let mut writer = Writer::begin(disk.clone(), &header()).unwrap();
    append(&mut writer, &[event(1, 0)]).unwrap();
    disk.room(Some(30));
    disk.0.borrow_mut().cuts_fail = true;
    assert!(append(&mut writer, &[event(2, 0)]).is_err());
    disk.room(None);
    assert!(append(&mut writer, &[event(3, 0)]).is_err());
    disk.0.borrow_mut().cuts_fail = false;
    append(&mut writer, &[event(4, 0)]).unwrap();
    let (events, _) = read(&disk.bytes());
    assert_eq!(events, [event(1, 0), gap(&event(1, 0), 2), event(4, 0)]);
}

#[test]
fn a_disk_that_is_full_from_the_start_still_gets_the_header_first() {
    let disk = Disk::default();
    disk.room(Some(5));
    let mut writer = Writer::begin(disk.clone(), &header()).unwrap();
    assert!(append(&mut writer, &[event(1, 0)]).is_err());
    disk.room(None);
    append(&mut writer, &[event(2, 0)]).unwrap();
    let (events, summary) = read(&disk.bytes());
    assert!(matches!(events[0].body, Body::Gap { lost: 1 }));
    assert_eq!(events[1..], [event(2, 0)]);
    assert_eq!(summary.lost, 1);
}

#[test]
fn an_agent_started_again_goes_on_in_the_same_file_behind_a_gap() {
    // Given a journal whose agent was killed in the middle of a frame.
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, path) = Writer::open(dir.path(), &header()).unwrap();
    append(&mut writer, &[event(1, 7)]).unwrap();
    drop(writer);
    let mut torn = fs::OpenOptions::new().append(true).open(&path).unwrap();
    torn.write_all(&[40, 0, 0]).unwrap();

    // When another agent, that sees less, goes on,
    let second = Header {
        hooks: Vec::new(),
        late: true,
        ..header()
    };
    let (mut writer, same) = Writer::open(dir.path(), &second).unwrap();
    assert_eq!(same, path);
    append(&mut writer, &[event(1, 0), event(5, 3)]).unwrap();

    // then its events come behind gaps for the torn frame and for the time between, as a run of their own
    // that counts its losses anew.
    let mut events = super::events(&path).unwrap();
    let bodies: Vec<_> = events.by_ref().map(|event| (event.name(), event.header.lost)).collect();
    assert_eq!(
        bodies,
        [
            ("gap", 7),
            ("session-create", 7),
            ("gap", 7),
            ("gap", 7),
            ("session-create", 0),
            ("gap", 3),
            ("session-create", 3)
        ]
    );
    assert_eq!((events.run(), events.summary().damaged), (2, 0));
    assert!(events.header().late);
}

#[test]
fn the_file_is_the_owners_alone_and_has_one_writer() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let (_writer, path) = Writer::open(&dir.path().join("new"), &header()).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let error = Writer::open(&dir.path().join("new"), &header()).unwrap_err();
    assert!(error.to_string().contains("another agent"), "{error}");
}

#[test]
fn a_file_that_cannot_be_gone_on_with_is_set_aside_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(format!("{}.luoj", header().boot_id));
    let mut broken = journal_of(&[event(1, 0), event(2, 0)]);
    let first_length = frame_starts(&broken)[0];
    broken[first_length + 3] = 0xff;
    // As after a downgrade within a boot.
    let later = frame::preamble(frame::VERSION + 1).to_vec();
    for (n, found) in [b"somebody's notes".to_vec(), broken, later].iter().enumerate() {
        fs::write(&path, found).unwrap();
        let (mut writer, _) = Writer::open(dir.path(), &header()).unwrap();
        append(&mut writer, &[event(1, 0)]).unwrap();
        let aside = dir.path().join(format!("{}.{}.luoj", header().boot_id, n + 1));
        assert_eq!(&fs::read(aside).unwrap(), found);
        assert_eq!(read(&fs::read(&path).unwrap()).0, [event(1, 0)]);
    }
    // Only of the last one it is known who reads it.
    let told: Vec<_> = newer(dir.path()).unwrap().iter().map(ToString::to_string).collect();
    let aside = dir.path().join(format!("{}.3.luoj", header().boot_id));
    assert_eq!(
        told,
        [format!(
            "{}: the journal has format version 3 and this luo-trace reads up to 2; use a newer luo-trace",
            aside.display()
        )]
    );
}

#[test]
fn a_boot_id_that_is_a_path_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let header = Header {
        boot_id: "../escape".into(),
        ..header()
    };
    assert!(Writer::open(dir.path(), &header).is_err());
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn batches_of_any_size_and_content_come_back(batches in prop::collection::vec(prop::collection::vec(
        prop::collection::vec(any::<u8>(), 0..400), 0..5), 1..8))
    {
        let disk = Disk::default();
        let mut writer = Writer::begin(disk.clone(), &header()).unwrap();
        for batch in &batches {
            writer.append(batch.iter().map(Vec::as_slice)).unwrap();
        }
        let bytes = disk.bytes();
        let mut reader = Reader::new(&bytes[..]).unwrap();
        for record in batches.iter().flatten() {
            prop_assert_eq!(reader.next(), Some(Frame::Event(record)));
        }
        prop_assert_eq!(reader.next(), None);
    }

    #[test]
    fn no_bytes_after_the_header_make_the_reader_panic_or_run_on(tail in prop::collection::vec(any::<u8>(), 0..2000)) {
        let mut bytes = frame::preamble(frame::HEAD_VERSION).to_vec();
        frame::put_json(&mut bytes, kind::HEADER, &header()).unwrap();
        bytes.extend(&tail);
        let mut reader = Reader::new(&bytes[..]).unwrap();
        let mut frames = 0;
        while reader.next().is_some() {
            frames += 1;
        }
        prop_assert!(frames <= tail.len());
    }
}
