//! Who observes the process: builds the observers, and exports their spans.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use gethostname::gethostname;
use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    adapters::{
        otel::{Collector, Instance, SpanExporter, Tracer, TracerOptions},
        prometheus::PrometheusObserver,
    },
    config::Settings,
    ports::observer::{Observer, Observers},
};

/// The observers of a process.
pub(super) struct Observation {
    pub(super) observer: Arc<dyn Observer>,
    /// The one that keeps metrics, unless `metrics.listen` is empty.
    pub(super) metrics: Option<Arc<PrometheusObserver>>,
    /// The exporter of the spans, if there are any.
    pub(super) exporter: Option<SpanExporter>,
}

impl Observation {
    pub(super) fn new(settings: &Settings, broker_host: Option<&str>) -> Self {
        let metrics = settings.metrics.listen.map(|_| Arc::<PrometheusObserver>::default());
        let counting = metrics.iter().map(|metrics| metrics.clone() as Arc<dyn Observer>);
        let mut observers: Vec<_> = counting.collect();
        let spans = spans(settings, broker_host, Observers::new(observers.clone()));
        let exporter = spans.map(|(tracer, exporter)| {
            observers.push(Arc::new(tracer));
            exporter
        });
        Self { observer: Arc::new(Observers::new(observers)), metrics, exporter }
    }
}

/// Makes spans, unless `traces.endpoint` is empty. Their number is reported to `counting`.
fn spans(
    settings: &Settings,
    broker_host: Option<&str>,
    counting: Observers,
) -> Option<(Tracer, SpanExporter)> {
    let config = &settings.traces;
    if config.endpoint.is_empty() {
        return None;
    }
    let options = TracerOptions {
        ratio: config.ratio,
        keep_failures: config.keep_failures,
        broker_host: broker_host.map(str::to_owned),
        instance: Instance {
            namespace: settings.namespace.clone(),
            host: gethostname().to_string_lossy().into_owned(),
            pid: std::process::id(),
        },
    };
    Some(Tracer::new(options, Arc::new(counting)))
}

/// The task that exports the spans of a process.
pub(super) struct SpanExport {
    task: AbortOnDropHandle<()>,
    stop: CancellationToken,
    /// Cancelled when the time to stop is over.
    overdue: CancellationToken,
    _timer: AbortOnDropHandle<()>,
}

impl SpanExport {
    /// Begins to export spans.
    ///
    /// # Errors
    /// The endpoint cannot be used.
    pub(super) fn start(
        exporter: SpanExporter,
        endpoint: &str,
        stop: &CancellationToken,
        shutdown_timeout: Duration,
    ) -> anyhow::Result<Self> {
        let collector = Collector::new(endpoint)
            .context("traces.endpoint (or OTEL_EXPORTER_OTLP_ENDPOINT) cannot be used")?;
        let (last_span, overdue) = (CancellationToken::new(), CancellationToken::new());
        let (ends, stop, over) = (last_span.clone(), stop.clone(), overdue.clone());
        Ok(Self {
            task: spawn(async move { exporter.run(&collector, &ends).await }),
            _timer: spawn(async move {
                stop.cancelled().await;
                tokio::time::sleep(shutdown_timeout).await;
                over.cancel();
            }),
            stop: last_span,
            overdue,
        })
    }

    /// Exports the remaining spans, unless the time to stop is over before.
    pub(super) async fn finish(self) {
        self.stop.cancel();
        let _ = self.overdue.run_until_cancelled(self.task).await;
    }
}

fn spawn(task: impl Future<Output = ()> + Send + 'static) -> AbortOnDropHandle<()> {
    let handle: JoinHandle<()> = tokio::spawn(task);
    AbortOnDropHandle::new(handle)
}
