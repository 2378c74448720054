//! Two sites are two directories here. Which of them is this host's is a matter of the configuration, so that one
//! process can be on both.

mod service;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proxystore::connectors::GlobusConnector;
use proxystore::connectors::globus::{Endpoint, Settings};
use proxystore::{Connector, ConnectorConfig, ConnectorError, Key, Object, PutOptions};
use serde_json::{Value, json};
use service::{Mishap, ROOT, Service};
use tempfile::TempDir;
use tokio::time::Instant;
use uuid::Uuid;

/// Matches no name of a host.
const NOWHERE: &str = "/";

/// Long enough for a request on a busy machine, short enough to wait for what must not happen.
const SOON: Duration = Duration::from_secs(1);

struct Sites {
    service: Service,
    ids: Vec<Uuid>,
    home: TempDir,
}

impl Sites {
    fn new(count: u128) -> Self {
        let sites = Self {
            service: Service::start(),
            ids: (1..=count).map(Uuid::from_u128).collect(),
            home: tempfile::tempdir().unwrap(),
        };
        sites.write_tokens(json!({ "access_token": "good" }));
        let mut globus = sites.service.globus();
        globus.good_tokens.push("good".to_owned());
        globus.collections = (0..sites.ids.len()).map(|site| (sites.ids[site], sites.root(site))).collect();
        drop(globus);
        sites
    }

    fn root(&self, site: usize) -> PathBuf {
        self.home.path().join(site.to_string())
    }

    fn directory(&self, site: usize) -> PathBuf {
        self.root(site).join("objects")
    }

    fn tokens(&self) -> PathBuf {
        self.home.path().join("tokens.json")
    }

    fn write_tokens(&self, tokens: Value) {
        fs::write(self.tokens(), tokens.to_string()).unwrap();
    }

    fn settings(&self, here: usize) -> Settings {
        let endpoint = |(site, id): (usize, &Uuid)| {
            let host_regex = if site == here { ".*" } else { NOWHERE }.to_owned();
            let local_path = self.directory(site).to_str().unwrap().to_owned();
            (*id, Endpoint { host_regex, endpoint_path: format!("{ROOT}/objects"), local_path })
        };
        let mut settings = Settings::new(self.ids.iter().enumerate().map(endpoint));
        settings.polling_interval = Duration::from_millis(20);
        settings.timeout = Duration::from_secs(30);
        settings.token_file = Some(self.tokens().to_str().unwrap().to_owned());
        settings.client_id = Some(Uuid::from_u128(99));
        settings.transfer_url = format!("{}/v0.10", self.service.url);
        settings.auth_url = format!("{}/token", self.service.url);
        settings
    }

    fn at(&self, here: usize) -> GlobusConnector {
        GlobusConnector::new(self.settings(here)).unwrap()
    }

    fn impatient_at(&self, here: usize) -> GlobusConnector {
        GlobusConnector::new(Settings { timeout: SOON, ..self.settings(here) }).unwrap()
    }
}

fn files_in(directory: &Path) -> usize {
    directory.read_dir().map_or(0, Iterator::count)
}

async fn put(connector: &GlobusConnector, bytes: &[u8]) -> Result<Key, ConnectorError> {
    connector.put(bytes.to_vec().into(), &PutOptions::default()).await
}

fn object(bytes: &[u8]) -> Option<Object> {
    Some(bytes.to_vec().into())
}

#[test]
fn contract() {
    let sites = Sites::new(2);
    crate::check_contract(sites.at(0));
    assert_eq!([0, 1].map(|site| files_in(&sites.directory(site))), [0, 0], "something was left behind");
}

#[tokio::test]
async fn an_object_arrives_at_every_other_site_and_disappears_from_there() {
    let sites = Sites::new(3);
    let [a, b, c] = [0, 1, 2].map(|site| sites.at(site));
    let key = put(&a, b"hello").await.unwrap();
    for site in [&b, &c] {
        assert_eq!(site.get(&key).await.unwrap(), object(b"hello"));
        assert!(site.wait(&key, Instant::now() + 30 * SOON).await.unwrap());
    }
    c.evict(&key).await.unwrap();
    for site in [&a, &b, &c] {
        assert!(!site.exists(&key).await.unwrap());
    }
}

