//! What the kernel's verifier says of a program that it refuses.

use aya::programs::ProgramError;

/// A verifier's refusal comes with a log of thousands of lines, of which the last tell why.
pub(super) fn explain(error: ProgramError) -> anyhow::Error {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            anyhow::anyhow!("the kernel refuses the program ({io_error}): {}", tail(&log))
        }
        other => other.into(),
    }
}

/// The end of a verifier's log, in one line.
pub(super) fn tail(log: &str) -> String {
    let lines = log.lines().rev().filter(|line| !is_of_statistics(line));
    let tail: Vec<&str> = lines.take(6).collect();
    let tail: Vec<&str> = tail.into_iter().rev().collect();
    tail.join(" | ")
}

/// Whether this line of a verifier's log only tells how much there was to do.
fn is_of_statistics(line: &str) -> bool {
    ["verification time", "stack depth", "subprog ", "processed "]
        .iter()
        .any(|start| line.starts_with(start))
}
