//! Many objects in one request, and servers that answer such a request as no endpoint should.

use std::io;
use std::net::Ipv4Addr;

use axum::body::{Body, Bytes};
use axum::routing::{get, post};
use axum::{Json, Router};
use proxystore_shared::ObjectId;
use proxystore_shared::batch::{Entry, MAX_KEYS, Wanted};
use proxystore_shared::http::{python, v1};
use serde_json::json;
use tokio::task::JoinSet;

use super::*;

#[tokio::test]
async fn a_batch_is_one_request() {
    let site = alone("batches").start().await.unwrap();
    let home = home_with(&[&site]);
    let connector = connector(home.path(), [site.id()]);
    let objects: Vec<Object> = (0..500).map(|n| noise(10 + n * 50, n as u64).into()).collect();
    let keys = connector.put_batch(objects.clone(), &PutOptions::default()).await.unwrap();
    let found = connector.get_batch(&keys).await.unwrap();
    assert!(found.into_iter().map(Option::unwrap).eq(objects));
    let metrics = site.http().get(site.url("/metrics")).send().await.unwrap().text().await.unwrap();
    for line in [
        r#"http_requests_total{route="/v1/objects:batchPut",status="200"} 1"#,
        // The first was to see whether there are batches at all.
        r#"http_requests_total{route="/v1/objects:batchGet",status="200"} 2"#,
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    assert!(!metrics.contains(r#"route="/set",status"#));
}

#[tokio::test]
async fn more_objects_than_one_request_may_ask_for_take_several() {
    let site = alone("many").start().await.unwrap();
    let home = home_with(&[&site]);
    let connector = connector(home.path(), [site.id()]);
    let objects: Vec<Object> = (0..MAX_KEYS + 500).map(|n| vec![n as u8].into()).collect();
    let keys = connector.put_batch(objects.clone(), &PutOptions::default()).await.unwrap();
    connector.evict(&keys[MAX_KEYS]).await.unwrap();
    let found = connector.get_batch(&keys).await.unwrap();
    assert_eq!(found.len(), objects.len());
    for (n, (found, object)) in found.into_iter().zip(objects).enumerate() {
        assert_eq!(found, (n != MAX_KEYS).then_some(object), "number {n}");
    }
}

/// Whatever calls itself the endpoint `id` and answers requests for batches as it is told.
struct Impostor {
    home: TempDir,
    id: EndpointId,
    /// Ends the server when dropped.
    _server: JoinSet<()>,
}

/// The pieces of an answer; an error breaks the connection.
type Answer = Vec<io::Result<Bytes>>;

/// Makes an answer for these ids.
type Script = fn(Vec<ObjectId>) -> Answer;

impl Impostor {
    /// Answers `batchGet` with what `answer` makes of the ids, and each `batchPut` with `stored` objects.
    async fn start(answer: Script, stored: u64) -> Self {
        let id = EndpointId::random();
        let batch = move |Json(Wanted { keys }): Json<Wanted>| async move {
            match keys.is_empty() {
                true => Body::empty(),
                false => Body::from_stream(futures_util::stream::iter(answer(keys))),
            }
        };
        let router = Router::new()
            .route(python::ENDPOINT, get(move || async move { Json(json!({"uuid": id})) }))
            .route(v1::BATCH_GET, post(batch))
            .route(v1::BATCH_PUT, post(move |_: Bytes| async move { Json(json!({"stored": stored})) }));
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await.unwrap() });
        let home = tempfile::tempdir().unwrap();
        write_config(home.path(), "impostor", &format!("uuid = '{id}'\nport = {port}\nhost = '127.0.0.1'"));
        Self { home, id, _server: server }
    }

    /// Asks for two objects.
    async fn ask(&self) -> Result<Vec<Option<Object>>, ConnectorError> {
        let keys = ["first", "second"]
            .map(|id| Key::Endpoint { object_id: id.parse().unwrap(), endpoint_id: Some(self.id) });
        connector(self.home.path(), [self.id]).get_batch(&keys).await
    }
}

/// An entry that announces `len` bytes, and then has `data`.
fn entry(id: &ObjectId, len: u64, data: &[u8]) -> io::Result<Bytes> {
    let head = Entry { object_id: id.clone(), len: Some(len) }.encode();
    Ok([&head[..], data].concat().into())
}

#[tokio::test]
async fn a_hostile_batch_is_refused() {
    let good: Script = |ids| ids.iter().map(|id| entry(id, 3, b"abc")).collect();
    let found = Impostor::start(good, 0).await.ask().await;
    assert_eq!(found, Ok(vec![Some(vec![b'a', b'b', b'c'].into()); 2]));

    let hostile: [(&str, Script); 9] = [
        ("more than asked", |ids| {
            [&ids[..], &ids[..1]].concat().iter().map(|id| entry(id, 1, b"a")).collect()
        }),
        ("fewer than asked", |ids| vec![entry(&ids[0], 1, b"a")]),
        ("none", |_| vec![]),
        ("wrong order", |ids| ids.iter().rev().map(|id| entry(id, 1, b"a")).collect()),
        ("longer than announced", |ids| ids.iter().map(|id| entry(id, 1, b"abc")).collect()),
        ("shorter than announced", |ids| ids.iter().map(|id| entry(id, 5, b"abc")).collect()),
        ("an object without end", |ids| vec![entry(&ids[0], u64::MAX - 1, b"abc")]),
        ("no batch", |_| vec![Ok(Bytes::from_static(b"\xff\xff\xff\xff\xff\xff"))]),
        ("no text", |_| vec![Ok(Bytes::from_static(b"\0\x01\xff\0\0\0\0\0\0\0\0"))]),
    ];
    for (what, answer) in hostile {
        let outcome = Impostor::start(answer, 0).await.ask().await;
        assert!(matches!(&outcome, Err(ConnectorError::Refused { .. })), "{what}: {outcome:?}");
    }
    let truncated: Script =
        |ids| vec![entry(&ids[0], 1, b"a"), entry(&ids[1], 5, b"abc"), Err(io::ErrorKind::BrokenPipe.into())];
    let outcome = Impostor::start(truncated, 0).await.ask().await;
    assert!(matches!(&outcome, Err(ConnectorError::Broken { .. })), "{outcome:?}");
}

#[tokio::test]
async fn a_batch_of_which_less_was_stored_is_not_stored() {
    let impostor = Impostor::start(|_| vec![], 1).await;
    let connector = connector(impostor.home.path(), [impostor.id]);
    let batch = |len| vec![Object::from(vec![1; 10]); len];
    assert_eq!(connector.put_batch(batch(1), &PutOptions::default()).await.unwrap().len(), 1);
    let error = connector.put_batch(batch(2), &PutOptions::default()).await.unwrap_err();
    assert!(matches!(&error, ConnectorError::Refused { .. }), "{error}");
}
