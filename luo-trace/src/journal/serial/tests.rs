//! Stories of journals that went through a serial line.

use luo_trace_common::events as abi;
use luo_trace_common::text::SessionName;
use zerocopy::FromZeros;

use super::*;
use crate::event::decode::encode;
use crate::event::{Body, Event};
use crate::journal::{Clock, End, Events, Header, Summary, Writer};

/// A file in memory, for the journal that the serial one is compared with.
#[derive(Default)]
struct Memory(Vec<u8>);

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Store for Memory {
    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.0.truncate(len as usize);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn header(boot: &str, started: u64) -> Header {
    Header {
        boot_id: boot.into(),
        clock: Clock {
            monotonic_ns: started,
            ..Clock::default()
        },
        ..Header::default()
    }
}

fn records(number: u64) -> Vec<Vec<u8>> {
    let event = |place: u64| {
        let body = Body::SessionCreate(abi::SessionOp {
            session: abi::SessionRef {
                id: place * 0x1_0041,
                name: SessionName::new(format!("vm-{place}")),
            },
            outcome: abi::Outcome {
                result: 0,
                duration: 10,
            },
        });
        let kind = body.kind().unwrap();
        let header = abi::Header {
            kind: kind as u16,
            size: (size_of::<abi::Header>() + kind.payload_size()) as u16,
            seq: place + 1,
            ktime: 1_000_000 * (place + 1),
            ..abi::Header::new_zeroed()
        };
        encode(&Event { header, body })
    };
    (0..number).map(event).collect()
}

/// Records so many events of a boot, ten at a time, into a store.
fn record<S: Store>(store: S, header: &Header, number: u64) {
    let mut writer = Writer::begin(store, header).unwrap();
    writer.flush_first().unwrap();
    for batch in records(number).chunks(10) {
        writer.append(batch.iter().map(Vec::as_slice)).unwrap();
    }
    writer.end(&End::default()).unwrap();
}

/// What the serial line of a boot carries.
fn line(header: &Header, number: u64) -> String {
    let mut text = Vec::new();
    record(Serial::new(&mut text), header, number);
    String::from_utf8(text).unwrap()
}

fn read(text: &str) -> Log {
    Log::read(text.as_bytes()).unwrap()
}

/// The recordings of a log as journals: boot, events, summary, runs.
fn journals(text: &str) -> Vec<(String, Vec<Event>, Summary, u64)> {
    let journal = |recording| {
        let mut events = Events::new(Reader::new(recording).unwrap());
        let boot = events.header().boot_id.clone();
        let all: Vec<_> = events.by_ref().collect();
        (boot, all, events.summary().clone(), events.run())
    };
    read(text).recordings.into_iter().map(journal).collect()
}

fn is_gap(event: &&Event) -> bool {
    matches!(event.body, Body::Gap { .. })
}

#[test]
fn a_journal_comes_through_byte_by_byte() {
    let header = header("b", 1);
    let mut plain = Memory::default();
    record(&mut plain, &header, 95);
    let mut log = read(&line(&header, 95));
    let mut bytes = Vec::new();
    log.recordings.remove(0).read_to_end(&mut bytes).unwrap();
    assert!(bytes == plain.0, "{} bytes of {}", bytes.len(), plain.0.len());
    assert!(log.recordings.is_empty() && log.headless == 0);
}

impl Store for &mut Memory {
    fn cut(&mut self, len: u64) -> io::Result<()> {
        (**self).cut(len)
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn it_takes_less_room_as_text_than_as_it_is() {
    let header = header("b", 1);
    let mut plain = Memory::default();
    record(&mut plain, &header, 1000);
    let text = line(&header, 1000);
    assert!(text.len() < plain.0.len() / 2, "{} of {}", text.len(), plain.0.len());
    assert!(text.lines().all(|line| line.len() < 200 && line.is_ascii()));
}

#[test]
fn what_else_is_on_the_console_does_not_matter() {
    let mut console = String::from("1764000000.123 SeaBIOS\r\n\u{1b}[2J\u{fffd}\u{1}\r\n");
    for (place, line) in line(&header("b", 1), 95).lines().enumerate() {
        console += &match place % 4 {
            0 => format!("[    1.5] kernel: no newline {line}\r\n"),
            1 => format!("1764000000.5 {line}\r\n[    2.0] @luoj is not this\n"),
            2 => format!("\u{1b}[0;1m{line}\u{1b}[0m\n@luoj \n@luoj a b c d e\n"),
            _ => format!("{line}[    3.0] at once after it{line}"),
        };
    }
    let (boot, events, summary, runs) = journals(&console).remove(0);
    assert_eq!((boot.as_str(), events.len(), summary.lost, runs), ("b", 95, 0, 1));
    assert!(summary.end.is_some());
}

#[test]
fn a_line_that_is_torn_costs_a_few_events_and_says_so() {
    let text = line(&header("b", 1), 95);
    let lines: Vec<_> = text.lines().collect();
    let header_lines = Line::parse(lines[0].as_bytes()).unwrap().pieces as usize;
    for lost in header_lines..lines.len() - 1 {
        let torn = |(place, line): (usize, &&str)| match place == lost {
            // The kernel spoke in the middle of it.
            true => format!("{}[    9.9] oom-killer\n{}\n", &line[..20], &line[20..]),
            false => format!("{line}\n"),
        };
        let console: String = lines.iter().enumerate().map(torn).collect();
        let (_, events, summary, _) = journals(&console).remove(0);
        let gaps = events.iter().filter(is_gap).count();
        assert_eq!(gaps, 1, "line {lost}");
        assert!(summary.lost > 0, "line {lost}");
        let missing = 95 - (events.len() - gaps);
        assert!((1..=20).contains(&missing), "line {lost}: {missing} events are missing");
    }
}

#[test]
fn a_count_of_missing_lines_never_wraps() {
    // Given the beginning of a recording, and lines whose numbers leave all others out and which hold nothing,
    let mut text = line(&header("b", 1), 0);
    let id = text.split(' ').nth(1).unwrap().to_owned();
    for number in [u64::MAX; 32] {
        let line = format!("{TAG}{id} {number} 1/1 *");
        text += &format!("{line} {:08x}\n", crc32fast::hash(line.as_bytes()));
    }
    // then what is missing is as much as can be said.
    let (_, _, summary, _) = journals(&text).remove(0);
    assert_eq!(summary.lost, u64::MAX);
}

#[test]
fn a_recording_without_its_beginning_is_counted_and_nothing_is_made_of_it() {
    let text = line(&header("b", 1), 95);
    for lost in 0..Line::parse(text.as_bytes()).unwrap().pieces as usize {
        let lines = text.lines().enumerate().filter(|(place, _)| *place != lost);
        let log = read(&lines.map(|(_, line)| format!("{line}\n")).collect::<String>());
        assert_eq!((log.headless, log.recordings.len()), (1, 0));
    }
}

#[test]
fn a_log_that_just_stops_has_what_came_before() {
    let text = line(&header("b", 1), 95);
    let cut: String = text.chars().take(text.len() * 2 / 3).collect();
    let (_, events, summary, _) = journals(&cut).remove(0);
    assert!(events.iter().filter(|event| !is_gap(event)).count() >= 40);
    assert_eq!(summary.end, None);
}

#[test]
fn several_boots_in_one_log_are_several_journals_even_where_their_lines_are_mixed() {
    let (first, second) = (line(&header("b1", 1), 30), line(&header("b2", 2), 50));
    let boots = |text: &str| -> Vec<_> {
        let journals = journals(text);
        journals
            .into_iter()
            .map(|(boot, events, ..)| (boot, events.len()))
            .collect()
    };
    let wanted = [("b1".to_owned(), 30), ("b2".to_owned(), 50)];
    assert_eq!(boots(&format!("{first}reboot: jump\n{second}")), wanted);
    let mut mixed = String::new();
    let (mut a, mut b) = (first.lines(), second.lines());
    loop {
        let pair = (a.next(), b.next());
        if pair == (None, None) {
            break;
        }
        for line in [pair.0, pair.1].into_iter().flatten() {
            mixed += &format!("{line}\n");
        }
    }
    assert_eq!(boots(&mixed), wanted);
}

#[test]
fn an_agent_that_was_started_again_in_the_same_boot_goes_on_with_the_journal() {
    let text = format!("{}{}", line(&header("b", 1), 30), line(&header("b", 2), 20));
    let mut journals = journals(&text);
    let (_, events, _, runs) = journals.remove(0);
    assert!(journals.is_empty());
    assert_eq!(runs, 2);
    // What happened in between is a gap.
    assert_eq!((events.len(), events.iter().filter(is_gap).count()), (51, 1));
}

#[test]
fn a_log_that_was_put_together_of_overlapping_ones_has_everything_once() {
    let text = line(&header("b", 1), 95);
    let (_, events, summary, runs) = journals(&format!("{text}{text}")).remove(0);
    assert_eq!((events.len(), summary.lost, runs), (95, 0, 1));
}

#[test]
fn no_byte_that_changes_on_the_way_makes_another_event_of_one() {
    let text = line(&header("b", 1), 4);
    let (_, whole, ..) = journals(&text).remove(0);
    for place in (0..text.len()).step_by(3) {
        let mut bytes = text.clone().into_bytes();
        bytes[place] ^= 1;
        let log = Log::read(&bytes[..]).unwrap();
        for recording in log.recordings {
            let events = Events::new(Reader::new(recording).unwrap());
            assert!(
                events
                    .filter(|event| !is_gap(&event))
                    .all(|event| whole.contains(&event))
            );
        }
    }
}

/// A line that fails in the middle of the second write, and works again.
struct Failing {
    text: Vec<u8>,
    writes: u32,
}

impl Write for &mut Failing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writes += 1;
        match self.writes {
            2 => self.text.write(&bytes[..50]),
            3 => Err(io::Error::other("unplugged")),
            _ => self.text.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_line_that_fails_for_a_while_costs_what_could_not_be_sent_and_says_so() {
    let mut line = Failing {
        text: Vec::new(),
        writes: 0,
    };
    let mut writer = Writer::begin(Serial::new(&mut line), &header("b", 1)).unwrap();
    writer.flush_first().unwrap();
    let records = records(30);
    let batch = |range: std::ops::Range<usize>| records[range].iter().map(Vec::as_slice);
    writer.append(batch(0..10)).unwrap_err();
    writer.append(batch(10..20)).unwrap();
    writer.end(&End::default()).unwrap();
    let text = String::from_utf8(line.text).unwrap();
    let (_, events, summary, _) = journals(&text).remove(0);
    assert!(summary.lost >= 10, "{}", summary.lost);
    assert_eq!(events.iter().filter(|event| !is_gap(event)).count(), 10);
    assert!(summary.end.is_some());
}

#[test]
fn a_block_that_unpacks_without_end_is_taken_for_lost() {
    let mut text = line(&header("b", 1), 10).into_bytes();
    let id = Line::parse(&text.clone()).unwrap().id;
    let mut serial = Serial::new(Vec::new());
    (serial.id, serial.next) = (Some(id), 1000);
    let mut bomb = String::new();
    serial.lines(&vec![0; 64 << 20], &mut bomb);
    text.extend(bomb.as_bytes());
    let (_, events, ..) = journals(&String::from_utf8(text).unwrap()).remove(0);
    assert_eq!(events.iter().filter(|event| !is_gap(event)).count(), 10);
}
