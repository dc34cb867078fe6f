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

use crate::status::{File, Flb, Session, Status};

/// Where the port listens unless told otherwise: on this machine only.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:9886";

/// How many rows of each table the page shows.
const ROWS: usize = 200;

/// What the port shows.
pub trait Source: super::Source {
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
    match Page::of(&source.status()).render() {
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
    use crate::status::Finding;

    #[derive(Default)]
    struct Fake {
        status: Status,
        not_ready: Option<&'static str>,
    }

    impl crate::sink::Source for Fake {
        fn status(&self) -> Status {
            self.status.clone()
        }
    }

    impl Source for Fake {
        fn metrics(&self) -> String {
            "luo_sessions{direction=\"outgoing\"} 1\n".into()
        }

        fn ready(&self) -> Result<(), String> {
            self.not_ready.map_or(Ok(()), |why| Err(why.into()))
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
        let file = File {
            handler: evil.into(),
            ..File::default()
        };
        let status = Status {
            kernel: "7.3.4".into(),
            findings: vec![Finding {
                invariant: "file-token-unique".into(),
                object: evil.into(),
                ..Finding::default()
            }],
            sessions: vec![Session {
                name: evil.into(),
                state: "retrieved".into(),
                files: vec![file],
                ..Session::default()
            }],
            ..Status::default()
        };
        let fake = Fake {
            status,
            not_ready: None,
        };
        let answer = ask(fake, "GET /");
        assert!(
            answer.contains("content-type: text/html; charset=utf-8\r\n"),
            "{answer}"
        );
        assert!(answer.contains("7.3.4") && answer.contains("retrieved"), "{answer}");
        assert!(!answer.contains("<script") && !answer.contains("\" onload"), "{answer}");
        // The name stands with the session and with its file.
        assert_eq!(answer.matches("&#60;script&#62;").count(), 4, "{answer}");
        assert!(answer.contains("http-equiv=\"refresh\""), "{answer}");
    }

    #[test]
    fn a_long_list_is_cut_and_says_so() {
        let sessions = |count| vec![Session::default(); count];
        let mut status = Status {
            sessions: sessions(ROWS + 5),
            ..Status::default()
        };
        let page = Page::of(&status).render().unwrap();
        assert!(page.contains("Sessions (205)") && page.contains("5 more"), "{page}");
        assert_eq!(page.matches("<tr>").count(), 1 + ROWS + 1, "heads and rows");
        status.sessions = sessions(ROWS);
        assert!(!Page::of(&status).render().unwrap().contains("more."));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_port_in_use_is_an_error_that_says_what_to_do() {
        let taken = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let error = format!("{:#}", bind(taken.local_addr().unwrap()).await.unwrap_err());
        assert!(error.contains("--listen") && error.contains("in use"), "{error}");
    }
}
