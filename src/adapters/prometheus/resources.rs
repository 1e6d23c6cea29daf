//! What the process uses, as Linux counts it.

use std::{
    fs,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use prometheus_client::metrics::gauge::Gauge;

use super::catalog::{Catalog, Seconds, SecondsGauge, Series};

/// Linux reports times in this unit on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

pub(super) struct ResourceMetrics {
    cpu: Series<Seconds, 0>,
    memory: Series<Gauge, 0>,
    /// The CPU time that is counted already.
    counted: Mutex<f64>,
}

impl ResourceMetrics {
    #[expect(clippy::disallowed_methods, reason = "it is the start of this process, and no retry needs it")]
    pub(super) fn new(catalog: &mut Catalog) -> Self {
        let start: Series<SecondsGauge, 0> = catalog.seconds_gauge(
            "process_start_time_seconds",
            [],
            "When this process was started, in seconds since 1970",
        );
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        start.of([]).set(now.as_secs_f64());
        Self {
            cpu: catalog.seconds("process_cpu_seconds", [], "CPU time that this process has used"),
            memory: catalog.gauge(
                "process_resident_memory_bytes",
                [],
                "Memory that this process has at present",
            ),
            counted: Mutex::default(),
        }
    }

    /// Reads what the process uses at present. Elsewhere than on Linux nothing is known.
    pub(super) fn update(&self) {
        if let Some(seconds) = cpu_seconds() {
            let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
            self.cpu.of([]).inc_by((seconds - *counted).max(0.0));
            *counted = counted.max(seconds);
        }
        if let Some(bytes) = resident_bytes() {
            self.memory.of([]).set(bytes);
        }
    }
}

/// User and system time: the fields 14 and 15. The name of the program may contain anything, and ends with the last bracket.
fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let used = ticks()? + ticks()?;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52 ticks")]
    Some(used as f64 / TICKS_PER_SECOND)
}

fn resident_bytes() -> Option<i64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    resident.trim().strip_suffix(" kB")?.parse::<i64>().ok().map(|kibibytes| kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_time_and_memory() {
        let begin = cpu_seconds().expect("Linux");
        let mut number = 0_u64;
        while cpu_seconds().unwrap() <= begin {
            number = std::hint::black_box(number + 1);
        }
        assert!(resident_bytes().unwrap() > 1 << 20);
    }
}
