//! The server's side of TLS, by rustls.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::{
    DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme, version,
};

use super::config::{ClientAuth, Tls, Version};

/// TLS as the file says, with the files that it names, which `read` reads.
///
/// # Errors
/// Where one of them cannot be read or used.
pub(super) fn acceptor(tls: &Tls, read: impl Fn(&Path) -> Result<Vec<u8>>) -> Result<TlsAcceptor> {
    let provider = Arc::new(ring::default_provider());
    let versions = [(Version::Tls12, &version::TLS12), (Version::Tls13, &version::TLS13)];
    let wanted = tls.min_version..=tls.max_version;
    let versions = versions.into_iter().filter(|(name, _)| wanted.contains(name));
    let versions: Vec<_> = versions.map(|(_, version)| version).collect();
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions)
        .context("TLS cannot be set up")?
        .with_client_cert_verifier(verifier(tls, provider, &read)?);
    let chain = certificates(&tls.cert_file, &read)?;
    let key = PrivateKeyDer::from_pem_slice(&read(&tls.key_file)?)
        .with_context(|| format!("{} holds no private key in PEM", tls.key_file.display()))?;
    let mut config = builder.with_single_cert(chain, key).with_context(|| {
        let (cert, key) = (tls.cert_file.display(), tls.key_file.display());
        format!("the certificate in {cert} and the key in {key} cannot be used together")
    })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(path: &Path, read: impl Fn(&Path) -> Result<Vec<u8>>) -> Result<Vec<CertificateDer<'static>>> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    let found = found.with_context(|| format!("{} is damaged", path.display()))?;
    ensure!(!found.is_empty(), "{} holds no certificate in PEM", path.display());
    Ok(found)
}

fn verifier(
    tls: &Tls,
    provider: Arc<CryptoProvider>,
    read: impl Fn(&Path) -> Result<Vec<u8>>,
) -> Result<Arc<dyn ClientCertVerifier>> {
    let mandatory = match tls.client_auth_type {
        ClientAuth::NoClientCert => return Ok(WebPkiClientVerifier::no_client_auth()),
        ClientAuth::RequestClientCert => {
            return Ok(Arc::new(AnyCertificate {
                provider,
                mandatory: false,
            }));
        }
        ClientAuth::RequireAnyClientCert => {
            return Ok(Arc::new(AnyCertificate {
                provider,
                mandatory: true,
            }));
        }
        ClientAuth::VerifyClientCertIfGiven => false,
        ClientAuth::RequireAndVerifyClientCert => true,
    };
    let path = tls.client_ca_file.as_deref().context("client_ca_file is missing")?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, read)? {
        roots
            .add(certificate)
            .with_context(|| format!("{} holds a certificate that is none of an authority", path.display()))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if mandatory {
        builder
    } else {
        builder.allow_unauthenticated()
    };
    builder
        .build()
        .with_context(|| format!("the authorities in {} cannot be used", path.display()))
}

/// Takes any certificate of which the client has the key and of any authority, as Go's `RequestClientCert` and `RequireAnyClientCert`.
#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<CryptoProvider>,
    mandatory: bool,
}

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
