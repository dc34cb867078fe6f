//! Makes the corpus of `records` and `journal` anew: `seeds DIR JOURNAL...`, after the events' layout has changed.
//!
//! From each journal it takes the first event of each kind, so that the corpus stays small, and from a made-up story of an
//! update everything.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use luo_trace::event::decode::encode;
use luo_trace::journal::{Frame, Reader};
use luo_trace::testing::{Story, memfd, session};

fn main() -> io::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let Some(directory) = arguments.next() else {
        return Err(io::Error::other("seeds: give a directory, and journals"));
    };
    let mut sources = vec![("story".to_owned(), story())];
    for (index, path) in arguments.enumerate() {
        sources.push((format!("boot-{}", index + 1), first_of_each_kind(Path::new(&path))?));
    }
    for (name, records) in sources {
        for target in ["records", "journal"] {
            let directory = Path::new(&directory).join(target);
            fs::create_dir_all(&directory)?;
            fs::write(directory.join(&name), input(target, &records))?;
        }
    }
    Ok(())
}

/// An input of a target, as `luo_trace_fuzz` reads it.
fn input(target: &str, records: &[Vec<u8>]) -> Vec<u8> {
    let sized = |record: &Vec<u8>| {
        let len = record.len() as u16;
        [&len.to_le_bytes()[..], record].concat()
    };
    if target == "records" {
        return records.iter().flat_map(sized).collect();
    }
    // Frames: a header without a word in it, an event each, and the end.
    let frame = |kind: u8, payload: &Vec<u8>| [vec![kind], sized(payload)].concat();
    let mut input = vec![1];
    input.extend(frame(1, &b"{}".to_vec()));
    records.iter().for_each(|record| input.extend(frame(2, record)));
    input.extend(frame(5, &b"{}".to_vec()));
    input
}

fn first_of_each_kind(path: &Path) -> io::Result<Vec<Vec<u8>>> {
    let mut reader = Reader::open(path).map_err(io::Error::other)?;
    let mut seen = BTreeSet::new();
    let mut records = Vec::new();
    while let Some(frame) = reader.next() {
        if let Frame::Event(record) = frame
            && seen.insert(record.first_chunk::<2>().copied())
        {
            records.push(record.to_vec());
        }
    }
    Ok(records)
}

fn story() -> Vec<Vec<u8>> {
    let (web, ram) = (session(1, "vm-web"), memfd(1));
    let mut story = Story::new();
    story.create(web).preserve(web, 1, ram);
    story.close(web, &[(1, ram)]);
    story
        .create(web)
        .preserve(web, 1, ram)
        .freeze_files(web, 1)
        .serialize()
        .reboot();
    story.events.iter().map(encode).collect()
}
