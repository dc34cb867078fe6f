//! The port as its clients meet it: over real connections, to the thread that serves it.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::mpsc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto};

use super::*;
use crate::status::Finding;

/// How long anything may take, on a busy machine, too.
const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct Fake {
    status: Status,
    not_ready: Option<&'static str>,
}

impl crate::sink::StatusSource for Fake {
    fn status(&self) -> Status {
        self.status.clone()
    }
}

impl PageSource for Fake {
    fn metrics(&self) -> String {
        "luo_sessions{direction=\"outgoing\"} 1\n".into()
    }

    fn ready(&self) -> Result<(), String> {
        self.not_ready.map_or(Ok(()), |why| Err(why.into()))
    }
}

/// A port at some free address of this machine, and what it tells an operator.
struct Served {
    port: Port,
    told: mpsc::Receiver<String>,
}

fn serve_with(source: Fake, config: Option<&Path>) -> Served {
    let (tell, told) = mpsc::channel();
    let access = Access::open(config).unwrap();
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let names = ["node-7.example.com".to_owned()];
    let port = Port::open(anywhere, names, access, Arc::new(source), move |line| {
        _ = tell.send(line)
    })
    .unwrap();
    Served { port, told }
}

fn connect(served: &Served) -> TcpStream {
    let stream = TcpStream::connect(served.port.address()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// The whole answer, from the status line to the last byte.
fn exchange(mut stream: impl Read + Write, request: &str, headers: &str) -> io::Result<String> {
    stream.write_all(format!("{request} HTTP/1.1\r\nhost: 127.0.0.1\r\n{headers}\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn ask(source: Fake, request: &str) -> String {
    let served = serve_with(source, None);
    exchange(connect(&served), request, "").unwrap()
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

#[test]
fn the_page_begins_with_the_last_live_update() {
    let status = Status {
        updates: vec![crate::report::Row {
            number: Some(3),
            outcome: "unclaimed".into(),
            ..Default::default()
        }],
        ..Status::default()
    };
    let page = Page::of(&status).render().unwrap();
    let (update, findings) = (page.find("live update 3, ? → ?: unclaimed"), page.find("<h2>Findings"));
    assert!(update.is_some() && update < findings, "{page}");
}

#[test]
fn a_port_in_use_is_an_error_that_says_what_to_do() {
    let taken = serve_with(Fake::default(), None);
    let open = || Access::open(None).unwrap();
    let again = Port::open(taken.port.address(), [], open(), Arc::new(Fake::default()), |_| ());
    let error = format!("{:#}", again.unwrap_err());
    assert!(error.contains("--listen") && error.contains("in use"), "{error}");
}

#[test]
fn a_host_of_another_name_gets_a_sentence_and_nothing_else() {
    let served = serve_with(Fake::default(), None);
    let ask = |host: &str| {
        let mut stream = connect(&served);
        write!(stream, "GET /metrics HTTP/1.1\r\nhost: {host}\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(ask("node-7.example.com:9886").starts_with("HTTP/1.1 200"));
    let answer = ask("evil.example.com");
    assert!(
        answer.starts_with("HTTP/1.1 421") && answer.contains("--web-host NAME"),
        "{answer}"
    );
    assert!(!answer.contains("luo_sessions"), "{answer}");
}

#[test]
fn a_connection_carries_one_request_whatever_is_sent_behind_it() {
    let served = serve_with(Fake::default(), None);
    let request = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut stream = connect(&served);
    stream.write_all(request.repeat(3).as_bytes()).unwrap();
    let mut answer = Vec::new();
    // The end may be a reset, since not everything that was sent is read.
    _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).unwrap();
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 1, "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
}

#[test]
fn a_head_that_is_too_long_is_refused() {
    let served = serve_with(Fake::default(), None);
    let long = format!("x: {}\r\n", "y".repeat(64 << 10));
    // The peer may be cut off while it still sends.
    let answer = exchange(connect(&served), "GET /", &long).unwrap_or_default();
    assert!(!answer.contains(" 200 "), "{answer}");
    let many = "x: y\r\n".repeat(200);
    let answer = exchange(connect(&served), "GET /", &many).unwrap_or_default();
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
}

#[test]
fn silent_connections_keep_no_scraper_out() {
    // Given more connections than there is room for, of which none says anything,
    let served = serve_with(Fake::default(), None);
    let silent: Vec<_> = (0..3 * CONNECTIONS).map(|_| connect(&served)).collect();
    // then one that asks is answered,
    assert!(
        exchange(connect(&served), "GET /metrics", "")
            .unwrap()
            .starts_with("HTTP/1.1 200")
    );
    // since the oldest of the others went, and they were ended properly.
    for mut gone in silent.iter().take(CONNECTIONS) {
        assert_eq!(gone.read(&mut [0]).unwrap(), 0);
    }
}

/// An authority, and what it certified: files in a directory.
struct Authority {
    dir: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("ca.crt"), issuer.pem()).unwrap();
        Self { dir, issuer }
    }

    /// Makes NAME.crt and NAME.key, in place of those that are there.
    fn certify(&self, name: &str) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        self.write(&format!("{name}.crt"), &certificate.pem());
        self.write(&format!("{name}.key"), &key.serialize_pem());
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join(name), text).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.dir.path().join(name)).unwrap()
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("web.yml")
    }

    /// A client that trusts this authority, with a certificate of `of` by that name, if any.
    fn client(&self, of: Option<(&Authority, &str)>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(&self.read("ca.crt")).unwrap())
            .unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()));
        let builder = builder
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let Some((authority, name)) = of else {
            return Arc::new(builder.with_no_client_auth());
        };
        let chain = CertificateDer::from_pem_slice(&authority.read(&format!("{name}.crt"))).unwrap();
        let key = PrivateKeyDer::from_pem_slice(&authority.read(&format!("{name}.key"))).unwrap();
        Arc::new(builder.with_client_auth_cert(vec![chain], key).unwrap())
    }
}

