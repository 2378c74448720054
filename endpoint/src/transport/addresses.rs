//! Where peers may find this endpoint, kept up to date: the addresses of its interfaces, those that its configuration
//! names or a router forwards from, and those that the relay, and STUN servers that it names, see its socket at.
//!
//! One task owns the list and publishes it. Nothing waits for it: sessions are opened with what is known, and told of
//! what becomes known later.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use proxystore_shared::description::{Candidate, CandidateKind};
use proxystore_shared::relayed::RelayOffer;
use proxystore_shared::stun::Message;
use serde::Serialize;
use tokio::net::lookup_host;
use tokio::sync::{mpsc, watch};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::shared_socket::{StunArrival, reachable_from};
use super::socket::host_candidates;
use super::stun::{Outcome, Question, StunClient};

/// Between looks at the interfaces, so that a session learns of a new address within seconds.
const LOOK: Duration = Duration::from_secs(2);

/// Between questions to the relay: below the 30 s after which common NATs forget a mapping that carries nothing.
const REFRESH: Duration = Duration::from_secs(25);

/// To find the relay's address by its name. Names that resolve do so in a second.
const LOOKUP_LIMIT: Duration = Duration::from_secs(5);

/// What is known now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalAddresses {
    /// Best first, as other networks see it.
    pub candidates: Vec<Candidate>,
    /// What is between us and them.
    pub nat: Nat,
}

impl LocalAddresses {
    /// The host's own.
    pub fn hosts(&self) -> BTreeSet<IpAddr> {
        let hosts = self.candidates.iter().filter(|candidate| candidate.kind == CandidateKind::Host);
        hosts.map(|candidate| candidate.address.ip()).collect()
    }
}

/// What questions to the relay's UDP ports told about the network (mapping behaviour in the terms of RFC 5780).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Nat {
    /// Nothing: there is no relay that could be asked, or it has not answered yet.
    #[default]
    Unknown,
    /// The relay sees an address of this host.
    None,
    /// Both ports see the same address: endpoint-independent mapping, as far as one host can tell.
    Steady,
    /// The ports see different addresses: every destination gets another one.
    Fickle,
    /// No answer comes: UDP does not pass.
    Blocked,
}

/// What the task works with.
pub struct Means {
    /// The socket's own address.
    pub local: SocketAddr,
    /// A second handle to QUIC's socket, non-blocking.
    pub socket: UdpSocket,
    /// STUN that arrived there.
    pub stun: mpsc::Receiver<StunArrival>,
    /// Addresses that the configuration names.
    pub configured: Vec<SocketAddr>,
    /// The address from which a router forwards to us.
    pub forwarded: watch::Receiver<Option<SocketAddr>>,
    /// STUN servers, as `host:port`.
    pub stun_servers: Vec<String>,
    /// The relay's host.
    pub relay_host: Option<String>,
    /// What the relay offers.
    pub offer: watch::Receiver<RelayOffer>,
}

/// Finds and publishes addresses.
pub struct Addresses {
    means: Means,
    client: StunClient,
    /// What became of the last question to each server; it stands until the next is settled.
    settled: BTreeMap<SocketAddr, Outcome>,
    published: watch::Sender<LocalAddresses>,
}

