//! Runs QEMU, and makes sure that it does not outlive the process that started it.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Signal, set_parent_process_death_signal};
use testbed_guest::clock::PORT;

/// How QEMU executes the guest's instructions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Accel {
    /// By translation: slower, and works everywhere.
    #[default]
    Tcg,
    /// By the host's virtualization, where `/dev/kvm` works.
    Kvm,
    /// By translation on one CPU whose clock counts instructions, a nanosecond each: for measuring.
    Icount,
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Accel::Tcg => "tcg",
            Accel::Kvm => "kvm",
            Accel::Icount => "icount",
        })
    }
}

impl Accel {
    /// QEMU's name for it.
    fn qemu(self) -> &'static str {
        match self {
            Accel::Tcg => "tcg",
            Accel::Kvm => "kvm",
            Accel::Icount => "tcg,thread=single",
        }
    }
}

/// A virtual machine to be started.
pub(super) struct Machine<'a> {
    pub(super) kernel: &'a Path,
    /// The initramfs, where the guest has no disk.
    pub(super) initrd: Option<&'a Path>,
    /// The disk that the guest finds as `/dev/vda`.
    pub(super) disk: Option<&'a Path>,
    pub(super) cmdline: &'a str,
    /// The directory that the guest mounts as `/host`.
    pub(super) share: &'a Path,
    pub(super) accel: Accel,
    /// Whether the guest's CPUs take turns, where they are translated. Once a kernel did not survive an `int3` left over in
    /// `security_file_alloc`, which had just got a program: probably QEMU 7.2 went on with an instruction that the other CPU had
    /// replaced meanwhile. Not proven.
    pub(super) by_turns: bool,
    pub(super) memory_mib: u64,
    /// How many CPUs the guest has; where its clock counts instructions it is one.
    pub(super) cpus: u32,
    /// Where what the guest sends through its second serial port goes, where it has one.
    pub(super) serial: Option<&'a Path>,
    /// Where QEMU's own complaints go.
    pub(super) log: PathBuf,
    /// Where the readings of the guest's clock go, each line after the host's.
    pub(super) clock: PathBuf,
}

/// A line of the serial console, and when its end arrived.
pub(super) struct ConsoleLine {
    pub(super) at: SystemTime,
    pub(super) text: String,
}

/// A running QEMU; dropping it kills and reaps it.
pub(super) struct Qemu {
    child: Child,
    log: PathBuf,
    lines: Receiver<ConsoleLine>,
    clock: Option<JoinHandle<()>>,
}

impl Machine<'_> {
    /// Starts the machine.
    ///
    /// # Errors
    /// QEMU is not installed, or its log cannot be written.
    pub(super) fn start(&self) -> Result<Qemu> {
        let log = File::create(&self.log).with_context(|| format!("cannot write {}", self.log.display()))?;
        let clock = File::create(&self.clock).with_context(|| format!("cannot write {}", self.clock.display()))?;
        let (readings, port) = io::pipe().context("cannot make a pipe for the guest's clock")?;
        let mut command = self.command(port.as_raw_fd());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        // SAFETY: between fork and exec the closure makes two system calls and allocates nothing. It keeps `port` open.
        unsafe {
            // However this process ends, by a panic, Ctrl-C or SIGKILL, the kernel ends QEMU with it. It is
            // the thread that counts as parent: `Qemu` must not outlive the one that called this.
            command.pre_exec(move || {
                fcntl_setfd(&port, FdFlags::empty())?;
                Ok(set_parent_process_death_signal(Some(Signal::KILL))?)
            });
        }
        let mut child = command
            .spawn()
            .context("cannot start qemu-system-x86_64: run `cargo xtask setup`")?;
        // With it goes this process's end of the pipe, which would keep it open.
        drop(command);
        let (sender, lines) = mpsc::channel();
        if let Some(console) = child.stdout.take() {
            thread::spawn(move || read_console(console, &sender));
        }
        Ok(Qemu {
            child,
            log: self.log.clone(),
            lines,
            clock: Some(thread::spawn(move || keep_readings(readings, clock))),
        })
    }

    /// QEMU's command line, with the descriptor that the guest's clock is told to.
    fn command(&self, port: RawFd) -> Command {
        let mut command = Command::new("qemu-system-x86_64");
        let cpu = match self.accel {
            Accel::Tcg | Accel::Icount => "max",
            Accel::Kvm => "host",
        };
        let accel = match self.accel {
            Accel::Tcg if self.by_turns => "tcg,thread=single",
            accel => accel.qemu(),
        };
        command.args(["-accel", accel, "-cpu", cpu, "-m", &format!("{}M", self.memory_mib)]);
        match self.accel {
            Accel::Icount => command.args(["-smp", "1", "-icount", "shift=0", "-rtc", "clock=vm"]),
            Accel::Tcg | Accel::Kvm => command.args(["-smp", &self.cpus.to_string()]),
        };
        command.args([
            "-name",
            "testbed,debug-threads=on",
            "-nodefaults",
            "-display",
            "none",
            "-serial",
            "stdio",
            "-no-reboot",
        ]);
        command.arg("-kernel").arg(self.kernel).args(["-append", self.cmdline]);
        if let Some(initrd) = self.initrd {
            command.arg("-initrd").arg(initrd);
        }
        command
            .args(["-add-fd", &format!("fd={port},set=1")])
            // Without appending QEMU would truncate it, which a pipe refuses.
            .args(["-chardev", "file,id=clock,path=/dev/fdset/1,append=on"])
            .args(["-device", &format!("isa-debugcon,iobase={PORT:#x},chardev=clock")]);
        // A comma in a path is doubled, or QEMU takes it for the end of the path.
        let in_option = |path: &Path| path.display().to_string().replace(',', ",,");
        if let Some(disk) = self.disk.map(in_option) {
            command.args(["-drive", &format!("file={disk},format=raw,if=virtio")]);
        }
        if let Some(serial) = self.serial.map(in_option) {
            command.args(["-chardev", &format!("file,id=serial,path={serial}")]);
            command.args(["-serial", "chardev:serial"]);
        }
        let share = in_option(self.share);
        command
            .arg("-virtfs")
            .arg(format!("local,path={share},mount_tag=host,security_model=none"));
        command
    }
}

