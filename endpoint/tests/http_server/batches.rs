//! Many objects in one request.

use proxystore_endpoint::storage::files::{FileLimits, FileStorage};
use proxystore_shared::ObjectId;
use proxystore_shared::batch::{Entry, MAX_KEYS, MEDIA_TYPE, PREFIX_LEN};
use proxystore_shared::config::endpoint::HttpConfig;
use proxystore_shared::http::v1;
use reqwest::Response;
use serde_json::{Value, json};

use crate::support::{Fault, Faulty, MAX_OBJECT_SIZE, Server, assert_problem, impatient, memory};

fn id(name: &str) -> ObjectId {
    name.parse().expect("an id")
}

fn batch(objects: &[(&str, &[u8])]) -> Vec<u8> {
    let entry = |name, len| Entry { object_id: id(name), len: Some(len) }.encode();
    objects.iter().flat_map(|(name, data)| [&entry(name, data.len() as u64), *data].concat()).collect()
}

fn objects(mut batch: &[u8]) -> Vec<(String, Option<Vec<u8>>)> {
    let mut objects = Vec::new();
    while let Some((prefix, rest)) = batch.split_first_chunk::<PREFIX_LEN>() {
        let (head, rest) = rest.split_at(Entry::len_after(*prefix).expect("an entry"));
        let entry = Entry::decode(head).expect("an entry");
        let (data, rest) = rest.split_at(entry.len.unwrap_or(0) as usize);
        objects.push((entry.object_id.into(), entry.len.map(|_| data.to_vec())));
        batch = rest;
    }
    objects
}

async fn get(server: &Server, keys: &[&str]) -> Response {
    server.post(v1::BATCH_GET, json!({"keys": keys}).to_string()).await
}

async fn stored(server: &Server) -> u64 {
    let status: Value = server.get(v1::STATUS).await.json().await.expect("JSON");
    status["storage"]["objects"].as_u64().expect("a number")
}

#[tokio::test]
async fn a_batch_comes_back_in_the_order_asked_for() {
    let server = Server::start().await;
    let large = vec![7; 5 << 20];
    let put = server
        .post(v1::BATCH_PUT, batch(&[("a", b"one"), ("b", b""), ("c", &large), ("ä/d", b"four")]))
        .await;
    assert_eq!(put.status(), 200);
    assert_eq!(put.json::<Value>().await.expect("JSON"), json!({"stored": 4}));
    assert_eq!(server.get("/get?key=a").await.text().await.expect("body"), "one");

    let answer = get(&server, &["c", "none", "ä/d", "b", "a", "a"]).await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["content-type"]),
        (200, &MEDIA_TYPE.parse().expect("header"))
    );
    let found = |name: &str, data: &[u8]| (name.to_owned(), Some(data.to_vec()));
    let expected = [
        found("c", &large),
        ("none".into(), None),
        found("ä/d", b"four"),
        found("b", b""),
        found("a", b"one"),
        found("a", b"one"),
    ];
    assert!(objects(&answer.bytes().await.expect("body")) == expected);

    assert_eq!(
        server.post(v1::BATCH_PUT, "").await.json::<Value>().await.expect("JSON"),
        json!({"stored": 0})
    );
    assert_eq!(get(&server, &[]).await.bytes().await.expect("body"), "");
}

#[tokio::test]
async fn a_batch_of_files_is_a_batch() {
    let dir = tempfile::tempdir().expect("a directory");
    let limits = FileLimits { max_object_size: MAX_OBJECT_SIZE, fsync: true };
    let (storage, _) = FileStorage::open(dir.path().to_owned(), limits).expect("storage");
    let server = Server::with(std::sync::Arc::new(storage), HttpConfig::default()).await;
    let names: Vec<_> = (0..100).map(|n| format!("object-{n}")).collect();
    let all: Vec<_> = names.iter().map(|name| (name.as_str(), name.as_bytes())).collect();
    assert_eq!(server.post(v1::BATCH_PUT, batch(&all)).await.status(), 200);
    let keys: Vec<_> = names.iter().map(String::as_str).collect();
    let found = objects(&get(&server, &keys).await.bytes().await.expect("body"));
    assert!(found.iter().zip(&names).all(|((_, data), name)| data.as_deref() == Some(name.as_bytes())));
}

