//! Stories of a collector that does not always answer: a real one, over real connections, and time that passes as the test says.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::future::pending;
use std::io::{self, Read as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{Sender as Given, channel};
use std::sync::{Mutex, PoisonError};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path as Place, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use flate2::read::GzDecoder;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};

use super::client::{Answer, Wire};
use super::spool::Batch;
use super::*;
use crate::model::{Invariant, Origin, Subject};
use crate::report::otlp::resource;

/// What a collector does to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    /// Takes it.
    Takes,
    /// Is not there.
    IsAway,
    /// Does not answer, and has taken it or not.
    IsSlow(bool),
    /// Is asked too often; in so many seconds it may be asked again.
    IsBusy(u64),
    /// Cannot take it now.
    Fails,
    /// Takes it, and the connection ends in the middle of its answer.
    IsCut,
    /// Will never take it.
    Refuses,
}

/// What a collector has got.
#[derive(Default)]
struct Got {
    /// What it does to the next requests; after them it takes all.
    deeds: VecDeque<Deed>,
    /// The ids in each batch that it has, by the batch's key, for each time that it came.
    batches: Vec<(String, BTreeSet<String>)>,
    /// The headers of the last request.
    headers: HeaderMap,
}

type Shared = Arc<Mutex<Got>>;

fn lock(got: &Shared) -> std::sync::MutexGuard<'_, Got> {
    got.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A collector on a thread of its own, for as long as the test.
struct Collector {
    address: SocketAddr,
    got: Shared,
    _stop: Given<()>,
}

impl Collector {
    fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let got = Shared::default();
        let (stop, stopped) = channel::<()>();
        let router = Router::new()
            .route("/otlp/v1/{signal}", post(answer))
            .with_state(got.clone());
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.spawn(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                serve(listener, router).await;
            });
            runtime.block_on(async { _ = tokio::task::spawn_blocking(move || stopped.recv()).await });
            runtime.shutdown_background();
        });
        Self {
            address,
            got,
            _stop: stop,
        }
    }

    fn url(&self) -> String {
        format!("http://{}/otlp", self.address)
    }

    /// The ids that it has got, and under how many keys each.
    fn ids(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut ids: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (key, batch) in &lock(&self.got).batches {
            for id in batch {
                ids.entry(id.clone()).or_default().insert(key.clone());
            }
        }
        ids
    }
}

