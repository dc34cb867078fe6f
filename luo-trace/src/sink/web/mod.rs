//! The agent's HTTP port: metrics for Prometheus, health for its supervisor, and a page for people. It serves
//! reads only, and knows nothing of where its answers come from: see [`PageSource`].
//!
//! [`Port`] is its thread; [`Access`] is what `--web-config` says of TLS and passwords, and `guard` is who is let in.

mod access;
mod config;
mod guard;
mod serve;
mod tls;

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use askama::Template;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;

pub use access::Access;
pub use config::WebConfig;
pub use serve::{CONNECTIONS, Port};

use crate::status::{File, Flb, Session, Status};

/// Where the port listens unless told otherwise: on this machine only.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:9886";

/// How many rows of each table the page shows.
const ROWS: usize = 200;

/// What the port shows.
pub trait PageSource: super::StatusSource {
    /// The metrics, in Prometheus' text format.
    fn metrics(&self) -> String;
    /// Whether the agent sees what happens; if not, a sentence that says why.
    fn ready(&self) -> Result<(), String>;
}

/// A status, drawn for people. Everything in it is text to show as it is: the page escapes it.
#[derive(Template)]
#[template(path = "status.html")]
struct Page<'a> {
    status: &'a Status,
    version: &'static str,
    sessions: Table<&'a Session>,
    files: Table<(&'a Session, &'a File)>,
    flbs: Table<&'a Flb>,
}

impl<'a> Page<'a> {
    fn of(status: &'a Status) -> Self {
        let files = |session: &'a Session| session.files.iter().map(move |file| (session, file));
        Self {
            status,
            version: env!("CARGO_PKG_VERSION"),
            sessions: status.sessions.iter().collect(),
            files: status.sessions.iter().flat_map(files).collect(),
            flbs: status.flbs.iter().collect(),
        }
    }

    fn policy(&self) -> Vec<String> {
        let policy = self.status.policy.as_ref();
        policy.map_or_else(Vec::new, |policy| policy.lines(self.status.time_ns))
    }
}

/// The first rows of a list, and how many it has.
struct Table<T> {
    /// At most [`ROWS`] of them.
    rows: Vec<T>,
    /// How many there are in all.
    all: usize,
}

impl<T> Table<T> {
    /// How many are not shown.
    fn more(&self) -> usize {
        self.all.saturating_sub(self.rows.len())
    }
}

impl<T> FromIterator<T> for Table<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut items = items.into_iter();
        let rows: Vec<T> = items.by_ref().take(ROWS).collect();
        let all = rows.len() + items.count();
        Self { rows, all }
    }
}

/// How long an answer stays as it is. However many peers ask, the state's lock is theirs for a small part of the time.
const METRICS_STAY: Duration = Duration::from_millis(200);
/// A page takes longer, since it also says which processes hold a session.
const PAGE_STAYS: Duration = Duration::from_secs(1);

/// An answer that is made anew when it is asked for and older than it may be.
struct Fresh {
    stays: Duration,
    made: Mutex<Option<(Instant, Bytes)>>,
}

impl Fresh {
    fn new(stays: Duration) -> Self {
        Self {
            stays,
            made: Mutex::default(),
        }
    }

    fn get<E>(&self, make: impl FnOnce() -> Result<String, E>) -> Result<Bytes, E> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, answer)) = &*made
            && at.elapsed() < self.stays
        {
            return Ok(answer.clone());
        }
        let answer = Bytes::from(make()?);
        *made = Some((Instant::now(), answer.clone()));
        Ok(answer)
    }
}

/// What the paths have in common.
struct Shared {
    source: Arc<dyn PageSource>,
    metrics: Fresh,
    page: Fresh,
}

/// The paths, each for GET and HEAD only.
fn router(source: Arc<dyn PageSource>) -> Router {
    let shared = Shared {
        source,
        metrics: Fresh::new(METRICS_STAY),
        page: Fresh::new(PAGE_STAYS),
    };
    Router::new()
        .route("/", get(page))
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(Arc::new(shared))
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let made = shared.metrics.get(|| Ok::<_, Infallible>(shared.source.metrics()));
    let body = made.unwrap_or_else(|never| match never {});
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        body,
    )
        .into_response()
}

async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    match shared.source.ready() {
        Ok(()) => "ready\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn page(State(shared): State<Arc<Shared>>) -> Response {
    match shared.page.get(|| Page::of(&shared.source.status()).render()) {
        Ok(html) => {
            // The page has no script and loads nothing: whatever a session's name holds, a browser will not run it.
            let policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";
            ([(header::CONTENT_SECURITY_POLICY, policy)], Html(html)).into_response()
        }
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("the page cannot be made: {error}\n"),
        )
            .into_response(),
    }
}

/// For the fuzzers: what an unprotected port answers to these bytes, where it may be asked for under this name and by address.
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub fn answer(bytes: &[u8], host: &str, source: Arc<dyn PageSource>) -> Vec<u8> {
    use std::sync::atomic::AtomicBool;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let exchange = async {
        let mut answer = Vec::new();
        let shown = serve::Shown::new([host.to_owned()], source);
        // The pipe has room for everything, and its other end is open: no write can fail.
        let (mut client, port) = tokio::io::duplex(bytes.len() + (1 << 20));
        _ = client.write_all(bytes).await;
        _ = client.shutdown().await;
        serve::exchange(port, serve::PATIENCE, None, &shown, &AtomicBool::default()).await;
        _ = client.read_to_end(&mut answer).await;
        answer
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.map_or_else(|_| Vec::new(), |runtime| runtime.block_on(exchange))
}

#[cfg(test)]
mod tests;