#[tokio::test]
async fn a_batch_ends_at_the_first_object_that_fails() {
    let server = Server::with(memory(Some(MAX_OBJECT_SIZE + 100)), HttpConfig::default()).await;
    let large = vec![7; MAX_OBJECT_SIZE as usize + 1];
    let put = server.post(v1::BATCH_PUT, batch(&[("a", b"one"), ("big", &large), ("c", b"three")])).await;
    let problem = assert_problem(put, 413, "object_too_large").await;
    let detail = problem["detail"].as_str().expect("text");
    assert!(detail.starts_with("number 2 of the batch: object \"big\": "), "{detail}");
    assert_eq!(server.get("/get?key=a").await.status(), 200);
    assert_eq!(server.get("/get?key=c").await.status(), 404);

    let large = &large[..MAX_OBJECT_SIZE as usize];
    let put = server.post(v1::BATCH_PUT, batch(&[("c", large), ("d", large)])).await;
    let problem = assert_problem(put, 507, "storage_full").await;
    assert!(problem["detail"].as_str().is_some_and(|text| text.contains("\"d\"")), "{problem}");
    assert_eq!(stored(&server).await, 2);
}

#[tokio::test]
async fn a_batch_that_is_none_is_refused() {
    let server = Server::start().await;
    let whole = batch(&[("a", b"12345")]);
    let missing = Entry { object_id: id("b"), len: None }.encode();
    for (bytes, code, text) in [
        (&whole[..1], "invalid_batch", "number 1 "),
        (&whole[..8], "invalid_batch", "number 1 "),
        (&whole[..whole.len() - 1], "upload_broken", "number 1 "),
        (&[&whole[..], b"\0"].concat(), "invalid_batch", "number 2 "),
        (&[&whole[..], b"\0\0"].concat(), "invalid_batch", "empty"),
        (&[&whole[..], b"\xff\xff"].concat(), "invalid_batch", "65535"),
        (&[&whole[..], &missing].concat(), "invalid_batch", "without a length"),
    ] {
        let problem = assert_problem(server.post(v1::BATCH_PUT, bytes.to_vec()).await, 400, code).await;
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(text)), "{problem}");
    }
    for list in ["", "[]", "{}", r#"{"keys": [""]}"#, r#"{"keys": [5]}"#, r#"{"keys": [], "more": 1}"#] {
        assert_problem(server.post(v1::BATCH_GET, list).await, 400, "invalid_batch").await;
    }
    let many = vec!["a"; MAX_KEYS + 1];
    assert_problem(get(&server, &many).await, 400, "batch_too_long").await;
    assert_problem(server.post(v1::BATCH_GET, vec![b' '; 20 << 20]).await, 400, "batch_too_long").await;
    assert_problem(server.post("/v1/objects:batchPut?endpoint=x", "").await, 400, "invalid_endpoint_id")
        .await;
}

#[tokio::test]
async fn a_stalled_batch_is_given_up() {
    let server = Server::with(memory(None), impatient()).await;
    let whole = batch(&[("a", b"one"), ("b", b"two")]);
    let mut client = server.connect().await;
    client.send(format!("POST {} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", v1::BATCH_PUT)).await;
    client.send(&whole[..whole.len() - 1]).await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("upload_stalled"), "{answer}");
    drop(client);
    server.until_alone().await;
    assert_eq!(stored(&server).await, 1);
}

#[tokio::test]
async fn a_damaged_object_breaks_the_answer() {
    let inner = memory(None);
    let server =
        Server::with(std::sync::Arc::new(Faulty { inner, fault: Fault::Torn }), HttpConfig::default()).await;
    let large = vec![7; 5 << 20];
    assert_eq!(server.post(v1::BATCH_PUT, batch(&[("a", b"one"), ("b", &large)])).await.status(), 200);
    assert_eq!(objects(&get(&server, &["a"]).await.bytes().await.expect("body")).len(), 1);
    assert!(get(&server, &["a", "b", "a"]).await.bytes().await.is_err(), "a torn answer looks whole");
}
