//! Objects written into files that commands on the same host hand over ([`crate::handover`]).

use std::fs::{self, File, Permissions};
use std::io;
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
use proxystore_shared::directory::FILES_SOCKET;
use proxystore_shared::http::v1;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::debug;

use super::app::SharedApp;
use super::failure::Failure;
use super::objects::describe;
use super::problem::ApiError;
use super::target::Target;
use crate::endpoint::{GetOptions, GetOutcome, Outgoing};
use crate::handover::{self, OBJECT_SIZE, Progress};

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
    Ok(Router::new().route(v1::OBJECT, get(deliver)).with_state(desk))
}

async fn deliver(State(desk): State<Desk>, target: Target) -> Result<Response, ApiError> {
    let Desk { app, file } = desk;
    let outcome = app.endpoint.get(&target.id, target.at, GetOptions::default()).await;
    let GetOutcome::Found(object) = outcome.map_err(|error| app.failure(error))? else {
        return Err(Failure::missing(&target.id).into());
    };
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

async fn write_at(file: Arc<File>, piece: Bytes, at: u64) -> io::Result<()> {
    spawn_blocking(move || file.write_all_at(&piece, at)).await?
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::stream::BoxStream;
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

    async fn reports(file: File, object: Vec<Result<Bytes, RequestError>>) -> Vec<Progress> {
        let storage = MemoryStorage::new(MemoryLimits { max_object_size: 1, memory_limit: None });
        let endpoint = Endpoint::new(EndpointId::random(), "a".into(), Arc::new(storage), None);
        let app = App::new(endpoint, Duration::from_secs(1));
        let object: BoxStream<'static, _> = stream::iter(object).boxed();
        write(app, Arc::new(file), object).collect().await
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