async fn serve(listener: tokio::net::TcpListener, router: Router) {
    use hyper::server::conn::http1;
    use hyper_util::rt::TokioIo;
    use hyper_util::service::TowerToHyperService;

    while let Ok((stream, _)) = listener.accept().await {
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer(State(got): State<Shared>, Place(signal): Place<String>, headers: HeaderMap, body: Bytes) -> Response {
    let deed = {
        let mut got = lock(&got);
        let deed = got.deeds.pop_front().unwrap_or(Deed::Takes);
        if matches!(deed, Deed::Takes | Deed::IsCut | Deed::IsSlow(true)) {
            let key = headers["idempotency-key"].to_str().unwrap().to_owned();
            got.batches.push((key, ids(&signal, &body)));
        }
        got.headers = headers;
        deed
    };
    match deed {
        Deed::Takes => StatusCode::OK.into_response(),
        Deed::IsSlow(_) => pending().await,
        Deed::IsBusy(seconds) => {
            (StatusCode::TOO_MANY_REQUESTS, [("retry-after", seconds.to_string())]).into_response()
        }
        Deed::Fails => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Deed::Refuses => StatusCode::BAD_REQUEST.into_response(),
        Deed::IsAway => unreachable!("it is asked nothing"),
        Deed::IsCut => {
            let parts = [Ok(Bytes::from("half")), Err(io::Error::other("cut"))];
            Body::from_stream(futures_util::stream::iter(parts)).into_response()
        }
    }
}

/// The ids of what is in a request, by the messages of OpenTelemetry.
fn ids(signal: &str, body: &[u8]) -> BTreeSet<String> {
    let mut plain = Vec::new();
    GzDecoder::new(body).read_to_end(&mut plain).unwrap();
    match signal {
        "traces" => {
            let request = ExportTraceServiceRequest::decode(&*plain).unwrap();
            let spans = request.resource_spans.into_iter().flat_map(|kernel| kernel.scope_spans);
            let spans = spans.flat_map(|scope| scope.spans);
            spans
                .map(|span| format!("{:?}/{:?}", span.trace_id, span.span_id))
                .collect()
        }
        "logs" => {
            let request = ExportLogsServiceRequest::decode(&*plain).unwrap();
            let records = request.resource_logs.into_iter().flat_map(|kernel| kernel.scope_logs);
            let records = records.flat_map(|scope| scope.log_records);
            let id = |key: &str, value: Option<Value>| match value {
                Some(Value::StringValue(id)) if key == "log.record.uid" => Some(id),
                _ => None,
            };
            let of_record = |record: opentelemetry_proto::tonic::logs::v1::LogRecord| {
                let mut all = record.attributes.into_iter();
                all.find_map(|one| id(&one.key, one.value?.value)).unwrap()
            };
            records.map(of_record).collect()
        }
        "metrics" => {
            let request = ExportMetricsServiceRequest::decode(&*plain).unwrap();
            let all = request
                .resource_metrics
                .into_iter()
                .flat_map(|kernel| kernel.scope_metrics);
            all.flat_map(|scope| scope.metrics).map(|metric| metric.name).collect()
        }
        other => panic!("{other} is no signal"),
    }
}

/// What was told of how it goes.
#[derive(Default)]
struct Account {
    batches: Mutex<BTreeMap<(Signal, Fate), u64>>,
    trouble: Mutex<Option<String>>,
    bytes: Mutex<u64>,
}

impl Account {
    fn of(&self, fate: Fate) -> u64 {
        let batches = self.batches.lock().unwrap();
        batches
            .iter()
            .filter(|((_, of), _)| *of == fate)
            .map(|(_, count)| count)
            .sum()
    }
}

impl Watch for Account {
    fn exists(&self, _: Signal, _: Fate) {}

    fn batch(&self, signal: Signal, fate: Fate) {
        *self.batches.lock().unwrap().entry((signal, fate)).or_default() += 1;
    }

    fn spooled(&self, bytes: u64) {
        *self.bytes.lock().unwrap() = bytes;
    }

    fn trouble(&self, why: Option<String>) {
        *self.trouble.lock().unwrap() = why;
    }
}

/// A way to a collector that is away at times.
struct Road {
    client: Client,
    away: Client,
    got: Shared,
}

impl Road {
    fn to(collector: &Collector) -> Self {
        // A port that was free a moment ago, and on which no program listens.
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let client = |url: &str| {
            let mut client = Client::new(Address::new(url, None, None).unwrap()).unwrap();
            client.be_patient(Duration::from_millis(250));
            client
        };
        Self {
            client: client(&collector.url()),
            away: client(&format!("http://{free}")),
            got: collector.got.clone(),
        }
    }
}

impl Wire for Road {
    fn post(&mut self, batch: &Batch) -> Answer {
        let away = lock(&self.got)
            .deeds
            .pop_front_if(|deed| *deed == Deed::IsAway)
            .is_some();
        match away {
            true => self.away.post(batch),
            false => self.client.post(batch),
        }
    }
}

/// A trace of one span.
fn trace(number: u64) -> Vec<u8> {
    let span = Span {
        trace_id: vec![1; 16],
        span_id: number.to_be_bytes().to_vec(),
        ..Span::default()
    };
    let request = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            scope_spans: vec![ScopeSpans {
                spans: vec![span],
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }],
    };
    request.encode_to_vec()
}

/// A finding, and a request that tells it.
fn finding(number: u64) -> (Finding, Vec<u8>) {
    let finding = Finding {
        id: Id::default(),
        invariant: Invariant::FileBalance,
        object: Subject::Update,
        expected: "x".into(),
        seen: "y".into(),
        advice: "Look.",
        evidence: Vec::new(),
        time_ns: number,
    };
    let finding = finding.named(&Origin::of_run("boot", number), &[], 1);
    let told = [Told::Finding(Box::new(finding.clone()))];
    let request = records::request(resource("1", "7.3", "boot", &[]), &told, 1, 2);
    (finding, request.encode_to_vec())
}

fn sender(dir: &Path, road: Road, account: &Arc<Account>, seed: u64) -> Sender<Road> {
    let (spool, lost) = Spool::open(Some(dir.to_owned()), MOST_ON_DISK).unwrap();
    assert_eq!(lost, []);
    Sender::new(spool, road, account.clone(), seed)
}

/// A pseudorandom number below `below`.
fn pick(seed: &mut u64, below: u64) -> u64 {
    *seed = seed
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) % below
}

