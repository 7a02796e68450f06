//! The process, as Prometheus's client libraries report it on Linux.

use super::{counter, gauge, register};
use prometheus::{Counter, Gauge, IntCounter, IntGauge, Registry};
use std::fs;

/// `USER_HZ`, the unit of CPU time in `/proc/self/stat`: 100 a second on every Linux that Rust supports.
const TICKS_PER_SECOND: f64 = 100.0;

/// `/proc/self/status` gives memory in KiB.
const STATUS_UNIT_BYTES: i64 = 1024;

pub(super) struct Process {
    cpu: Counter,
    resident: IntGauge,
    virtual_memory: IntGauge,
    virtual_memory_max: Gauge,
    network_received: IntCounter,
    network_sent: IntCounter,
    open: IntGauge,
    open_max: IntGauge,
    os_open: IntGauge,
    os_open_max: IntGauge,
}

impl Process {
    pub(super) fn new(registry: &Registry) -> Self {
        let cpu =
            Counter::new("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.")
                .expect("a constant, valid metric name");
        let real =
            |name, help| register(registry, Gauge::new(name, help).expect("a constant, valid metric name"));
        let start = "Start time of the process since unix epoch in seconds.";
        real("process_start_time_seconds", start).set(start_seconds().unwrap_or_default());
        Self {
            cpu: register(registry, cpu),
            resident: gauge(registry, "process_resident_memory_bytes", "Resident memory size in bytes."),
            virtual_memory_max: real(
                "process_virtual_memory_max_bytes",
                "Maximum amount of virtual memory available in bytes.",
            ),
            network_received: counter(
                registry,
                "process_network_receive_bytes_total",
                "Number of bytes received by the process over the network.",
            ),
            network_sent: counter(
                registry,
                "process_network_transmit_bytes_total",
                "Number of bytes sent by the process over the network.",
            ),
            virtual_memory: gauge(registry, "process_virtual_memory_bytes", "Virtual memory size in bytes."),
            open: gauge(registry, "process_open_fds", "Number of open file descriptors."),
            open_max: gauge(registry, "process_max_fds", "Maximum number of open file descriptors."),
            os_open: gauge(registry, "os_fd_used", "The number of used file descriptors."),
            os_open_max: gauge(registry, "os_fd_limit", "The file descriptor limit."),
        }
    }

    pub(super) fn files_max(&self) -> i64 {
        self.refresh();
        self.open_max.get()
    }

    /// Reads `/proc/self`. A value that cannot be read stays as it was.
    pub(super) fn refresh(&self) {
        if let Some(seconds) = fs::read_to_string("/proc/self/stat").ok().and_then(|s| cpu_seconds(&s)) {
            self.cpu.inc_by((seconds - self.cpu.get()).max(0.0));
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
        if let Ok(limits) = fs::read_to_string("/proc/self/limits") {
            if let Some(limit) = number_after(&limits, "Max open files") {
                self.open_max.set(limit);
                self.os_open_max.set(limit);
            }
            // `unlimited` is not a number.
            let limit = number_after(&limits, "Max address space").map_or(u64::MAX, i64::cast_unsigned);
            #[allow(clippy::cast_precision_loss, reason = "etcd shows it as a float too")]
            self.virtual_memory_max.set(limit as f64);
        }
        if let Ok(stats) = fs::read_to_string("/proc/self/net/netstat") {
            let raise = |counter: &IntCounter, field| {
                let total = field_of(&stats, "IpExt:", field).unwrap_or_default();
                super::raise(counter, total);
            };
            raise(&self.network_received, "InOctets");
            raise(&self.network_sent, "OutOctets");
        }
    }
}

/// User and system time: fields 14 and 15, after the closing parenthesis of the command, which may contain spaces.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

/// The process's start in Unix time: field 22 counts ticks since boot.
fn start_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let ticks: f64 = rest.split_ascii_whitespace().nth(19)?.parse().ok()?;
    let machine: f64 =
        number_after(&fs::read_to_string("/proc/stat").ok()?, "btime")?.to_string().parse().ok()?;
    Some(machine + ticks / TICKS_PER_SECOND)
}

/// A field of a kernel network table: a line of names and a line of values, each prefixed with the table's name.
fn field_of(text: &str, table: &str, field: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(table));
    let (names, values) = (lines.next()?, lines.next()?);
    let mut pairs = names.split_ascii_whitespace().zip(values.split_ascii_whitespace());
    pairs.find(|(name, _)| *name == field)?.1.parse().ok()
}

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
        let table = "TcpExt: InOctets\nTcpExt: 1\nIpExt: A InOctets\nIpExt: 2 3\n";
        assert_eq!(field_of(table, "IpExt:", "InOctets"), Some(3));
        assert_eq!(field_of(table, "IpExt:", "OutOctets"), None);
    }
}
