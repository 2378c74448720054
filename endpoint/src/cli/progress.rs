//! How far a transfer is: a bar for people at a terminal, nothing for everybody else.

use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::output::Printer;
use super::size::display_size;

const WITH_SIZE: &str = "{wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}";
const WITHOUT_SIZE: &str = "{spinner} {decimal_bytes} {decimal_bytes_per_sec}";

/// A bar on standard error for `size` bytes, of which `done` are there already.
pub fn progress_bar(printer: Printer, size: Option<u64>, done: u64) -> ProgressBar {
    if printer.is_json() || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match size {
        Some(size) => (ProgressBar::new(size), WITH_SIZE),
        None => (ProgressBar::new_spinner(), WITHOUT_SIZE),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.with_position(done)
}

/// What a transfer took.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Seconds from the request to the last byte.
    pub seconds: f64,
    /// Bytes that travelled, over that.
    pub bytes_per_second: f64,
}

impl Pace {
    /// For `bytes` since `started`.
    pub fn since(started: Instant, bytes: u64) -> Self {
        // A clock that did not advance must not make the rate infinite, which JSON cannot say.
        let seconds = started.elapsed().max(Duration::from_micros(1)).as_secs_f64();
        Self { seconds, bytes_per_second: bytes as f64 / seconds }
    }

    /// As in `12.3 MB in 1.5 s (8.20 MB/s)`.
    pub fn describe(&self, bytes: u64) -> String {
        let rate = display_size(self.bytes_per_second as u64);
        format!("{} in {:.1} s ({rate}/s)", display_size(bytes), self.seconds)
    }
}