#[tokio::test]
async fn a_batch_is_one_task_for_each_other_site() {
    let sites = Sites::new(3);
    let (a, b) = (sites.at(0), sites.at(1));
    let objects: Vec<Object> = (0..50).map(|n| vec![n; 10].into()).collect();
    let keys = a.put_batch(objects.clone(), &PutOptions::default()).await.unwrap();
    assert_eq!(sites.service.requests("POST /transfer"), 2);
    let received = b.get_batch(&keys).await.unwrap();
    assert_eq!(sites.service.requests("GET /task"), 2, "once for each task");
    assert_eq!(received, objects.into_iter().map(Some).collect::<Vec<_>>());
    assert!(sites.service.globus().tasks.values().all(|task| task.document["notify_on_succeeded"] == false));
}

#[tokio::test]
async fn only_what_has_arrived_is_read() {
    let sites = Sites::new(3);
    let (a, b, impatient) = (sites.at(0), sites.at(1), sites.impatient_at(1));
    sites.service.globus().hold = true;
    let key = put(&a, b"whole").await.unwrap();
    assert_eq!(a.get(&key).await.unwrap(), object(b"whole"), "where it was put it is at once");
    assert_eq!(sites.at(0).get(&key).await.unwrap(), object(b"whole"), "for other processes there, too");
    // Globus writes under the final name.
    let Key::Globus { filename, .. } = &key else { panic!("{key}") };
    fs::write(sites.directory(1).join(filename), "who").unwrap();
    let late = impatient.get(&key).await.unwrap_err();
    assert!(matches!(late, ConnectorError::Timeout { .. }) && late.to_string().contains("Queued"), "{late}");
    assert!(!b.wait(&key, Instant::now() + SOON).await.unwrap());
    let waiting = tokio::spawn({
        let key = key.clone();
        async move { b.get(&key).await }
    });
    sites.service.globus().release();
    assert_eq!(waiting.await.unwrap().unwrap(), object(b"whole"));
}

#[tokio::test]
async fn a_failed_transfer_is_reported_where_it_should_have_arrived() {
    let sites = Sites::new(2);
    let (a, b) = (sites.at(0), sites.at(1));
    sites.service.globus().failure = Some("the disk is on fire");
    let key = put(&a, b"hello").await.unwrap();
    let refused = b.get(&key).await.unwrap_err();
    assert!(matches!(refused, ConnectorError::Refused { .. }), "{refused}");
    assert!(refused.to_string().contains("the disk is on fire"), "{refused}");
    assert_eq!(a.get(&key).await.unwrap(), object(b"hello"));
    a.evict(&key).await.unwrap();
    assert_eq!(files_in(&sites.directory(0)), 0);
}

#[tokio::test]
async fn an_object_is_evicted_only_when_its_transfers_are_over() {
    let sites = Sites::new(2);
    let (a, impatient) = (sites.at(0), sites.impatient_at(0));
    sites.service.globus().hold = true;
    let key = put(&a, b"hello").await.unwrap();
    assert!(matches!(impatient.evict(&key).await, Err(ConnectorError::Timeout { .. })));
    assert!(a.exists(&key).await.unwrap());
    sites.service.globus().release();
    a.evict(&key).await.unwrap();
    assert_eq!([0, 1].map(|site| files_in(&sites.directory(site))), [0, 0]);
}

#[tokio::test]
async fn a_lost_answer_does_not_make_two_tasks() {
    let sites = Sites::new(2);
    let lost = ["/submission_id", "/transfer"].map(|path| (path, Mishap::LostAnswer));
    sites.service.globus().mishaps = lost.to_vec();
    let key = put(&sites.at(0), b"hello").await.unwrap();
    assert_eq!(sites.service.requests("POST /transfer"), 2);
    assert_eq!(sites.service.globus().tasks.len(), 1);
    sites.service.globus().mishaps = vec![("/task", Mishap::LostAnswer)];
    assert_eq!(sites.at(1).get(&key).await.unwrap(), object(b"hello"));
}

