//! What every suite takes whose figures stand beside Python's.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::figures::Figures;

/// Whom to measure besides, and where to write what came out.
#[derive(Debug, Args)]
pub struct Options {
    /// A Python with ProxyStore 1.1 installed; without it there are no figures of Python.
    #[arg(long)]
    pub python: Option<PathBuf>,
    /// Where to write the table as CSV too.
    #[arg(long)]
    pub csv: Option<PathBuf>,
}

impl Options {
    /// Shows the figures, and writes them where they are wanted.
    pub fn publish(&self, figures: &Figures) -> Result<()> {
        figures.print();
        match &self.csv {
            Some(path) => figures.write_csv(path),
            None => Ok(()),
        }
    }
}
