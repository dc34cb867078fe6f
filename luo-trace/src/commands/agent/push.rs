//! What the agent pushes, as its options say.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args as ClapArgs;
use opentelemetry_proto::tonic::common::v1::KeyValue;

use crate::agent::live::Live;
use crate::journal::Header;
use crate::report::otlp::{resource, text};
use crate::sink::metrics::is_label;
use crate::sink::push::{Address, Plan, Pusher};

/// How far apart metrics may be pushed at the least.
const SHORTEST: Duration = Duration::from_secs(1);

/// Names that the agent's own metrics and collectors give a meaning.
const RESERVED: [&str; 8] = ["version", "abi", "job", "instance", "le", "quantile", "host", "name"];

/// Options of what is pushed.
#[derive(Debug, Default, ClapArgs)]
// The agent's own options are a group of this name.
#[group(skip)]
pub(super) struct Args {
    /// Push updates, findings, refusals and metrics to the collector at this URL, by OTLP over HTTP: http://collector:4318
    #[arg(long, value_name = "URL", env = "LUO_TRACE_OTLP")]
    otlp: Option<String>,
    /// How far apart the metrics are that are pushed
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = interval, env = "LUO_TRACE_OTLP_INTERVAL")]
    otlp_interval: Option<Duration>,
    /// Take the collector's certificate only from the authorities in this file, in PEM [default: those of the system]
    #[arg(long, value_name = "FILE", env = "LUO_TRACE_OTLP_CA")]
    otlp_ca: Option<PathBuf>,
    /// Send the headers in this file with all that is pushed, a line `Name: value` each
    #[arg(long, value_name = "FILE", env = "LUO_TRACE_OTLP_HEADERS")]
    otlp_headers: Option<PathBuf>,
    /// Say NAME=VALUE of this host in what is pushed, and in luo_trace_build_info; may be repeated
    #[arg(long = "labels", visible_alias = "label", value_name = "NAME=VALUE", value_parser = label, env = "LUO_TRACE_LABELS", value_delimiter = ',')]
    labels: Vec<(String, String)>,
}

/// Reads the value of `--otlp-interval`.
fn interval(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(interval) if interval >= SHORTEST => Ok(interval),
        Ok(_) => Err("at least 1s is needed".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// Reads a label.
fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a label is NAME=VALUE")?;
    match name {
        _ if !is_label(name) => Err(format!(
            "{name:?} is no name of a label: letters, digits and _ are, and no digit comes first"
        )),
        _ if name.starts_with("__") || RESERVED.contains(&name) => Err(format!(
            "the label {name} has a meaning of its own: choose another name"
        )),
        _ => Ok((name.into(), value.into())),
    }
}

/// A collector that is pushed to.
pub(super) struct Prepared {
    address: Address,
    interval: Duration,
}

impl Args {
    /// Reads the files; `None` without `--otlp`.
    ///
    /// # Errors
    /// Where the URL or a file cannot be used, a label is told twice, or there are options of a collector and none is named.
    pub(super) fn prepare(&self) -> Result<Option<Prepared>> {
        for (place, (name, _)) in self.labels.iter().enumerate() {
            if self.labels[..place].iter().any(|(other, _)| other == name) {
                bail!("the label {name} is there twice: leave one of them out");
            }
        }
        let Some(url) = &self.otlp else {
            if self.otlp_ca.is_some() || self.otlp_headers.is_some() {
                bail!(
                    "--otlp-ca and --otlp-headers are of a collector: give its address with --otlp, or leave them out"
                );
            }
            return Ok(None);
        };
        let address = Address::new(url, self.otlp_ca.as_deref(), self.otlp_headers.as_deref());
        let address = address.context("--otlp cannot be used")?;
        let interval = self.otlp_interval.unwrap_or(Duration::from_secs(60));
        Ok(Some(Prepared { address, interval }))
    }

    /// What is said of this host.
    pub(super) fn labels(&self) -> &[(String, String)] {
        &self.labels
    }

    /// What is told of the host of this header, beside the kernel.
    pub(super) fn about(&self, header: &Header) -> Vec<KeyValue> {
        let host = [
            ("host.name", Some(header.host.name.as_str())),
            ("host.id", header.host.first_id()),
        ];
        let host = host
            .into_iter()
            .filter_map(|(key, value)| Some(text(key, value.filter(|value| !value.is_empty())?)));
        host.chain(self.labels.iter().map(|(name, value)| text(name, value)))
            .collect()
    }
}

impl Prepared {
    /// Pushes from now on; what waits is kept below `dir`.
    ///
    /// # Errors
    /// Where that cannot be.
    pub(super) fn start(
        self,
        header: &Header,
        about: &[KeyValue],
        live: Arc<Live>,
        dir: Option<&Path>,
    ) -> Result<Pusher> {
        let resource = resource(
            env!("CARGO_PKG_VERSION"),
            &header.kernel_release,
            &header.boot_id,
            about,
        );
        let clock = header.clock;
        let (told, began) = (resource.clone(), clock.realtime_ns);
        let of = live.clone();
        let plan = Plan {
            address: self.address,
            interval: self.interval,
            resource,
            zero_unix_ns: u64::try_from(clock.zero_unix_ns()).unwrap_or(0),
            metrics: Box::new(move |now| of.export_metrics(told.clone(), began, now)),
            watch: live,
        };
        Pusher::start(plan, dir)
            .context("what is to be pushed cannot be kept: choose another --journal directory, or leave --otlp out")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_has_a_name_that_metrics_can_have_and_that_is_not_taken() {
        assert_eq!(label("region=eu=1"), Ok(("region".into(), "eu=1".into())));
        for (text, why) in [
            ("region", "NAME=VALUE"),
            ("1st=a", "no name"),
            ("a-b=c", "no name"),
            ("=c", "no name"),
            ("version=2", "meaning of its own"),
            ("__x=2", "meaning of its own"),
        ] {
            let told = label(text).unwrap_err();
            assert!(told.contains(why), "{text}: {told}");
        }
        let twice = Args {
            labels: vec![("a".into(), "1".into()), ("a".into(), "2".into())],
            ..Args::default()
        };
        assert!(twice.prepare().err().unwrap().to_string().contains("twice"));
    }

    #[test]
    fn options_of_a_collector_want_one() {
        let alone = Args {
            otlp_headers: Some("/etc/headers".into()),
            ..Args::default()
        };
        assert!(alone.prepare().err().unwrap().to_string().contains("--otlp"));
        assert!(Args::default().prepare().unwrap().is_none());
        let wrong = Args {
            otlp: Some("collector".into()),
            ..Args::default()
        };
        assert!(format!("{:#}", wrong.prepare().err().unwrap()).contains("--otlp cannot be used"));
        assert!(interval("10ms").is_err() && interval("10s").is_ok());
    }
}
