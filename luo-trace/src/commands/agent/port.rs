//! The agent's HTTP port, as its options say.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Args as ClapArgs;

use crate::sink::log::tell;
use crate::sink::web::{Access, PageSource, Port};

/// Options of the port.
#[derive(Debug, Default, ClapArgs)]
// The agent's own options are a group of this name.
#[group(skip)]
pub(super) struct Args {
    /// Serve metrics and a page for people at this address
    #[arg(long, value_name = "ADDR", env = "LUO_TRACE_LISTEN")]
    listen: Option<SocketAddr>,
    /// TLS and passwords of that port, in the YAML of Prometheus' exporters; it is read again when it changes
    #[arg(long, value_name = "FILE", env = "LUO_TRACE_WEB_CONFIG")]
    web_config: Option<PathBuf>,
    /// A name under which that port may be asked for, beside addresses, localhost and this host's name; may be repeated
    #[arg(long, value_name = "NAME", env = "LUO_TRACE_WEB_HOST", value_delimiter = ',')]
    web_host: Vec<String>,
}

/// A port that can be opened.
pub(super) struct Prepared {
    address: SocketAddr,
    hosts: Vec<String>,
    access: Access,
}

impl Args {
    /// Reads `--web-config`; `None` without `--listen`.
    ///
    /// # Errors
    /// Where the file, or one that it names, cannot be used: a port that was to be protected is never open without that.
    pub(super) fn prepare(&self) -> Result<Option<Prepared>> {
        let of_a_port = self.web_config.is_some() || !self.web_host.is_empty();
        if self.listen.is_none() && of_a_port {
            bail!(
                "--web-config and --web-host are of a port, and none is opened: give its address with --listen, or leave them out"
            );
        }
        let access = Access::open(self.web_config.as_deref()).context("--web-config cannot be used")?;
        let prepare = |address| Prepared {
            address,
            hosts: self.web_host.clone(),
            access,
        };
        Ok(self.listen.map(prepare))
    }
}

impl Prepared {
    /// Serves what is known. An address that cannot be had is told, and nothing else suffers.
    pub(super) fn open(self, source: Arc<dyn PageSource>) -> Option<Port> {
        let port = Port::open(self.address, self.hosts, self.access, source, tell);
        port.inspect_err(|error| tell(format_args!("{error:#}; going on without the port")))
            .ok()
    }
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::fs::File;
    use std::io::{self, BufRead, BufReader, Read, Write};
    use std::net::TcpStream;
    use std::os::unix::net::UnixStream;
    use std::path::Path;
    use std::process::{Child, Command, Stdio};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::agent::live::Live;
    use crate::commands::agent::descriptors;
    use crate::policy::orders::Answer;
    use crate::sink::control::{self, Control, Streams};
    use crate::sink::web::CONNECTIONS;
    use crate::testing::{Flood, Story, session};

    /// How long anything may take, on a busy machine, too: what is out of descriptors never answers.
    const DEADLINE: Duration = Duration::from_secs(60);
    /// systemd's soft limit, and more connections than that.
    const DESCRIPTORS: usize = 1024;
    const SILENT: usize = 1100;
    /// In the environment of the child: the socket it serves.
    const SOCKET: &str = "LUO_TRACE_TEST_SOCKET";

