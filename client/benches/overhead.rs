//! What a proxy costs over the plain value, and a store over its serializer. Run with `scripts/bench overhead`.

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use proxystore::connectors::{FileConnector, LocalConnector};
use proxystore::{Key, Proxy, Store, block_on};

fn proxies(c: &mut Criterion) {
    let store = Store::new("bench", LocalConnector::new());
    let key = block_on(store.put(&1_u64)).expect("stored");
    let proxy = store.proxy_from_key::<u64>(key.clone());
    proxy.resolve().expect("resolved");
    let plain = Arc::new(1_u64);

    let mut group = c.benchmark_group("dereference");
    group.bench_function("reference", |b| b.iter(|| **black_box(&&*plain)));
    group.bench_function("Arc", |b| b.iter(|| **black_box(&plain)));
    group.bench_function("resolved proxy", |b| b.iter(|| **black_box(&proxy)));
    group.finish();

    let mut group = c.benchmark_group("proxy");
    group.bench_function("make", |b| b.iter(|| store.proxy_from_key::<u64>(black_box(&key).clone())));
    group.bench_function("serialize", |b| b.iter(|| serde_json::to_string(black_box(&proxy))));
    let message = serde_json::to_string(&proxy).expect("serializes");
    group.bench_function("deserialize", |b| {
        b.iter(|| serde_json::from_str::<Proxy<u64>>(black_box(&message)))
    });
    group.finish();
}

fn stores(c: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a directory");
    let in_memory = Store::new("memory", LocalConnector::new()).cache_size(0);
    let in_files = Store::new("files", FileConnector::new(directory.path()).expect("made")).cache_size(0);
    let cached = Store::new("cached", LocalConnector::new());
    let value = Bytes::from(vec![7; 1000]);
    let cached_key = block_on(cached.put(&value)).expect("stored");

    let mut group = c.benchmark_group("put, get and evict 1 KB");
    group.bench_function("memory", |b| b.iter(|| there_and_back(&in_memory, &value)));
    group.bench_function("files", |b| b.iter(|| there_and_back(&in_files, &value)));
    group.finish();
    let get = || block_on(cached.get::<Bytes>(&cached_key)).expect("got");
    c.bench_function("get from the cache", |b| b.iter(get));
}

fn there_and_back(store: &Store, value: &Bytes) -> Key {
    block_on(async {
        let key = store.put(value).await.expect("stored");
        store.get::<Bytes>(&key).await.expect("got");
        store.evict(&key).await.expect("evicted");
        key
    })
}

criterion_group!(overhead, proxies, stores);
criterion_main!(overhead);