#[tokio::test]
async fn a_busy_service_is_asked_again_within_the_deadline() {
    let sites = Sites::new(2);
    sites.service.globus().mishaps = vec![("/transfer", Mishap::Busy)];
    put(&sites.at(0), b"hello").await.unwrap();
    sites.service.globus().mishaps = vec![("/transfer", Mishap::Busy); 100];
    let late = put(&sites.impatient_at(0), b"hello").await.unwrap_err();
    assert!(matches!(late, ConnectorError::Timeout { .. }), "{late}");
    assert_eq!(files_in(&sites.directory(0)), 1, "what failed was left behind");
}

#[tokio::test]
async fn answers_that_make_no_sense_are_refused() {
    let sites = Sites::new(2);
    let (a, b) = (sites.at(0), sites.at(1));
    let key = put(&a, b"hello").await.unwrap();
    for mishap in [Mishap::Nonsense, Mishap::Endless] {
        for path in ["/submission_id", "/transfer"] {
            sites.service.globus().mishaps = vec![(path, mishap)];
            let refused = put(&a, b"hello").await.unwrap_err();
            assert!(matches!(refused, ConnectorError::Refused { .. }), "{refused}");
        }
        sites.service.globus().mishaps = vec![("/task", mishap)];
        let refused = b.get(&key).await.unwrap_err();
        assert!(matches!(refused, ConnectorError::Refused { .. }), "{refused}");
    }
}

#[test]
fn one_connector_serves_several_runtimes() {
    let sites = Sites::new(2);
    let a = sites.at(0);
    let keys: Vec<_> = (0..3).map(|_| crate::runtime().block_on(put(&a, b"hello")).unwrap()).collect();
    for key in keys {
        crate::runtime().block_on(a.evict(&key)).unwrap();
    }
    assert_eq!(files_in(&sites.directory(1)), 0);
}

#[tokio::test]
async fn an_unreachable_service_is_an_error_that_may_pass() {
    let sites = Sites::new(2);
    let transfer_url = "http://127.0.0.1:1".to_owned();
    let connector = GlobusConnector::new(Settings { transfer_url, ..sites.settings(0) }).unwrap();
    let error = put(&connector, b"hello").await.unwrap_err();
    assert!(matches!(error, ConnectorError::Unreachable { .. }) && error.is_transient(), "{error}");
}

#[tokio::test]
async fn an_expired_token_is_renewed_once_for_all() {
    let sites = Sites::new(2);
    sites.write_tokens(json!({ "access_token": "good", "refresh_token": "again", "expires_at_seconds": 1 }));
    // Works once: a second renewal would be refused.
    sites.service.globus().refresh_tokens = vec!["again".to_owned()];
    let a = sites.at(0);
    let puts = (0..10).map(|_| put(&a, b"hello"));
    futures_util::future::try_join_all(puts).await.unwrap();
    assert_eq!(sites.service.requests("POST /token"), 1);
    let written: Value = serde_json::from_slice(&fs::read(sites.tokens()).unwrap()).unwrap();
    assert_eq!((&written["access_token"], &written["refresh_token"]), (&json!("fresh-1"), &json!("again")));
    assert!(written["expires_at_seconds"].as_u64().unwrap() > 1_700_000_000);
    assert_eq!(fs::metadata(sites.tokens()).unwrap().permissions().mode() & 0o777, 0o600);
    put(&sites.at(1), b"the next process finds it").await.unwrap();
}

#[tokio::test]
async fn a_rejected_token_is_renewed_too() {
    let sites = Sites::new(2);
    sites.write_tokens(json!({ "access_token": "revoked", "refresh_token": "again" }));
    sites.service.globus().refresh_tokens = vec!["again".to_owned()];
    let a = sites.at(0);
    let puts = (0..10).map(|_| put(&a, b"hello"));
    futures_util::future::try_join_all(puts).await.unwrap();
    assert_eq!(sites.service.requests("POST /token"), 1);
}

