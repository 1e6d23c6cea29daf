//! Processes whose metrics are scraped.

use std::{collections::BTreeMap, net::SocketAddr};

use super::{Client, Running, SOON, TestSystem, wait_for, wait_until};

/// The setting of the address, and any free port.
pub(crate) const ANY_PORT: (&str, &str) = ("ALLOCATION__METRICS__LISTEN", "127.0.0.1:0");

/// The address at which a process serves its metrics; `None` if it serves none so far.
pub(crate) fn metrics_address(process: &Running) -> Option<SocketAddr> {
    let log = process.log();
    let line = log.lines().find(|line| line.contains("serving metrics"))?;
    line.split("listen=").nth(1)?.split_whitespace().next()?.parse().ok()
}

/// The metrics of a process.
pub(crate) struct Metrics(Client);

/// The samples of one scrape.
#[derive(Debug)]
pub(crate) struct Scrape {
    pub(crate) text: String,
    samples: BTreeMap<String, f64>,
}

impl Metrics {
    /// Waits until a process serves its metrics.
    pub(crate) async fn of(process: &Running) -> Self {
        wait_until("metrics are served", SOON, async || metrics_address(process).is_some()).await;
        Self(Client::of(metrics_address(process).expect("it is known now")))
    }

    pub(crate) fn client(&self) -> &Client {
        &self.0
    }

    pub(crate) async fn scrape(&self) -> Scrape {
        let text = self.0.get("/metrics").await.expect_status(200).text();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let sample = |line: &str| {
            let (series, value) = line.rsplit_once(' ').expect("a sample has a value");
            let series = series.strip_prefix("allocation_").expect("each name has the prefix");
            (series.to_owned(), value.parse().expect("a value is a number"))
        };
        let samples = lines.map(sample).collect();
        Scrape { text, samples }
    }

    /// Waits until a series has a value; `None` if it is absent.
    pub(crate) async fn wait_for(&self, series: &str, value: Option<f64>) {
        wait_for(series, SOON, &value, async || self.scrape().await.get(series)).await;
    }
}

impl Scrape {
    /// The value of a series, which is named without the prefix of all names.
    pub(crate) fn get(&self, series: &str) -> Option<f64> {
        self.samples.get(series).copied()
    }

    /// The series of a metric that are not zero.
    pub(crate) fn nonzero(&self, name: &str) -> Vec<(&str, f64)> {
        let begin = format!("{name}{{");
        let of_metric =
            self.samples.iter().filter(|(series, value)| series.starts_with(&begin) && **value != 0.0);
        of_metric.map(|(series, value)| (&series[begin.len()..series.len() - 1], *value)).collect()
    }
}

impl TestSystem {
    /// Starts a process with metrics on a free port.
    pub(crate) async fn observed(&self, roles: &str, environment: &[(&str, &str)]) -> (Running, Metrics) {
        let process = self.start(&["run", "--only", roles], &[&[ANY_PORT], environment].concat());
        let metrics = Metrics::of(&process).await;
        (process, metrics)
    }
}
