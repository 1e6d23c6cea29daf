//! The names of attributes, in one version of OpenTelemetry's semantic conventions. Those of messaging are not stable yet: a
//! later version may have others.

/// The version, as its schema.
pub(super) const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.37.0";

pub(super) const SERVICE_NAME: &str = "service.name";
pub(super) const SERVICE_NAMESPACE: &str = "service.namespace";
pub(super) const SERVICE_VERSION: &str = "service.version";
pub(super) const SERVICE_INSTANCE_ID: &str = "service.instance.id";
pub(super) const HOST_NAME: &str = "host.name";
pub(super) const PROCESS_PID: &str = "process.pid";

pub(super) const SYSTEM: &str = "messaging.system";
pub(super) const RABBITMQ: &str = "rabbitmq";
pub(super) const OPERATION_NAME: &str = "messaging.operation.name";
pub(super) const OPERATION_TYPE: &str = "messaging.operation.type";
pub(super) const PROCESS: &str = "process";
pub(super) const SEND: &str = "send";
pub(super) const DESTINATION: &str = "messaging.destination.name";
pub(super) const ROUTING_KEY: &str = "messaging.rabbitmq.destination.routing_key";
pub(super) const MESSAGE_ID: &str = "messaging.message.id";
pub(super) const CONVERSATION_ID: &str = "messaging.message.conversation_id";
pub(super) const BODY_SIZE: &str = "messaging.message.body.size";
pub(super) const MESSAGE_COUNT: &str = "messaging.batch.message_count";
pub(super) const SERVER_ADDRESS: &str = "server.address";

pub(super) const REQUEST_METHOD: &str = "http.request.method";
pub(super) const ROUTE: &str = "http.route";
pub(super) const STATUS_CODE: &str = "http.response.status_code";

pub(super) const ERROR_TYPE: &str = "error.type";

// No convention has names for these.
pub(super) const OUTCOME: &str = "allocation.outcome";
pub(super) const SOURCE: &str = "allocation.source";
pub(super) const ATTEMPTS: &str = "allocation.attempts";
pub(super) const GENERATION: &str = "allocation.generation";
pub(super) const REDELIVERED: &str = "allocation.redelivered";
pub(super) const ERROR_GROUP: &str = "allocation.group";
pub(super) const FAILED_MESSAGE_ID: &str = "allocation.failed_message_id";
pub(super) const SEQUENCE: &str = "allocation.sequence";
pub(super) const DELAY: &str = "allocation.delay_seconds";
