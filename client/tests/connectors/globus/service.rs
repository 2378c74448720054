//! A stand-in for Globus Transfer and Globus Auth on this host: it speaks their API, and really copies and deletes
//! files between directories, which stand for collections.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use axum::body::{Body, Bytes};
use axum::extract::{Path as UrlPath, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use uuid::Uuid;

/// What collections call the directory above theirs.
pub const ROOT: &str = "/collection";

/// One answer instead of the usual one.
#[derive(Clone, Copy, PartialEq)]
pub enum Mishap {
    /// The request is carried out, but the connection breaks in the middle of the answer.
    LostAnswer,
    /// Too busy, please come back.
    Busy,
    /// Something that is no answer to this request.
    Nonsense,
    /// An answer that does not end.
    Endless,
}

#[derive(Default)]
pub struct Globus {
    /// The real directory that [`ROOT`] stands for in each collection.
    pub collections: HashMap<Uuid, PathBuf>,
    /// Access tokens that are good.
    pub good_tokens: Vec<String>,
    /// Each works once more for each time it is in here; the new access token is `fresh-1`, `fresh-2`, ….
    pub refresh_tokens: Vec<String>,
    /// Tasks stay active until they are released.
    pub hold: bool,
    /// What tasks fail with.
    pub failure: Option<&'static str>,
    /// The next requests whose path ends so go wrong.
    pub mishaps: Vec<(&'static str, Mishap)>,
    /// Every request, as in `POST /transfer`.
    pub requests: Vec<String>,
    pub tasks: HashMap<Uuid, Task>,
    submissions: HashMap<Uuid, Option<Uuid>>,
    renewals: usize,
}

pub struct Task {
    pub document: Value,
    pub status: &'static str,
    failure: Option<&'static str>,
}

type Shared = Arc<Mutex<Globus>>;

/// The service, as long as it is kept.
pub struct Service {
    pub url: String,
    globus: Shared,
    _stop: oneshot::Sender<()>,
}

impl Service {
    /// On a thread of its own, since tests have runtimes of their own.
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let globus = Shared::default();
        let router = Router::new()
            .route("/v0.10/submission_id", get(submission_id))
            .route("/v0.10/transfer", post(submit))
            .route("/v0.10/delete", post(submit))
            .route("/v0.10/task/{id}", get(task))
            .route("/token", post(token))
            .with_state(globus.clone());
        let (stop, stopped) = oneshot::channel();
        let serve = async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            tokio::select! {
                served = axum::serve(listener, router) => served.unwrap(),
                _ = stopped => {}
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        thread::spawn(move || runtime.block_on(serve));
        Self { url, globus, _stop: stop }
    }

    pub fn globus(&self) -> MutexGuard<'_, Globus> {
        self.globus.lock().unwrap()
    }

    pub fn requests(&self, request: &str) -> usize {
        self.globus().requests.iter().filter(|made| *made == request).count()
    }
}

impl Globus {
    /// Carries out what was held back.
    pub fn release(&mut self) {
        self.hold = false;
        let active: Vec<_> =
            self.tasks.iter().filter(|(_, task)| task.status == "ACTIVE").map(|(id, _)| *id).collect();
        active.into_iter().for_each(|id| self.carry_out(id));
    }

    fn carry_out(&mut self, id: Uuid) {
        let task = self.tasks.get_mut(&id).unwrap();
        let outcome = match task.failure {
            Some(failure) => Err(io::Error::other(failure)),
            None => perform(&self.collections, &task.document),
        };
        task.status = if outcome.is_ok() { "SUCCEEDED" } else { "FAILED" };
    }

    /// The answer to a request that must not be carried out.
    fn objection(&mut self, request: &str, headers: &HeaderMap) -> Option<Response> {
        self.requests.push(request.to_owned());
        let authorization = headers.get("authorization").map(|value| value.to_str().unwrap());
        let token = authorization.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        if !self.good_tokens.iter().any(|good| good == token) {
            return Some(error(StatusCode::UNAUTHORIZED, "AuthenticationFailed", "Token is not active"));
        }
        self.mishap(request, Mishap::Busy)
            .then(|| error(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", "Down for maintenance"))
    }

    fn mishap(&mut self, request: &str, wanted: Mishap) -> bool {
        let found = self.mishaps.iter().position(|(end, mishap)| request.ends_with(end) && *mishap == wanted);
        found.map(|place| self.mishaps.remove(place)).is_some()
    }

    fn answer(&mut self, request: &str, status: StatusCode, body: Value) -> Response {
        if self.mishap(request, Mishap::LostAnswer) {
            let chunks = [Ok(Bytes::from_static(b"{")), Err(io::Error::other("cut"))];
            return (status, Body::from_stream(stream::iter(chunks))).into_response();
        }
        if self.mishap(request, Mishap::Nonsense) {
            return (status, r#"{"value": 1, "task_id": "../secret", "status": "PERHAPS"}"#).into_response();
        }
        if self.mishap(request, Mishap::Endless) {
            let chunks = stream::repeat_with(|| Ok::<_, io::Error>(Bytes::from_static(&[b' '; 4096])));
            return (status, Body::from_stream(chunks)).into_response();
        }
        (status, Json(body)).into_response()
    }
}

fn error(status: StatusCode, code: &str, message: &str) -> Response {
    (status, Json(json!({ "code": code, "message": message, "request_id": "r-1" }))).into_response()
}

fn id_in(document: &Value, field: &str) -> Uuid {
    document[field].as_str().and_then(|id| id.parse().ok()).unwrap_or_else(|| panic!("{field}: {document}"))
}

fn real(collections: &HashMap<Uuid, PathBuf>, collection: Uuid, path: &Value) -> PathBuf {
    let path = Path::new(path.as_str().unwrap()).strip_prefix(ROOT).expect("a path in the collection");
    collections[&collection].join(path)
}

fn perform(collections: &HashMap<Uuid, PathBuf>, document: &Value) -> io::Result<()> {
    for item in document["DATA"].as_array().unwrap() {
        if document["DATA_TYPE"] == "transfer" {
            assert_eq!(item["DATA_TYPE"], "transfer_item");
            assert!(document["sync_level"].is_u64());
            let from = real(collections, id_in(document, "source_endpoint"), &item["source_path"]);
            let to = real(collections, id_in(document, "destination_endpoint"), &item["destination_path"]);
            fs::create_dir_all(to.parent().unwrap())?;
            fs::copy(from, to)?;
            continue;
        }
        assert_eq!((&document["DATA_TYPE"], &item["DATA_TYPE"]), (&json!("delete"), &json!("delete_item")));
        let path = real(collections, id_in(document, "endpoint"), &item["path"]);
        let recursive = document["recursive"] == true;
        match if recursive { fs::remove_dir_all(path) } else { fs::remove_file(path) } {
            Err(error) if error.kind() == io::ErrorKind::NotFound && document["ignore_missing"] == true => {}
            outcome => outcome?,
        }
    }
    Ok(())
}

async fn submission_id(State(globus): State<Shared>, headers: HeaderMap) -> Response {
    let (mut globus, request) = (globus.lock().unwrap(), "GET /submission_id");
    if let Some(objection) = globus.objection(request, &headers) {
        return objection;
    }
    let id = Uuid::new_v4();
    globus.submissions.insert(id, None);
    globus.answer(request, StatusCode::OK, json!({ "DATA_TYPE": "submission_id", "value": id }))
}

async fn submit(State(globus): State<Shared>, headers: HeaderMap, Json(document): Json<Value>) -> Response {
    let mut globus = globus.lock().unwrap();
    let request = format!("POST /{}", document["DATA_TYPE"].as_str().unwrap());
    if let Some(objection) = globus.objection(&request, &headers) {
        return objection;
    }
    let submission = id_in(&document, "submission_id");
    let (code, status, id) = match globus.submissions.get(&submission) {
        None => return error(StatusCode::BAD_REQUEST, "BadRequest", "No such submission_id"),
        Some(Some(id)) => ("Duplicate", StatusCode::OK, *id),
        Some(None) => {
            let id = Uuid::new_v4();
            let failure = globus.failure;
            globus.submissions.insert(submission, Some(id));
            globus.tasks.insert(id, Task { document, status: "ACTIVE", failure });
            if !globus.hold {
                globus.carry_out(id);
            }
            ("Accepted", StatusCode::ACCEPTED, id)
        }
    };
    let body = json!({ "code": code, "submission_id": submission, "task_id": id, "message": "Submitted" });
    globus.answer(&request, status, body)
}

async fn task(State(globus): State<Shared>, headers: HeaderMap, UrlPath(id): UrlPath<Uuid>) -> Response {
    let (mut globus, request) = (globus.lock().unwrap(), "GET /task");
    if let Some(objection) = globus.objection(request, &headers) {
        return objection;
    }
    let Some(task) = globus.tasks.get(&id) else {
        return error(StatusCode::NOT_FOUND, "TaskNotFound", "No such task");
    };
    let document = &task.document;
    let source = document.get("source_endpoint").or(document.get("endpoint"));
    let fatal = task.failure.map(|failure| json!({ "code": "FATAL", "description": failure }));
    let body = json!({
        "DATA_TYPE": "task", "task_id": id, "status": task.status,
        "nice_status": if task.status == "ACTIVE" { Some("Queued") } else { None },
        "source_endpoint_id": source, "destination_endpoint_id": document.get("destination_endpoint"),
        "fatal_error": if task.status == "FAILED" { fatal } else { None },
    });
    globus.answer(request, StatusCode::OK, body)
}

async fn token(State(globus): State<Shared>, body: String) -> Response {
    let mut globus = globus.lock().unwrap();
    globus.requests.push("POST /token".to_owned());
    let field = |name: &str| body.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    assert_eq!(field("grant_type"), Some("refresh_token"));
    assert!(field("client_id").is_some_and(|id| id.parse::<Uuid>().is_ok()));
    let refresh = field("refresh_token").unwrap().to_owned();
    let Some(place) = globus.refresh_tokens.iter().position(|token| *token == refresh) else {
        let body = json!({ "error": "invalid_grant" });
        return (StatusCode::BAD_REQUEST, Json(body)).into_response();
    };
    globus.refresh_tokens.remove(place);
    globus.renewals += 1;
    let fresh = format!("fresh-{}", globus.renewals);
    globus.good_tokens = vec![fresh.clone()];
    Json(json!({ "access_token": fresh, "expires_in": 172_800, "token_type": "Bearer" })).into_response()
}
