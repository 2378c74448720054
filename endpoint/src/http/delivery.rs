//! Objects written into files, and read from files, that commands on the same host hand over ([`crate::handover`]).

use std::fs::{self, File, Permissions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use proxystore_shared::digest::GROUP_LEN;
use proxystore_shared::directory::FILES_SOCKET;
use proxystore_shared::http::v1;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::debug;

use super::app::SharedApp;
use super::objects::{describe, stored};
use super::problem::ApiError;
use super::target::Target;
use crate::endpoint::{Incoming, Outgoing, PutOptions, RequestError};
use crate::handover::{self, OBJECT_SIZE, Progress};
use crate::memory::LARGE;

/// The socket on which files are handed over. It goes when this is dropped.
pub struct FileSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl FileSocket {
    /// In the folder of an endpoint, which nobody else may be serving: one that is there already is a dead endpoint's.
    pub fn bind(dir: &Path) -> io::Result<Self> {
        let path = dir.join(FILES_SOCKET);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = Self { listener: UnixListener::bind(&path)?, path };
        fs::set_permissions(&socket.path, Permissions::from_mode(0o600))?;
        Ok(socket)
    }

    /// The next connection.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.listener.accept().await?.0)
    }
}

impl Drop for FileSocket {
    fn drop(&mut self) {
        // What stays is replaced at the next start, and refuses connections until then.
        let _ = fs::remove_file(&self.path);
    }
}

/// What a request on such a connection needs.
#[derive(Clone)]
struct Desk {
    app: SharedApp,
    file: Arc<File>,
}

/// Takes the file that a connection begins with, and gives what answers the requests on it.
pub async fn router(app: &SharedApp, stream: &UnixStream) -> io::Result<Router> {
    let file = timeout(app.idle_timeout, handover::take(stream)).await.map_err(io::Error::from)??;
    let desk = Desk { app: app.clone(), file: Arc::new(file) };
    Ok(Router::new().route(v1::OBJECT, get(deliver).put(collect)).with_state(desk))
}

async fn deliver(State(desk): State<Desk>, target: Target) -> Result<Response, ApiError> {
    let Desk { app, file } = desk;
    let object = app.open(&target).await?;
    let mut headers = describe(&object.meta);
    headers.insert(OBJECT_SIZE, HeaderValue::from(object.meta.size));
    let lines = write(app, file, object.body).map(|progress| {
        serde_json::to_vec(&progress).map(|mut line| {
            line.push(b'\n');
            line
        })
    });
    Ok((headers, Body::from_stream(lines)).into_response())
}

/// Writes an object into the file, piece after piece, and tells after each how far it is.
fn write(app: SharedApp, file: Arc<File>, object: Outgoing) -> impl Stream<Item = Progress> {
    stream::unfold(Some((object, 0)), move |left| {
        let (app, file) = (app.clone(), file.clone());
        async move {
            let (mut object, at) = left?;
            let failed = |why: String| {
                debug!("an object was not written into a file: {why}");
                Some((Progress::Failed(why), None))
            };
            let piece = match object.next().await? {
                Ok(piece) => piece,
                Err(error) => return failed(app.failure(error).detail),
            };
            let end = at + piece.len() as u64;
            if let Err(error) = write_at(file, piece, at).await {
                return failed(format!("the file cannot be written: {error}"));
            }
            app.metrics.sent.inc_by(end - at);
            Some((Progress::Written(end), Some((object, end))))
        }
    })
}

/// Stores the file as an object.
async fn collect(State(desk): State<Desk>, target: Target) -> Result<Response, ApiError> {
    let Desk { app, file } = desk;
    let size = file.metadata().map_err(RequestError::Upload).map_err(|error| app.failure(error))?.len();
    let options = PutOptions { size: Some(size), create_only: false };
    let meta = app.endpoint.put(&target.id, target.at, options, read(app.clone(), file, size)).await;
    let meta = meta.map_err(|error| app.failure(error))?;
    Ok(stored(&app, target, &meta))
}

/// The next `size` bytes of the file. One that grows meanwhile is cut there.
fn read(app: SharedApp, file: Arc<File>, size: u64) -> Incoming {
    let pieces = stream::try_unfold(size, move |left| {
        let (app, file) = (app.clone(), file.clone());
        async move {
            if left == 0 {
                return Ok(None);
            }
            let piece = spawn_blocking(move || read_piece(&file, left)).await??;
            app.metrics.received.inc_by(piece.len() as u64);
            let left = left - piece.len() as u64;
            Ok(Some((piece, left)))
        }
    });
    pieces.boxed()
}