/// What `/metrics` answers by TLS.
fn ask_by_tls(served: &Served, client: &Arc<ClientConfig>, headers: &str) -> io::Result<String> {
    let name = ServerName::try_from("localhost").unwrap();
    let session = ClientConnection::new(client.clone(), name).unwrap();
    exchange(StreamOwned::new(session, connect(served)), "GET /metrics", headers)
}

fn basic(said: &str) -> String {
    format!("authorization: Basic {}\r\n", STANDARD.encode(said))
}

#[test]
fn by_tls_a_user_with_the_right_password_is_answered_and_no_other() {
    // Given a port with a certificate and a user,
    let authority = Authority::new();
    authority.certify("server");
    let hash = bcrypt::hash("secret", 4).unwrap();
    authority.write(
        "web.yml",
        &format!("tls_server_config: {{cert_file: server.crt, key_file: server.key}}\nbasic_auth_users: {{prometheus: {hash}}}\n"),
    );
    let served = serve_with(Fake::default(), Some(&authority.path()));
    let client = authority.client(None);
    // when it is asked with the right password, then it answers, the second time as the first;
    for _ in 0..2 {
        let answer = ask_by_tls(&served, &client, &basic("prometheus:secret")).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains("luo_sessions"),
            "{answer}"
        );
    }
    // with a wrong one, another user, or nothing, it asks for one, on every path;
    for headers in [basic("prometheus:secreT"), basic("root:secret"), String::new()] {
        let answer = ask_by_tls(&served, &client, &headers).unwrap();
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
        assert!(
            answer.contains("www-authenticate: Basic realm=\"luo-trace\""),
            "{answer}"
        );
        assert!(!answer.contains("luo_sessions"), "{answer}");
    }
    // and without TLS it says nothing.
    let answer = exchange(connect(&served), "GET /metrics", &basic("prometheus:secret")).unwrap_or_default();
    assert!(!answer.contains("HTTP/1.1"), "{answer}");
}

#[test]
fn a_client_has_the_certificate_that_client_auth_type_wants() {
    let authority = Authority::new();
    let stranger = Authority::new();
    authority.certify("server");
    authority.certify("client");
    stranger.certify("client");
    let none = authority.client(None);
    let ours = authority.client(Some((&authority, "client")));
    let other = authority.client(Some((&stranger, "client")));
    // Whether a client is answered without a certificate, with one of our authority, and with one of another.
    for (how, answered) in [
        ("NoClientCert", [true, true, true]),
        ("RequestClientCert", [true, true, true]),
        ("RequireAnyClientCert", [false, true, true]),
        ("VerifyClientCertIfGiven", [true, true, false]),
        ("RequireAndVerifyClientCert", [false, true, false]),
    ] {
        let verifies = if how.contains("Verify") {
            ", client_ca_file: ca.crt"
        } else {
            ""
        };
        authority.write(
            "web.yml",
            &format!(
                "tls_server_config: {{cert_file: server.crt, key_file: server.key, client_auth_type: {how}{verifies}}}"
            ),
        );
        let served = serve_with(Fake::default(), Some(&authority.path()));
        let is_answered =
            |client| ask_by_tls(&served, client, "").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"));
        assert_eq!([&none, &ours, &other].map(is_answered), answered, "{how}");
    }
}

