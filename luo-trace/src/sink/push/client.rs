//! One batch to the collector, over HTTP: a connection each.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::spool::Batch;
use crate::text::hash::fnv;

/// How long a collector may take for a batch, from the connection to the last byte of its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// More of an answer is not read.
const ANSWER: usize = 64 << 10;
/// Where distributions keep the authorities that the machine trusts.
const AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// What came of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The collector has it.
    Taken,
    /// The collector will never take it, and why.
    Refused(String),
    /// It is to be sent again, why, and not before this time has passed, where the collector said so.
    Later(String, Option<Duration>),
}

/// A way to a collector.
pub(super) trait Wire {
    /// Sends a batch.
    fn post(&mut self, batch: &Batch) -> Answer;
}

/// Where the collector is, and what it is told with every batch.
pub struct Address {
    host: String,
    port: u16,
    /// As it stands in the `Host` header.
    authority: String,
    /// What comes before `/v1/traces` and its like.
    path: String,
    headers: HeaderMap,
    tls: Option<TlsConnector>,
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.authority)
    }
}

impl Address {
    /// The collector at this URL; `authorities` are a file of certificates in PEM, one of which the collector's has to be from, and
    /// `headers` one of lines `Name: value`. Both are read now, and not again.
    ///
    /// # Errors
    /// Where the URL is none of a collector, or a file cannot be read or used.
    pub fn new(url: &str, authorities: Option<&Path>, headers: Option<&Path>) -> Result<Self> {
        let uri: Uri = url.parse().with_context(|| format!("{url} is no URL"))?;
        let scheme = uri.scheme_str().unwrap_or_default();
        let authority = uri.authority().with_context(|| format!("{url} names no host"))?;
        if authority.as_str().contains('@') {
            bail!(
                "a password in the URL would be shown in lists of processes: give it as a header in the file of --otlp-headers"
            );
        }
        ensure!(
            uri.query().is_none(),
            "{url} has a query, which no collector's address has"
        );
        let tls = match scheme {
            "http" => None,
            "https" => Some(connector(authorities)?),
            _ => bail!("{url} begins neither with http:// nor with https://"),
        };
        if tls.is_none() && authorities.is_some() {
            bail!("--otlp-ca is of no use without TLS: begin the URL with https://");
        }
        let default = if tls.is_some() { 443 } else { 80 };
        Ok(Self {
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(default),
            authority: authority.to_string(),
            path: uri.path().trim_end_matches('/').to_owned(),
            headers: headers.map(self::headers).transpose()?.unwrap_or_default(),
            tls,
        })
    }
}

fn connector(authorities: Option<&Path>) -> Result<TlsConnector> {
    let known = || AUTHORITIES.iter().map(PathBuf::from).find(|path| path.exists());
    let path = authorities.map(Path::to_owned).or_else(known);
    let path =
        path.context("this machine has no list of authorities where one is looked for: name one with --otlp-ca")?;
    let pem = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.with_context(|| format!("{} is damaged", path.display()))?;
        // A list of many may have some that are of no use.
        _ = roots.add(certificate);
    }
    ensure!(
        !roots.is_empty(),
        "{} holds no authority's certificate in PEM",
        path.display()
    );
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .context("TLS cannot be set up")?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

fn headers(path: &Path) -> Result<HeaderMap> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut headers = HeaderMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        // The value may be a secret, so an error never shows it.
        let wrong = || anyhow!("{}:{number}: this line is not of the form Name: value", path.display());
        let (name, value) = line.split_once(':').ok_or_else(wrong)?;
        let name: HeaderName = name.trim().parse().map_err(|_| wrong())?;
        let mut value: HeaderValue = value.trim().parse().map_err(|_| wrong())?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

/// A client with a runtime of its own, for a thread that has time to wait.
#[derive(Debug)]
pub(super) struct Client {
    runtime: Runtime,
    address: Address,
    patience: Duration,
}

impl Client {
    /// # Errors
    /// Where the system has no descriptors for it.
    pub(super) fn new(address: Address) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self {
            runtime,
            address,
            patience: PATIENCE,
        })
    }

    /// Waits for so long from now on.
    pub(super) fn be_patient(&mut self, patience: Duration) {
        self.patience = patience;
    }
}

