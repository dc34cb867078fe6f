//! Metrics over a time that has passed, in the OpenMetrics text that `promtool tsdb create-blocks-from openmetrics` reads.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};

/// Samples of many moments, sorted by metric as the format wants them.
#[derive(Debug, Default)]
pub struct Backfill {
    /// What every series has among its labels, as it stands between braces.
    labels: String,
    families: BTreeMap<String, Family>,
    /// The time of the last samples, in milliseconds since 1970.
    last: i128,
}

#[derive(Debug, Default)]
struct Family {
    /// Its kind, as in `# TYPE`.
    kind: String,
    help: String,
    /// Its series, each with its samples in the order in which they came: ` VALUE TIME`, and the end of the line.
    series: BTreeMap<String, String>,
}

/// Whether a label may have this name.
pub fn is_label(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

impl Backfill {
    /// One whose series have these labels besides their own.
    pub fn with_labels(labels: &[(String, String)]) -> Self {
        let labels = labels.iter().map(|(name, value)| {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            format!("{name}=\"{value}\"")
        });
        Self {
            labels: labels.collect::<Vec<_>>().join(","),
            ..Self::default()
        }
    }

    /// Adds all metrics of a moment, in nanoseconds since 1970: `text` is Prometheus' text format, as an agent serves it. Moments have
    /// to be a millisecond apart, and one that is not is moved.
    pub fn sample(&mut self, text: &str, at: i128) {
        self.last = (at / 1_000_000).max(self.last + 1);
        let at = format!("{}.{:03}", self.last / 1_000, self.last % 1_000);
        let mut family = None;
        for line in text.lines() {
            if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|line| line.split_once(' ')) {
                let entry = self.families.entry(name.to_owned()).or_default();
                entry.help = help.to_owned();
                family = Some(name);
            } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' ')) {
                let entry = self.families.entry(name.to_owned()).or_default();
                entry.kind = kind.to_owned();
                family = Some(name);
            } else if let Some((series, value)) = line.rsplit_once(' ')
                && let Some(family) = family.and_then(|name| self.families.get_mut(name))
            {
                if !family.series.contains_key(series) {
                    family.series.insert(series.to_owned(), String::new());
                }
                if let Some(samples) = family.series.get_mut(series) {
                    // Writing to a String cannot fail.
                    _ = writeln!(samples, " {value} {at}");
                }
            }
        }
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// Where `out` fails.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        for (name, family) in &self.families {
            // A counter's samples have the suffix, and its family has not.
            let name = match family.kind.as_str() {
                "counter" => name.strip_suffix("_total").unwrap_or(name),
                _ => name,
            };
            writeln!(out, "# TYPE {name} {}", family.kind)?;
            writeln!(out, "# HELP {name} {}", family.help)?;
            for (series, samples) in &family.series {
                let series = self.labelled(series);
                samples
                    .lines()
                    .try_for_each(|sample| writeln!(out, "{series}{sample}"))?;
            }
        }
        writeln!(out, "# EOF")
    }

    /// A series with the labels that all have.
    fn labelled<'a>(&self, series: &'a str) -> Cow<'a, str> {
        match (self.labels.as_str(), series.split_once('{')) {
            ("", _) => series.into(),
            (labels, None) => format!("{series}{{{labels}}}").into(),
            (labels, Some((name, own))) => format!("{name}{{{labels},{own}").into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_samples_of_a_metric_stand_together_each_with_its_time() {
        let mut backfill = Backfill::default();
        for (at, sessions, events) in [(1_000_000_000, 1, 2), (16_500_000_000, 3, 4)] {
            let text = format!(
                "# HELP luo_sessions Sessions now.\n# TYPE luo_sessions gauge\nluo_sessions{{direction=\"outgoing\"}} {sessions}\n\
                 # HELP e_total Events.\n# TYPE e_total counter\ne_total {events}\n"
            );
            backfill.sample(&text, at);
        }
        let mut out = Vec::new();
        backfill.write(&mut out).unwrap();
        let expected = "# TYPE e counter\n# HELP e Events.\ne_total 2 1.000\ne_total 4 16.500\n\
                        # TYPE luo_sessions gauge\n# HELP luo_sessions Sessions now.\n\
                        luo_sessions{direction=\"outgoing\"} 1 1.000\nluo_sessions{direction=\"outgoing\"} 3 16.500\n# EOF\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn labels_of_the_host_stand_before_those_of_a_series() {
        let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let labels = [label("instance", "a\\b\"c"), label("job", "luo-trace")];
        let mut backfill = Backfill::with_labels(&labels);
        let text = "# TYPE luo_sessions gauge\nluo_sessions{direction=\"outgoing\"} 1\n# TYPE e gauge\ne 2\n";
        backfill.sample(text, 1_000_000_000);
        let mut out = Vec::new();
        backfill.write(&mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        let all = r#"instance="a\\b\"c",job="luo-trace""#;
        assert!(out.contains(&format!("\ne{{{all}}} 2 1.000\n")), "{out}");
        assert!(
            out.contains(&format!("\nluo_sessions{{{all},direction=\"outgoing\"}} 1 1.000\n")),
            "{out}"
        );
    }
}
