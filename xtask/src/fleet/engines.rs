//! A real Prometheus and a real VictoriaMetrics over what the hosts' agents said.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::dashboards::{ask, coded};
use crate::run;
use crate::setup::Tools;

/// How long an engine may take to start.
const DEADLINE: Duration = Duration::from_secs(300);
/// How far apart rules are evaluated, in seconds: Prometheus itself would do so every minute.
pub(crate) const EVERY: u64 = 300;
/// As long as any fleet is kept.
const FOR_EVER: &str = "100y";

/// From when to when something is asked, in seconds since 1970.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// One that answers queries at an address of this machine, until it is dropped.
pub(crate) struct Engine {
    pub(crate) name: &'static str,
    child: Child,
    address: SocketAddr,
    log: PathBuf,
}

impl Engine {
    fn start(name: &'static str, command: &mut Command, address: SocketAddr, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {name}; `cargo xtask setup` installs it"))?;
        let mut engine = Self {
            name,
            child,
            address,
            log: log.into(),
        };
        let deadline = Instant::now() + DEADLINE;
        while let Err(why) = engine.query("1", 1) {
            let ended = engine.child.try_wait().is_ok_and(|status| status.is_some());
            if ended || Instant::now() > deadline {
                let log = fs::read_to_string(&engine.log).unwrap_or_default();
                bail!("{name} does not answer ({why:#}); it says:\n{log}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(engine)
    }

    /// The data of a path of its API.
    pub(crate) fn get(&self, path: &str) -> Result<Value> {
        ask(self.address, path)
    }

    /// The result of an instant query.
    pub(crate) fn query(&self, query: &str, at: u64) -> Result<Vec<Value>> {
        self.result(&format!("/api/v1/query?query={}&time={at}", coded(query)))
    }

    /// The result of a query over a time.
    pub(crate) fn range(&self, query: &str, span: Span, step: u64) -> Result<Vec<Value>> {
        let Span { from, to } = span;
        self.result(&format!(
            "/api/v1/query_range?query={}&start={from}&end={to}&step={step}",
            coded(query)
        ))
    }

    fn result(&self, path: &str) -> Result<Vec<Value>> {
        match self.get(path)?["result"].take() {
            Value::Array(rows) => Ok(rows),
            // A number stands for itself.
            other => Ok(vec![other]),
        }
    }

    /// Its address, as another program is told it.
    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // If it is gone already, that is what was wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that is free, on a loopback address of this process's own: no other takes it meanwhile.
fn free() -> Result<SocketAddr> {
    let own = Ipv4Addr::from_bits(0x7f80_0000 | std::process::id());
    let free = TcpListener::bind((own, 0)).and_then(|listener| listener.local_addr());
    free.context("no free port on loopback")
}

/// Where the engines keep their data, and the programs.
pub(crate) struct Place<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) tools: &'a Tools,
    /// How old a sample may be that still counts, in seconds.
    pub(crate) lookback: u64,
}

impl Place<'_> {
    /// Takes a file of OpenMetrics into Prometheus' blocks.
    pub(crate) fn take(&self, metrics: &Path) -> Result<()> {
        run::output(
            Command::new(self.tools.program("promtool")?)
                // One block for all of the time.
                .args([
                    "tsdb",
                    "create-blocks-from",
                    "--max-block-duration=2000h",
                    "openmetrics",
                    "--quiet",
                ])
                .args([metrics, &self.dir.join("prometheus")]),
        )
        .map(drop)
    }

    /// Starts Prometheus over the blocks that there are. It knows the rules, and evaluates none of them at the time of the blocks.
    pub(crate) fn prometheus(&self, rules: &Path) -> Result<Engine> {
        let config = self.dir.join("prometheus.yml");
        let rules = rules.canonicalize().context("cannot find the rules")?;
        let text = format!("global: {{evaluation_interval: 1d}}\nrule_files: [{rules:?}]\n");
        fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
        let address = free()?;
        let mut command = Command::new(self.tools.program("prometheus")?);
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", self.dir.join("prometheus").display()))
            .arg(format!("--storage.tsdb.retention.time={FOR_EVER}"))
            // A rule over all of the time, and over thousands of hosts, is one query to promtool.
            .args(["--query.max-samples=500000000", "--query.timeout=1h"])
            .arg(format!("--query.lookback-delta={}s", self.lookback))
            .arg(format!("--web.listen-address={address}"));
        Engine::start("Prometheus", &mut command, address, &self.dir.join("prometheus.log"))
    }

    /// Has Prometheus' own tool record a group of recording rules over the time.
    pub(crate) fn record(&self, prometheus: &Engine, group: &Group, span: Span) -> Result<()> {
        let records = group.rules.iter().filter(|rule| rule.alert.is_none());
        let records: Vec<_> = records
            .map(|rule| json!({"record": rule.name, "expr": rule.query, "labels": rule.labels}))
            .collect();
        if records.is_empty() {
            return Ok(());
        }
        // What is JSON is YAML as well.
        let file = self.dir.join("records.yml");
        let text = json!({"groups": [{"name": group.name, "rules": records}]}).to_string();
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        run::output(
            Command::new(self.tools.program("promtool")?)
                .args(["tsdb", "create-blocks-from", "--max-block-duration=2000h", "rules"])
                .arg(format!("--start={}", span.from))
                .arg(format!("--end={}", span.to))
                .arg(format!("--url={}", prometheus.url()))
                .arg(format!("--eval-interval={EVERY}s"))
                .arg(format!("--output-dir={}", self.dir.join("prometheus").display()))
                .arg(file),
        )
        .map(drop)
    }

    /// Starts VictoriaMetrics.
    pub(crate) fn victoria_metrics(&self) -> Result<Engine> {
        let address = free()?;
        let mut command = Command::new(self.tools.program("victoria-metrics")?);
        command
            .arg(format!(
                "-storageDataPath={}",
                self.dir.join("victoria-metrics").display()
            ))
            .arg(format!("-retentionPeriod={FOR_EVER}"))
            .arg(format!("-httpListenAddr={address}"))
            .arg(format!("-search.maxStalenessInterval={}s", self.lookback))
            .args(["-search.disableCache", "-search.maxUniqueTimeseries=5000000"]);
        Engine::start(
            "VictoriaMetrics",
            &mut command,
            address,
            &self.dir.join("victoria-metrics.log"),
        )
    }

    /// Evaluates all rules over the time, as vmalert does it: what is recorded and which alerts fire becomes series.
    pub(crate) fn replay(&self, victoria: &Engine, rules: &Path, span: Span) -> Result<()> {
        let url = victoria.url();
        run::output(
            Command::new(self.tools.program("vmalert")?)
                .arg(format!("-rule={}", rules.display()))
                .arg(format!("-datasource.url={url}"))
                .arg(format!("-remoteWrite.url={url}"))
                .args([
                    "-remoteWrite.flushInterval=200ms",
                    "-remoteWrite.maxQueueSize=10000000",
                    "-replay.rulesDelay=1200ms",
                    "-replay.disableProgressBar",
                ])
                .arg(format!("-evaluationInterval={EVERY}s"))
                .arg(format!("-replay.timeFrom={}", rfc3339(span.from)))
                .arg(format!("-replay.timeTo={}", rfc3339(span.to)))
                .arg(format!("-httpListenAddr={}", free()?)),
        )
        .map(drop)
    }
}

fn rfc3339(unix: u64) -> String {
    luo_trace::report::when(unix * 1_000_000_000)
}

/// Has VictoriaMetrics take a file of OpenMetrics.
pub(crate) fn import(victoria: &Engine, metrics: &Path) -> Result<()> {
    let mut file = File::open(metrics).with_context(|| format!("cannot read {}", metrics.display()))?;
    let length = file.metadata().map(|data| data.len()).unwrap_or(0);
    let mut stream = TcpStream::connect(victoria.address).context("VictoriaMetrics does not listen")?;
    write!(
        stream,
        "POST /api/v1/import/prometheus HTTP/1.0\r\nhost: {}\r\ncontent-length: {length}\r\n\r\n",
        victoria.address
    )?;
    io::copy(&mut file, &mut stream).context("VictoriaMetrics stopped reading")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).unwrap_or_default();
    ensure!(status == "204", "VictoriaMetrics refuses it: {answer}");
    // What was taken can be asked for from then on.
    let mut flush = TcpStream::connect(victoria.address)?;
    write!(
        flush,
        "GET /internal/force_flush HTTP/1.0\r\nhost: {}\r\n\r\n",
        victoria.address
    )?;
    flush.read_to_string(&mut answer)?;
    Ok(())
}