#[tokio::test]
async fn without_a_good_token_the_remedy_is_said_and_the_token_is_not() {
    let sites = Sites::new(2);
    let cases = [
        (json!({ "access_token": "hush" }), "put a new one there"),
        (json!({ "access_token": "hush", "expires_at_seconds": 1 }), "put a new one there"),
        (json!({ "access_token": "hush", "refresh_token": "hush-hush" }), "log in again"),
    ];
    for (tokens, remedy) in cases {
        sites.write_tokens(tokens);
        let a = sites.at(0);
        let refused = put(&a, b"hello").await.unwrap_err();
        assert!(matches!(refused, ConnectorError::Refused { .. }), "{refused}");
        assert!(refused.to_string().contains(remedy), "{refused}");
        assert!(
            !format!("{refused} {refused:?} {a:?} {:?}", a.config()).contains("hush"),
            "{refused:?} {a:?}"
        );
    }
    assert_eq!(files_in(&sites.directory(0)), 0, "what failed was left behind");
}

#[tokio::test]
async fn the_token_may_be_in_the_environment() {
    let sites = Sites::new(2);
    let with = |token_env: &str| {
        let token_env = token_env.to_owned();
        GlobusConnector::new(Settings { token_file: None, token_env, ..sites.settings(0) }).unwrap()
    };
    // Cargo sets this one for every test.
    sites.service.globus().good_tokens = vec![std::env::var("CARGO_PKG_NAME").unwrap()];
    put(&with("CARGO_PKG_NAME"), b"hello").await.unwrap();
    let refused = put(&with("NO_SUCH_VARIABLE"), b"hello").await.unwrap_err().to_string();
    assert!(refused.contains("NO_SUCH_VARIABLE") && refused.contains("token_file"), "{refused}");
}

#[tokio::test]
async fn a_task_that_is_unknown_brings_nothing() {
    let sites = Sites::new(2);
    let key = put(&sites.at(0), b"hello").await.unwrap();
    let Key::Globus { filename, .. } = key else { panic!("{key}") };
    let key = Key::Globus { filename, task_ids: vec![Uuid::from_u128(5).to_string()] };
    assert_eq!(sites.at(1).get(&key).await.unwrap(), None);
}

#[tokio::test]
async fn a_key_does_not_lead_out_of_the_directory() {
    let sites = Sites::new(2);
    let a = sites.at(0);
    let id = Uuid::from_u128(5).to_string();
    for (filename, task) in [("../secret", id.as_str()), ("*", &id), (&id, "../endpoint_list"), ("", "")] {
        let key = Key::Globus { filename: filename.to_owned(), task_ids: vec![task.to_owned()] };
        assert!(matches!(a.get(&key).await, Err(ConnectorError::ForeignKey { .. })), "{filename} {task}");
        assert!(matches!(a.evict(&key).await, Err(ConnectorError::ForeignKey { .. })), "{filename} {task}");
    }
    let key = Key::Globus { filename: id.clone(), task_ids: vec![id; 1000] };
    assert!(a.get(&key).await.is_err(), "a key that makes a thousand requests");
    assert!(sites.service.globus().requests.is_empty());
}

#[tokio::test]
async fn clearing_is_on_demand_and_everywhere() {
    let sites = Sites::new(3);
    for clear in [false, true] {
        let connector = GlobusConnector::new(Settings { clear, ..sites.settings(0) }).unwrap();
        put(&connector, b"hello").await.unwrap();
        connector.close().await.unwrap();
        assert_eq!([0, 1, 2].map(|site| sites.directory(site).exists()), [!clear; 3]);
    }
}

#[test]
fn settings_of_a_configuration_are_checked() {
    let sites = Sites::new(2);
    let config = |changes: Value| {
        let mut config = sites.at(0).config();
        config.settings.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        config
    };
    let refused = |config: ConnectorConfig| GlobusConnector::from_config(&config).unwrap_err().to_string();
    assert!(refused(config(json!({ "transfer_url": "https://evil.example" }))).contains("evil.example"));
    assert!(
        refused(config(json!({ "auth_url": "http://auth.globus.org" }))).contains("https within globus.org")
    );
    assert!(refused(config(json!({ "endpoints": {} }))).contains("two endpoints"));
    assert!(refused(config(json!({ "tiemout": 3 }))).contains("tiemout"));
    assert!(GlobusConnector::from_config(&config(json!({ "sync_level": 3 }))).is_ok());
}