impl Qemu {
    /// The console's lines; the channel closes when QEMU has gone.
    pub(super) fn lines(&self) -> &Receiver<ConsoleLine> {
        &self.lines
    }

    /// What each of QEMU's threads is at: its name, its state, and what in this host's kernel it waits for. Of a guest that says
    /// nothing any more that tells a CPU that runs from one that is halted, and both from a QEMU that waits itself.
    pub(super) fn threads(&self) -> String {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let threads = tasks.into_iter().flatten().flatten().map(|task| {
            let read = |file| fs::read_to_string(task.path().join(file)).unwrap_or_default();
            let (status, waits_for) = (read("status"), read("wchan"));
            format!("\n    {} {}", thread(&status), waits_for.trim_end())
        });
        threads.collect()
    }

    /// What QEMU itself complained about.
    pub(super) fn complaints(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default().trim().to_owned()
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The pipe has ended with QEMU; a thread that panicked has said so.
        let _ = self.clock.take().map(JoinHandle::join);
    }
}

/// A thread's name and state, from its `/proc/PID/task/TID/status`.
fn thread(status: &str) -> String {
    let value = |key| {
        let mut values = status.lines().filter_map(|line| line.strip_prefix(key));
        values.next().unwrap_or_default().trim()
    };
    format!("{}, {}", value("Name:"), value("State:"))
}

/// Writes each line that the guest tells its clock in after the moment, in seconds of this host's own clock, at which
/// the line began to come. What cannot be written is missing in the file.
fn keep_readings(readings: impl Read, mut clock: impl Write) {
    let begun = Instant::now();
    let mut readings = BufReader::new(readings);
    let mut line = String::new();
    while let Ok(bytes @ [_, ..]) = readings.fill_buf() {
        let at = begun.elapsed();
        let first = String::from_utf8_lossy(&bytes[..1]).into_owned();
        readings.consume(1);
        line.clear();
        if readings.read_line(&mut line).is_err() || write!(clock, "{:.9} {first}{line}", at.as_secs_f64()).is_err() {
            return;
        }
    }
}

fn read_console(console: impl Read, lines: &Sender<ConsoleLine>) {
    let mut console = BufReader::new(console);
    let mut line = Vec::new();
    while matches!(console.read_until(b'\n', &mut line), Ok(length) if length > 0) {
        let text = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
        if lines
            .send(ConsoleLine {
                at: SystemTime::now(),
                text,
            })
            .is_err()
        {
            return;
        }
        line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::thread;

    #[test]
    fn a_thread_is_told_by_its_name_and_state() {
        let status = "Name:\tCPU 0/TCG\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t7\n";
        assert_eq!(thread(status), "CPU 0/TCG, S (sleeping)");
    }
}
