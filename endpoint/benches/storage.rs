//! Objects put and got in memory and in files. Run with `cargo bench -p proxystore-endpoint`.

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use proxystore_endpoint::storage::Storage;
use proxystore_endpoint::storage::files::{FileLimits, FileStorage};
use proxystore_endpoint::storage::memory::{MemoryLimits, MemoryStorage};
use proxystore_shared::ObjectId;
use tokio::runtime::Runtime;

/// Bytes of an object.
const SIZES: [(&str, usize); 2] = [("1 KB", 1_000), ("1 MB", 1_000_000)];

/// Larger than any of them.
const MAX_OBJECT_SIZE: u64 = 2_000_000;

fn storage(c: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a directory");
    let memory = MemoryStorage::new(MemoryLimits { max_object_size: MAX_OBJECT_SIZE, memory_limit: None });
    // What a disk does until bytes are safe is not ours to measure.
    let limits = FileLimits { max_object_size: MAX_OBJECT_SIZE, fsync: false };
    let (files, _) = FileStorage::open(directory.path().join("objects"), limits).expect("opens");
    measure(c, "memory", &memory);
    measure(c, "files", &files);
}

fn measure(c: &mut Criterion, name: &str, storage: &dyn Storage) {
    let runtime = Runtime::new().expect("a runtime");
    let id: ObjectId = "object".parse().expect("an id");
    let mut group = c.benchmark_group(format!("storage/{name}"));
    for (size, len) in SIZES {
        let object = Bytes::from(vec![7; len]);
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(format!("put {size}"), |b| {
            b.to_async(&runtime).iter(|| put(storage, &id, object.clone()))
        });
        group.bench_function(format!("get {size}"), |b| b.to_async(&runtime).iter(|| get(storage, &id)));
    }
    group.finish();
}

async fn put(storage: &dyn Storage, id: &ObjectId, object: Bytes) {
    let mut upload = storage.begin(id, Some(object.len() as u64), false).await.expect("begins");
    upload.write(object).await.expect("writes");
    upload.commit(None).await.expect("commits");
}

async fn get(storage: &dyn Storage, id: &ObjectId) -> u64 {
    let object = storage.open(id).await.expect("opens").expect("is there");
    object.group(0).await.expect("reads").len()
}

criterion_group!(benches, storage);
criterion_main!(benches);
