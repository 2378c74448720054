//! The part of the Globus Transfer API that is used here: submit transfers and deletions, look at tasks.
//!
//! Every submission carries an id that Globus gave out before, so that one whose answer was lost can be sent again
//! without a second task coming of it. Therefore all requests can be repeated.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::auth::Auth;
use super::settings::{Endpoint, Settings, SyncLevel};
use super::site::{Answer, Site, is_busy, plain};
use crate::connector::ConnectorError;

/// Attempts at a request while connections fail: what does not work three times is not about to.
const ATTEMPTS: u32 = 3;

/// First pause before a request is repeated, doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// Longest pause before a request is repeated, unless Globus wishes a longer one.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

pub(super) struct Transfer {
    site: Site,
    auth: Auth,
    /// What deadlines are made of; for messages.
    patience: Duration,
}

/// An endpoint with its id.
pub(super) type Place<'a> = (Uuid, &'a Endpoint);

/// How far a transfer or a deletion is.
#[derive(Deserialize)]
pub(super) struct Task {
    pub status: Status,
    source_endpoint_id: Option<Uuid>,
    destination_endpoint_id: Option<Uuid>,
    nice_status: Option<String>,
    nice_status_details: Option<String>,
    fatal_error: Option<FatalError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Status {
    Active,
    /// Suspended until a person does something about it.
    Inactive,
    Succeeded,
    Failed,
}

#[derive(Deserialize)]
struct FatalError {
    code: Option<String>,
    description: Option<String>,
}

#[derive(Deserialize)]
struct SubmissionId {
    value: Uuid,
}

#[derive(Deserialize)]
struct Submitted {
    task_id: Uuid,
}

impl Transfer {
    pub fn new(settings: &Settings) -> Result<Self, ConnectorError> {
        let (site, auth) = (Site::new(&settings.transfer_url)?, Auth::new(settings)?);
        Ok(Self { site, auth, patience: settings.timeout })
    }

    /// Starts a copy of files from one endpoint's directory to another's.
    pub async fn copy(
        &self,
        from: Place<'_>,
        to: Place<'_>,
        filenames: &[&str],
        sync_level: SyncLevel,
        deadline: Instant,
    ) -> Result<Uuid, ConnectorError> {
        let item = |filename: &&str| {
            json!({
                "DATA_TYPE": "transfer_item",
                "source_path": from.1.path_of(filename),
                "destination_path": to.1.path_of(filename),
            })
        };
        let document = json!({
            "DATA_TYPE": "transfer",
            "source_endpoint": from.0,
            "destination_endpoint": to.0,
            "sync_level": sync_level as u8,
            "verify_checksum": true,
            "DATA": filenames.iter().map(item).collect::<Vec<_>>(),
        });
        self.submit("/transfer", document, deadline).await
    }

    /// Starts the deletion of a file, or of a directory and all in it.
    pub async fn delete(
        &self,
        at: Uuid,
        path: &str,
        recursive: bool,
        deadline: Instant,
    ) -> Result<Uuid, ConnectorError> {
        let document = json!({
            "DATA_TYPE": "delete",
            "endpoint": at,
            "recursive": recursive,
            "ignore_missing": true,
            "DATA": [{ "DATA_TYPE": "delete_item", "path": path }],
        });
        self.submit("/delete", document, deadline).await
    }

    /// A task as it is now, or none if this user has no such task.
    pub async fn task(&self, id: Uuid, deadline: Instant) -> Result<Option<Task>, ConnectorError> {
        let answer = self.ask(Method::GET, &format!("/task/{id}"), None, deadline).await?;
        if matches!(answer.status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND) {
            return Ok(None);
        }
        self.understand(&answer).map(Some)
    }

    /// What Globus says about a task that did not work.
    pub fn refused(&self, id: Uuid, task: &Task) -> ConnectorError {
        self.site.refused(format!("task {id} {}", task.words()))
    }

    /// Drops idle connections.
    pub fn close(&self) {
        self.site.close();
        self.auth.close();
    }