impl Addresses {
    /// What needs no question is known at once; [`Addresses::run`] finds out the rest.
    pub fn new(means: Means) -> (Self, watch::Receiver<LocalAddresses>) {
        let (published, receiver) = watch::channel(LocalAddresses::default());
        let mut addresses =
            Self { means, client: StunClient::default(), settled: BTreeMap::new(), published };
        addresses.publish();
        (addresses, receiver)
    }

    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        // Also what came before this task did.
        self.means.offer.mark_changed();
        let mut looks = every(LOOK);
        let mut refresh = every(REFRESH);
        loop {
            let due = self.client.poll_timeout();
            tokio::select! {
                () = stop.cancelled() => return,
                _ = looks.tick() => {}
                _ = refresh.tick() => self.ask().await,
                Ok(()) = self.means.offer.changed() => self.ask().await,
                Ok(()) = self.means.forwarded.changed() => {}
                Some((from, datagram)) = self.means.stun.recv() => self.hear(from, &datagram),
                () = sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => self.send_due(),
            }
            self.publish();
        }
    }

    /// Asks every UDP port of the relay, and every STUN server, in both address families.
    async fn ask(&mut self) {
        let ports = self.means.offer.borrow_and_update().udp_ports.clone();
        let mut servers = Vec::new();
        if let Some(host) = self.means.relay_host.as_deref().filter(|_| !ports.is_empty()) {
            for address in resolve(host).await {
                servers.extend(ports.iter().map(|port| SocketAddr::new(address, *port)));
            }
        }
        for server in &self.means.stun_servers {
            servers.extend(resolve_socket(server).await);
        }
        self.settled.retain(|server, _| servers.contains(server));
        self.client = StunClient::default();
        for server in servers {
            self.client.ask(Question { server, answer_from: None }, Instant::now());
        }
        self.send_due();
    }

    fn send_due(&mut self) {
        for transmission in self.client.handle_timeout(Instant::now()) {
            let to = reachable_from(self.means.local, transmission.to);
            // There may be no way to this address; then there is no answer either.
            let _ = self.means.socket.send_to(&transmission.datagram, to);
        }
    }

    fn hear(&mut self, from: SocketAddr, datagram: &[u8]) {
        let message = Message::decode(datagram);
        match message.and_then(|message| self.client.handle_message(from, message)) {
            Some((question, address)) => debug!(server = %question.server, %address, "the relay sees us"),
            None => debug!(%from, "STUN that nobody asked for"),
        }
    }

    fn publish(&mut self) {
        let hosts = host_candidates(self.means.local);
        let settled = self.client.outcomes().filter(|(_, outcome)| *outcome != Outcome::Open);
        self.settled.extend(settled.map(|(question, outcome)| (question.server, outcome)));
        let outcomes: Vec<_> = self.settled.values().copied().collect();
        let forwarded = *self.means.forwarded.borrow_and_update();
        let named: Vec<_> = self.means.configured.iter().copied().chain(forwarded).collect();
        let current = assess(hosts, &named, &outcomes);
        self.published.send_if_modified(|published| {
            if *published == current {
                return false;
            }
            if published.nat != current.nat {
                info!(nat = ?current.nat, "what the network lets through");
            }
            *published = current;
            true
        });
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// One address of each family.
pub(crate) async fn resolve(host: &str) -> Vec<IpAddr> {
    first_of_each_family(host, lookup_host((host, 0))).await.into_iter().map(|address| address.ip()).collect()
}

/// The same for `host:port`.
pub(super) async fn resolve_socket(server: &str) -> Vec<SocketAddr> {
    first_of_each_family(server, lookup_host(server)).await
}

async fn first_of_each_family(
    name: &str,
    lookup: impl Future<Output = io::Result<impl Iterator<Item = SocketAddr>>>,
) -> Vec<SocketAddr> {
    let found = match timeout(LOOKUP_LIMIT, lookup).await {
        Ok(Ok(found)) => found.collect::<Vec<_>>(),
        Ok(Err(error)) => {
            debug!(name, %error, "a name leads to no address");
            return Vec::new();
        }
        Err(_) => return Vec::new(),
    };
    let first = |ipv4| found.iter().copied().find(|address| address.is_ipv4() == ipv4);
    [first(true), first(false)].into_iter().flatten().collect()
}

/// What the relay's answers, or its silence, mean.
fn assess(hosts: Vec<SocketAddr>, named: &[SocketAddr], outcomes: &[Outcome]) -> LocalAddresses {
    let mut seen = Vec::new();
    for outcome in outcomes {
        if let Outcome::Mapped(address) = outcome
            && !seen.contains(address)
        {
            seen.push(*address);
        }
    }
    let of_family = |ipv4| seen.iter().filter(move |address| address.is_ipv4() == ipv4).count();
    let nat = if seen.is_empty() {
        if outcomes.is_empty() { Nat::Unknown } else { Nat::Blocked }
    } else if of_family(true) > 1 || of_family(false) > 1 {
        Nat::Fickle
    } else if seen.iter().all(|address| hosts.contains(address)) {
        Nat::None
    } else {
        Nat::Steady
    };
    let not_named = seen.iter().filter(|address| !named.contains(address));
    let reflexive = named.iter().chain(not_named).filter(|address| !hosts.contains(address));
    let reflexive = reflexive.map(|address| Candidate { address: *address, kind: CandidateKind::Reflexive });
    let own = hosts.iter().map(|address| Candidate { address: *address, kind: CandidateKind::Host });
    LocalAddresses { candidates: reflexive.chain(own).collect(), nat }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn assessed(outcomes: &[Outcome]) -> LocalAddresses {
        assess(vec![address("10.0.0.2:4000")], &[], outcomes)
    }

    #[test]
    fn equal_answers_mean_a_steady_nat() {
        let seen = address("203.0.113.9:4001");
        let found = assessed(&[Outcome::Mapped(seen), Outcome::Mapped(seen), Outcome::Silent]);
        assert_eq!(found.nat, Nat::Steady);
        let kinds: Vec<_> = found.candidates.iter().map(|it| (it.address, it.kind)).collect();
        let own = (address("10.0.0.2:4000"), CandidateKind::Host);
        assert_eq!(kinds, [(seen, CandidateKind::Reflexive), own]);
    }

    #[test]
    fn different_answers_mean_a_fickle_nat() {
        let one = Outcome::Mapped(address("203.0.113.9:4001"));
        let other = Outcome::Mapped(address("203.0.113.9:4002"));
        assert_eq!(assessed(&[one, other]).nat, Nat::Fickle);
        let v6 = Outcome::Mapped(address("[2001:db8::9]:4000"));
        assert_eq!(assessed(&[one, one, v6, v6]).nat, Nat::Steady, "each family has one");
    }

    #[test]
    fn no_answer_is_told_from_no_question() {
        assert_eq!(assessed(&[]).nat, Nat::Unknown);
        assert_eq!(assessed(&[Outcome::Silent, Outcome::Silent]).nat, Nat::Blocked);
    }

    #[test]
    fn an_address_of_our_own_means_no_nat_and_is_named_once() {
        let found = assessed(&[Outcome::Mapped(address("10.0.0.2:4000"))]);
        assert_eq!((found.nat, found.candidates.len()), (Nat::None, 1));
    }
}
