//! Who is let in: by the name under which the port was asked for, and by a password.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::{HeaderMap, Uri, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use ring::rand::SystemRandom;
use tokio::sync::Semaphore;

/// The names under which the port may be asked for. A page of another site that has its own name lead to this port
/// (DNS rebinding) asks under that name, and gets nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Hosts(Vec<String>);

impl Hosts {
    pub(super) fn new(given: impl IntoIterator<Item = String>) -> Self {
        Self(given.into_iter().map(|name| plain(&name)).collect())
    }

    /// Whether the request names an address, `localhost`, this machine or a name that was given. A request without a name is no
    /// browser's.
    ///
    /// # Errors
    /// A sentence that says what to do.
    pub(super) fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), String> {
        let mut named = headers.get_all(header::HOST).iter();
        let header = named.next().map(|value| value.to_str().unwrap_or("?"));
        if named.next().is_some() {
            return Err("the request has more than one Host".into());
        }
        let in_uri = uri.authority().map(|authority| authority.as_str());
        match in_uri.into_iter().chain(header).find(|host| !self.allows(host)) {
            None => Ok(()),
            Some(_) => Err(
                "this port is not known by that name: start the agent with --web-host NAME, or ask for an address"
                    .into(),
            ),
        }
    }

    fn allows(&self, host: &str) -> bool {
        let name = without_port(host);
        let address = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if address.unwrap_or(name).parse::<IpAddr>().is_ok() {
            return true;
        }
        let name = plain(name);
        // The name may be given to the machine after the agent was started.
        name == "localhost"
            || self.0.contains(&name)
            || !name.is_empty()
                && rustix::system::uname()
                    .nodename()
                    .to_str()
                    .is_ok_and(|own| plain(own) == name)
    }
}

/// A host's name without what follows its last colon, but for those within an address in brackets.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// A name as names are compared.
fn plain(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// Users and their passwords.
#[derive(Debug)]
pub(super) struct Users {
    hashes: BTreeMap<String, String>,
    /// What is tried for a user whom there is not, so that it takes as long: the hash of the greatest cost.
    other: String,
    key: hmac::Key,
    /// A mark of the password with which each user came in, since a try takes a tenth of a second and scrapes come all the time.
    /// There are no more than there are users.
    known: Mutex<HashMap<String, hmac::Tag>>,
    /// Who may try a password next.
    turn: Arc<Semaphore>,
}

/// What a client says of itself.
#[derive(Clone)]
pub(super) struct Credentials {
    user: String,
    password: Vec<u8>,
}

impl Users {
    /// `None` where there are none. The hashes are well formed.
    pub(super) fn new(hashes: BTreeMap<String, String>) -> anyhow::Result<Option<Self>> {
        // `$2b$COST$...`
        let Some(other) = hashes.values().max_by(|one, two| one[4..].cmp(&two[4..])).cloned() else {
            return Ok(None);
        };
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
            .map_err(|_| anyhow::anyhow!("the system has no random numbers to give"))?;
        Ok(Some(Self {
            hashes,
            other,
            key,
            known: Mutex::default(),
            turn: Arc::new(Semaphore::new(1)),
        }))
    }

    /// Whether the request is a user's.
    pub(super) async fn allow(self: Arc<Self>, headers: &HeaderMap) -> bool {
        let Some(credentials) = Credentials::of(headers) else {
            return false;
        };
        if self.knows(&credentials) {
            return true;
        }
        // One try after the other, on a thread of its own: requests of users who are known never wait for it, and one whose peer has
        // gone while it waited is never tried.
        let Ok(turn) = self.turn.clone().acquire_owned().await else {
            return false;
        };
        let tried = tokio::task::spawn_blocking(move || {
            let right = self.try_password(&credentials);
            drop(turn);
            right
        });
        tried.await.unwrap_or(false)
    }

    fn knows(&self, credentials: &Credentials) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mark = known.get(&credentials.user);
        mark.is_some_and(|mark| hmac::verify(&self.key, &credentials.password, mark.as_ref()).is_ok())
    }

    fn try_password(&self, credentials: &Credentials) -> bool {
        let hash = self.hashes.get(&credentials.user);
        let right = bcrypt::verify(&credentials.password, hash.unwrap_or(&self.other)).unwrap_or(false);
        if hash.is_none() || !right {
            return false;
        }
        let mark = hmac::sign(&self.key, &credentials.password);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(credentials.user.clone(), mark);
        true
    }
}