fn deed(seed: &mut u64) -> Deed {
    match pick(seed, 12) {
        0..3 => Deed::IsAway,
        // Each takes the client's patience.
        3 => Deed::IsSlow(pick(seed, 2) == 0),
        4..6 => Deed::IsBusy(pick(seed, 100)),
        6..8 => Deed::Fails,
        8..10 => Deed::IsCut,
        _ => Deed::Takes,
    }
}

#[test]
fn nothing_is_lost_and_nothing_is_sent_under_another_id_whatever_the_network_does() {
    let collector = Collector::open();
    for round in 0..100 {
        let mut seed = round;
        // Given a collector with these faults in its future, and an agent with something to tell,
        let dir = tempfile::tempdir().unwrap();
        let account = Arc::new(Account::default());
        {
            let mut got = lock(&collector.got);
            *got = Got::default();
            got.deeds = (0..pick(&mut seed, 8)).map(|_| deed(&mut seed)).collect();
        }
        let mut sender = self::sender(dir.path(), Road::to(&collector), &account, round);
        let (mut now, mut put) = (Duration::ZERO, BTreeSet::new());
        let (mut next, most) = (0, 3 + pick(&mut seed, 4));
        let mut restarts = pick(&mut seed, 3);
        // when it tells that bit by bit, and is started anew in between,
        let mut steps = 0;
        while next < most || sender.wait(now).is_some() {
            steps += 1;
            assert!(steps < 200, "round {round} does not end");
            if next < most && pick(&mut seed, 2) == 0 {
                let (signal, request) = match pick(&mut seed, 2) {
                    0 => (Signal::Traces, trace(next)),
                    _ => (Signal::Logs, finding(next).1),
                };
                let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                io::Write::write_all(&mut packed, &request).unwrap();
                put.extend(ids(signal.name(), &packed.finish().unwrap()));
                sender.put(signal, &request).unwrap();
                next += 1;
            }
            if restarts > 0 && pick(&mut seed, 4) == 0 {
                restarts -= 1;
                drop(sender);
                sender = self::sender(dir.path(), Road::to(&collector), &account, round + restarts);
            }
            if let Some(wait) = sender.wait(now) {
                now += wait;
                sender.step(now);
            }
        }
        // then the collector has all of it, each under one key, and the agent knows that it has.
        let got = collector.ids();
        let ids: BTreeSet<_> = got.keys().cloned().collect();
        assert_eq!(ids, put, "round {round}");
        assert!(got.values().all(|keys| keys.len() == 1), "round {round}: {got:?}");
        assert_eq!(account.of(Fate::Sent), most, "round {round}");
        assert_eq!(
            account.of(Fate::Dropped) + account.of(Fate::Refused),
            0,
            "round {round}"
        );
        assert_eq!(*account.bytes.lock().unwrap(), 0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "round {round}");
        assert_eq!(*account.trouble.lock().unwrap(), None);
    }
}

