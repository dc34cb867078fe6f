//! The port's own thread: which connections there are, and how long each may take.
//!
//! A connection carries one request and its answer: there is nothing to pipeline, and nothing that idles. It has some seconds for TLS,
//! some for the head of its request, and then is over, however slowly its peer reads: [`PATIENCE`].

use std::convert::Infallible;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener as Listener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::http::{Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::access::{Access, Rules};
use super::guard::{Hosts, Users};
use super::{PageSource, router};

/// How many connections there are at most. The port takes so many descriptors and no more, so that the control socket, the journal and
/// the image watch never lack one. One connection more ends another, the oldest silent one of the peer that has the most.
pub const CONNECTIONS: usize = 64;

/// How long a peer may take.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// For TLS to begin, and then for the head of a request to come.
    head: Duration,
    /// For everything, to the last byte of the answer.
    life: Duration,
}

pub(super) const PATIENCE: Patience = Patience {
    head: Duration::from_secs(10),
    life: Duration::from_secs(30),
};

/// How long the port rests where the system has no connection to give.
const REST: Duration = Duration::from_millis(100);

/// The greatest head of a request in bytes, and the most headers it may have.
const HEAD_BYTES: usize = 16 << 10;
const HEADERS: usize = 64;

/// The port while it is served. It ends when this is dropped.
#[derive(Debug)]
pub struct Port {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Port {
    /// Opens the port and serves it on a thread of its own, so that no request ever takes the time of the task that empties the ring.
    /// `hosts` are the names under which it may be asked for, beside its own; `tell` is told of what an operator should know.
    ///
    /// # Errors
    /// Where the address is taken, is not this machine's, or needs a privilege; the message says what to do. The agent goes on
    /// without the port.
    pub fn open(
        address: SocketAddr,
        hosts: impl IntoIterator<Item = String>,
        access: Access,
        source: Arc<dyn PageSource>,
        tell: impl Fn(String) + Send + 'static,
    ) -> anyhow::Result<Self> {
        let listener = Listener::bind(address).with_context(|| {
            format!("cannot listen on {address}; another program may use the port: choose another with --listen, port 0 takes any free one")
        })?;
        let address = listener.local_addr().context("the port has no address")?;
        listener
            .set_nonblocking(true)
            .context("the port cannot be waited for")?;
        if let Some(warning) = access.warning().filter(|_| !address.ip().to_canonical().is_loopback()) {
            tell(warning);
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            // Passwords are tried here, one at a time.
            .max_blocking_threads(1)
            .build()
            .context("the port cannot be served")?;
        let (stop, stopped) = oneshot::channel();
        let shown = Arc::new(Shown::new(hosts, source));
        let serve = move || {
            let served = runtime.block_on(async {
                let listener = TcpListener::from_std(listener)?;
                tokio::select! {
                    () = serve(listener, &shown, access, &tell) => {}
                    _ = stopped => {}
                }
                std::io::Result::Ok(())
            });
            if let Err(error) = served {
                tell(format!("the port cannot be served: {error}"));
            }
            // A password that is still being tried holds up no end.
            runtime.shutdown_background();
        };
        let thread = thread::Builder::new().name("port".into()).spawn(serve);
        Ok(Self {
            address,
            stop: Some(stop),
            thread: Some(thread.context("the system has no thread for the port")?),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        drop(self.stop.take());
        // A thread that panicked has said so itself.
        _ = self.thread.take().map(JoinHandle::join);
    }
}

/// What is shown, and to whom.
pub(super) struct Shown {
    hosts: Hosts,
    router: Router,
}

impl Shown {
    pub(super) fn new(hosts: impl IntoIterator<Item = String>, source: Arc<dyn PageSource>) -> Self {
        Self {
            hosts: Hosts::new(hosts),
            router: router(source),
        }
    }

    /// Answers a request, if it comes from where it may.
    async fn answer(&self, users: Option<Arc<Users>>, head_seen: &AtomicBool, request: Request<Incoming>) -> Response {
        if let Err(why) = self.hosts.check(request.uri(), request.headers()) {
            return (StatusCode::MISDIRECTED_REQUEST, format!("{why}\n")).into_response();
        }
        if let Some(users) = users
            && !users.allow(request.headers()).await
        {
            let ask = [(header::WWW_AUTHENTICATE, r#"Basic realm="luo-trace", charset="UTF-8""#)];
            return (StatusCode::UNAUTHORIZED, ask, "a user and a password are needed\n").into_response();
        }
        head_seen.store(true, Ordering::Relaxed);
        let answer = TowerToHyperService::new(self.router.clone()).call(request).await;
        answer.unwrap_or_else(|never| match never {})
    }
}

/// Serves for ever.
async fn serve(listener: TcpListener, shown: &Arc<Shown>, mut access: Access, tell: &dyn Fn(String)) {
    let mut connections = Connections::default();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    connections.make_room().await;
                    connections.begin(stream, peer.ip(), access.rules(tell), shown.clone());
                }
                // The peer has gone already, or the system has no descriptor left, which is not for the port's sake.
                Err(_) => sleep(REST).await,
            },
            () = connections.ended() => {}
        }
    }
}

/// The connections that there are, the oldest first.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    list: Vec<Connection>,
}

struct Connection {
    task: AbortHandle,
    /// An IPv6 peer has a whole network of 64 bits to itself.
    peer: IpAddr,
    /// Whether its peer has sent a head and may see what it asks for.
    head_seen: Arc<AtomicBool>,
}

impl Connections {
    fn begin(&mut self, stream: TcpStream, peer: IpAddr, rules: Rules, shown: Arc<Shown>) {
        let head_seen = Arc::new(AtomicBool::new(false));
        let task = connection(stream, PATIENCE, rules, shown, head_seen.clone());
        let task = self.tasks.spawn(task);
        let peer = match peer.to_canonical() {
            IpAddr::V6(peer) => IpAddr::V6(Ipv6Addr::from_bits(peer.to_bits() >> 64 << 64)),
            peer => peer,
        };
        self.list.push(Connection { task, peer, head_seen });
    }

