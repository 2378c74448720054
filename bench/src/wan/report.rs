//! The figures of a run: a table for people, CSV for programs.

use std::fmt::{self, Display, Formatter, Write as _};
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::contestant::Contestant;
use crate::world::Setting;

/// One contestant, one size, one wire.
#[derive(Debug, Clone)]
pub struct Row {
    setting: Setting,
    name: &'static str,
    compared_with: &'static str,
    len: usize,
    /// The median.
    seconds: f64,
    rounds: usize,
}

impl Row {
    /// Of the times of all rounds, at least one.
    pub fn new(setting: Setting, contestant: &dyn Contestant, len: usize, mut times: Vec<Duration>) -> Self {
        times.sort();
        let seconds = times[times.len() / 2].as_secs_f64();
        let (name, compared_with) = (contestant.name(), contestant.compared_with());
        Self { setting, name, compared_with, len, seconds, rounds: times.len() }
    }

    fn megabytes_per_second(&self) -> f64 {
        self.len as f64 / 1e6 / self.seconds
    }

    fn share_of_link(&self) -> f64 {
        self.megabytes_per_second() * 8.0 / self.setting.rate
    }
}

impl Display for Row {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { setting, name, len, seconds, rounds, .. } = self;
        let (speed, share) = (self.megabytes_per_second(), self.share_of_link() * 100.0);
        let ms = seconds * 1e3;
        write!(
            f,
            "{setting}: {name}, {len} bytes: {ms:.1} ms, {speed:.1} MB/s, {share:.0} % ({rounds} rounds)"
        )
    }
}

/// All rows of a run.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Row>,
}

impl Table {
    /// Adds a row.
    pub fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// For people, in Markdown.
    pub fn print(&self) {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::ASCII_MARKDOWN);
        table.set_header(["wire", "bytes", "", "ms", "MB/s", "of the link", "times as fast as"]);
        for row in &self.rows {
            table.add_row([
                row.setting.to_string(),
                row.len.to_string(),
                row.name.to_owned(),
                format!("{:.1}", row.seconds * 1e3),
                format!("{:.1}", row.megabytes_per_second()),
                format!("{:.0} %", row.share_of_link() * 100.0),
                self.speedup(row).unwrap_or_default(),
            ]);
        }
        println!("{table}");
    }

    /// How many times as fast a row is, and as what.
    fn speedup(&self, row: &Row) -> Option<String> {
        let wanted = (row.setting, row.len, row.compared_with);
        let compared = self.rows.iter().find(|other| (other.setting, other.len, other.name) == wanted)?;
        Some(format!("{:.2} {}", compared.seconds / row.seconds, compared.name))
    }

    /// For programs.
    pub fn write_csv(&self, path: &Path) -> Result<()> {
        let mut csv =
            String::from("megabits,round_trip_ms,loss,contestant,bytes,rounds,seconds,link_share\n");
        for row in &self.rows {
            let Setting { rate, round_trip, loss } = row.setting;
            let (name, len, rounds, seconds) = (row.name.replace(',', ""), row.len, row.rounds, row.seconds);
            let share = row.share_of_link();
            writeln!(csv, "{rate},{round_trip},{loss},{name},{len},{rounds},{seconds:.6},{share:.4}")?;
        }
        Ok(fs::write(path, csv)?)
    }
}
