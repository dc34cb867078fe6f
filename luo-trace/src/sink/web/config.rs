//! The file of `--web-config`, in the form that Prometheus' exporters share (`web-config.yml` of prometheus/exporter-toolkit).
//! Reading its text is pure; the files that it names are read by [`super::access`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bcrypt::HashParts;
use serde::Deserialize;

/// The greatest cost of a password's hash. Each step doubles what one try takes, and this one takes about a second.
const COST_MAX: u32 = 14;

/// How the port is protected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebConfig {
    /// TLS; without it the port speaks plain HTTP.
    #[serde(rename = "tls_server_config")]
    pub tls: Option<Tls>,
    /// The bcrypt hash of each user's password; empty: no password is asked for.
    #[serde(rename = "basic_auth_users", default)]
    pub users: BTreeMap<String, String>,
}

/// The server's side of TLS.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The certificate and those that lead to its authority, PEM.
    pub cert_file: PathBuf,
    /// Its private key, PEM.
    pub key_file: PathBuf,
    /// What is wanted of a client.
    #[serde(default)]
    pub client_auth_type: ClientAuth,
    /// The authorities of clients' certificates, PEM.
    pub client_ca_file: Option<PathBuf>,
    /// The oldest version that is spoken.
    #[serde(default)]
    pub min_version: Version,
    /// The newest.
    #[serde(default = "newest")]
    pub max_version: Version,
}

/// What is wanted of a client, by the names of Go's `tls.ClientAuthType`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum ClientAuth {
    /// No certificate is asked for.
    #[default]
    NoClientCert,
    /// One is asked for, and any or none will do.
    RequestClientCert,
    /// Any will do, but there has to be one.
    RequireAnyClientCert,
    /// One that is given has to come from an authority of `client_ca_file`.
    VerifyClientCertIfGiven,
    /// There has to be one, from an authority of `client_ca_file`.
    RequireAndVerifyClientCert,
}

impl ClientAuth {
    /// Whether certificates are verified.
    pub fn verifies(self) -> bool {
        matches!(self, Self::VerifyClientCertIfGiven | Self::RequireAndVerifyClientCert)
    }
}

/// A version of TLS, of those that are not broken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Version {
    /// 1.2
    #[default]
    #[serde(rename = "TLS12")]
    Tls12,
    /// 1.3
    #[serde(rename = "TLS13")]
    Tls13,
}

fn newest() -> Version {
    Version::Tls13
}

impl WebConfig {
    /// Reads the file's text.
    ///
    /// # Errors
    /// What is wrong with it, and where. The sentence has no hash of a password in it.
    pub fn read(text: &str) -> Result<Self, String> {
        // A snippet of the file could show a hash.
        let options = serde_saphyr::options! { with_snippet: false };
        let config: Option<Self> =
            serde_saphyr::from_str_with_options(text, options).map_err(|error| error.to_string())?;
        let config = config.unwrap_or_default();
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        for (user, hash) in &self.users {
            if user.is_empty() || user.contains(|c: char| c == ':' || c.is_control()) {
                return Err(format!(
                    "basic_auth_users: a user cannot be called {user:?}: basic auth has no room for it"
                ));
            }
            let make = format!("make one with `htpasswd -nBC 10 {user:?}`");
            match hash.parse::<HashParts>().map(|parts| parts.get_cost()) {
                Err(_) => {
                    return Err(format!("basic_auth_users: what {user:?} has is no bcrypt hash: {make}"));
                }
                Ok(cost) if !(4..=COST_MAX).contains(&cost) => {
                    return Err(format!(
                        "basic_auth_users: the hash of {user:?} has a cost of {cost}, which is not from 4 to {COST_MAX}: {make}"
                    ));
                }
                Ok(_) => {}
            }
        }
        self.tls.as_ref().map_or(Ok(()), Tls::check)
    }

    /// The same with the paths that are not absolute taken from this directory, that of the file.
    #[must_use]
    pub fn beside(mut self, directory: &Path) -> Self {
        if let Some(tls) = &mut self.tls {
            let paths = [&mut tls.cert_file, &mut tls.key_file].into_iter();
            for path in paths.chain(&mut tls.client_ca_file) {
                *path = directory.join(&*path);
            }
        }
        self
    }
}

