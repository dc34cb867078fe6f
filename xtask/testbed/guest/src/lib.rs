//! What the virtual machine runs, and the scenario language it shares with xtask.
//!
//! - [`scenario`]: the types of a scenario file; xtask reads the TOML, the guest gets it as JSON.
//! - [`protocol`]: the lines by which the guest tells the host how far it is.
//! - [`clock`]: readings of the guest's clock beside the host's.
//! - [`content`]: the bytes that memfds are filled with, made from a seed and compared after the kexec.
//! - [`halt`]: a thread of another process that is stuck.
//! - [`luo`]: the ioctls of `/dev/liveupdate`.
//! - [`service`]: what drives a scenario in a guest with systemd.
//!
//! The binary `init` is PID 1 of both kernels: it mounts, starts the agent, and drives the scenario. In a guest with
//! systemd a service does: the binary `workload`, or `package` where luo-trace comes as a package.

pub mod clock;
pub mod content;
pub mod halt;
pub mod luo;
pub mod protocol;
pub mod scenario;
pub mod service;
