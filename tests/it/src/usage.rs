//! What a process has used, from `/proc` (Linux).

use std::{fs, io, time::Duration};

/// A reading of one process, or the sum over several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// User and system time of all its threads, ended ones included.
    pub cpu: Duration,
    /// Peak resident memory since the last [`forget_peak`], or since it started.
    pub peak_bytes: u64,
    /// Resident memory at present, in bytes.
    pub resident_bytes: u64,
    /// Bytes it caused to be written to storage.
    pub written_bytes: u64,
}

impl Usage {
    /// Reads the usage of one process from `/proc`.
    pub fn of(pid: u32) -> io::Result<Self> {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}"));
        let status = read("status")?;
        Ok(Self {
            cpu: cpu(&read("stat")?)?,
            peak_bytes: 1024 * field(&status, "VmHWM:")?,
            resident_bytes: 1024 * field(&status, "VmRSS:")?,
            written_bytes: field(&read("io")?, "write_bytes:")?,
        })
    }

    /// The sum over several processes; peaks are summed too, as members do not peak for each other.
    pub fn of_all(pids: &[u32]) -> io::Result<Self> {
        pids.iter().try_fold(Self::default(), |sum, pid| {
            let one = Self::of(*pid)?;
            Ok(Self {
                cpu: sum.cpu + one.cpu,
                peak_bytes: sum.peak_bytes + one.peak_bytes,
                resident_bytes: sum.resident_bytes + one.resident_bytes,
                written_bytes: sum.written_bytes + one.written_bytes,
            })
        })
    }
}

/// Lets the peak of resident memory begin anew (`clear_refs` 5, proc(5)).
pub fn forget_peak(pid: u32) -> io::Result<()> {
    fs::write(format!("/proc/{pid}/clear_refs"), "5")
}

/// Fields 14 and 15 of `/proc/PID/stat`; the second field is a name in brackets that may hold anything.
fn cpu(stat: &str) -> io::Result<Duration> {
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut fields = after_name.split_whitespace().skip(11).map(str::parse::<u64>);
    match (fields.next(), fields.next()) {
        (Some(Ok(user)), Some(Ok(system))) => {
            let ticks_per_second = rustix::param::clock_ticks_per_second();
            Ok(Duration::from_micros((user + system) * 1_000_000 / ticks_per_second))
        }
        _ => Err(io::Error::other("no CPU times in /proc/PID/stat")),
    }
}

fn field(text: &str, name: &str) -> io::Result<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| io::Error::other(format!("no {name} in /proc")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_this_very_process() {
        let usage = Usage::of(std::process::id()).expect("our own /proc");
        assert!(usage.peak_bytes >= usage.resident_bytes && usage.resident_bytes > 100_000, "{usage:?}");
    }

    #[test]
    fn a_name_with_brackets_and_spaces_does_not_shift_the_fields() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 1 0 1 1 1";
        assert_eq!(cpu(stat).expect("times"), Duration::from_secs(2));
    }
}