#[test]
fn changed_files_are_read_again_and_broken_ones_are_told_and_change_nothing() {
    // Given a port with a certificate,
    let authority = Authority::new();
    authority.certify("server");
    authority.write(
        "web.yml",
        "tls_server_config: {cert_file: server.crt, key_file: server.key}",
    );
    let served = serve_with(Fake::default(), Some(&authority.path()));
    let client = authority.client(None);
    let answer = |headers: &str| ask_by_tls(&served, &client, headers).unwrap();
    assert!(answer("").starts_with("HTTP/1.1 200"));
    // when its key is replaced by garbage, then it goes on, and tells so once;
    authority.write("server.key", "garbage");
    for _ in 0..2 {
        assert!(answer("").starts_with("HTTP/1.1 200"));
    }
    let told: Vec<_> = served.told.try_iter().collect();
    let [warning] = &told[..] else { panic!("{told:?}") };
    assert!(
        warning.contains("server.key") && warning.contains("goes on"),
        "{warning}"
    );
    // when there is another authority's certificate, then that is shown;
    let other = Authority::new();
    other.certify("server");
    for name in ["server.crt", "server.key"] {
        fs::copy(other.dir.path().join(name), authority.dir.path().join(name)).unwrap();
    }
    assert!(ask_by_tls(&served, &client, "").is_err());
    let client = other.client(None);
    assert!(ask_by_tls(&served, &client, "").unwrap().starts_with("HTTP/1.1 200"));
    assert!(served.told.try_iter().any(|line| line.contains("was read again")));
    // and when a user is added, then a password is asked for.
    let hash = bcrypt::hash("secret", 4).unwrap();
    authority.write(
        "web.yml",
        &format!("tls_server_config: {{cert_file: server.crt, key_file: server.key}}\nbasic_auth_users: {{a: {hash}}}"),
    );
    assert!(ask_by_tls(&served, &client, "").unwrap().starts_with("HTTP/1.1 401"));
    fs::remove_file(authority.path()).unwrap();
    assert!(ask_by_tls(&served, &client, "").unwrap().starts_with("HTTP/1.1 401"));
}

#[test]
fn a_port_that_the_network_can_reach_is_told_unless_it_is_protected() {
    let authority = Authority::new();
    authority.certify("server");
    let tls = "tls_server_config: {cert_file: server.crt, key_file: server.key}\n";
    let users = format!("basic_auth_users: {{a: {}}}\n", bcrypt::hash("secret", 4).unwrap());
    for (text, warned) in [
        (String::new(), Some("without TLS and without a password")),
        (tls.to_owned(), Some("without a password")),
        (users.clone(), Some("without TLS:")),
        (format!("{tls}{users}"), None),
    ] {
        authority.write("web.yml", &text);
        let warning = Access::open(Some(&authority.path())).unwrap().warning();
        match warned {
            Some(words) => assert!(warning.is_some_and(|line| line.contains(words)), "{text}"),
            None => assert_eq!(warning, None),
        }
    }
}

#[test]
fn a_file_that_cannot_be_used_is_no_port() {
    let authority = Authority::new();
    authority.certify("server");
    authority.certify("other");
    for (text, words) in [
        (
            "tls_server_config: {cert_file: gone.crt, key_file: server.key}",
            "gone.crt",
        ),
        (
            "tls_server_config: {cert_file: server.key, key_file: server.key}",
            "no certificate",
        ),
        (
            "tls_server_config: {cert_file: server.crt, key_file: other.key}",
            "together",
        ),
        (
            "tls_server_config: {cert_file: server.crt, key_file: .}",
            "no regular file",
        ),
        ("basic_auth_user: {}", "basic_auth_user"),
    ] {
        authority.write("web.yml", text);
        let why = format!("{:#}", Access::open(Some(&authority.path())).err().expect(text));
        assert!(why.contains(words), "{why}");
    }
    assert!(Access::open(Some(Path::new("/nonexistent/web.yml"))).is_err());
}
