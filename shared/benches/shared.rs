//! Framing and hashing: what each request and each group costs both ends. Run with `cargo bench -p proxystore-shared`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use proxystore_shared::digest::{GROUP_LEN, GroupTree, group_digest};
use proxystore_shared::frame::{Answer, ObjectMeta, Request, decode, encode};
use proxystore_shared::{Digest, EndpointId};

/// What an encoded header starts with: its length.
const LENGTH_LEN: usize = 2;

/// Groups of an object of 100 MB.
const GROUPS: u64 = 96;

fn framing(c: &mut Criterion) {
    let object_id = EndpointId::random().to_string().parse().expect("an id");
    let request = Request::Get { object_id, range: None, if_none_match: None, lead: Some(1) };
    let meta = ObjectMeta { size: 1_000, digest: Digest::of(b""), created_ms: 1_700_000_000_000 };
    let answer = Answer::Object { meta, start: 0, end: 1_000, ticket: None, lead: 0 };
    let mut group = c.benchmark_group("framing");
    group.bench_function("encode a request", |b| b.iter(|| encode(black_box(&request))));
    group.bench_function("encode an answer", |b| b.iter(|| encode(black_box(&answer))));
    let (request, answer) = (encode(&request).expect("short"), encode(&answer).expect("short"));
    group.bench_function("decode a request", |b| {
        b.iter(|| decode::<Request>(black_box(&request[LENGTH_LEN..])).expect("decodes"))
    });
    group.bench_function("decode an answer", |b| {
        b.iter(|| decode::<Answer>(black_box(&answer[LENGTH_LEN..])).expect("decodes"))
    });
    group.finish();
}

fn hashing(c: &mut Criterion) {
    let bytes = vec![7; GROUP_LEN as usize];
    let mut group = c.benchmark_group("hashing");
    group.throughput(Throughput::Bytes(1_000));
    group.bench_function("an object of 1 KB", |b| b.iter(|| Digest::of(black_box(&bytes[..1_000]))));
    group.throughput(Throughput::Bytes(GROUP_LEN));
    group.bench_function("a group of 1 MiB", |b| {
        b.iter(|| group_digest(1, false, [black_box(bytes.as_slice())]))
    });
    group.finish();
    let digest = group_digest(1, false, [bytes.as_slice()]);
    c.bench_function("hashing/join the groups of 100 MB", |b| b.iter(|| join(black_box(digest))));
}

fn join(digest: Digest) -> Digest {
    let mut tree = GroupTree::default();
    for _ in 0..GROUPS {
        tree.push(digest);
    }
    tree.finish()
}

criterion_group!(shared, framing, hashing);
criterion_main!(shared);