impl Tls {
    fn check(&self) -> Result<(), String> {
        let how = self.client_auth_type;
        if how.verifies() && self.client_ca_file.is_none() {
            return Err(format!(
                "tls_server_config: client_auth_type {how:?} needs client_ca_file"
            ));
        }
        if !how.verifies() && self.client_ca_file.is_some() {
            return Err(format!(
                "tls_server_config: with client_auth_type {how:?} no certificate is held against client_ca_file: \
                 leave it out, or take RequireAndVerifyClientCert"
            ));
        }
        if self.min_version > self.max_version {
            return Err("tls_server_config: min_version is newer than max_version".into());
        }
        Ok(())
    }

    /// The files that it names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let files = [&self.cert_file, &self.key_file].into_iter();
        files.chain(&self.client_ca_file).map(PathBuf::as_path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the password `secret`, at the lowest cost.
    const HASH: &str = "$2b$04$v1WGFMqc3BPR4faBVddf8uwri2VZP2W0eWRBP/.HoskNtu6wWAoLW";

    #[test]
    fn a_file_of_the_exporters_is_read() {
        let text = format!(
            "tls_server_config:\n  cert_file: server.crt\n  key_file: /etc/keys/server.key\n  client_auth_type: RequireAndVerifyClientCert\n  \
             client_ca_file: ca.crt\n  min_version: TLS13\nbasic_auth_users:\n  prometheus: {HASH}\n"
        );
        let config = WebConfig::read(&text).unwrap().beside(Path::new("/etc/luo-trace"));
        let tls = config.tls.unwrap();
        let files: Vec<_> = tls.files().collect();
        let wanted = [
            "/etc/luo-trace/server.crt",
            "/etc/keys/server.key",
            "/etc/luo-trace/ca.crt",
        ];
        assert_eq!(files, wanted.map(Path::new));
        assert_eq!(tls.client_auth_type, ClientAuth::RequireAndVerifyClientCert);
        assert_eq!((tls.min_version, tls.max_version), (Version::Tls13, Version::Tls13));
        assert_eq!(config.users["prometheus"], HASH);
    }

    #[test]
    fn a_file_with_nothing_in_it_protects_nothing() {
        for text in ["", "# nothing yet\n", "{}"] {
            assert_eq!(WebConfig::read(text), Ok(WebConfig::default()), "{text:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_by_name_and_never_with_a_hash() {
        let tls = |rest: &str| format!("tls_server_config: {{cert_file: a, key_file: b{rest}}}");
        let users = |users: &str| format!("basic_auth_users: {{{users}}}");
        for (text, words) in [
            ("basic_auth_user: {}".to_owned(), vec!["basic_auth_user", "line 1"]),
            (tls(", cipher_suites: []"), vec!["cipher_suites"]),
            ("tls_server_config: {cert_file: a}".into(), vec!["key_file"]),
            (tls(", min_version: TLS11"), vec!["TLS11", "TLS12"]),
            (tls(", min_version: TLS13, max_version: TLS12"), vec!["min_version"]),
            (tls(", client_auth_type: Sometimes"), vec!["Sometimes"]),
            (
                tls(", client_auth_type: VerifyClientCertIfGiven"),
                vec!["client_ca_file"],
            ),
            (tls(", client_ca_file: c"), vec!["NoClientCert", "client_ca_file"]),
            (users("a: secret"), vec!["\"a\"", "bcrypt", "htpasswd"]),
            (users("'a:b': x"), vec!["a:b"]),
            (users(&format!("a: {}", HASH.replace("$04$", "$31$"))), vec!["31", "14"]),
            (users(&format!("a: {HASH}, a: {HASH}")), vec!["duplicate"]),
            (format!("basic_auth_users: {HASH}"), vec!["mapping", "line 1"]),
        ] {
            let why = WebConfig::read(&text).unwrap_err();
            for word in words {
                assert!(why.contains(word), "{text}: {why}");
            }
            assert!(!why.contains("v1WGF"), "{why}");
        }
    }
}
