//! The process itself, as Prometheus's client libraries report it on Linux.

use super::gauge;
use prometheus::{Gauge, IntGauge, Registry};
use std::fs;

/// `USER_HZ`: the unit of CPU time in `/proc/self/stat`, 100 a second on every Linux that Rust's std runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// `/proc/self/status` gives memory in KiB.
const STATUS_UNIT_BYTES: i64 = 1024;

pub(super) struct Process {
    cpu: Gauge,
    resident: IntGauge,
    virtual_memory: IntGauge,
    open: IntGauge,
    open_max: IntGauge,
    os_open: IntGauge,
    os_open_max: IntGauge,
}

impl Process {
    pub(super) fn new(registry: &Registry) -> Self {
        let cpu = Gauge::new("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.")
            .expect("a constant, valid metric name");
        Self {
            cpu: super::register(registry, cpu),
            resident: gauge(registry, "process_resident_memory_bytes", "Resident memory size in bytes."),
            virtual_memory: gauge(registry, "process_virtual_memory_bytes", "Virtual memory size in bytes."),
            open: gauge(registry, "process_open_fds", "Number of open file descriptors."),
            open_max: gauge(registry, "process_max_fds", "Maximum number of open file descriptors."),
            os_open: gauge(registry, "os_fd_used", "The number of used file descriptors."),
            os_open_max: gauge(registry, "os_fd_limit", "The file descriptor limit."),
        }
    }

    /// Reads `/proc/self`; what cannot be read keeps its last value.
    pub(super) fn refresh(&self) {
        if let Some(seconds) = fs::read_to_string("/proc/self/stat").ok().and_then(|s| cpu_seconds(&s)) {
            self.cpu.set(seconds);
        }
        if let Ok(status) = fs::read_to_string("/proc/self/status") {
            let set = |gauge: &IntGauge, field: &str| {
                if let Some(n) = number_after(&status, field) {
                    gauge.set(n * STATUS_UNIT_BYTES);
                }
            };
            set(&self.resident, "VmRSS:");
            set(&self.virtual_memory, "VmSize:");
        }
        if let Ok(files) = fs::read_dir("/proc/self/fd") {
            let open = i64::try_from(files.count()).unwrap_or(i64::MAX);
            self.open.set(open);
            self.os_open.set(open);
        }
        if let Some(limit) =
            fs::read_to_string("/proc/self/limits").ok().and_then(|s| number_after(&s, "Max open files"))
        {
            self.open_max.set(limit);
            self.os_open_max.set(limit);
        }
    }
}

/// User and system time: fields 14 and 15, counted after the command's closing parenthesis (it may hold spaces).
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

/// The first number behind a field's name.
fn number_after(text: &str, field: &str) -> Option<i64> {
    let (_, rest) = text.split_once(field)?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_proc_are_found() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(number_after("Name: q\nVmRSS:\t  12 kB\n", "VmRSS:"), Some(12));
        assert_eq!(
            number_after("Max open files            1024     4096     files", "Max open files"),
            Some(1024)
        );
        assert_eq!(number_after("nothing", "VmRSS:"), None);
    }
}
