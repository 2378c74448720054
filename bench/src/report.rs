//! The figures of a run: a table for people, CSV for programs.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::python::PythonTime;

/// What was measured: medians of paired rounds.
#[derive(Debug, Clone, Default)]
pub struct Row {
    place: String,
    operation: String,
    len: usize,
    ours: Duration,
    bare: Duration,
    /// Median of the rounds' own ratios, ours to bare.
    ratio: f64,
    python: Option<f64>,
}

impl Row {
    /// Of rounds that took turns.
    pub fn of(ours: Vec<Duration>, bare: Vec<Duration>) -> Self {
        let ratios = ours.iter().zip(&bare).map(|(ours, bare)| ours.as_secs_f64() / bare.as_secs_f64());
        let ratio = median(ratios.collect());
        let seconds = |times: Vec<Duration>| median(times.iter().map(Duration::as_secs_f64).collect());
        let (ours, bare) = (Duration::from_secs_f64(seconds(ours)), Duration::from_secs_f64(seconds(bare)));
        Self { ours, bare, ratio, ..Self::default() }
    }

    /// What it was that was measured.
    pub fn named(self, place: &str, operation: &str, len: usize) -> Self {
        Self { place: place.to_owned(), operation: operation.to_owned(), len, ..self }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// All rows of a run.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Row>,
}

impl Table {
    /// Empty.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a row, beside Python's figure for the same.
    pub fn add(&mut self, row: Row, python: &[PythonTime]) {
        let same = |time: &&PythonTime| {
            time.place == row.place && time.operation == row.operation && time.len == row.len
        };
        let python = python.iter().find(same).map(|time| time.seconds);
        self.rows.push(Row { python, ..row });
    }

    /// For people.
    pub fn print(&self) {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::ASCII_MARKDOWN);
        table.set_header([
            "store",
            "operation",
            "bytes",
            "Rust store",
            "compared with",
            "ratio",
            "Python",
            "Python / Rust",
        ]);
        for row in &self.rows {
            let times_python = row.python.map(|python| python / row.ours.as_secs_f64());
            table.add_row([
                row.place.clone(),
                row.operation.clone(),
                row.len.to_string(),
                format!("{:.1?}", row.ours),
                format!("{:.1?}", row.bare),
                format!("{:.2}", row.ratio),
                row.python.map_or_else(String::new, |s| format!("{:.1?}", Duration::from_secs_f64(s))),
                times_python.map_or_else(String::new, |times| format!("{times:.1}")),
            ]);
        }
        println!("{table}");
    }

    /// For programs: seconds.
    pub fn write_csv(&self, path: &Path) -> Result<()> {
        let mut csv =
            String::from("store,operation,bytes,rust_seconds,compared_seconds,ratio,python_seconds\n");
        for row in &self.rows {
            let operation = row.operation.replace(',', "");
            let (ours, bare) = (row.ours.as_secs_f64(), row.bare.as_secs_f64());
            let python = row.python.map_or_else(String::new, |seconds| format!("{seconds:.9}"));
            let (place, len, ratio) = (&row.place, row.len, row.ratio);
            writeln!(csv, "{place},{operation},{len},{ours:.9},{bare:.9},{ratio:.3},{python}")?;
        }
        Ok(fs::write(path, csv)?)
    }
}
