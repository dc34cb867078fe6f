//! Runs every query of the dashboard of a host and of the rules on a real Prometheus, against metrics that a real run left behind.
//!
//! A little HTTP server plays the agent and serves the file; Prometheus scrapes it on loopback and answers the queries.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::check;
use crate::run;
use crate::setup::{self, Need};

/// How long Prometheus may take to start, to scrape three times, and to evaluate the rules.
const DEADLINE: Duration = Duration::from_secs(300);
/// How long one HTTP request may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often Prometheus scrapes and evaluates here, and how long each may take. Rates need at least two scrapes.
const INTERVAL: &str = "1s";
/// What rates are over: long enough that a busy host does not put the scrapes out of sight.
const WINDOW: &str = "5m";

/// What was run, and what could not be judged.
#[derive(Debug)]
pub(crate) struct Report {
    /// Queries of panels that were answered with data.
    pub(crate) queries: usize,
    /// Rules that were evaluated without an error.
    pub(crate) rules: usize,
    /// Panels whose query was taken but has no data, because the run left none of its metric behind.
    pub(crate) without_metric: Vec<String>,
}

/// Where dashboards, rules and runbooks are.
pub(crate) fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../dashboards")
}

/// Checks the rules in `dashboards/`, and runs their unit tests.
///
/// # Errors
/// promtool refuses the rules or their tests, or cannot be run.
pub(crate) fn rules() -> Result<()> {
    let promtool = setup::ensure(&[Need::Prometheus])?.program("promtool")?;
    for (verb, file) in [("check", "rules.yml"), ("test", "rules.test.yml")] {
        run::output(
            Command::new(&promtool)
                .args([verb, "rules"])
                .arg(directory().join(file)),
        )?;
    }
    Ok(())
}

/// Has Prometheus take the metrics that `luo-trace replay` makes of a recording.
///
/// # Errors
/// One of the two cannot be run, or does not take what the other made.
pub(crate) fn backfill() -> Result<()> {
    let promtool = setup::ensure(&[Need::Prometheus])?.program("promtool")?;
    let place = env::temp_dir().join(format!("xtask-backfill-{}", std::process::id()));
    fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
    let [log, metrics, blocks] = ["recording.log", "metrics.txt", "blocks"].map(|name| place.join(name));
    let agent = |words: &[&OsStr]| {
        let mut command = check::cargo(&["run", "--quiet", "--bin", "luo-trace", "--"]);
        run::output(command.args(words)).map(drop)
    };
    let taken = agent(&["demo".as_ref(), "--save".as_ref(), log.as_ref()])
        .and_then(|()| {
            agent(&[
                "replay".as_ref(),
                log.as_ref(),
                "--openmetrics".as_ref(),
                metrics.as_ref(),
            ])
        })
        .and_then(|()| {
            let mut command = Command::new(promtool);
            run::output(
                command
                    .args(["tsdb", "create-blocks-from", "openmetrics"])
                    .args([&metrics, &blocks]),
            )
        });
    fs::remove_dir_all(&place).with_context(|| format!("cannot remove {}", place.display()))?;
    taken.map(drop)
}

