//! Running other programs: their output when it is wanted, a line of progress when it is long.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal, Write},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// Runs `command` and returns what it wrote to standard output.
///
/// # Errors
/// It cannot be started, or it fails; then the error carries what it wrote to standard error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let done = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    if !done.status.success() {
        bail!(
            "{} failed ({}): {}",
            shown(command),
            done.status,
            String::from_utf8_lossy(&done.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Runs `command`, which writes more than anybody wants to read: all of it goes to the file
/// `log`, and standard error shows one line of progress that begins with `what`.
///
/// # Errors
/// It cannot be started, or it fails; then the error carries the log's last lines and its place.
pub(crate) fn logged(what: &str, command: &mut Command, log: &Path) -> Result<()> {
    let mut file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let (reader, writer) = io::pipe().context("cannot make a pipe")?;
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone().context("cannot copy a pipe")?)
        .stderr(writer);
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    // The command holds our ends of the pipe's writing side: the reading side ends when they go.
    command.stdout(Stdio::null()).stderr(Stdio::null());

    let mut progress = Progress::new(what);
    let mut last = VecDeque::new();
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.with_context(|| format!("cannot read what {} writes", shown(command)))?;
        let line = String::from_utf8_lossy(&line).into_owned();
        writeln!(file, "{line}").with_context(|| format!("cannot write {}", log.display()))?;
        progress.step(&line);
        if last.len() == TAIL {
            last.pop_front();
        }
        last.push_back(line);
    }
    let status = child
        .wait()
        .with_context(|| format!("cannot wait for {}", shown(command)))?;
    progress.end(status.success());
    if !status.success() {
        let last: Vec<_> = last.into();
        bail!(
            "{what}: {} failed ({status}). Its last lines:\n{}\nAll of them: {}",
            shown(command),
            last.join("\n"),
            log.display()
        );
    }
    Ok(())
}

/// How many of a log's last lines an error shows.
const TAIL: usize = 20;

fn shown(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

/// One line on a terminal that is written over and over; elsewhere a new line now and then.
struct Progress<'a> {
    what: &'a str,
    terminal: bool,
    start: Instant,
    shown: Instant,
    steps: usize,
}

impl<'a> Progress<'a> {
    fn new(what: &'a str) -> Self {
        Self {
            what,
            terminal: io::stderr().is_terminal(),
            start: Instant::now(),
            shown: Instant::now(),
            steps: 0,
        }
    }

    fn step(&mut self, line: &str) {
        self.steps += 1;
        let pause = if self.terminal {
            Duration::from_millis(200)
        } else {
            Duration::from_secs(20)
        };
        if self.shown.elapsed() < pause {
            return;
        }
        self.shown = Instant::now();
        let words: Vec<_> = line.split_whitespace().collect();
        self.print(
            &words
                .join(" ")
                .chars()
                .filter(|c| !c.is_control())
                .take(50)
                .collect::<String>(),
        );
        if !self.terminal {
            eprintln!();
        }
    }

    fn end(&self, success: bool) {
        self.print(if success { "done" } else { "failed" });
        eprintln!();
    }

    fn print(&self, now: &str) {
        let seconds = self.start.elapsed().as_secs();
        let over = if self.terminal { "\r\x1b[2K" } else { "" };
        eprint!(
            "{over}{}: {} steps in {}m{:02}s: {now}",
            self.what,
            self.steps,
            seconds / 60,
            seconds % 60
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_failing_command_tells_its_last_words_and_where_the_rest_is() {
        let log = std::env::temp_dir().join(format!("xtask-run-{}.log", std::process::id()));
        let error = logged("building", &mut shell("seq 1 100; echo out of luck >&2; exit 3"), &log)
            .unwrap_err()
            .to_string();
        assert!(error.contains("out of luck") && error.contains("100"), "{error}");
        assert!(!error.contains("\n50\n"), "only the last lines: {error}");
        assert!(error.contains(&log.display().to_string()), "{error}");
        assert!(
            std::fs::read_to_string(&log).unwrap().starts_with("1\n2\n"),
            "the log has every line"
        );
        std::fs::remove_file(log).unwrap();
    }

    #[test]
    fn output_is_returned_and_a_failure_carries_standard_error() {
        assert_eq!(output(&mut shell("echo hello; echo noise >&2")).unwrap(), "hello\n");
        assert!(
            output(&mut shell("echo why >&2; false"))
                .unwrap_err()
                .to_string()
                .contains("why")
        );
    }
}
