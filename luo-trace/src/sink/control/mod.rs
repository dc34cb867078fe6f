//! The agent's UNIX socket, for `luo-trace status`, `watch` and `top` on the same host: the state as JSON, and a stream of
//! what happens. Beside it lies the lock that keeps a second agent away.
//!
//! | path | answer |
//! |---|---|
//! | `/status` | a [`Status`](crate::status::Status) |
//! | `/events` | events and findings, one JSON object a line, until the agent ends |
//! | `/events/text`, `/events/colour` | the same for people |
//! | `POST /policy`, with an [`Order`] as JSON | what became of it, as an [`Answer`] |
//!
//! Who gives an order is what the kernel says of the other end of the connection.
//! A reader of events that is too slow loses lines and is told how many; it never slows the agent down.

pub mod client;
mod peer;

use std::convert::Infallible;
use std::ffi::OsStr;
use std::fs;
use std::future::Future;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::stream;
use tokio::sync::broadcast::{self, Receiver, Sender, WeakSender, error::RecvError};
use tokio::sync::{mpsc, oneshot};

use crate::host::lock::{Lock, Refusal};
use crate::policy::orders::{Answer, Order};
use crate::sink::StatusSource;
use peer::Peer;

/// Where the socket lies unless told otherwise.
pub const DEFAULT_PATH: &str = "/run/luo-trace/agent.sock";

/// What the name of the lock beside the socket ends in.
const LOCK: &str = "lock";

/// How many batches of lines may wait for the slowest reader.
const QUEUE: usize = 32;

/// More bytes than any order has.
const LONGEST_ORDER: usize = 4096;
/// How many orders may wait to be taken.
const ORDERS: usize = 8;

/// An order on its way to the task that carries it out.
#[derive(Debug)]
pub struct Request {
    /// What is wanted. It makes sense.
    pub order: Order,
    /// Who wants it: the user who logged in, or where no login is known the effective user at the other end of the socket.
    pub uid: u32,
    /// What became of it, or why it cannot be done.
    pub answer: oneshot::Sender<Result<Answer, String>>,
}

/// The way of orders: from the socket, and to the task that carries them out.
pub fn orders() -> (mpsc::Sender<Request>, mpsc::Receiver<Request>) {
    mpsc::channel(ORDERS)
}

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One JSON object each.
    Json,
    /// For people.
    Text,
    /// For people, in colour.
    Colour,
}

impl Form {
    /// Every form.
    pub const ALL: [Form; 3] = [Form::Json, Form::Text, Form::Colour];

    /// Where the stream of this form is found.
    pub const fn path(self) -> &'static str {
        match self {
            Form::Json => "/events",
            Form::Text => "/events/text",
            Form::Colour => "/events/colour",
        }
    }

    /// What a reader is told that was too slow.
    fn notice(self, dropped: u64) -> String {
        match self {
            Form::Json => format!("{{\"dropped\":{dropped}}}\n"),
            Form::Text | Form::Colour => format!("({dropped} lines are not shown: they came too fast)\n"),
        }
    }
}

/// The right to be this host's agent, and the socket it is asked at. Both end when it is dropped.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
    _lock: Lock,
}

impl Control {
    /// Takes the lock and opens the socket, in place of one that a killed agent left behind.
    ///
    /// # Errors
    /// Where another agent has the lock, or the directory cannot be written.
    pub fn open(path: &Path) -> Result<Self, Refusal> {
        let lock = Lock::take(&path.with_extension(LOCK))?;
        let listener = listen(path)
            .with_context(|| format!("cannot open the socket {}", path.display()))
            .map_err(Refusal::Unusable)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// Serves until `stop` is done and the streams have ended.
    ///
    /// # Errors
    /// Where the socket fails for good.
    pub fn serve<S: Future<Output = ()> + Send + 'static>(
        &self,
        source: Arc<dyn StatusSource>,
        orders: mpsc::Sender<Request>,
        streams: &Streams,
        stop: S,
    ) -> io::Result<impl Future<Output = io::Result<()>> + Send + use<S>> {
        let listener = tokio::net::UnixListener::from_std(self.listener.try_clone()?)?;
        let router = router(source, orders, streams).into_make_service_with_connect_info::<Peer>();
        Ok(axum::serve(listener, router).with_graceful_shutdown(stop).into_future())
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // The lock is still held, so this is no other agent's socket. If it is gone already, that is what was wanted.
        _ = fs::remove_file(&self.path);
    }
}

