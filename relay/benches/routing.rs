//! What the relay decides about a message it forwards. Run with `cargo bench -p proxystore-relay`.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use proxystore_relay::routing::decide;
use proxystore_shared::EndpointId;
use proxystore_shared::relay_message::{DescriptionKind, PeerConnection, RelayMessage};

/// An offer has two or three kilobytes.
const MESSAGE_LEN: usize = 3_000;

fn routing(c: &mut Criterion) {
    let line = "a=candidate:2147483647 1 udp 2130706431 192.0.2.17 41000 typ host\r\n";
    let source = EndpointId::random();
    let message = RelayMessage::PeerConnection(PeerConnection {
        source_uuid: source,
        source_name: "bench".into(),
        peer_uuid: EndpointId::random(),
        description_type: DescriptionKind::Offer,
        description: line.chars().cycle().take(MESSAGE_LEN).collect(),
        error: None,
    });
    let text = message.encode();
    c.bench_function("routing/a message of 3 KB", |b| b.iter(|| decide(black_box(&text), Some(source))));
}

criterion_group!(benches, routing);
criterion_main!(benches);