impl Wire for Client {
    fn post(&mut self, batch: &Batch) -> Answer {
        let exchange = async { tokio::time::timeout(self.patience, exchange(&self.address, batch)).await };
        match self.runtime.block_on(exchange) {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Answer::Later(format!("{error:#}"), None),
            Err(_) => Answer::Later(format!("it takes longer than {:?}", self.patience), None),
        }
    }
}

async fn exchange(address: &Address, batch: &Batch) -> Result<Answer> {
    let stream = TcpStream::connect((address.host.as_str(), address.port));
    let stream = stream.await.context("it cannot be reached")?;
    match &address.tls {
        None => ask(address, batch, stream).await,
        Some(tls) => {
            let name = ServerName::try_from(address.host.clone()).context("its name cannot be in a certificate")?;
            let stream = tls.connect(name, stream).await.context("TLS failed")?;
            ask(address, batch, stream).await
        }
    }
}

async fn ask(address: &Address, batch: &Batch, stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<Answer> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let Batch { signal, body } = batch;
    let mut request = Request::post(format!("{}/v1/{}", address.path, signal.name()))
        .header(header::HOST, &address.authority)
        .header(header::CONTENT_TYPE, "application/x-protobuf")
        .header(header::CONTENT_ENCODING, "gzip")
        .header(header::USER_AGENT, concat!("luo-trace/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
        // The same for the same batch, however often it is sent.
        .header("idempotency-key", format!("{:032x}", fnv(body)))
        .body(Full::new(Bytes::copy_from_slice(body)))?;
    request.headers_mut().extend(address.headers.clone());
    let mut answer = pin!(async {
        let answer = sender.send_request(request).await.context("the connection ended")?;
        judge(answer).await
    });
    tokio::select! {
        answer = &mut answer => return answer,
        // What came before its end may still be to read.
        _ = connection => {}
    }
    answer.await
}

/// What an answer means. One that is cut off says nothing for certain.
async fn judge(answer: Response<Incoming>) -> Result<Answer> {
    let status = answer.status();
    let after = answer.headers().get(header::RETRY_AFTER);
    let after = after.and_then(|after| after.to_str().ok()?.trim().parse().ok());
    let mut body = answer.into_body();
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.context("its answer was cut off")?;
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > ANSWER {
            break;
        }
    }
    Ok(match status {
        status if status.is_success() => Answer::Taken,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
            Answer::Later(status.to_string(), after.map(Duration::from_secs))
        }
        status if status.is_server_error() => Answer::Later(status.to_string(), after.map(Duration::from_secs)),
        status => Answer::Refused(status.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: &str) -> String {
        format!("{:#}", Address::new(url, None, None).unwrap_err())
    }

    #[test]
    fn an_address_says_what_is_wrong_with_it() {
        for (url, why) in [
            ("collector:4318", "neither"),
            ("ftp://collector", "neither"),
            ("http://user:secret@collector", "--otlp-headers"),
            ("http://collector/?a=b", "query"),
            ("/v1", "no host"),
        ] {
            let told = refusal(url);
            assert!(told.contains(why), "{url}: {told}");
        }
        let address = Address::new("http://[::1]:4318/otlp/", None, None).unwrap();
        assert_eq!((&*address.host, address.port, &*address.path), ("::1", 4318, "/otlp"));
        let ca = Address::new("http://collector", Some(Path::new("/ca")), None).unwrap_err();
        assert!(ca.to_string().contains("https://"), "{ca}");
    }

    #[test]
    fn headers_are_lines_and_an_error_never_shows_a_value() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "# of the collector\n\nAuthorization: Bearer a:b\n").unwrap();
        let read = headers(file.path()).unwrap();
        assert_eq!(read["authorization"], "Bearer a:b");
        assert!(read["authorization"].is_sensitive());
        std::fs::write(&file, "Authorization Bearer secret\n").unwrap();
        let error = format!("{:#}", headers(file.path()).unwrap_err());
        assert!(error.contains(":1:") && !error.contains("secret"), "{error}");
    }
}