/// The next piece of a file that has `left` more bytes, in memory in which it can be kept. The file's position moves, from which
/// the command knows how far this is.
fn read_piece(mut file: &File, left: u64) -> io::Result<Bytes> {
    if left >= LARGE.block_len() as u64
        && let Ok(mut block) = LARGE.block()
    {
        file.read_exact(block.append(LARGE.block_len()))?;
        return Ok(Bytes::from_owner(block));
    }
    let mut piece = vec![0; left.min(GROUP_LEN) as usize];
    file.read_exact(&mut piece)?;
    Ok(piece.into())
}

async fn write_at(file: Arc<File>, piece: Bytes, at: u64) -> io::Result<()> {
    spawn_blocking(move || file.write_all_at(&piece, at)).await?
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::time::Duration;

    use futures_util::TryStreamExt as _;
    use proxystore_shared::EndpointId;

    use super::super::app::App;
    use super::*;
    use crate::Endpoint;
    use crate::endpoint::RequestError;
    use crate::peer::PeerError;
    use crate::storage::memory::{MemoryLimits, MemoryStorage};

    #[tokio::test]
    async fn a_socket_takes_the_place_of_a_dead_one_and_is_the_users_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILES_SOCKET);
        drop(UnixListener::bind(&path).unwrap());
        let socket = FileSocket::bind(dir.path()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let client = UnixStream::connect(&path).await.unwrap();
        socket.accept().await.unwrap();
        drop((client, socket));
        assert!(!path.exists());
    }

    fn app() -> SharedApp {
        let storage = MemoryStorage::new(MemoryLimits { max_object_size: 1, memory_limit: None });
        let endpoint = Endpoint::new(EndpointId::random(), "a".into(), Arc::new(storage), None);
        App::new(endpoint, Duration::from_secs(1))
    }

    #[tokio::test]
    async fn a_file_is_read_as_far_as_was_said() {
        let block = LARGE.block_len();
        let content: Vec<u8> = (0..2 * block + 10).map(|index| (index % 251) as u8).collect();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&content).unwrap();
        let size = content.len() as u64 - 1;
        let pieces: Vec<Bytes> =
            read(app(), Arc::new(file.reopen().unwrap()), size).try_collect().await.unwrap();
        assert_eq!(pieces.iter().map(Bytes::len).collect::<Vec<_>>(), [block, block, 9]);
        assert!(pieces.concat() == content[..size as usize]);

        let too_short: io::Result<Vec<Bytes>> =
            read(app(), Arc::new(file.reopen().unwrap()), size + 2).try_collect().await;
        assert_eq!(too_short.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    async fn reports(file: File, object: Vec<Result<Bytes, RequestError>>) -> Vec<Progress> {
        let object = Outgoing::Pieces(stream::iter(object).boxed());
        write(app(), Arc::new(file), object).collect().await
    }

    #[tokio::test]
    async fn every_piece_is_in_the_file_when_it_is_reported() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let pieces = [b"hello ", &b"world"[..]].map(|piece| Ok(Bytes::from(piece)));
        let reports = reports(file.reopen().unwrap(), pieces.into()).await;
        assert_eq!(reports, [Progress::Written(6), Progress::Written(11)]);
        assert_eq!(fs::read(file.path()).unwrap(), b"hello world");
    }

    #[tokio::test]
    async fn a_failure_is_the_last_report() {
        let peer = EndpointId::random();
        let lost = || RequestError::Peer { peer, error: PeerError::Lost("it rained".into()) };
        let object = vec![Ok(Bytes::from("abc")), Err(lost()), Ok(Bytes::from("def"))];
        let reports_of_loss = reports(tempfile::tempfile().unwrap(), object).await;
        assert_eq!(reports_of_loss, [Progress::Written(3), Progress::Failed(lost().to_string())]);

        let read_only = File::open(tempfile::NamedTempFile::new().unwrap().path()).unwrap();
        match &reports(read_only, vec![Ok(Bytes::from("abc"))]).await[..] {
            [Progress::Failed(why)] => assert!(why.contains("cannot be written"), "{why}"),
            other => panic!("{other:?}"),
        }
    }
}