    /// An agent without a kernel: the real port and the real socket, over a model of 10,000 sessions.
    #[test]
    #[ignore = "a part of `silent_and_pipelining_peers_never_take_the_socket_away`, which runs it with few descriptors"]
    fn an_agent_without_a_kernel() {
        let socket = env::var_os(SOCKET).expect("the test that starts this names a socket");
        descriptors::raise();
        let live = Arc::new(Live::new(&Flood::header()).unwrap());
        let mut story = Story::new();
        (0..10_000).for_each(|number| _ = story.create(session(number, &format!("vm-{number}"))));
        story.events.iter().for_each(|event| _ = live.apply(event));
        let args = Args {
            listen: Some(([127, 0, 0, 1], 0).into()),
            ..Args::default()
        };
        let port = args.prepare().unwrap().unwrap().open(live.clone()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let control = Control::open(Path::new(&socket)).unwrap();
            let (orders, mut taken) = control::orders();
            let streams = Streams::default();
            tokio::spawn(control.serve(live, orders, &streams, std::future::pending()).unwrap());
            println!("\nPORT {}", port.address());
            while let Some(request) = taken.recv().await {
                // As the journal and the image watch do.
                let opened = File::open("/proc/self/stat").map_err(|error| error.to_string());
                let told = vec!["carried out".to_owned()];
                _ = request.answer.send(opened.map(|_| Answer { told }));
            }
        });
    }

    /// That agent in a process of its own, which ends with this.
    struct Agent(Child);

    impl Agent {
        fn start(socket: &Path) -> (Self, SocketAddr) {
            let name = "commands::agent::port::tests::an_agent_without_a_kernel";
            let mut child = Command::new("sh")
                .args(["-c", &format!("ulimit -n {DESCRIPTORS} && exec \"$0\" \"$@\"")])
                .arg(env::current_exe().unwrap())
                .args(["--exact", name, "--ignored", "--nocapture"])
                .env(SOCKET, socket)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let said = BufReader::new(child.stdout.take().unwrap());
            let agent = Self(child);
            let address = said.lines().map_while(Result::ok).find_map(|line| {
                let address = line.strip_prefix("PORT ")?;
                address.parse().ok()
            });
            (agent, address.expect("the child says where its port is"))
        }
    }

    impl Drop for Agent {
        fn drop(&mut self) {
            _ = self.0.kill();
            _ = self.0.wait();
        }
    }

    fn connect(port: SocketAddr) -> TcpStream {
        let stream = TcpStream::connect_timeout(&port, DEADLINE).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    fn exchange(mut stream: impl Read + Write, request: &str) -> io::Result<String> {
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    const METRICS: &str = "GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n";

    #[track_caller]
    fn an_order_is_carried_out(socket: &Path) {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let order = r#"{"order":"clear"}"#;
        let request = format!(
            "POST /policy HTTP/1.0\r\ncontent-length: {}\r\n\r\n{order}",
            order.len()
        );
        let answer = exchange(stream, &request).unwrap();
        assert!(
            answer.starts_with("HTTP/1.0 200") && answer.contains("carried out"),
            "{answer}"
        );
    }

    #[test]
    fn silent_and_pipelining_peers_never_take_the_socket_away() {
        // Given an agent that may have 1,024 descriptors, and a peer that opens more connections than that and says nothing,
        descriptors::raise();
        let place = tempfile::tempdir().unwrap();
        let socket = place.path().join("agent.sock");
        let (_agent, port) = Agent::start(&socket);
        let silent: Vec<_> = (0..SILENT).map(|_| connect(port)).collect();
        // then an order is carried out, for which a file is opened, and a scraper gets its metrics;
        an_order_is_carried_out(&socket);
        let answer = exchange(connect(port), METRICS).unwrap();
        assert!(
            answer.contains("luo_sessions{direction=\"outgoing\"} 10000"),
            "{answer}"
        );
        // and so it is while four peers send one request behind the other without waiting for answers.
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let pipelining = || {
                let mut answered = 0;
                while !over.load(Ordering::Relaxed) || answered == 0 {
                    let mut stream = connect(port);
                    let mut answer = Vec::new();
                    // Both may end in a reset: of all these requests one is answered.
                    _ = stream.write_all(METRICS.repeat(100).as_bytes());
                    _ = stream.read_to_end(&mut answer);
                    answered += usize::from(answer.starts_with(b"HTTP/1.1 200"));
                }
            };
            (0..4).for_each(|_| _ = scope.spawn(pipelining));
            for _ in 0..20 {
                an_order_is_carried_out(&socket);
            }
            over.store(true, Ordering::Relaxed);
        });
        // Of the silent ones at most as many are left as there is room for.
        let is_open = |mut stream: &TcpStream| {
            stream.set_nonblocking(true).unwrap();
            stream
                .read(&mut [0])
                .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        };
        let left = silent.iter().filter(|stream| is_open(stream)).count();
        assert!(left <= CONNECTIONS, "{left}");
    }
}