/// A group of rules, as Prometheus has read it.
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) rules: Vec<Rule>,
}

/// One rule.
pub(crate) struct Rule {
    pub(crate) name: String,
    pub(crate) query: String,
    labels: Value,
    /// Of an alert, for how many seconds it has to be so.
    pub(crate) alert: Option<u64>,
}

/// The rules that Prometheus has read, in the order of their file.
pub(crate) fn groups(prometheus: &Engine, rules: &Path) -> Result<Vec<Group>> {
    let mut answer = prometheus.get("/api/v1/rules")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let rule = |rule: &Value| Rule {
        name: text(&rule["name"]),
        query: text(&rule["query"]),
        labels: match &rule["labels"] {
            Value::Null => json!({}),
            labels => labels.clone(),
        },
        alert: (rule["type"] == "alerting").then(|| rule["duration"].as_f64().unwrap_or(0.0) as u64),
    };
    let Value::Array(groups) = answer["groups"].take() else {
        bail!("Prometheus has no rules");
    };
    let group = |group: &Value| Group {
        name: text(&group["name"]),
        rules: group["rules"].as_array().into_iter().flatten().map(rule).collect(),
    };
    let mut groups: Vec<_> = groups.iter().map(group).collect();
    // Prometheus has them by name.
    let file = fs::read_to_string(rules).context("cannot read the rules")?;
    groups.sort_by_key(|group| file.find(&format!("- name: {}\n", group.name)));
    Ok(groups)
}
