//! The smallest VMM that takes its guest through a live update: what `luo-trace/docs/vmm.md` tells, as a program.
//!
//! `vmm leave NAME` starts a guest, gives its memory to LUO, and returns while the guest runs on, up to the jump. `vmm arrive NAME`, in
//! the next kernel, takes the memory back and lets the guest run again.

use std::env::{self, args};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::FileExt as _;
use std::process::{Command, ExitCode, Stdio};
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use testbed_guest::luo::Device;

/// The token of the guest's memory in its session. A token is the VMM's own name for a file: the next VMM has to know it.
const MEMORY: u64 = 0;
/// How much memory the guest has.
const SIZE: u64 = 2 << 20;
/// What the guest was at, and where in its memory that is.
const WORK: (&[u8], u64) = (b"the guest counts to 41", 0x1000);

fn main() -> ExitCode {
    let words: Vec<_> = args().skip(1).collect();
    let done = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["leave", name] => leave(name),
        ["serve", name] => serve(name),
        ["arrive", name] => arrive(name),
        _ => Err(anyhow::anyhow!("usage: vmm leave NAME | vmm arrive NAME")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vmm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Starts the process that has the guest, and waits until everything is preserved.
fn leave(name: &str) -> Result<()> {
    let mut server = Command::new(env::current_exe()?);
    let mut server = server.args(["serve", name]).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    let output = server.stdout.take().context("the server has no output")?;
    BufReader::new(output).read_line(&mut line)?;
    ensure!(!line.is_empty(), "the guest was not preserved; why stands above");
    print!("{line}");
    Ok(())
}

/// Runs the guest. While this process lives, so does the session: the kernel gives up what is preserved when its last descriptor closes.
fn serve(name: &str) -> Result<()> {
    let memory = File::from(memfd_create(
        "guest-memory",
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
    )?);
    memory.set_len(SIZE)?;
    // Its size stays what the next VMM expects; seals come over, too.
    fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW)?;
    memory.write_all_at(WORK.0, WORK.1)?;

    let device = Device::open().context("cannot open /dev/liveupdate")?;
    let session = device
        .create_session(name.as_bytes())
        .with_context(|| format!("no session {name:?}"))?;
    // The device has one opener at a time. Others need it, too.
    drop(device);
    session
        .preserve(&memory, MEMORY)
        .context("the guest's memory cannot be preserved")?;

    println!("{name}: {} MiB are preserved", SIZE >> 20);
    std::io::stdout().flush()?;
    // The guest runs on: what it writes to its memory until the jump goes along.
    loop {
        thread::park();
    }
}

/// Takes the guest's memory back, and lets go of everything else.
fn arrive(name: &str) -> Result<()> {
    let device = Device::open().context("cannot open /dev/liveupdate")?;
    let session = device
        .retrieve_session(name.as_bytes())
        .with_context(|| format!("session {name:?} did not come over"))?;
    drop(device);
    let memory = File::from(
        session
            .retrieve(MEMORY)
            .context("the guest's memory did not come over")?,
    );
    ensure!(memory.metadata()?.len() == SIZE, "the guest's memory has another size");
    let mut work = [0; WORK.0.len()];
    memory.read_exact_at(&mut work, WORK.1)?;
    if work != WORK.0 {
        bail!("the guest's memory has other contents");
    }
    // The guest runs again from here: what follows takes no service from it.
    session.finish().context("the session cannot be finished")?;
    println!("{name}: {}", String::from_utf8_lossy(&work));
    Ok(())
}
