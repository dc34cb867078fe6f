//! The agent's HTTP port: metrics for Prometheus, health for its supervisor, and a page for people. It serves
//! reads only, and knows nothing of where its answers come from: see [`Source`].

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use askama::Template;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

/// Where the port listens unless told otherwise: on this machine only.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:9886";

/// How many rows of each table the page shows.
pub const ROWS: usize = 200;

/// What the port shows.
pub trait Source: Send + Sync + 'static {
    /// The metrics, in Prometheus' text format.
    fn metrics(&self) -> String;
    /// Whether the agent sees what happens; if not, a sentence that says why.
    fn ready(&self) -> Result<(), String>;
    /// The state of things, for people.
    fn page(&self) -> Page;
}

/// What the page shows. Everything is text to show as it is: the page escapes it.
#[derive(Clone, Debug, Default, Template)]
#[template(path = "status.html")]
pub struct Page {
    /// Kernel release.
    pub kernel: String,
    /// This machine's name.
    pub host: String,
    /// Version of the agent.
    pub version: String,
    /// The number of the live update that brought this kernel, where it is known.
    pub update: Option<u64>,
    /// What the agent found in the image that is loaded, where it looked.
    pub image: Option<String>,
    /// Why the agent does not see everything; empty when it does.
    pub troubles: Vec<String>,
    /// What policy is and did, a sentence each; empty: there is none.
    pub policy: Vec<String>,
    /// The verdicts.
    pub verdicts: Vec<Verdict>,
    /// The last findings, latest first.
    pub findings: Vec<String>,
    /// Live sessions.
    pub sessions: Table<Session>,
    /// Live files.
    pub files: Table<File>,
    /// Global state.
    pub flbs: Table<Flb>,
}

/// One invariant's verdict.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// The invariant's id.
    pub invariant: String,
    /// `ok`, `violated` or `unknown`.
    pub status: String,
    /// What it says.
    pub statement: String,
}

/// The first rows of a list, and how many it has.
#[derive(Clone, Debug)]
pub struct Table<T> {
    /// At most [`ROWS`] of them.
    pub rows: Vec<T>,
    /// How many there are in all.
    pub all: usize,
}

impl<T> Table<T> {
    /// How many are not shown.
    pub fn more(&self) -> usize {
        self.all.saturating_sub(self.rows.len())
    }
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            rows: Vec::new(),
            all: 0,
        }
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

/// A session's row.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// Its name.
    pub name: String,
    /// `outgoing` or `incoming`.
    pub direction: String,
    /// Where it is in its life.
    pub state: String,
    /// How many files it holds.
    pub files: usize,
}

/// A file's row.
#[derive(Clone, Debug, Default)]
pub struct File {
    /// The name of its session.
    pub session: String,
    /// Its token, where it is known.
    pub token: String,
    /// Its handler.
    pub handler: String,
    /// Its size in bytes, for people.
    pub size: String,
    /// Where it is in its life.
    pub state: String,
}

/// A row of global state.
#[derive(Clone, Debug, Default)]
pub struct Flb {
    /// Its compatible string.
    pub name: String,
    /// `outgoing` or `incoming`.
    pub direction: String,
    /// How many files use it.
    pub users: String,
    /// Where it is in its life.
    pub state: String,
}

/// Opens the port.
///
/// # Errors
/// Where the address is taken, is not this machine's, or needs a privilege; the message says what to do. The agent goes
/// on without the port.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}; another program may use the port: choose another with --listen, port 0 takes any free one")
    })
}

/// Serves until `stop` is done.
///
/// # Errors
/// Where the listener fails for good.
pub async fn serve(
    listener: TcpListener,
    source: Arc<dyn Source>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    axum::serve(listener, router(source)).with_graceful_shutdown(stop).await
}

/// The paths, each for GET and HEAD only.
fn router(source: Arc<dyn Source>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(source)
}

async fn metrics(State(source): State<Arc<dyn Source>>) -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        source.metrics(),
    )
}

