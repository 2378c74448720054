//! What the relay counts, for Prometheus. Numbers only: whoever can connect can read them.

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::clients::Clients;
use crate::datagrams::Dropped;
use crate::routing::Undeliverable;
use crate::stun::Ignored;

/// Media type of [`Metrics::text`].
pub const TEXT_FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Counters of one relay. Updating one neither allocates nor waits.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    clients: Gauge,
    tasks: Gauge,
    waiting: Gauge,
    /// Messages handed to a peer.
    pub forwarded: Counter,
    returned: [Counter; Undeliverable::ALL.len()],
    frames: Counter,
    bytes: Counter,
    dropped: [Counter; Dropped::ALL.len()],
    /// STUN requests answered.
    pub answered: Counter,
    ignored: [Counter; Ignored::ALL.len()],
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("proxystore_relay");
        let (returned, returned_by) = by_reason(Undeliverable::ALL.map(Undeliverable::name));
        let (dropped, dropped_by) = by_reason(Dropped::ALL.map(Dropped::name));
        let (ignored, ignored_by) = by_reason(Ignored::ALL.map(Ignored::name));
        let (clients, tasks, waiting) = (Gauge::default(), Gauge::default(), Gauge::default());
        let (forwarded, answered) = (Counter::default(), Counter::default());
        let (frames, bytes) = (Counter::default(), Counter::default());
        registry.register("clients", "Registered clients", clients.clone());
        registry.register("tasks", "Tasks that have not ended", tasks.clone());
        registry.register("messages_forwarded", "Offers and answers handed to a peer", forwarded.clone());
        registry.register("messages_returned", "Offers and answers that came back", returned_by);
        registry.register(
            "datagram_frames_forwarded",
            "Frames of datagrams handed to a peer",
            frames.clone(),
        );
        registry.register("datagram_bytes_forwarded", "Bytes of datagrams handed to a peer", bytes.clone());
        registry.register("datagram_frames_dropped", "Frames of datagrams dropped", dropped_by);
        registry.register(
            "datagram_bytes_waiting",
            "Bytes of datagrams waiting for clients",
            waiting.clone(),
        );
        registry.register("stun_requests_answered", "STUN requests answered", answered.clone());
        registry.register("stun_requests_ignored", "Datagrams on the UDP ports not answered", ignored_by);
        Self {
            registry,
            clients,
            tasks,
            waiting,
            forwarded,
            returned,
            frames,
            bytes,
            dropped,
            answered,
            ignored,
        }
    }
}

/// A counter for each reason, and the family that names them.
fn by_reason<const N: usize>(reasons: [&'static str; N]) -> ([Counter; N], Family<Reason, Counter>) {
    let family = Family::<Reason, Counter>::default();
    (reasons.map(|reason| family.get_or_create_owned(&Reason { reason })), family)
}

impl Metrics {
    /// A message went back to its sender.
    pub fn returned(&self, reason: Undeliverable) {
        self.returned[reason as usize].inc();
    }

    /// A frame with `len` bytes of datagrams went to a peer, or did not.
    pub fn datagrams(&self, len: usize, outcome: Result<(), Dropped>) {
        match outcome {
            Ok(()) => {
                self.frames.inc();
                self.bytes.inc_by(len as u64);
            }
            Err(reason) => {
                self.dropped[reason as usize].inc();
            }
        }
    }

    /// A datagram on one of the UDP ports got no answer.
    pub fn ignored(&self, reason: Ignored) {
        self.ignored[reason as usize].inc();
    }

    /// Everything, in the OpenMetrics text format. `tasks` are those of the whole process.
    pub fn text(&self, clients: &Clients, tasks: usize) -> String {
        self.tasks.set(i64::try_from(tasks).unwrap_or(i64::MAX));
        self.clients.set(i64::try_from(clients.len()).unwrap_or(i64::MAX));
        self.waiting.set(i64::try_from(clients.room().waiting_datagram_bytes()).unwrap_or(i64::MAX));
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = text::encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_numbered_as_they_are_listed() {
        for (number, reason) in Undeliverable::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number);
        }
        for (number, reason) in Dropped::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number);
        }
        for (number, reason) in Ignored::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number);
        }
    }
}
