//! The metrics of a recording over its time.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use super::{Agent, Recording, monotonic, unix};
use crate::sink::metrics::{Backfill, is_label};
use crate::sink::web;

/// How long after an event samples are as close as `--busy-step` says, in nanoseconds.
const BUSY: i128 = 30 * 60 * 1_000_000_000;

/// Which samples are taken.
#[derive(Debug, Args)]
pub(super) struct Samples {
    /// Play nothing, and write the metrics over the time of the recording to this file, for `promtool tsdb create-blocks-from openmetrics`
    #[arg(long, value_name = "FILE", conflicts_with_all = ["listen", "speed"])]
    pub(super) openmetrics: Option<PathBuf>,
    /// How far apart these are, such as 15s
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = step, requires = "openmetrics")]
    step: Duration,
    /// How far apart they are for half an hour after each event, where that should be less than --step
    #[arg(long, value_name = "TIME", value_parser = step, requires = "openmetrics")]
    busy_step: Option<Duration>,
    /// A label for all of them, such as job=luo-trace or instance=host-1:9184; may be given more than once
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label, requires = "openmetrics")]
    labels: Vec<(String, String)>,
}

fn step(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(step) if step >= Duration::from_millis(1) => Ok(step),
        Ok(_) => Err("at least 1ms is needed".into()),
        Err(error) => Err(error.to_string()),
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if is_label(name) => Ok((name.into(), value.into())),
        _ => Err("a name of letters, digits and _, then = and a value are needed".into()),
    }
}

impl Samples {
    /// How far the next sample is from this one, so long after the last event.
    fn apart(&self, since: i128) -> i128 {
        let step = match self.busy_step {
            Some(busy) if since < BUSY => busy.min(self.step),
            _ => self.step,
        };
        i128::try_from(step.as_nanos()).unwrap_or(i128::MAX)
    }
}

impl Recording<'_> {
    /// Writes the metrics as they were at these moments.
    pub(super) fn backfill(&self, path: &Path, samples: &Samples) -> Result<()> {
        let cannot = || format!("cannot write {}", path.display());
        let mut backfill = Backfill::with_labels(&samples.labels);
        let (mut next, mut last) = (None, 0);
        self.each_event(|agent, event| {
            let Some(event) = event else {
                // As the last scrape of a boot would have it, had it come in time.
                agent.live.finish();
                next = None;
                return agent.sample(&mut backfill, last);
            };
            let time = unix(&agent.clock, event.header.ktime);
            let mut at = next.unwrap_or(time);
            while at < time {
                agent.sample(&mut backfill, at)?;
                at += samples.apart(at - last);
            }
            last = time;
            next = Some(at.min(time + samples.apart(0)));
            agent.live.is_now(event.header.ktime);
            agent.takes(event);
            Ok(())
        })?;
        let mut out = BufWriter::new(File::create(path).with_context(cannot)?);
        backfill.write(&mut out).and_then(|()| out.flush()).with_context(cannot)
    }
}

impl Agent<'_> {
    /// Adds its metrics as they are at this time, in nanoseconds since 1970.
    fn sample(&mut self, backfill: &mut Backfill, at: i128) -> Result<()> {
        let now = monotonic(&self.clock, at);
        self.live.is_now(now);
        self.judge.judge(&self.live, now)?;
        self.rules.are_at(&self.live.metrics, now);
        backfill.sample(&web::PageSource::metrics(&*self.live), at);
        Ok(())
    }
}
