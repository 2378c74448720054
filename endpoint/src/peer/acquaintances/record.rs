//! Acquaintances on disk, for an endpoint that is started again while its relay is out of reach.
//!
//! The file is the endpoint's own, and no secret: without it, or with a damaged one, the relay introduces everybody anew.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use proxystore_shared::description::{Candidate, CandidateKind};
use proxystore_shared::{EndpointId, PublicKey};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::warn;

use super::Remembered;
use crate::atomic_file;
use crate::peer::context::Context;
use crate::peer::negotiation::Counterpart;

/// From an introduction to its record: who is met at once is written at once.
const PAUSE: Duration = Duration::from_secs(2);

/// Without introductions: a peer is remembered for a day from the last record on, so that must not be old.
const REFRESH: Duration = Duration::from_secs(60 * 60);

/// One peer.
#[derive(Serialize, Deserialize)]
struct Entry {
    key: PublicKey,
    /// When it is to be forgotten, in seconds since 1970.
    until: u64,
    /// Its own addresses.
    #[serde(default)]
    hosts: Vec<SocketAddr>,
    /// Those of its NATs.
    #[serde(default)]
    reflexive: Vec<SocketAddr>,
}

impl Entry {
    fn new(known: &Remembered, now: SystemTime) -> Self {
        let of_kind = |kind| {
            let candidates = known.counterpart.candidates.iter().filter(move |it| it.kind == kind);
            candidates.map(|candidate| candidate.address).collect()
        };
        Self {
            key: known.counterpart.key,
            until: seconds(now + known.left),
            hosts: of_kind(CandidateKind::Host),
            reflexive: of_kind(CandidateKind::Reflexive),
        }
    }

    /// None if it is to be forgotten.
    fn remembered(self, peer: EndpointId, now: SystemTime) -> Option<Remembered> {
        let left = Duration::from_secs(self.until.checked_sub(seconds(now)).filter(|left| *left > 0)?);
        let of_kind = |kind| move |address| Candidate { address, kind };
        let hosts = self.hosts.into_iter().map(of_kind(CandidateKind::Host));
        let candidates = hosts.chain(self.reflexive.into_iter().map(of_kind(CandidateKind::Reflexive)));
        let counterpart = Counterpart { key: self.key, candidates: candidates.collect() };
        Some(Remembered { peer, counterpart, left })
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Who was known when `file` was written, and is to be known still.
pub fn read(file: &Path, now: SystemTime) -> Vec<Remembered> {
    match std::fs::read_to_string(file) {
        Ok(text) => parse(&text, now).unwrap_or_else(|error| {
            warn!(file = %file.display(), %error, "the record of whom the relay has introduced is unreadable");
            Vec::new()
        }),
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                warn!(file = %file.display(), %error, "the record of whom the relay has introduced is not read");
            }
            Vec::new()
        }
    }
}

fn parse(text: &str, now: SystemTime) -> Result<Vec<Remembered>, toml::de::Error> {
    let entries: BTreeMap<EndpointId, Entry> = toml::from_str(text)?;
    Ok(entries.into_iter().filter_map(|(peer, entry)| entry.remembered(peer, now)).collect())
}

fn format(known: &[Remembered], now: SystemTime) -> Result<String, toml::ser::Error> {
    let entries = known.iter().map(|known| (known.peer, Entry::new(known, now)));
    toml::to_string(&entries.collect::<BTreeMap<_, _>>())
}

/// Keeps `file` up to date until the endpoint stops.
pub async fn keep(context: Arc<Context>, file: PathBuf) {
    let settled = async || {
        tokio::select! {
            () = context.acquaintances.changed() => sleep(PAUSE).await,
            () = sleep(REFRESH) => {}
        }
    };
    while context.stop.run_until_cancelled(settled()).await.is_some() {
        write(&context, &file).await;
    }
    write(&context, &file).await;
}

async fn write(context: &Context, file: &Path) {
    let known = context.acquaintances.remembered(Instant::now());
    if known.is_empty() {
        return;
    }
    let path = file.to_owned();
    let writing = spawn_blocking(move || {
        let text = format(&known, SystemTime::now()).map_err(io::Error::other)?;
        atomic_file::replace(&path, &text)
    });
    if let Err(error) = writing.await.map_err(io::Error::other).flatten() {
        warn!(file = %file.display(), %error, "whom the relay has introduced is not recorded");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "12345678-1234-4234-9234-123456789abc";
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn known() -> Remembered {
        let candidate = |address: &str, kind| Candidate { address: address.parse().unwrap(), kind };
        let candidates = vec![
            candidate("[2001:db8::1]:41000", CandidateKind::Host),
            candidate("192.0.2.7:5000", CandidateKind::Reflexive),
        ];
        let counterpart = Counterpart { key: PublicKey([7; 32]), candidates };
        Remembered { peer: ID.parse().unwrap(), counterpart, left: DAY }
    }

    #[test]
    fn who_is_recorded_is_known_again_until_its_time_is_over() {
        let written = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let text = format(&[known()], written).unwrap();
        assert_eq!(parse(&text, written).unwrap(), [known()]);
        let later = parse(&text, written + DAY / 2).unwrap();
        assert_eq!(later, [Remembered { left: DAY / 2, ..known() }]);
        assert_eq!(parse(&text, written + DAY).unwrap(), []);
    }

    #[test]
    fn without_a_readable_record_nobody_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("acquaintances.toml");
        assert_eq!(read(&file, SystemTime::now()), []);
        for damaged in ["nonsense", &format!("[{ID}]\nkey = \"12\"\nuntil = 1\n"), "\u{0}"] {
            std::fs::write(&file, damaged).unwrap();
            assert_eq!(read(&file, SystemTime::now()), [], "{damaged}");
        }
    }
}
