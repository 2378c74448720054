//! What people and programs see: results on standard output, everything else on standard error.

use std::io::{self, Write as _};
use std::process::ExitCode;

use comfy_table::{Table, presets};
use serde::Serialize;
use serde_json::json;

/// Why a command failed, and what its user can do about it.
#[derive(Debug)]
pub struct Failure {
    message: String,
    hint: Option<String>,
}

impl Failure {
    /// A failure without a remedy to offer.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    /// What happened.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Adds the remedy.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// For operations on files: the system's words, after what was tried.
    pub fn io(action: impl std::fmt::Display) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::new(format!("cannot {action}: {error}"))
    }
}

/// Prints results, as text or as JSON.
#[derive(Debug, Clone, Copy)]
pub struct Printer {
    json: bool,
}

impl Printer {
    /// With `json`, everything is one JSON value a line.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether a program reads along.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Prints a result on standard output.
    pub fn result(&self, value: &impl Serialize, text: &str) -> Result<(), Failure> {
        print_line(io::stdout().lock(), &self.rendered(value, text)?)
    }

    /// Prints a result on standard error, where standard output carries an object.
    pub fn result_aside(&self, value: &impl Serialize, text: &str) -> Result<(), Failure> {
        print_line(io::stderr().lock(), &self.rendered(value, text)?)
    }

    fn rendered(&self, value: &impl Serialize, text: &str) -> Result<String, Failure> {
        match self.json {
            true => serde_json::to_string(value).map_err(|error| Failure::new(error.to_string())),
            false => Ok(text.to_owned()),
        }
    }

    /// Tells people what happened besides the result.
    pub fn note(&self, message: &str) {
        if !self.json {
            let _ = writeln!(io::stderr().lock(), "{message}");
        }
    }

    /// Prints what does not stop the command.
    pub fn warn(&self, message: &str) {
        let line = match self.json {
            true => json!({ "warning": message }).to_string(),
            false => format!("warning: {message}"),
        };
        // Without a standard error there is nobody to tell.
        let _ = writeln!(io::stderr().lock(), "{line}");
    }

    /// Prints the failure and gives its exit code.
    pub fn failure(&self, failure: &Failure) -> ExitCode {
        let text = match (self.json, &failure.hint) {
            (true, hint) => json!({ "error": failure.message, "hint": hint }).to_string(),
            (false, None) => format!("error: {}", failure.message),
            (false, Some(hint)) => format!("error: {}\nhint: {hint}", failure.message),
        };
        let _ = writeln!(io::stderr().lock(), "{text}");
        ExitCode::FAILURE
    }
}

/// A reader that has seen enough, as in `endpoint list | head -1`, is no failure.
fn print_line(mut out: impl io::Write, line: &str) -> Result<(), Failure> {
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::io("print the result")(error))
        }
        _ => Ok(()),
    }
}

/// Columns without lines, so that both eyes and `awk` can read them.
pub fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    rows.into_iter().for_each(|row| {
        table.add_row(row);
    });
    table.column_iter_mut().for_each(|column| {
        column.set_padding((0, 2));
    });
    table.trim_fmt()
}