#[test]
fn a_collector_that_asks_for_time_gets_it_and_others_less_and_less_often_tries() {
    let collector = Collector::open();
    let dir = tempfile::tempdir().unwrap();
    let account = Arc::new(Account::default());
    lock(&collector.got).deeds = [Deed::IsBusy(90), Deed::Fails, Deed::Fails, Deed::Fails].into();
    let mut sender = sender(dir.path(), Road::to(&collector), &account, 7);
    sender.put(Signal::Traces, &trace(1)).unwrap();
    let mut waits = Vec::new();
    let mut now = Duration::ZERO;
    while let Some(wait) = sender.wait(now) {
        waits.push(wait.as_secs_f64());
        now += wait;
        sender.step(now);
        let trouble = account.trouble.lock().unwrap().clone();
        assert_eq!(trouble.is_some(), sender.wait(now).is_some(), "{trouble:?}");
    }
    let [first, busy, second, third, fourth] = waits[..] else {
        panic!("{waits:?}")
    };
    assert_eq!((first, busy), (0.0, 90.0));
    for (wait, longest) in [(second, 2.0), (third, 4.0), (fourth, 8.0)] {
        assert!((longest / 2.0..=longest).contains(&wait), "{waits:?}");
    }
    assert_eq!((account.of(Fate::Failed), account.of(Fate::Sent)), (4, 1));
}

#[test]
fn what_the_collector_refuses_is_dropped_and_counted_and_holds_nothing_up() {
    let collector = Collector::open();
    let dir = tempfile::tempdir().unwrap();
    let account = Arc::new(Account::default());
    lock(&collector.got).deeds = [Deed::Refuses].into();
    let mut sender = sender(dir.path(), Road::to(&collector), &account, 7);
    (1..=2).for_each(|number| sender.put(Signal::Traces, &trace(number)).unwrap());
    assert!(!sender.step(Duration::ZERO));
    let why = account.trouble.lock().unwrap().clone().unwrap();
    assert!(why.contains("refuses traces") && why.contains("400"), "{why}");
    assert!(sender.step(Duration::ZERO));
    assert_eq!(collector.ids().len(), 1);
    assert_eq!((account.of(Fate::Refused), account.of(Fate::Sent)), (1, 1));
    // Each request says what it is.
    let got = lock(&collector.got);
    assert_eq!(got.headers["content-type"], "application/x-protobuf");
    assert_eq!(got.headers["content-encoding"], "gzip");
}

#[test]
fn a_full_spool_gives_up_metrics_first_and_then_the_oldest_and_counts_them() {
    let batch = |signal, byte: u8| Batch {
        signal,
        body: vec![byte; 40],
    };
    let dir = tempfile::tempdir().unwrap();
    for place in [None, Some(dir.path().join("push"))] {
        let (mut spool, _) = Spool::open(place, 100).unwrap();
        assert_eq!(spool.put(batch(Signal::Traces, 1)).0, []);
        assert_eq!(spool.put(batch(Signal::Metrics, 2)).0, []);
        assert_eq!(spool.put(batch(Signal::Logs, 3)).0, [Signal::Metrics]);
        assert_eq!(spool.put(batch(Signal::Logs, 4)).0, [Signal::Traces]);
        let large = Batch {
            signal: Signal::Logs,
            body: vec![0; 101],
        };
        assert_eq!(spool.put(large).0, [Signal::Logs]);
        assert_eq!((spool.bytes(), spool.len()), (80, 2));
        assert_eq!(spool.first(), Some(Ok(batch(Signal::Logs, 3))));
        spool.done();
        assert_eq!(spool.first(), Some(Ok(batch(Signal::Logs, 4))));
        spool.done();
        assert_eq!((spool.first(), spool.bytes()), (None, 0));
    }
}

#[test]
fn a_spool_that_outlives_its_agent_gives_what_is_whole_and_counts_what_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Spool::open(Some(dir.path().to_owned()), 1 << 20).unwrap();
    let packed = |text: &[u8]| {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut packed, text).unwrap();
        packed.finish().unwrap()
    };
    let (mut spool, _) = open();
    for (signal, text) in [(Signal::Logs, b"a"), (Signal::Traces, b"b"), (Signal::Metrics, b"c")] {
        let body = packed(text);
        spool.put(Batch { signal, body }).1.unwrap();
    }
    drop(spool);
    // Given a batch that was cut off with the machine's power, one that was being written, and a file of another program,
    let mut names: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    names.sort();
    std::fs::write(&names[1], &packed(b"b")[..15]).unwrap();
    std::fs::write(dir.path().join("0000000000000009.logs.gz.new"), "half").unwrap();
    std::fs::write(dir.path().join("notes.txt"), "mine").unwrap();
    // then the others come in their order, and what is put now comes behind them.
    let (mut spool, lost) = open();
    assert_eq!(lost, [Signal::Traces]);
    spool
        .put(Batch {
            signal: Signal::Logs,
            body: packed(b"d"),
        })
        .1
        .unwrap();
    let mut bodies = Vec::new();
    while let Some(batch) = spool.first() {
        bodies.push(batch.unwrap().body);
        spool.done();
    }
    assert_eq!(bodies, [packed(b"a"), packed(b"c"), packed(b"d")]);
    let left: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["notes.txt"]);
}

