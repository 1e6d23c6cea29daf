//! Addresses of servers: the one place that takes a URL apart, and the only form in which one is printed.

mod form;
mod parse;
mod url;

pub use form::{AMQP, HTTP, POSTGRES, SMTP, UrlForm};
pub use parse::InvalidUrl;
pub use url::{Host, ServerUrl, printable};