impl Credentials {
    /// Those of RFC 7617, where the request has any.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        let (scheme, coded) = value.split_once(' ')?;
        let decoded = scheme
            .eq_ignore_ascii_case("basic")
            .then(|| STANDARD.decode(coded.trim()))?
            .ok()?;
        let colon = decoded.iter().position(|&byte| byte == b':')?;
        let user = std::str::from_utf8(&decoded[..colon]).ok()?.to_owned();
        let password = decoded[colon + 1..].to_vec();
        Some(Self { user, password })
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(name: header::HeaderName, values: &[&str]) -> HeaderMap {
        let values = values
            .iter()
            .map(|value| (name.clone(), HeaderValue::from_str(value).unwrap()));
        values.collect()
    }

    fn asked_as(hosts: &[&str], uri: &str) -> Result<(), String> {
        let known = Hosts::new(["Node-7.Example.com".to_owned()]);
        known.check(&uri.parse().unwrap(), &headers(header::HOST, hosts))
    }

    #[test]
    fn addresses_this_machine_and_names_that_were_given_are_answered() {
        let own = rustix::system::uname().nodename().to_str().unwrap().to_owned();
        for host in [
            "127.0.0.1:9886",
            "10.1.2.3",
            "[::1]:9886",
            "[2001:db8::1]",
            "localhost",
            "LOCALHOST:1",
            "node-7.example.com:9886",
            "node-7.example.com.",
            &own,
        ] {
            assert_eq!(asked_as(&[host], "/"), Ok(()), "{host}");
        }
        assert_eq!(asked_as(&[], "/"), Ok(()), "HTTP/1.0");
        assert_eq!(asked_as(&["10.1.2.3"], "http://10.1.2.3/"), Ok(()));
    }

    #[test]
    fn other_names_are_refused_with_what_to_do() {
        for host in [
            "evil.example.com",
            "localhost.evil.example.com",
            "127.0.0.1.evil.example.com",
            "127.0.0.1:9886:evil",
            "",
            ":9886",
            ".",
            "[localhost",
            "node-7.example.com@evil",
        ] {
            let why = asked_as(&[host], "/").expect_err(host);
            assert!(why.contains("--web-host NAME"), "{why}");
        }
        assert!(asked_as(&["localhost"], "http://evil.example.com/").is_err());
        assert!(asked_as(&["localhost", "evil.example.com"], "/").is_err());
    }

    fn users() -> Arc<Users> {
        let hash = |password: &str| bcrypt::hash(password, 4).unwrap();
        let hashes = [("prometheus", hash("secret")), ("ops", hash("p:w"))];
        let hashes = hashes.map(|(user, hash)| (user.to_owned(), hash)).into();
        Arc::new(Users::new(hashes).unwrap().unwrap())
    }

    async fn comes_in(users: &Arc<Users>, said: &str) -> bool {
        let coded = STANDARD.encode(said);
        let headers = headers(header::AUTHORIZATION, &[&format!("Basic {coded}")]);
        users.clone().allow(&headers).await
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_user_comes_in_by_the_right_password_again_and_again() {
        let users = users();
        for _ in 0..2 {
            assert!(comes_in(&users, "prometheus:secret").await);
            assert!(comes_in(&users, "ops:p:w").await);
            for wrong in [
                "prometheus:secre",
                "prometheus:",
                "prometheus",
                "ops:secret",
                "other:secret",
                ":",
            ] {
                assert!(!comes_in(&users, wrong).await, "{wrong}");
            }
        }
        // Only what was right is remembered.
        assert_eq!(users.known.lock().unwrap().len(), 2);
        for header in ["", "Basic", "Basic %%%", "Bearer cHJvbWV0aGV1czpzZWNyZXQ="] {
            assert!(
                !users.clone().allow(&headers(header::AUTHORIZATION, &[header])).await,
                "{header}"
            );
        }
        assert!(!users.clone().allow(&HeaderMap::new()).await);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn guesses_whose_peers_are_gone_are_not_tried() {
        let users = users();
        let mut guesses = tokio::task::JoinSet::new();
        for guess in 0..50 {
            let users = users.clone();
            guesses.spawn(async move { comes_in(&users, &format!("prometheus:{guess}")).await });
        }
        // Each has had its turn to ask, and the first is being tried.
        tokio::task::yield_now().await;
        guesses.shutdown().await;
        assert!(Arc::strong_count(&users) <= 2, "{} wait", Arc::strong_count(&users));
    }

    #[test]
    fn without_users_there_is_no_password_to_ask_for() {
        assert!(Users::new(BTreeMap::new()).unwrap().is_none());
    }
}
