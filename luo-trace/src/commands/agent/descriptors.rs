//! How many descriptors the agent may have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard one, as far as the system lets it.
///
/// Nothing that a stranger does takes descriptors without a bound: the HTTP port has at most
/// [`CONNECTIONS`](crate::sink::web::CONNECTIONS), and the control socket is root's. So of the 1,024 that systemd leaves a service
/// that does not ask for more, some 900 are kept for the programs and their links (two for each hook), the socket, the journal, and
/// the look into an image.
pub(super) fn raise() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Where that is not allowed, the limit stays what it is, and suffices as the lines above say.
    _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    );
}
