//! `put`: a file becomes an object. An endpoint on the same host reads it by itself; else it is hashed as it is sent, and
//! that compared with what the endpoint stored.

use std::fs::File;
use std::future::Future;
use std::io::{self, Seek as _};
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt as _, TryStreamExt as _};
use indicatif::ProgressBar;
use proxystore_shared::{Digest, EndpointId, ObjectId, ObjectKey};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::{Body, Method, RequestBuilder, Response};
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::UnixStream;
use tokio_util::io::ReaderStream;

use super::args::Put;
use super::client::{Client, ClientError, READ_TIMEOUT, parse_json};
use super::delivery;
use super::output::{Failure, Printer};
use super::place::Place;
use super::progress::{Pace, progress_bar};
use super::{connect, standard_stream};
use crate::lock::lock;

/// Between two looks how far it is: as often as eyes can follow.
const LOOK: Duration = Duration::from_millis(50);

/// Bytes read at once: hashing and sending them takes well under a millisecond.
const PIECE_LEN: usize = 256 << 10;

/// Where the bytes are.
enum Source {
    /// With so many of them.
    File(File, u64),
    /// Until it ends.
    Pipe(tokio::fs::File),
}

impl Source {
    fn size(&self) -> Option<u64> {
        match self {
            Self::File(_, size) => Some(*size),
            Self::Pipe(_) => None,
        }
    }

    fn into_stream(self) -> BoxStream<'static, io::Result<Bytes>> {
        match self {
            Self::File(file, size) => pieces(tokio::fs::File::from_std(file).take(size)),
            Self::Pipe(pipe) => pieces(pipe),
        }
    }
}

fn pieces(reader: impl AsyncRead + Send + 'static) -> BoxStream<'static, io::Result<Bytes>> {
    ReaderStream::with_capacity(reader, PIECE_LEN).boxed()
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

/// An object that was stored, in the endpoint's words.
#[derive(Debug, Deserialize)]
struct Stored {
    /// Not the one that was asked for where the endpoint has no peers.
    endpoint_id: EndpointId,
    size: u64,
    digest: Digest,
}

/// An object that is to be stored.
struct Offered<'a> {
    client: Client,
    object_id: ObjectId,
    options: &'a Put,
    bar: ProgressBar,
}

/// Runs `put`.
pub async fn put(options: &Put, printer: Printer) -> Result<(), Failure> {
    let place = Place::existing(&options.name)?;
    let (client, _) = connect(&place)?;
    let source = open(&options.file).await?;
    let object_id = options.key.clone().unwrap_or_else(ObjectId::random);
    let started = Instant::now();
    let bar = progress_bar(printer, source.size(), 0);
    let offered = Offered { client, object_id, options, bar: bar.clone() };
    let stored = offered.store(source, &place.files_socket()).await;
    bar.finish_and_clear();
    let Stored { endpoint_id, size, digest } = stored?;

    let key = ObjectKey { object_id: offered.object_id, endpoint_id };
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

impl Offered<'_> {
    fn request(&self) -> Result<RequestBuilder, ClientError> {
        self.client.object(Method::PUT, &self.object_id, self.options.remote)
    }

    async fn store(&self, source: Source, socket: &Path) -> Result<Stored, Failure> {
        if let Source::File(file, _) = &source
            && let Some(stream) = delivery::hand_over(socket, file).await?
        {
            return self.have_read(stream, file).await;
        }
        self.send(source).await
    }

    /// Has the endpoint read the file, and looks how far it is.
    async fn have_read(&self, stream: UnixStream, file: &File) -> Result<Stored, Failure> {
        let position = || {
            let read = (&*file).stream_position().unwrap_or_default();
            self.bar.set_position(read);
            read
        };
        let response = while_it_moves(delivery::exchange(stream, self.request()?), position).await?;
        Ok(parse_json(self.client.accept(response).await?).await?)
    }

    /// Sends the object.
    async fn send(&self, source: Source) -> Result<Stored, Failure> {
        let sent = Arc::new(Sent::default());
        let mut request = self.request()?.header(CONTENT_TYPE, "application/octet-stream");
        if let Some(size) = source.size() {
            request = request.header(CONTENT_LENGTH, size);
        }
        let request = request.body(body(source, sent.clone(), self.bar.clone()));
        let sending = async { request.send().await.map_err(|error| self.client.failed(&error)) };
        let outcome = while_it_moves(sending, || sent.bytes.load(Ordering::Relaxed)).await;
        let stored = answer(&self.client, outcome, &sent, &self.options.file).await?;
        check_digest(stored.digest, &sent)?;
        Ok(stored)
    }
}

async fn open(path: &str) -> Result<Source, Failure> {
    if path == "-" {
        let stdin = standard_stream(io::stdin()).map_err(Failure::io("read standard input"))?;
        return Ok(Source::Pipe(stdin));
    }
    let failed = || format!("read {path}");
    let file = File::open(path).map_err(Failure::io(failed()))?;
    let metadata = file.metadata().map_err(Failure::io(failed()))?;
    if metadata.is_dir() {
        return Err(Failure::new(format!("{path} is a folder"))
            .hint("`tar c FOLDER | endpoint put NAME -` stores it as one object"));
    }
    // The size is announced: a file that grows meanwhile is cut there.
    Ok(match metadata.is_file() {
        true => Source::File(file, metadata.len()),
        false => Source::Pipe(file.into()),
    })
}

fn body(source: Source, sent: Arc<Sent>, bar: ProgressBar) -> Body {
    let at_error = sent.clone();
    Body::wrap_stream(
        source
            .into_stream()
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

/// Waits for the outcome for as long as bytes move, and then for as long as an answer may take. Looks often how many have.
async fn while_it_moves<T>(
    moving: impl Future<Output = Result<T, ClientError>>,
    bytes: impl Fn() -> u64,
) -> Result<T, ClientError> {
    let mut moving = pin!(moving);
    let (mut before, mut since) = (0, Instant::now());
    loop {
        tokio::select! {
            outcome = &mut moving => return outcome,
            () = tokio::time::sleep(LOOK) => {}
        }
        let now = bytes();
        if now != before {
            (before, since) = (now, Instant::now());
        } else if since.elapsed() > READ_TIMEOUT {
            return Err(ClientError::Silent);
        }
    }
}

async fn answer(
    client: &Client,
    outcome: Result<Response, ClientError>,
    sent: &Sent,
    path: &str,
) -> Result<Stored, Failure> {
    if let Some(error) = lock(&sent.failure).take() {
        return Err(Failure::io(format!("read {path}"))(error));
    }
    Ok(parse_json(client.accept(outcome?).await?).await?)
}

fn check_digest(theirs: Digest, sent: &Sent) -> Result<(), Failure> {
    let ours = sent.digest();
    if theirs == ours {
        return Ok(());
    }
    Err(Failure::new(format!("the endpoint stored something else: BLAKE3 {theirs}, sent {ours}"))
        .hint("the object was damaged on its way: store it again"))
}