    /// Waits for the end of one of them, and for ever where there is none.
    async fn ended(&mut self) {
        let Some(ended) = self.tasks.join_next_with_id().await else {
            return std::future::pending().await;
        };
        let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
        self.list.retain(|connection| connection.task.id() != id);
    }

    /// Ends connections until there is room for one.
    async fn make_room(&mut self) {
        while self.list.len() >= CONNECTIONS {
            if let Some(victim) = self.victim() {
                victim.task.abort();
            }
            self.ended().await;
        }
    }

    /// The one to go: of the peer that has the most, one that has not asked for anything yet, the oldest of those. So a peer that
    /// opens many takes room from itself and not from a scraper, and silent ones never keep anyone out.
    fn victim(&self) -> Option<&Connection> {
        let of = |peer: IpAddr| self.list.iter().filter(|other| other.peer == peer).count();
        let key = |connection: &&Connection| (of(connection.peer), !connection.head_seen.load(Ordering::Relaxed));
        // Of several equals the last is taken.
        self.list.iter().rev().max_by_key(key)
    }
}

/// A connection from its beginning to its end.
async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    patience: Patience,
    rules: Rules,
    shown: Arc<Shown>,
    head_seen: Arc<AtomicBool>,
) {
    let Rules { tls, users, .. } = rules;
    let served = async {
        match tls {
            None => exchange(stream, patience, users, &shown, &head_seen).await,
            // A peer that speaks no TLS, or has no certificate, goes without an answer.
            Some(tls) => {
                if let Ok(Ok(stream)) = timeout(patience.head, tls.accept(stream)).await {
                    exchange(stream, patience, users, &shown, &head_seen).await;
                }
            }
        }
    };
    _ = timeout(patience.life, served).await;
}

/// One request and its answer.
pub(super) async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    patience: Patience,
    users: Option<Arc<Users>>,
    shown: &Shown,
    head_seen: &AtomicBool,
) {
    let service = service_fn(|request| {
        let users = users.clone();
        async move { Ok::<_, Infallible>(shown.answer(users, head_seen, request).await) }
    });
    let served = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(patience.head)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    // A peer that breaks off, or speaks no HTTP, has had its answer from hyper.
    _ = served.await;
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt, duplex};

    use super::super::tests::Fake;
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_peer_that_says_nothing_or_reads_nothing_is_let_go() {
        const NOW: Duration = Duration::from_millis(1);
        const NEVER: Duration = Duration::from_secs(3600);
        for (said, head, life) in [
            ("", NOW, NEVER),
            ("GET /metrics HTTP/1.1\r\nx:", NOW, NEVER),
            ("GET /metrics HTTP/1.1\r\n\r\n", NEVER, NOW),
        ] {
            // Given a pipe that has no room for an answer, and a peer that never takes from it,
            let (mut peer, port) = duplex(64);
            peer.write_all(said.as_bytes()).await.unwrap();
            let shown = Arc::new(Shown::new([], Arc::new(Fake::default())));
            // then its connection ends all the same.
            let connection = connection(port, Patience { head, life }, Rules::default(), shown, Arc::default());
            let ended = timeout(Duration::from_secs(60), connection).await;
            assert!(ended.is_ok(), "{said:?}");
        }
    }
}
