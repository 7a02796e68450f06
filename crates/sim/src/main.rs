//! `sim SEED` or `sim A..B` runs seeds, one line each, until the first that fails. `--trace` prints every line,
//! `--load` selects a load of leases, learners or reads, `--broken` breaks a rule of the members.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

use sim::{Drawn, Load, Mutant, Options};
use std::ops::Range;
use std::process::ExitCode;

const USAGE: &str =
    "usage: sim [--trace] [--load leases|learners|reads] [--members 1|3|5|7] [--broken RULE] SEED|FIRST..END";

fn main() -> ExitCode {
    let Some((seeds, options)) = parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let mut drawn = Drawn::new();
    for seed in seeds {
        match sim::run(seed, &options) {
            Ok(report) => {
                println!("seed {seed}: {report}");
                report.drawn.into_iter().for_each(|(what, times)| *drawn.entry(what).or_default() += times);
            }
            Err(failure) => {
                for line in &failure.tail {
                    println!("{line}");
                }
                println!("seed {seed}: VIOLATION: {}", failure.violation);
                return ExitCode::FAILURE;
            }
        }
    }
    println!("drawn: {drawn:?}");
    ExitCode::SUCCESS
}

fn parse(args: impl Iterator<Item = String>) -> Option<(Range<u64>, Options)> {
    let mut options = Options::default();
    let mut seeds = None;
    let mut args = args;
    while let Some(arg) = args.next() {
        match &arg[..] {
            "--trace" => options.print = Some(|line| println!("{line}")),
            "--load" => {
                options.load = match &args.next()?[..] {
                    "leases" => Load::Leases,
                    "learners" => Load::Learners,
                    "reads" => Load::Reads,
                    _ => return None,
                }
            }
            "--broken" => {
                let name = args.next()?;
                let at = Mutant::ALL.iter().position(|mutant| format!("{mutant:?}") == name)?;
                options.mutants = &Mutant::ALL[at..=at];
            }
            "--members" => {
                options.members = Some(args.next()?.parse().ok().filter(|n| matches!(n, 1 | 3 | 5 | 7))?);
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