    async fn submit(
        &self,
        path: &str,
        mut document: Value,
        deadline: Instant,
    ) -> Result<Uuid, ConnectorError> {
        let answer = self.ask(Method::GET, "/submission_id", None, deadline).await?;
        let id: SubmissionId = self.understand(&answer)?;
        document["submission_id"] = json!(id.value);
        for event in ["notify_on_succeeded", "notify_on_failed", "notify_on_inactive"] {
            // Globus would send its user an e-mail for every object.
            document[event] = json!(false);
        }
        let answer = self.ask(Method::POST, path, Some(&document), deadline).await?;
        Ok(self.understand::<Submitted>(&answer)?.task_id)
    }

    fn understand<T: for<'a> Deserialize<'a>>(&self, answer: &Answer) -> Result<T, ConnectorError> {
        if !answer.status.is_success() {
            return Err(self.site.refused(answer.words()));
        }
        self.site.parse(answer)
    }

    /// Sends a request until it is answered: again after a lost connection, with a new token if the one that was
    /// sent is no longer good, and later if Globus is too busy.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        document: Option<&Value>,
        deadline: Instant,
    ) -> Result<Answer, ConnectorError> {
        let mut pause = FIRST_PAUSE;
        let mut failures = 0;
        let mut rejected = None;
        loop {
            let token = self.auth.token(rejected.as_ref(), deadline).await?;
            let answer = self.site.send(method.clone(), path, deadline, |request| {
                let request = request.bearer_auth(token.reveal());
                if let Some(document) = document { request.json(document) } else { request }
            });
            let wish = match answer.await {
                Ok(answer) if answer.status == StatusCode::UNAUTHORIZED && rejected.is_none() => {
                    rejected = Some(token);
                    continue;
                }
                Ok(answer) if is_busy(answer.status) => answer.retry_after.unwrap_or_default(),
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    failures += 1;
                    if failures == ATTEMPTS || !error.is_transient() {
                        return Err(error);
                    }
                    Duration::ZERO
                }
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left <= pause.max(wish) {
                let target = self.site.name().to_owned();
                return Err(ConnectorError::Timeout { target, after: self.patience });
            }
            sleep(pause.max(wish)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

impl Task {
    /// Whether it brings nothing to this endpoint: it starts there, or goes to another one.
    pub fn passes_by(&self, endpoint: Uuid) -> bool {
        self.source_endpoint_id == Some(endpoint)
            || self.destination_endpoint_id.is_some_and(|destination| destination != endpoint)
    }

    /// What Globus says about it.
    pub fn words(&self) -> String {
        let status = match self.status {
            Status::Active => "is under way",
            Status::Inactive => {
                "is suspended: renew the credentials of its collections in the Globus web app"
            }
            Status::Succeeded => "succeeded",
            Status::Failed => "failed",
        };
        let fatal = self.fatal_error.iter().flat_map(|error| [&error.code, &error.description]);
        let said = fatal.chain([&self.nice_status, &self.nice_status_details]).flatten();
        plain(&said.fold(status.to_owned(), |words, said| format!("{words}, {said}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_says_where_it_goes_and_what_went_wrong() {
        let [here, there, elsewhere] = [1, 2, 3].map(Uuid::from_u128);
        let task: Task = serde_json::from_value(json!({
            "DATA_TYPE": "task", "status": "FAILED", "source_endpoint_id": here, "destination_endpoint_id": there,
            "nice_status": null, "fatal_error": { "code": "PERMISSION_DENIED", "description": "no way" },
        }))
        .unwrap();
        assert_eq!([here, there, elsewhere].map(|id| task.passes_by(id)), [true, false, true]);
        assert_eq!(task.words(), "failed, PERMISSION_DENIED, no way");
        let silent: Task = serde_json::from_value(json!({ "status": "ACTIVE" })).unwrap();
        assert!(!silent.passes_by(here), "it may be one to wait for");
    }
}
