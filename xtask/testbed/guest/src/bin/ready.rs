//! Makes the file that its argument names, and waits to be killed.
//!
//! bpftrace runs it as its child, which it lets go when everything is attached: that is how one sees it.

use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("ready: which file?");
        return ExitCode::FAILURE;
    };
    if let Err(error) = std::fs::write(&path, "") {
        eprintln!("ready: cannot write {}: {error}", path.display());
        return ExitCode::FAILURE;
    }
    loop {
        std::thread::park();
    }
}
