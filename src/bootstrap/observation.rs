//! Who observes the process: builds the observers, and exports their spans.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use gethostname::gethostname;
use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    adapters::otel::{Collector, Instance, SpanExporter, Tracer, TracerOptions},
    config::Settings,
    ports::observer::{Observer, Observers},
};

/// The observers of a process.
pub(super) struct Observation {
    pub(super) observer: Arc<dyn Observer>,
    /// The exporter of the spans, if there are any.
    pub(super) exporter: Option<SpanExporter>,
}

impl Observation {
    pub(super) fn new(settings: &Settings, broker_host: Option<&str>) -> Self {
        let config = &settings.traces;
        if config.endpoint.is_empty() {
            return Self { observer: Arc::new(Observers::default()), exporter: None };
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
        let (tracer, exporter) = Tracer::new(options, Arc::new(Observers::default()));
        Self { observer: Arc::new(Observers::new(vec![Arc::new(tracer)])), exporter: Some(exporter) }
    }
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