/// Reads the path of an agent's socket.
///
/// # Errors
/// Where it is that of a file which lies beside the socket.
pub fn socket_path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match path.extension().and_then(OsStr::to_str) {
        Some(end @ (LOCK | "orders")) => Err(format!("the agent keeps its {end} in that file, beside the socket")),
        _ => Ok(path),
    }
}

/// A socket that only its owner can use.
fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // SAFETY: umask(2) cannot fail and touches no memory. It is this process's own, and put back at once; no other thread
    // makes files while the agent starts.
    let before = unsafe { libc::umask(0o177) };
    let listener = UnixListener::bind(path);
    // SAFETY: as above.
    unsafe { libc::umask(before) };
    let listener = listener?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Lines on their way to readers.
#[derive(Clone, Debug)]
struct Chunk {
    text: Bytes,
    /// How many lines were sent before these.
    before: u64,
    lines: u64,
}

/// The streams of lines, one for each form. When it is dropped, they end.
#[derive(Debug)]
pub struct Streams {
    senders: [Sender<Chunk>; Form::ALL.len()],
    sent: [u64; Form::ALL.len()],
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            senders: Form::ALL.map(|_| broadcast::channel(QUEUE).0),
            sent: [0; Form::ALL.len()],
        }
    }
}

impl Streams {
    /// Whether a client reads. Asked from elsewhere while the streams are fed.
    pub fn readers(&self) -> Readers {
        Readers(self.senders.each_ref().map(Sender::downgrade))
    }

    /// Whether a client reads this form.
    pub fn is_read(&self, form: Form) -> bool {
        self.senders[form as usize].receiver_count() > 0
    }

    /// Sends lines of this form to its readers.
    pub fn send(&mut self, form: Form, text: String, lines: u64) {
        let before = self.sent[form as usize];
        self.sent[form as usize] += lines;
        let text = text.into();
        // Without a reader nothing is lost.
        _ = self.senders[form as usize].send(Chunk { text, before, lines });
    }
}

/// Who reads the streams.
#[derive(Clone, Debug)]
pub struct Readers([WeakSender<Chunk>; Form::ALL.len()]);

impl Readers {
    /// Whether there is anybody.
    pub fn any(&self) -> bool {
        let has = |sender: Sender<Chunk>| sender.receiver_count() > 0;
        self.0.iter().filter_map(WeakSender::upgrade).any(has)
    }

    fn subscribe(&self, form: Form) -> Option<Receiver<Chunk>> {
        Some(self.0[form as usize].upgrade()?.subscribe())
    }
}

fn router(source: Arc<dyn StatusSource>, orders: mpsc::Sender<Request>, streams: &Streams) -> Router {
    let policy = post(order).layer(DefaultBodyLimit::max(LONGEST_ORDER));
    let mut router = Router::new()
        .route("/status", get(status).with_state(source))
        .route("/policy", policy.with_state(orders));
    for form in Form::ALL {
        let readers = streams.readers();
        router = router.route(form.path(), get(async move || events(form, &readers)));
    }
    router
}

async fn status(State(source): State<Arc<dyn StatusSource>>) -> Response {
    // It reads files and may be long: the task that drains the ring must not wait for it.
    let json = tokio::task::spawn_blocking(move || serde_json::to_vec(&source.status())).await;
    match json.map_err(anyhow::Error::from).and_then(|json| Ok(json?)) {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response(),
    }
}

/// Hands an order on, and waits for what becomes of it.
async fn order(
    State(orders): State<mpsc::Sender<Request>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Bytes,
) -> Response {
    let refuse = |status: StatusCode, why: &str| (status, format!("{why}\n")).into_response();
    let order: Order = match serde_json::from_slice(&body) {
        Ok(order) => order,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &format!("this is no order: {error}")),
    };
    if let Err(why) = order.check() {
        return refuse(StatusCode::BAD_REQUEST, &why);
    }
    let Some(uid) = peer.uid else {
        return refuse(StatusCode::FORBIDDEN, "the system does not tell who you are");
    };
    let (answer, told) = oneshot::channel();
    if orders.try_send(Request { order, uid, answer }).is_err() {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "the agent ends, or is busy: try again");
    }
    match told.await {
        Ok(Ok(answer)) => match serde_json::to_vec(&answer) {
            Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
            Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        },
        Ok(Err(why)) => refuse(StatusCode::CONFLICT, &why),
        Err(_) => refuse(StatusCode::SERVICE_UNAVAILABLE, "the agent ends"),
    }
}