async fn ready(State(source): State<Arc<dyn Source>>) -> Response {
    match source.ready() {
        Ok(()) => "ready\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn page(State(source): State<Arc<dyn Source>>) -> Response {
    match source.page().render() {
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

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    #[derive(Default)]
    struct Fake {
        page: Page,
        not_ready: Option<&'static str>,
    }

    impl Source for Fake {
        fn metrics(&self) -> String {
            "luo_sessions{direction=\"outgoing\"} 1\n".into()
        }

        fn ready(&self) -> Result<(), String> {
            self.not_ready.map_or(Ok(()), |why| Err(why.into()))
        }

        fn page(&self) -> Page {
            self.page.clone()
        }
    }

    /// The whole answer, from the status line to the last byte.
    fn ask(source: Fake, request: &str) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(serve(listener, Arc::new(source), pending()));
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        })
    }

    #[test]
    fn metrics_have_the_content_type_that_prometheus_wants() {
        let answer = ask(Fake::default(), "GET /metrics");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(
            answer.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"),
            "{answer}"
        );
        assert!(answer.ends_with("luo_sessions{direction=\"outgoing\"} 1\n"), "{answer}");
    }

    #[test]
    fn the_agent_is_alive_at_once_and_ready_when_it_is_attached() {
        let attaching = || Fake {
            not_ready: Some("attaching: 3 of 20 hooks"),
            ..Fake::default()
        };
        assert!(ask(attaching(), "GET /healthz").starts_with("HTTP/1.1 200"));
        let answer = ask(attaching(), "GET /readyz");
        assert!(
            answer.starts_with("HTTP/1.1 503") && answer.ends_with("attaching: 3 of 20 hooks\n"),
            "{answer}"
        );
        assert!(ask(Fake::default(), "GET /readyz").starts_with("HTTP/1.1 200"));
    }

    #[test]
    fn only_reads_are_served() {
        for method in ["POST", "PUT", "DELETE", "PATCH"] {
            for path in ["/", "/metrics", "/healthz", "/readyz"] {
                let answer = ask(Fake::default(), &format!("{method} {path}"));
                assert!(answer.starts_with("HTTP/1.1 405"), "{method} {path}: {answer}");
            }
        }
        assert!(ask(Fake::default(), "GET /etc/passwd").starts_with("HTTP/1.1 404"));
    }

    #[test]
    fn the_page_shows_what_is_there_and_runs_nothing_that_a_name_holds() {
        let evil = "<script>alert(1)</script>\" onload='x";
        let page = Page {
            kernel: "7.3.4".into(),
            findings: vec![format!("file-token-unique: {evil}")],
            sessions: [Session {
                name: evil.into(),
                state: "retrieved".into(),
                ..Session::default()
            }]
            .into_iter()
            .collect(),
            ..Page::default()
        };
        let answer = ask(Fake { page, not_ready: None }, "GET /");
        assert!(
            answer.contains("content-type: text/html; charset=utf-8\r\n"),
            "{answer}"
        );
        assert!(answer.contains("7.3.4") && answer.contains("retrieved"), "{answer}");
        assert!(!answer.contains("<script") && !answer.contains("\" onload"), "{answer}");
        assert_eq!(answer.matches("&#60;script&#62;").count(), 2, "{answer}");
        assert!(answer.contains("http-equiv=\"refresh\""), "{answer}");
    }

    #[test]
    fn a_long_list_is_cut_and_says_so() {
        let sessions: Table<Session> = (0..ROWS + 5).map(|_| Session::default()).collect();
        assert_eq!((sessions.rows.len(), sessions.more()), (ROWS, 5));
        let page = Page {
            sessions,
            ..Page::default()
        };
        assert!(page.render().unwrap().contains("5 more"));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_port_in_use_is_an_error_that_says_what_to_do() {
        let taken = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let error = format!("{:#}", bind(taken.local_addr().unwrap()).await.unwrap_err());
        assert!(error.contains("--listen") && error.contains("in use"), "{error}");
    }
}
