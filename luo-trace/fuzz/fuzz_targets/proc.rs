//! Feeds `luo_trace_fuzz::proc_texts`: a fuzzer where it is built for that, otherwise the files named on the command line.

#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| luo_trace_fuzz::proc_texts(input));

#[cfg(not(fuzzing))]
fn main() -> std::io::Result<()> {
    for path in std::env::args_os().skip(1) {
        luo_trace_fuzz::proc_texts(&std::fs::read(path)?);
    }
    Ok(())
}
