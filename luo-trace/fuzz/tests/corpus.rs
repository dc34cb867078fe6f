//! Every input of the corpus, and every one that ever made a target fail, goes through its target.

#![allow(clippy::unwrap_used, reason = "what cannot be read fails the test")]

use std::fs;
use std::path::Path;

fn replay(target: &str, feed: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let mut inputs = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        feed(&fs::read(path).unwrap());
        inputs += 1;
    }
    assert!(inputs > 0, "{target} has a corpus");
}

#[test]
fn records() {
    replay("records", luo_trace_fuzz::records);
}

#[test]
fn journals() {
    replay("journal", luo_trace_fuzz::journal);
}

#[test]
fn type_information() {
    replay("btf", luo_trace_fuzz::btf);
}

#[test]
fn serial_logs() {
    replay("serial", luo_trace_fuzz::serial);
}

#[test]
fn expectations() {
    replay("expect", luo_trace_fuzz::expect);
}

#[test]
fn images() {
    replay("image", luo_trace_fuzz::image);
}

#[test]
fn carried_memory() {
    replay("carried", luo_trace_fuzz::carried);
}

#[test]
fn orders() {
    replay("orders", luo_trace_fuzz::orders);
}

#[test]
fn texts_of_proc() {
    replay("proc", luo_trace_fuzz::proc_texts);
}

#[test]
fn symbols() {
    replay("symbols", luo_trace_fuzz::symbols);
}

#[test]
fn policies() {
    replay("policy", luo_trace_fuzz::policy);
}

#[test]
fn web_configs() {
    replay("web-config", luo_trace_fuzz::web_config);
}

#[test]
fn requests() {
    replay("http", luo_trace_fuzz::http);
}