/// Checks the dashboard and the rules in `dashboards/` against `metrics_file`, as scraped from an agent.
///
/// # Errors
/// A query or a rule fails, a panel has no data although its metrics do, or Prometheus cannot be run.
pub(crate) fn check(metrics_file: &Path) -> Result<Report> {
    let metrics: Arc<str> = fs::read_to_string(metrics_file)
        .map(Into::into)
        .with_context(|| format!("cannot read {}", metrics_file.display()))?;
    let tools = setup::ensure(&[Need::Prometheus])?;
    let dashboards = directory();
    let rules_file = dashboards.join("rules.yml");

    let present = series(&metrics);
    ensure!(!present.is_empty(), "{} holds no metrics", metrics_file.display());
    let agent = serve(metrics.clone())?;
    let prometheus = Prometheus::start(&tools.program("prometheus")?, agent, &rules_file, "scheme: http")?;
    prometheus.wait_for_scrapes()?;

    let dashboard = fs::read_to_string(dashboards.join("luo-trace.json")).context("cannot read the dashboard")?;
    let dashboard: Value = serde_json::from_str(&dashboard).context("the dashboard is not JSON")?;
    let mut report = Report {
        queries: 0,
        rules: prometheus.evaluated_rules()?,
        without_metric: Vec::new(),
    };
    for (title, query) in panel_queries(&dashboard) {
        let answer = prometheus
            .query(&query)
            .with_context(|| format!("panel {title:?}: {query}"))?;
        if answer.as_array().is_some_and(|rows| !rows.is_empty()) {
            report.queries += 1;
        } else if names(&query).any(|name| !present.contains(name)) {
            report.without_metric.push(title);
        } else {
            bail!("panel {title:?} has no data although its metrics do: {query}");
        }
    }
    ensure!(report.queries > 0, "not one panel has data");
    Ok(report)
}

/// Title and query of every target, with Grafana's variables filled in.
fn panel_queries(dashboard: &Value) -> Vec<(String, String)> {
    let panels = dashboard["panels"].as_array().into_iter().flatten();
    let targets = panels.flat_map(|panel| {
        let title = panel["title"].as_str().unwrap_or_default();
        panel["targets"]
            .as_array()
            .into_iter()
            .flatten()
            .map(move |target| (title, target))
    });
    targets
        .map(|(title, target)| {
            let query = target["expr"].as_str().unwrap_or_default();
            let query = query.replace("$__rate_interval", WINDOW);
            let query = ["$job", "$cluster", "$instance"]
                .iter()
                .fold(query, |query, variable| query.replace(variable, ".*"));
            (title.to_owned(), query)
        })
        .collect()
}

/// The names of luo-trace's series in a query.
pub(crate) fn names(query: &str) -> impl Iterator<Item = &str> {
    let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("luo_"))
}

/// The names of all series in a file of Prometheus' text format.
fn series(metrics: &str) -> BTreeSet<&str> {
    let lines = metrics.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split(['{', ' ']).next())
        .filter(|name| !name.is_empty())
        .collect()
}

/// Serves `metrics` to every client, until this process ends.
fn serve(metrics: Arc<str>) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen on loopback")?;
    let address = listener.local_addr().context("cannot listen on loopback")?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let metrics = metrics.clone();
            // A scrape that breaks off is tried again by Prometheus.
            std::thread::spawn(move || answer(stream, &metrics));
        }
    });
    Ok(address)
}

fn answer(stream: TcpStream, metrics: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut request = BufReader::new(&stream);
    let mut line = String::new();
    while request.read_line(&mut line)? > 2 {
        line.clear();
    }
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\nconnection: close\r\n";
    write!(&stream, "{head}content-length: {}\r\n\r\n", metrics.len())?;
    (&stream).write_all(metrics.as_bytes())
}

/// A Prometheus of our own, with its data in a directory that goes with it.
struct Prometheus {
    child: Child,
    dir: PathBuf,
    address: SocketAddr,
}

