//! What spans say about the process that they come from.

use opentelemetry_proto::tonic::{
    common::v1::InstrumentationScope,
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};

use super::{names, span::attribute};

/// The process that spans come from.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Its namespace.
    pub namespace: String,
    /// The name of its machine.
    pub host: String,
    /// Its process id.
    pub pid: u32,
}

impl Instance {
    /// Spans of this process, as OTLP groups them.
    pub(super) fn spans(&self, spans: Vec<Span>) -> ResourceSpans {
        let scope = InstrumentationScope {
            name: env!("CARGO_PKG_NAME").into(),
            version: env!("CARGO_PKG_VERSION").into(),
            ..InstrumentationScope::default()
        };
        ResourceSpans {
            resource: Some(self.resource()),
            scope_spans: vec![ScopeSpans { scope: Some(scope), spans, schema_url: names::SCHEMA_URL.into() }],
            schema_url: names::SCHEMA_URL.into(),
        }
    }

    fn resource(&self) -> Resource {
        let Self { namespace, host, pid } = self;
        Resource {
            attributes: vec![
                attribute(names::SERVICE_NAME, env!("CARGO_PKG_NAME")),
                attribute(names::SERVICE_NAMESPACE, namespace.as_str()),
                attribute(names::SERVICE_VERSION, env!("CARGO_PKG_VERSION")),
                attribute(names::SERVICE_INSTANCE_ID, format!("{host}:{pid}").as_str()),
                attribute(names::HOST_NAME, host.as_str()),
                attribute(names::PROCESS_PID, i64::from(*pid)),
            ],
            ..Resource::default()
        }
    }
}
