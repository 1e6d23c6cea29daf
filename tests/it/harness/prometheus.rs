//! Tests that need Prometheus.

use super::certificates::skip;

use crate::prometheus;

/// Whether Prometheus is installed. Without it a test is skipped, but it fails in CI.
pub(crate) fn has_prometheus() -> bool {
    let installed = prometheus::is_installed();
    if !installed {
        let why = "Prometheus is not installed; run: apt-get install --no-install-recommends prometheus";
        assert_ne!(std::env::var("NEXTEST_PROFILE").as_deref(), Ok("ci"), "{why}");
        skip(why);
    }
    installed
}