impl Prometheus {
    /// `how` is the way in which it scrapes the agent, in its configuration's words.
    fn start(program: &Path, agent: SocketAddr, rules: &Path, how: &str) -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("luo-trace-prometheus-{}", std::process::id()));
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let rules = rules.canonicalize().context("cannot find the rules")?;
        let config = format!(
            "global: {{scrape_interval: {INTERVAL}, scrape_timeout: {INTERVAL}, evaluation_interval: {INTERVAL}}}\n\
             rule_files: [{rules:?}]\n\
             scrape_configs: [{{job_name: luo-trace, static_configs: [{{targets: ['{agent}']}}], {how}}}]\n"
        );
        let file = dir.join("prometheus.yml");
        fs::write(&file, config).with_context(|| format!("cannot write {}", file.display()))?;
        let log = File::create(dir.join("log")).context("cannot write Prometheus' log")?;
        // Prometheus does not tell which port it got for 0, so a free one is found for it. On a loopback address of this process's own
        // no other process takes it meanwhile.
        let own = Ipv4Addr::from_bits(0x7f80_0000 | std::process::id());
        let free = TcpListener::bind((own, 0)).and_then(|listener| listener.local_addr());
        let address = free.context("no free port on loopback")?;
        let child = Command::new(program)
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("cannot start prometheus; `cargo xtask setup` installs it")?;
        Ok(Self { child, dir, address })
    }

    /// Waits until the agent was scraped often enough for rates.
    fn wait_for_scrapes(&self) -> Result<()> {
        self.wait("a first scrape that succeeds", |this| {
            let targets = this.get("/api/v1/targets")?;
            let target = &targets["activeTargets"][0];
            let up = target["health"] == "up";
            Ok(up.then_some(()).ok_or_else(|| target["lastError"].to_string()))
        })?;
        self.wait("three scrapes", |this| {
            let counted = this.query(&format!("sum_over_time(up[{WINDOW}])"))?;
            let count = counted[0]["value"][1]
                .as_str()
                .and_then(|count| count.parse::<u64>().ok());
            let enough = count.filter(|&count| count >= 3).map(|_| ());
            Ok(enough.ok_or_else(|| format!("{} so far", count.unwrap_or(0))))
        })
    }

    /// Waits until every rule was evaluated, and gives how many there are.
    fn evaluated_rules(&self) -> Result<usize> {
        self.wait("the rules to be evaluated", |this| {
            let answer = this.get("/api/v1/rules")?;
            let groups = answer["groups"].as_array().into_iter().flatten();
            let rules: Vec<_> = groups
                .flat_map(|group| group["rules"].as_array().into_iter().flatten())
                .collect();
            if let Some(bad) = rules.iter().find(|rule| rule["health"] == "err") {
                bail!("rule {} fails: {}", bad["name"], bad["lastError"]);
            }
            let done = !rules.is_empty() && rules.iter().all(|rule| rule["health"] == "ok");
            Ok(done
                .then_some(rules.len())
                .ok_or_else(|| format!("{} are loaded", rules.len())))
        })
    }

    /// Asks until there is an answer, or the deadline is over. `ask` says why there is none yet, or fails for good.
    fn wait<T>(&self, what: &str, ask: impl Fn(&Self) -> Result<Result<T, String>>) -> Result<T> {
        let deadline = Instant::now() + DEADLINE;
        let mut pause = Duration::from_millis(20);
        loop {
            let why = match ask(self) {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(why)) => why,
                // Until it listens, Prometheus refuses connections.
                Err(error) if error.is::<io::Error>() => error.to_string(),
                Err(error) => return Err(error),
            };
            if Instant::now() > deadline {
                bail!(
                    "no sign of {what} in {DEADLINE:?} ({why}); Prometheus says:\n{}",
                    self.log()
                );
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// The result of an instant query.
    fn query(&self, query: &str) -> Result<Value> {
        Ok(self.get(&format!("/api/v1/query?query={}", coded(query)))?["result"].take())
    }

    /// The data that an API path answers with.
    fn get(&self, path: &str) -> Result<Value> {
        ask(self.address, path)
    }
}

/// A text as it stands in a URL.
pub(crate) fn coded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

/// The data that a path of Prometheus' API answers with, at this address.
///
/// # Errors
/// An [`io::Error`] where it is not ready yet; else there is no answer, or it refuses.
pub(crate) fn ask(address: SocketAddr, path: &str) -> Result<Value> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // An HTTP/1.0 request is answered in one piece, up to the end of the connection.
    write!(stream, "GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("there is no HTTP answer")?;
    if head.split(' ').nth(1) == Some("503") {
        return Err(io::Error::other("it is not ready yet").into());
    }
    let mut body: Value = serde_json::from_str(body).with_context(|| format!("the answer is {body:?}"))?;
    ensure!(body["status"] == "success", "it is refused: {}", body["error"]);
    Ok(body["data"].take())
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // If it is gone already, that is what was wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

#[cfg(test)]
mod tests {
    use luo_trace::sink::web::{Access, PageSource, Port};
    use luo_trace::status::Status;

    use super::*;

    struct Fake;

    impl luo_trace::sink::StatusSource for Fake {
        fn status(&self) -> Status {
            Status::default()
        }
    }

    impl PageSource for Fake {
        fn metrics(&self) -> String {
            "luo_update_number 7\n".into()
        }

        fn ready(&self) -> Result<(), String> {
            Ok(())
        }
    }

    #[test]
    #[ignore = "takes a Prometheus: `cargo xtask check` gets one and runs this"]
    fn prometheus_and_curl_read_the_port_by_tls_with_a_password() {
        // Given the agent's port with a certificate and a user,
        let dir = std::env::temp_dir().join(format!("luo-trace-port-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        fs::write(dir.join("server.crt"), made.cert.pem()).unwrap();
        fs::write(dir.join("server.key"), made.signing_key.serialize_pem()).unwrap();
        // The hash of "secret".
        let config = "tls_server_config: {cert_file: server.crt, key_file: server.key}\n\
                      basic_auth_users: {prometheus: $2b$10$NNTX5C2XFHYvH6KZO/xGYuquQjT4iAbwgf2divQypjZYq/Ex6Oy12}\n";
        fs::write(dir.join("web.yml"), config).unwrap();
        let access = Access::open(Some(&dir.join("web.yml"))).unwrap();
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let port = Port::open(anywhere, [], access, Arc::new(Fake), |line| println!("{line}")).unwrap();
        // when curl is told of both, then it gets an answer, and without either or by a name that is not the port's it gets none.
        let curl = |scheme: &str, how: &[&str]| {
            let output = Command::new("curl")
                .args([
                    "--silent",
                    "--max-time",
                    "60",
                    "--write-out",
                    "%{http_code}",
                    "--output",
                    "/dev/null",
                    "--cacert",
                ])
                .arg(dir.join("server.crt"))
                .args(how)
                .arg(format!("{scheme}://localhost:{}/metrics", port.address().port()))
                .output()
                .unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let user = ["--user", "prometheus:secret"];
        assert_eq!(curl("https", &user), "200");
        assert_eq!(curl("https", &["--user", "prometheus:wrong"]), "401");
        assert_eq!(curl("https", &[]), "401");
        assert_eq!(
            curl("https", &[&user[..], &["--header", "Host: elsewhere.example"]].concat()),
            "421"
        );
        // It trusts the certificate only where it is told to, and nothing is answered without TLS.
        assert_eq!(curl("https", &[&user[..], &["--cacert", "/dev/null"]].concat()), "000");
        assert_eq!(curl("http", &user), "000");
        // when Prometheus is told of them, then it scrapes.
        let tools = setup::ensure(&[Need::Prometheus]).unwrap();
        let how = format!(
            "scheme: https, tls_config: {{ca_file: '{}', server_name: localhost}}, \
             basic_auth: {{username: prometheus, password: secret}}",
            dir.join("server.crt").display()
        );
        let program = tools.program("prometheus").unwrap();
        let rules = directory().join("rules.yml");
        let prometheus = Prometheus::start(&program, port.address(), &rules, &how).unwrap();
        prometheus.wait_for_scrapes().unwrap();
        let answer = prometheus.query("luo_update_number").unwrap();
        assert_eq!(answer[0]["value"][1], "7", "{answer}");
        fs::remove_dir_all(dir).unwrap();
    }
}