#[test]
fn an_agent_pushes_what_it_is_handed_and_its_last_metrics_before_it_ends() {
    let collector = Collector::open();
    let account = Arc::new(Account::default());
    let plan = Plan {
        address: Address::new(&collector.url(), None, None).unwrap(),
        interval: Duration::from_secs(3600),
        resource: resource("1", "7.3", "boot", &[]),
        zero_unix_ns: 1,
        metrics: Box::new(|_| ExportMetricsServiceRequest::default()),
        watch: account.clone(),
    };
    let dir = tempfile::tempdir().unwrap();
    let pusher = Pusher::start(plan, Some(dir.path())).unwrap();
    let findings: Vec<_> = (0..1000).map(|number| finding(number).0).collect();
    let push = pusher.push();
    findings.iter().for_each(|finding| push.finding(finding));
    push.refusal(
        Id::of_refusal("boot", crate::event::EventId { cpu: 0, seq: 1 }, 2),
        Refusal::default(),
    );
    push.trace(ExportTraceServiceRequest::decode(&*trace(7)).unwrap());
    let deadline = Instant::now() + Duration::from_secs(60);
    while collector.ids().len() < findings.len() + 2 {
        assert!(Instant::now() < deadline, "not all of it comes");
        thread::yield_now();
    }
    pusher.finish();
    let ids = collector.ids();
    assert!(findings.iter().all(|finding| ids.contains_key(&finding.id.to_string())));
    assert_eq!(ids.len(), findings.len() + 2);
    // The metrics of its beginning and of its end are requests without an id here.
    let batches = account.batches.lock().unwrap().clone();
    assert_eq!(batches[&(Signal::Metrics, Fate::Sent)], 2, "{batches:?}");
    assert_eq!(batches[&(Signal::Traces, Fate::Sent)], 1);
    assert!(batches.keys().all(|(_, fate)| *fate == Fate::Sent), "{batches:?}");
    // What comes after the end has no room anywhere.
    push.finding(&findings[0]);
    assert_eq!(account.of(Fate::Dropped), 1);
}

#[test]
fn a_collector_with_tls_is_believed_by_the_authority_that_is_named_alone() {
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::pki_types::PrivateKeyDer;

    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, made.cert.pem()).unwrap();
    let other = tempfile::NamedTempFile::new().unwrap();
    let stranger = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&other, stranger.cert.pem()).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    listener.set_nonblocking(true).unwrap();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(stream) = acceptor.accept(stream).await else {
                    continue;
                };
                let answer = hyper::service::service_fn(async |_: hyper::Request<hyper::body::Incoming>| {
                    Ok::<_, Infallible>(Response::new(Body::empty()))
                });
                let io = hyper_util::rt::TokioIo::new(stream);
                _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(io, answer)
                    .await;
            }
        });
    });
    let batch = Batch {
        signal: Signal::Logs,
        body: vec![1],
    };
    let asks = |authority: &Path| {
        let address = Address::new(&format!("https://localhost:{port}"), Some(authority), None).unwrap();
        Client::new(address).unwrap().post(&batch)
    };
    assert_eq!(asks(file.path()), Answer::Taken);
    let Answer::Later(why, None) = asks(other.path()) else {
        panic!("a stranger is believed")
    };
    assert!(why.contains("TLS failed"), "{why}");
}
