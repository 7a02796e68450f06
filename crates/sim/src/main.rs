//! `sim SEED`, `sim A..B`: runs seeds, a line each; ends with the first that goes wrong. `--trace` prints every line,
//! `--leases` has much of leases.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

use sim::Options;
use std::ops::Range;
use std::process::ExitCode;

const USAGE: &str = "usage: sim [--trace] [--leases] [--members 1|3|5] SEED|FIRST..END";

fn main() -> ExitCode {
    let Some((seeds, options)) = parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    for seed in seeds {
        match sim::run(seed, &options) {
            Ok(report) => println!("seed {seed}: {report}"),
            Err(failure) => {
                for line in &failure.tail {
                    println!("{line}");
                }
                println!("seed {seed}: VIOLATION: {}", failure.violation);
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

fn parse(args: impl Iterator<Item = String>) -> Option<(Range<u64>, Options)> {
    let mut options = Options::default();
    let mut seeds = None;
    let mut args = args;
    while let Some(arg) = args.next() {
        match &arg[..] {
            "--trace" => options.print = Some(|line| println!("{line}")),
            "--leases" => options.leases = true,
            "--members" => {
                options.members = Some(args.next()?.parse().ok().filter(|n| matches!(n, 1 | 3 | 5))?);
            }
            text => seeds = Some(range(text)?),
        }
    }
    Some((seeds?, options))
}

fn range(text: &str) -> Option<Range<u64>> {
    if let Some((first, end)) = text.split_once("..") {
        return Some(first.parse().ok()?..end.parse().ok()?);
    }
    let seed = text.parse().ok()?;
    Some(seed..seed + 1)
}
