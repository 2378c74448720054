//! The figures of a run, ours beside those of the others: a table for people, CSV for programs.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Result;

/// The contestant that the others are compared with.
pub const OURS: &str = "ours";

/// What is counted, and what is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Milliseconds of an operation.
    Milliseconds,
    /// Microseconds of an operation.
    Microseconds,
    /// Thousands of bytes.
    Kilobytes,
    /// Operations a second.
    PerSecond,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::Microseconds => "µs",
            Self::Kilobytes => "KB",
            Self::PerSecond => "/s",
        }
    }

    /// How many times as good as `theirs` ours is.
    fn times(self, ours: f64, theirs: f64) -> f64 {
        if self == Self::PerSecond { ours / theirs } else { theirs / ours }
    }
}

/// A bar that the project has set itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bar {
    /// Ours is at least this many times as good.
    Times(f64),
    /// The figure itself is at most this.
    AtMost(f64),
    /// The figure itself is at least this.
    AtLeast(f64),
}

/// One thing, measured on one contestant.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// What was done; without commas.
    pub what: String,
    /// Bytes of an object or message.
    pub bytes: usize,
    /// Connections at once.
    pub connections: usize,
    /// Who.
    pub contestant: String,
    /// The median of the rounds.
    pub value: f64,
    /// Of `value`.
    pub unit: Unit,
    /// Share of the time for which the measuring client kept a processor busy, if that was looked at.
    pub client: Option<f64>,
    /// What it has to reach.
    pub bar: Option<Bar>,
}

impl Figure {
    fn same_as(&self, other: &Self) -> bool {
        (&self.what, self.bytes, self.connections) == (&other.what, other.bytes, other.connections)
    }

    fn is_met(&self, times: Option<f64>) -> Option<bool> {
        Some(match self.bar? {
            Bar::Times(bar) => times? >= bar,
            Bar::AtMost(bar) => self.value <= bar,
            Bar::AtLeast(bar) => self.value >= bar,
        })
    }
}

/// All figures of a run.
#[derive(Debug, Default)]
pub struct Figures(Vec<Figure>);

impl Figures {
    /// Adds one, and shows it to whoever waits.
    pub fn add(&mut self, figure: Figure) {
        let Figure { what, bytes, connections, contestant, value, unit, .. } = &figure;
        let unit = unit.name();
        eprintln!("{what}, {bytes} bytes, {connections} connections: {contestant} {value:.4} {unit}");
        self.0.push(figure);
    }

    fn times(&self, figure: &Figure) -> Option<f64> {
        let ours = self.0.iter().find(|other| other.same_as(figure) && other.contestant == OURS)?;
        (figure.contestant != OURS).then(|| figure.unit.times(ours.value, figure.value))
    }

    /// For people, in Markdown.
    pub fn print(&self) {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::ASCII_MARKDOWN);
        table.set_header(["what", "bytes", "connections", "", "", "ours is × as good", "bar", "client busy"]);
        for figure in &self.0 {
            let times = self.times(figure);
            table.add_row([
                figure.what.clone(),
                figure.bytes.to_string(),
                figure.connections.to_string(),
                figure.contestant.clone(),
                format!("{} {}", readable(figure.value), figure.unit.name()),
                times.map_or_else(String::new, readable),
                bar(figure, times),
                figure.client.map_or_else(String::new, |share| format!("{:.0} %", share * 100.0)),
            ]);
        }
        println!("{table}");
    }

    /// For programs.
    pub fn write_csv(&self, path: &Path) -> Result<()> {
        let mut csv = String::from("what,bytes,connections,contestant,value,unit,times,bar,client_busy\n");
        for figure in &self.0 {
            let Figure { what, bytes, connections, contestant, value, unit, client, .. } = figure;
            let times = self.times(figure);
            let (unit, bar) = (unit.name(), bar(figure, times));
            let times = times.map_or_else(String::new, |times| format!("{times:.3}"));
            let client = client.map_or_else(String::new, |share| format!("{share:.2}"));
            writeln!(
                csv,
                "{what},{bytes},{connections},{contestant},{value:.4},{unit},{times},{bar},{client}"
            )?;
        }
        Ok(fs::write(path, csv)?)
    }
}

fn bar(figure: &Figure, times: Option<f64>) -> String {
    let text = match figure.bar {
        None => return String::new(),
        Some(Bar::Times(bar)) => format!("at least {} ×", readable(bar)),
        Some(Bar::AtMost(bar)) => format!("at most {bar}"),
        Some(Bar::AtLeast(bar)) => format!("at least {bar}"),
    };
    let outcome = match figure.is_met(times) {
        Some(true) => "met",
        Some(false) => "missed",
        None => "not measured",
    };
    format!("{text}: {outcome}")
}

/// Three or four significant digits.
fn readable(value: f64) -> String {
    match value {
        value if value >= 1000.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.3}"),
    }
}

/// The middle one, or the higher of the two.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(contestant: &str, value: f64, unit: Unit, bar: Option<Bar>) -> Figure {
        let (what, contestant) = ("get".to_owned(), contestant.to_owned());
        Figure { what, bytes: 1, connections: 1, contestant, value, unit, client: None, bar }
    }

    #[test]
    fn better_is_more_or_less() {
        for (unit, times) in [(Unit::Milliseconds, 3.0), (Unit::PerSecond, 1.0 / 3.0)] {
            let mut figures = Figures::default();
            figures.add(figure(OURS, 1.0, unit, None));
            let other = figure("other", 3.0, unit, Some(Bar::Times(2.0)));
            figures.add(other.clone());
            assert_eq!(figures.times(&other), Some(times));
            assert_eq!(other.is_met(Some(times)), Some(unit == Unit::Milliseconds));
        }
    }

    #[test]
    fn bars_may_be_absolute() {
        assert_eq!(figure(OURS, 8.0, Unit::Kilobytes, Some(Bar::AtMost(8.0))).is_met(None), Some(true));
        assert_eq!(figure(OURS, 8.0, Unit::PerSecond, Some(Bar::AtLeast(9.0))).is_met(None), Some(false));
        assert_eq!(figure("other", 8.0, Unit::PerSecond, Some(Bar::Times(9.0))).is_met(None), None);
    }
}
