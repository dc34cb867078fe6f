//! All metrics as an export request of OTLP, for a collector that is pushed to: the same names and labels as in Prometheus' format.

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prometheus::proto::{self, MetricFamily, MetricType};

use super::Metrics;
use crate::report::otlp::{scope, text};

/// What counts since the agent began does so over all of its life.
const CUMULATIVE: AggregationTemporality = AggregationTemporality::Cumulative;

/// From when on was counted, and when this is told, in nanoseconds since 1970.
#[derive(Clone, Copy)]
struct Times {
    began: u64,
    now: u64,
}

impl Metrics {
    /// Everything, told by this resource. Counting began at `began`, and it is `now`, in nanoseconds since 1970.
    pub fn export(&self, resource: Resource, began: u64, now: u64) -> ExportMetricsServiceRequest {
        let _whole = self.names();
        let times = Times { began, now };
        let metrics = ScopeMetrics {
            scope: Some(scope()),
            metrics: self
                .registry
                .gather()
                .iter()
                .map(|family| metric(family, times))
                .collect(),
            ..ScopeMetrics::default()
        };
        ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics {
                resource: Some(resource),
                scope_metrics: vec![metrics],
                ..ResourceMetrics::default()
            }],
        }
    }
}

fn metric(family: &MetricFamily, times: Times) -> Metric {
    let all = family.get_metric();
    let numbers = |value: fn(&proto::Metric) -> f64| -> Vec<NumberDataPoint> {
        all.iter().map(|metric| number(metric, value(metric), times)).collect()
    };
    let data = match family.get_field_type() {
        MetricType::COUNTER => Data::Sum(Sum {
            data_points: numbers(|metric| metric.get_counter().get_value()),
            aggregation_temporality: CUMULATIVE.into(),
            is_monotonic: true,
        }),
        MetricType::HISTOGRAM => Data::Histogram(Histogram {
            data_points: all.iter().map(|metric| histogram(metric, times)).collect(),
            aggregation_temporality: CUMULATIVE.into(),
        }),
        // The table has no other.
        _ => Data::Gauge(Gauge {
            data_points: numbers(|metric| metric.get_gauge().get_value()),
        }),
    };
    Metric {
        name: family.name().into(),
        description: family.help().into(),
        data: Some(data),
        ..Metric::default()
    }
}

fn number(metric: &proto::Metric, value: f64, times: Times) -> NumberDataPoint {
    NumberDataPoint {
        attributes: labels(metric),
        start_time_unix_nano: times.began,
        time_unix_nano: times.now,
        value: Some(Value::AsDouble(value)),
        ..NumberDataPoint::default()
    }
}

fn histogram(metric: &proto::Metric, times: Times) -> HistogramDataPoint {
    let of = metric.get_histogram();
    // Prometheus counts everything below a bound, OTLP what is between two of them, and above the last.
    let mut below = 0;
    let mut between = |count: u64| count.saturating_sub(std::mem::replace(&mut below, count));
    let bounds = of.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite());
    let (explicit_bounds, mut bucket_counts): (Vec<_>, Vec<_>) = bounds
        .map(|bucket| (bucket.upper_bound(), between(bucket.cumulative_count())))
        .unzip();
    bucket_counts.push(between(of.get_sample_count()));
    HistogramDataPoint {
        attributes: labels(metric),
        start_time_unix_nano: times.began,
        time_unix_nano: times.now,
        count: of.get_sample_count(),
        sum: Some(of.get_sample_sum()),
        bucket_counts,
        explicit_bounds,
        ..HistogramDataPoint::default()
    }
}

fn labels(metric: &proto::Metric) -> Vec<KeyValue> {
    let labels = metric.get_label().iter();
    labels.map(|label| text(label.name(), label.value())).collect()
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::metrics::v1::metric::Data;

    use super::super::METRICS;
    use super::*;
    use crate::testing::{Story, session};

    #[test]
    fn what_is_pushed_is_what_prometheus_reads() {
        let metrics = Metrics::new().unwrap();
        let mut story = Story::new();
        story.create(session(1, "a")).create(session(2, "b"));
        story.events.iter().for_each(|event| metrics.observe(event));
        let text = metrics.render();
        let request = metrics.export(Resource::default(), 5, 7);
        let all = &request.resource_metrics[0].scope_metrics[0].metrics;
        for metric in all {
            let row = METRICS.iter().find(|row| row.name == metric.name).unwrap();
            let points: Vec<(Vec<KeyValue>, String, f64)> = match metric.data.as_ref().unwrap() {
                Data::Sum(sum) => {
                    assert!(sum.is_monotonic && row.kind == "counter", "{}", row.name);
                    numbers(&sum.data_points)
                }
                Data::Gauge(gauge) => {
                    assert_eq!(row.kind, "gauge", "{}", row.name);
                    numbers(&gauge.data_points)
                }
                Data::Histogram(histogram) => {
                    for point in &histogram.data_points {
                        assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
                        assert_eq!(point.bucket_counts.iter().sum::<u64>(), point.count);
                    }
                    let points = histogram.data_points.iter();
                    points
                        .map(|point| (point.attributes.clone(), "_count".into(), point.count as f64))
                        .collect()
                }
                other => panic!("{other:?}"),
            };
            for (labels, end, value) in points {
                let label = |of: &KeyValue| {
                    let Some(opentelemetry_proto::tonic::common::v1::any_value::Value::StringValue(text)) =
                        of.value.as_ref().unwrap().value.clone()
                    else {
                        panic!("{of:?}")
                    };
                    format!("{}=\"{text}\"", of.key)
                };
                let labels: Vec<_> = labels.iter().map(label).collect();
                let labels = match labels.is_empty() {
                    true => String::new(),
                    false => format!("{{{}}}", labels.join(",")),
                };
                let line = format!("{}{end}{labels} {value}", metric.name);
                assert!(text.lines().any(|shown| shown == line), "no {line} in {text}");
            }
        }
        let families = text.lines().filter(|line| line.starts_with("# TYPE")).count();
        assert_eq!(all.len(), families);
    }

    fn numbers(points: &[NumberDataPoint]) -> Vec<(Vec<KeyValue>, String, f64)> {
        let point = |point: &NumberDataPoint| {
            assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (5, 7));
            let Some(Value::AsDouble(value)) = point.value else {
                panic!("{point:?}")
            };
            (point.attributes.clone(), String::new(), value)
        };
        points.iter().map(point).collect()
    }
}
