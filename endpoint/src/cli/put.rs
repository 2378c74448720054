//! `put`: a file becomes an object, hashed as it is sent and compared with what the endpoint stored.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt as _, TryStreamExt as _};
use indicatif::ProgressBar;
use proxystore_shared::{Digest, EndpointId, ObjectId, ObjectKey};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::{Body, Method, Response};
use serde::Deserialize;
use serde_json::json;
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;
use tokio_util::io::ReaderStream;

use super::args::Put;
use super::client::{Client, ClientError, READ_TIMEOUT, parse_json};
use super::output::{Failure, Printer};
use super::place::Place;
use super::progress::{Pace, progress_bar};
use super::{connect, standard_stream};
use crate::lock::lock;

/// Bytes read at once: hashing and sending them takes well under a millisecond.
const PIECE_LEN: usize = 256 << 10;

/// The bytes to send.
struct Source {
    stream: BoxStream<'static, io::Result<Bytes>>,
    /// Unknown for a pipe.
    size: Option<u64>,
}

/// What has been sent so far.
#[derive(Default)]
struct Sent {
    bytes: AtomicU64,
    hasher: Mutex<blake3::Hasher>,
    /// Why the source ended early; the HTTP client does not pass it on.
    failure: Mutex<Option<io::Error>>,
}

impl Sent {
    fn piece(&self, piece: &Bytes) {
        lock(&self.hasher).update(piece);
        self.bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
    }

    fn digest(&self) -> Digest {
        Digest(lock(&self.hasher).finalize().into())
    }
}

/// What the endpoint says it stored.
#[derive(Debug, Deserialize)]
struct StoredAnswer {
    /// Not the one that was asked for where the endpoint has no peers.
    endpoint_id: EndpointId,
    digest: Digest,
}

/// Runs `put`.
pub async fn put(options: &Put, printer: Printer) -> Result<(), Failure> {
    let place = Place::existing(&options.name)?;
    let (client, _) = connect(&place)?;
    let source = open(&options.file).await?;
    let object_id = options.key.clone().unwrap_or_else(ObjectId::random);
    let started = Instant::now();
    let bar = progress_bar(printer, source.size, 0);
    let sent = Arc::new(Sent::default());

    let mut request = client.object(Method::PUT, &object_id, options.remote)?;
    request = request.header(CONTENT_TYPE, "application/octet-stream");
    if let Some(size) = source.size {
        request = request.header(CONTENT_LENGTH, size);
    }
    let request = request.body(body(source, sent.clone(), bar.clone()));
    let sending = async { request.send().await.map_err(|error| client.failed(&error)) };
    let outcome = while_it_moves(sending, &sent.bytes).await;
    bar.finish_and_clear();
    let stored = answer(&client, outcome, &sent, &options.file).await?;
    let digest = checked_digest(stored.digest, &sent)?;

    let key = ObjectKey { object_id, endpoint_id: stored.endpoint_id };
    let size = sent.bytes.load(Ordering::Relaxed);
    let pace = Pace::since(started, size);
    if !bar.is_hidden() {
        printer.note(&format!("stored {}", pace.describe(size)));
    }
    let value = json!({
        "key": key.to_string(), "size": size, "digest": digest,
        "seconds": pace.seconds, "bytes_per_second": pace.bytes_per_second,
    });
    printer.result(&value, &key.to_string())
}

async fn open(path: &str) -> Result<Source, Failure> {
    if path == "-" {
        let stdin = standard_stream(io::stdin()).map_err(Failure::io("read standard input"))?;
        return Ok(Source { stream: ReaderStream::with_capacity(stdin, PIECE_LEN).boxed(), size: None });
    }
    let failed = || format!("read {path}");
    let file = File::open(path).await.map_err(Failure::io(failed()))?;
    let metadata = file.metadata().await.map_err(Failure::io(failed()))?;
    if metadata.is_dir() {
        return Err(Failure::new(format!("{path} is a folder"))
            .hint("`tar c FOLDER | endpoint put NAME -` stores it as one object"));
    }
    if !metadata.is_file() {
        return Ok(Source { stream: ReaderStream::with_capacity(file, PIECE_LEN).boxed(), size: None });
    }
    // The size is announced: a file that grows meanwhile is cut there.
    let size = metadata.len();
    Ok(Source { stream: ReaderStream::with_capacity(file.take(size), PIECE_LEN).boxed(), size: Some(size) })
}

fn body(source: Source, sent: Arc<Sent>, bar: ProgressBar) -> Body {
    let at_error = sent.clone();
    Body::wrap_stream(
        source
            .stream
            .inspect_ok(move |piece| {
                sent.piece(piece);
                bar.inc(piece.len() as u64);
            })
            .map_err(move |error| {
                let copy = io::Error::new(error.kind(), error.to_string());
                *lock(&at_error.failure) = Some(error);
                copy
            }),
    )
}

/// Waits for the outcome for as long as bytes move, and then for as long as an answer may take.
async fn while_it_moves<T>(
    sending: impl Future<Output = Result<T, ClientError>>,
    bytes: &AtomicU64,
) -> Result<T, ClientError> {
    let mut sending = pin!(sending);
    let mut before = 0;
    loop {
        tokio::select! {
            outcome = &mut sending => return outcome,
            () = tokio::time::sleep(READ_TIMEOUT) => {
                let now = bytes.load(Ordering::Relaxed);
                if now == before {
                    return Err(ClientError::Silent);
                }
                before = now;
            }
        }
    }
}

async fn answer(
    client: &Client,
    outcome: Result<Response, ClientError>,
    sent: &Sent,
    path: &str,
) -> Result<StoredAnswer, Failure> {
    if let Some(error) = lock(&sent.failure).take() {
        return Err(Failure::io(format!("read {path}"))(error));
    }
    Ok(parse_json(client.accept(outcome?).await?).await?)
}

fn checked_digest(theirs: Digest, sent: &Sent) -> Result<Digest, Failure> {
    let ours = sent.digest();
    if theirs == ours {
        return Ok(ours);
    }
    Err(Failure::new(format!("the endpoint stored something else: BLAKE3 {theirs}, sent {ours}"))
        .hint("the object was damaged on its way: store it again"))
}