fn events(form: Form, readers: &Readers) -> Response {
    let kind = match form {
        Form::Json => "application/x-ndjson",
        Form::Text | Form::Colour => "text/plain; charset=utf-8",
    };
    let Some(receiver) = readers.subscribe(form) else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let lines = stream::unfold((receiver, None), move |(mut receiver, seen)| async move {
        let (text, seen) = next(&mut receiver, form, seen).await?;
        Some((Ok::<_, Infallible>(text), (receiver, Some(seen))))
    });
    ([(header::CONTENT_TYPE, kind)], Body::from_stream(lines)).into_response()
}

/// The next lines for a reader who has seen so many, with a notice where some are missing, and how many it has seen then.
async fn next(receiver: &mut Receiver<Chunk>, form: Form, seen: Option<u64>) -> Option<(Bytes, u64)> {
    let chunk = loop {
        match receiver.recv().await {
            Ok(chunk) => break chunk,
            // What comes next tells how many lines that were.
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return None,
        }
    };
    let dropped = chunk.before - seen.unwrap_or(chunk.before);
    let text = match dropped {
        0 => chunk.text,
        _ => [form.notice(dropped).as_bytes(), &chunk.text].concat().into(),
    };
    Some((text, chunk.before + chunk.lines))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

    use super::*;
    use crate::status::Status;

    struct Fake;

    impl StatusSource for Fake {
        fn status(&self) -> Status {
            Status {
                host: "node-7".into(),
                ..Status::default()
            }
        }
    }

    fn path(dir: &tempfile::TempDir) -> PathBuf {
        dir.path().join("luo-trace/agent.sock")
    }

    #[test]
    fn a_second_agent_is_told_who_the_first_is_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let first = Control::open(&path(&dir)).unwrap();
        match Control::open(&path(&dir)) {
            Err(Refusal::Taken(pid)) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
        UnixStream::connect(path(&dir)).expect("the first one's socket is still there");
        drop(first);
        assert!(!path(&dir).exists());
        Control::open(&path(&dir)).expect("the next agent can start");
    }

    #[test]
    fn a_socket_that_a_killed_agent_left_is_replaced_and_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("luo-trace")).unwrap();
        drop(UnixListener::bind(path(&dir)).unwrap());
        fs::write(path(&dir).with_extension("lock"), "4194304 and more\n").unwrap();
        let control = Control::open(&path(&dir)).unwrap();
        UnixStream::connect(path(&dir)).unwrap();
        assert_eq!(fs::metadata(path(&dir)).unwrap().permissions().mode() & 0o777, 0o600);
        let pid = fs::read_to_string(path(&dir).with_extension("lock")).unwrap();
        assert_eq!(pid, format!("{}\n", std::process::id()));
        drop(control);
    }

    #[test]
    fn a_socket_is_not_where_its_lock_or_its_orders_are() {
        for wrong in ["agent.lock", "/run/luo-trace/agent.orders"] {
            socket_path(wrong).expect_err(wrong);
        }
        for right in [DEFAULT_PATH, "lock", "agent"] {
            assert_eq!(socket_path(right), Ok(right.into()));
        }
    }

    #[test]
    fn where_no_directory_can_be_made_that_is_said() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("luo-trace"), "a file in the way").unwrap();
        match Control::open(&path(&dir)) {
            Err(Refusal::Unusable(why)) => assert!(format!("{why:#}").contains("agent.lock"), "{why:#}"),
            other => panic!("{other:?}"),
        }
    }

    async fn ask(path: &Path, request: &str) -> BufReader<tokio::net::UnixStream> {
        let mut stream = tokio::net::UnixStream::connect(path).await.unwrap();
        let request = format!("GET {request} HTTP/1.0\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        BufReader::new(stream)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_state_is_json() {
        let dir = tempfile::tempdir().unwrap();
        let control = Control::open(&path(&dir)).unwrap();
        let serve = control.serve(Arc::new(Fake), orders().0, &Streams::default(), std::future::pending());
        tokio::spawn(serve.unwrap());
        let mut answer = String::new();
        ask(&path(&dir), "/status")
            .await
            .read_to_string(&mut answer)
            .await
            .unwrap();
        let (head, json) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains("200") && head.contains("content-type: application/json"),
            "{head}"
        );
        assert_eq!(serde_json::from_str::<Status>(json).unwrap().host, "node-7");
    }

    /// What the socket says to an order, where the task that carries it out answers like this.
    async fn order(body: &str, says: Result<Answer, String>) -> (String, Option<(Order, u32)>) {
        let dir = tempfile::tempdir().unwrap();
        let control = Control::open(&path(&dir)).unwrap();
        let (sender, mut receiver) = orders();
        let serve = control.serve(Arc::new(Fake), sender, &Streams::default(), std::future::pending());
        tokio::spawn(serve.unwrap());
        let taken = tokio::spawn(async move {
            let Request { order, uid, answer } = receiver.recv().await?;
            answer.send(says).unwrap();
            Some((order, uid))
        });
        let mut stream = tokio::net::UnixStream::connect(&path(&dir)).await.unwrap();
        let request = format!("POST /policy HTTP/1.0\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let reached = if taken.is_finished() {
            taken.await.unwrap()
        } else {
            None
        };
        (answer, reached)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_order_is_carried_out_in_the_name_of_whoever_connected() {
        let told = Answer {
            told: vec!["held".into()],
        };
        let (answer, reached) = order(r#"{"order":"hold","reason":"disk swap","for_ns":null}"#, Ok(told)).await;
        assert!(
            answer.starts_with("HTTP/1.0 200") && answer.ends_with(r#"{"told":["held"]}"#),
            "{answer}"
        );
        let hold = Order::Hold {
            reason: "disk swap".into(),
            for_ns: None,
        };
        // SAFETY: getuid(2) cannot fail and touches no memory.
        assert_eq!(reached, Some((hold, unsafe { libc::getuid() })));
        let (answer, _) = order(r#"{"order":"clear"}"#, Err("there is no policy".into())).await;
        assert!(
            answer.starts_with("HTTP/1.0 409") && answer.ends_with("there is no policy\n"),
            "{answer}"
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_no_order_reaches_nobody() {
        let long = format!(r#"{{"order":"hold","reason":"{}"}}"#, "x".repeat(LONGEST_ORDER));
        for (body, status, why) in [
            ("", "400", "no order"),
            (r#"{"order":"retrieve"}"#, "400", "unknown variant"),
            (r#"{"order":"hold"}"#, "400", "reason"),
            (r#"{"order":"allow","reason":"x"}"#, "400", "for_ns"),
            (r#"{"order":"hold","reason":" "}"#, "400", "the reason is empty"),
            (r#"{"order":"hold","reason":"x","uid":0}"#, "400", "unknown field"),
            (&long, "413", "length limit"),
        ] {
            let (answer, reached) = order(body, Ok(Answer::default())).await;
            assert!(answer.contains(status) && answer.contains(why), "{body}: {answer}");
            assert_eq!(reached, None, "{body}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_stream_begins_now_and_ends_with_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        let control = Control::open(&path(&dir)).unwrap();
        let mut streams = Streams::default();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let serve = control.serve(Arc::new(Fake), orders().0, &streams, async { _ = stopped.await });
        let server = tokio::spawn(serve.unwrap());
        streams.send(Form::Text, "before\n".into(), 1);
        let mut reader = ask(&path(&dir), "/events/text").await;
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            reader.read_line(&mut line).await.unwrap();
        }
        assert!(streams.is_read(Form::Text) && !streams.is_read(Form::Json) && streams.readers().any());
        streams.send(Form::Text, "one\ntwo\n".into(), 2);
        drop(streams);
        _ = stop.send(());
        let mut rest = String::new();
        reader.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "one\ntwo\n");
        server.await.unwrap().unwrap();
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_reader_that_is_too_slow_is_told_how_many_lines_it_missed() {
        let mut streams = Streams::default();
        let mut receiver = streams.readers().subscribe(Form::Json).unwrap();
        streams.send(Form::Json, "0\n".into(), 1);
        let (text, seen) = next(&mut receiver, Form::Json, None).await.unwrap();
        assert_eq!((&text[..], seen), (b"0\n".as_slice(), 1));
        // Batches of ten lines, five more than the queue holds.
        for batch in 0..QUEUE + 5 {
            streams.send(Form::Json, format!("batch {batch}\n"), 10);
        }
        let (text, seen) = next(&mut receiver, Form::Json, Some(seen)).await.unwrap();
        assert_eq!(&text[..], b"{\"dropped\":50}\nbatch 5\n");
        assert_eq!(seen, 1 + 60);
    }
}
