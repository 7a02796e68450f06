//! The display: lines that stay, and on a terminal a moving part of four lines below them.
//!
//! If standard output is not a terminal, it prints plain lines only, one per second.

use std::{
    collections::VecDeque,
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use harness::Figures;

/// Columns of the chart of writes over time, each [`COLUMN_MS`] long: it shows the last 15 s.
const COLUMNS: usize = 60;
const COLUMN_MS: u64 = 250;

/// How often a plain line is printed.
const PLAIN: Duration = Duration::from_secs(1);

/// A pause in writes that is longer than this is shown in red.
const GAP_MIN: Duration = Duration::from_millis(200);

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const RESET: &str = "\x1b[0m";

/// The colour and sign of a line that stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Plain,
    Good,
    Bad,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Up,
    Killed,
}

pub(crate) struct Screen {
    terminal: bool,
    begun: Instant,
    members: Vec<(String, Role)>,
    leader: Option<usize>,
    /// Lines of the moving part that are on the screen.
    drawn: usize,
    /// Acknowledged writes in each column, the oldest first.
    columns: VecDeque<u64>,
    column_begun: Instant,
    column_acked: u64,
    last_plain: Option<Instant>,
}

impl Screen {
    pub(crate) fn new() -> Self {
        let begun = Instant::now();
        Self {
            terminal: io::stdout().is_terminal(),
            begun,
            members: Vec::new(),
            leader: None,
            drawn: 0,
            columns: VecDeque::new(),
            column_begun: begun,
            column_acked: 0,
            last_plain: None,
        }
    }

    pub(crate) fn members(&mut self, names: Vec<String>) {
        self.members = names.into_iter().map(|name| (name, Role::Up)).collect();
    }

    pub(crate) fn role(&mut self, member: usize, role: Role) {
        self.members[member].1 = role;
    }

    pub(crate) fn leader(&mut self, leader: Option<usize>) {
        self.leader = leader;
    }

    pub(crate) fn say(&mut self, mood: Mood, text: &str) {
        self.erase();
        let time = self.begun.elapsed().as_secs_f64();
        let (colour, sign) = match mood {
            Mood::Plain => ("", "·"),
            Mood::Good => ("\x1b[32m", "✔"),
            Mood::Bad => ("\x1b[1;31m", "✘"),
        };
        if self.terminal {
            println!("{time:5.1} s  {colour}{sign} {text}{RESET}");
        } else {
            println!("{time:5.1} s  {sign} {text}");
        }
    }

    /// Draws the moving part, or prints a plain line if it is time.
    pub(crate) fn draw(&mut self, figures: &Figures) {
        self.count(figures.acked);
        let lines = self.lines(figures);
        if self.terminal {
            self.erase();
            for line in &lines {
                println!("{line}\x1b[K");
            }
            self.drawn = lines.len();
        } else if self.last_plain.is_none_or(|last| last.elapsed() >= PLAIN) {
            self.last_plain = Some(Instant::now());
            println!("{:5.1} s    {}", self.begun.elapsed().as_secs_f64(), lines[1..3].join("; "));
        }
        // A terminal that is gone must not stop the demo.
        let _ = io::stdout().flush();
    }

    /// Ends the moving part; later lines follow it.
    pub(crate) fn finish(&mut self) {
        self.drawn = 0;
    }

    fn erase(&mut self) {
        if self.drawn > 0 {
            print!("\x1b[{}A\x1b[J", self.drawn);
            self.drawn = 0;
        }
    }

    /// Adds the writes acknowledged since the last column to the chart.
    fn count(&mut self, acked: u64) {
        // After a delay there are several columns: the writes are spread over them.
        let passed = self.column_begun.elapsed().as_millis() / u128::from(COLUMN_MS);
        let passed = u64::try_from(passed).unwrap_or(u64::MAX);
        if passed == 0 {
            return;
        }
        if self.columns.is_empty() && self.column_acked == 0 {
            // The first call: these writes are not of one column.
            self.columns.push_back(0);
        } else {
            let each = (acked - self.column_acked) / passed;
            (0..passed.min(COLUMNS as u64)).for_each(|_| self.columns.push_back(each));
        }
        self.column_acked = acked;
        self.column_begun = Instant::now();
        while self.columns.len() > COLUMNS {
            self.columns.pop_front();
        }
    }

    fn lines(&self, figures: &Figures) -> Vec<String> {
        vec![String::new(), self.roles(), self.figures(figures), self.strip()]
    }

    fn roles(&self) -> String {
        let mut line = "members".to_owned();
        for (member, (name, role)) in self.members.iter().enumerate() {
            let (colour, word) = match role {
                Role::Killed => ("\x1b[1;31m", "killed"),
                Role::Up if self.leader == Some(member) => ("\x1b[1;32m", "LEADER"),
                Role::Up => ("", "follows"),
            };
            let (colour, reset) = if self.terminal { (colour, RESET) } else { ("", "") };
            // Writing to a String cannot fail.
            let _ = write!(line, "   {name} {colour}{word}{reset}");
        }
        line
    }

    fn figures(&self, figures: &Figures) -> String {
        let rate = match self.columns.len() {
            0 => 0,
            filled => {
                let recent = filled.min(4);
                let sum: u64 = self.columns.iter().rev().take(recent).sum();
                sum * 1_000 / (recent as u64 * COLUMN_MS)
            }
        };
        let mut line = format!(
            "writes    {}/s   {} acknowledged   revision {}",
            grouped(rate),
            grouped(figures.acked),
            grouped(figures.revision.unsigned_abs())
        );
        let gap = figures.last_ack.elapsed();
        if gap > GAP_MIN {
            let (colour, reset) = if self.terminal { ("\x1b[1;31m", RESET) } else { ("", "") };
            let _ = write!(line, "   {colour}none for {:.1} s{reset}", gap.as_secs_f64());
        }
        line
    }

    /// The chart of writes over time, the newest at the right. A red dot is a column without writes.
    fn strip(&self) -> String {
        let top = self.columns.iter().copied().max().unwrap_or(0).max(1);
        let mut line = "          ".to_owned();
        for count in &self.columns {
            if *count == 0 {
                line.push_str("\x1b[31m·\x1b[0m");
            } else {
                let height = usize::try_from(count * 7 / top).expect("at most 7");
                line.push(BARS[height]);
            }
        }
        line
    }
}

/// Groups digits: 1234567 is shown as 1,234,567.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn thousands_are_set_apart() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }
}
