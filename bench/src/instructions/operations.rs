//! What is counted: the operations of the micro-benchmarks, a number of times.

use std::hint::black_box;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use proxystore_endpoint::storage::Storage;
use proxystore_endpoint::storage::files::{FileLimits, FileStorage};
use proxystore_endpoint::storage::memory::{MemoryLimits, MemoryStorage};
use proxystore_relay::routing;
use proxystore_shared::digest::{GROUP_LEN, group_digest};
use proxystore_shared::frame::{Answer, ObjectMeta, Request, decode, encode};
use proxystore_shared::relay_message::{DescriptionKind, PeerConnection, RelayMessage};
use proxystore_shared::{Digest, EndpointId, ObjectId};
use tokio::runtime::Builder;

/// What an encoded header starts with: its length.
const LENGTH_LEN: usize = 2;

/// Larger than any object here.
const MAX_OBJECT_SIZE: u64 = 2_000_000;

/// An operation, and how often it is done: enough that its start does not count.
pub const OPERATIONS: [(&str, usize); 12] = [
    ("encode request", 2_000),
    ("decode request", 2_000),
    ("encode answer", 2_000),
    ("decode answer", 2_000),
    ("group digest 1 MiB", 20),
    ("route message 3 KB", 2_000),
    ("memory put 1 KB", 1_000),
    ("memory get 1 KB", 1_000),
    ("memory put 1 MB", 20),
    ("memory get 1 MB", 1_000),
    ("file put 1 KB", 100),
    ("file get 1 KB", 100),
];

/// Prepares the operation of that name and does it `times` times.
pub fn run(name: &str, times: usize) -> Result<()> {
    let id = "00000000-0000-4000-8000-000000000000";
    match name.split_once(' ').unwrap_or((name, "")) {
        ("encode" | "decode", _) => frames(name, id, times),
        ("group", _) => {
            let bytes = vec![7; GROUP_LEN as usize];
            for _ in 0..times {
                black_box(group_digest(1, false, [black_box(bytes.as_slice())]));
            }
            Ok(())
        }
        ("route", _) => route(id.parse()?, times),
        ("memory", operation) => {
            let limits = MemoryLimits { max_object_size: MAX_OBJECT_SIZE, memory_limit: None };
            store(&MemoryStorage::new(limits), operation, times)
        }
        (_, operation) => {
            let folder = tempfile::tempdir()?;
            let limits = FileLimits { max_object_size: MAX_OBJECT_SIZE, fsync: false };
            store(&FileStorage::open(folder.path().join("objects"), limits)?.0, operation, times)
        }
    }
}

fn frames(name: &str, id: &str, times: usize) -> Result<()> {
    let request = Request::Get { object_id: id.parse()?, range: None, if_none_match: None, lead: Some(1) };
    let meta = ObjectMeta { size: 1_000, digest: Digest::of(b""), created_ms: 1_700_000_000_000 };
    let answer = Answer::Object { meta, start: 0, end: 1_000, ticket: None, lead: 0 };
    let (request_bytes, answer_bytes) = (encode(&request)?, encode(&answer)?);
    for _ in 0..times {
        match name {
            "encode request" => drop(black_box(encode(black_box(&request))?)),
            "encode answer" => drop(black_box(encode(black_box(&answer))?)),
            "decode request" => drop(black_box(decode::<Request>(black_box(&request_bytes[LENGTH_LEN..]))?)),
            _ => drop(black_box(decode::<Answer>(black_box(&answer_bytes[LENGTH_LEN..]))?)),
        }
    }
    Ok(())
}

fn route(source: EndpointId, times: usize) -> Result<()> {
    let line = "a=candidate:2147483647 1 udp 2130706431 192.0.2.17 41000 typ host\r\n";
    let message = RelayMessage::PeerConnection(PeerConnection {
        source_uuid: source,
        source_name: "bench".into(),
        peer_uuid: source,
        description_type: DescriptionKind::Offer,
        description: line.chars().cycle().take(3_000).collect(),
        error: None,
    });
    let text = message.encode();
    for _ in 0..times {
        drop(black_box(routing::decide(black_box(&text), Some(source))));
    }
    Ok(())
}

fn store(storage: &dyn Storage, operation: &str, times: usize) -> Result<()> {
    // Whatever the storage leaves to other threads is left to one.
    let runtime = Builder::new_current_thread().max_blocking_threads(1).build()?;
    let id: ObjectId = "object".parse()?;
    let object = Bytes::from(vec![7; if operation.ends_with("MB") { 1_000_000 } else { 1_000 }]);
    runtime.block_on(async {
        put(storage, &id, object.clone()).await?;
        for _ in 0..times {
            if operation.starts_with("put") {
                put(storage, &id, object.clone()).await?;
            } else {
                let object = storage.open(&id).await?.context("the object is gone")?;
                black_box(object.group(0).await?);
            }
        }
        Ok(())
    })
}

async fn put(storage: &dyn Storage, id: &ObjectId, object: Bytes) -> Result<()> {
    let mut upload = storage.begin(id, Some(object.len() as u64), false).await?;
    upload.write(object).await?;
    upload.commit(None).await?;
    Ok(())
}
