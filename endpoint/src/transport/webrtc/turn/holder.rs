//! The task that holds the address.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proxystore_shared::config::endpoint::{ProxySetting, TurnServer, TurnTransport};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use turn_client_proto::api::{TurnClientApi as _, TurnConfig, TurnEvent, TurnPollRet, TurnRecvRet};
use turn_client_proto::client::TurnClient;
use turn_client_proto::stun::Instant as TurnInstant;
use turn_client_proto::stun::agent::Transmit;
use turn_client_proto::tcp::TurnClientTcp;
use turn_client_proto::types::prelude::DelayedTransmitBuild as _;
use turn_client_proto::types::{TransportType, TurnCredentials};
use turn_client_proto::udp::TurnClientUdp;

use super::link::{Ends, Link};
use super::{ORDERS, Order, Turn, TurnError};
use crate::transport::addresses::{LocalAddresses, resolve_socket};
use crate::transport::webrtc::{Desk, Destination};

/// From a request to its repetition, twice as long each time: the protocol's least (RFC 8489, section 6.2.1), and what a
/// server takes at the most that is of any use.
const REPEAT: Duration = Duration::from_millis(500);
const REPEAT_AT_MOST: Duration = Duration::from_secs(2);

/// How often a request is made: with the pauses between them, for 5.5 s.
const REQUESTS: u32 = 4;

/// For the server to lend an address: both requests that it takes, with a repetition of each.
const ANSWER_LIMIT: Duration = Duration::from_secs(6);

/// From a failure to the next attempt: a server that is down is not asked all the time.
const RETRY: Duration = Duration::from_secs(30);

/// Hosts that may send to the address. Servers allow as many as they like, and they are renewed for as long as there is
/// the address; with more, it is given back for another one.
const MAX_PERMITTED: usize = 256;

/// The task.
pub struct Holder {
    server: TurnServer,
    /// On the way to the server, unless that is over UDP.
    proxy: Option<ProxySetting>,
    orders: mpsc::Receiver<Order>,
    address: watch::Sender<Option<SocketAddr>>,
    /// When the library's time began.
    epoch: Instant,
    /// Failures so far: the server's addresses, one of each family at the most, take turns.
    failures: usize,
}

/// An address, or the attempt to get one.
struct Allocation {
    client: TurnClient,
    link: Link,
    permitted: BTreeSet<IpAddr>,
}

impl Holder {
    /// For `server`; `proxy` is the configured one.
    pub fn new(server: TurnServer, proxy: Option<ProxySetting>) -> (Self, Turn) {
        let (sender, orders) = mpsc::channel(ORDERS);
        let (address, receiver) = watch::channel(None);
        let holder = Self { server, proxy, orders, address, epoch: Instant::now(), failures: 0 };
        (holder, Turn { orders: sender, address: receiver })
    }

    /// Holds an address until `stop`. What comes for it goes to `desk`; `addresses` are this host's.
    pub async fn run(
        mut self,
        desk: Arc<Desk>,
        mut addresses: watch::Receiver<LocalAddresses>,
        stop: CancellationToken,
    ) {
        loop {
            let held = self.hold(&desk, &mut addresses, &stop).await;
            self.address.send_replace(None);
            let Err(error) = held else { return };
            warn!(server = %self.server.address, %error, "no address at the TURN server");
            if error.is_no_fault_of_the_server() {
                continue;
            }
            self.failures += 1;
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(RETRY) => {}
                // The network may be back.
                Ok(()) = addresses.changed() => {}
            }
        }
    }

    /// Ends with `stop`, or with why there is no address any longer.
    async fn hold(
        &mut self,
        desk: &Desk,
        addresses: &mut watch::Receiver<LocalAddresses>,
        stop: &CancellationToken,
    ) -> Result<(), TurnError> {
        let hosts = addresses.borrow_and_update().hosts();
        let mut allocation = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            begun = self.begin() => begun?,
        };
        let give_up = Instant::now() + ANSWER_LIMIT;
        loop {
            let due = self.advance(&mut allocation).await?;
            let has_address = self.address.borrow().is_some();
            let lost = has_address && allocation.client.relayed_addresses().next().is_none();
            if lost || !has_address && give_up <= Instant::now() {
                return Err(TurnError::Gone);
            }
            if allocation.permitted.len() > MAX_PERMITTED {
                self.give_back(allocation).await?;
                return Err(TurnError::Worn);
            }
            let due = if has_address { due } else { due.min(give_up) };
            tokio::select! {
                () = stop.cancelled() => return self.give_back(allocation).await,
                () = sleep_until(due.into()) => {}
                // The server knows us by the address that its answers go to.
                Ok(()) = addresses.changed() => {
                    if addresses.borrow_and_update().hosts() != hosts {
                        return Err(TurnError::Moved);
                    }
                }
                Some(order) = self.orders.recv() => self.handle(&mut allocation, order).await?,
                read = allocation.link.read() => self.receive(&mut allocation, read?, desk),
            }
        }
    }

    async fn begin(&mut self) -> Result<Allocation, TurnError> {
        let TurnServer { transport, username, credential, .. } = &self.server;
        let mut config = TurnConfig::new(TurnCredentials::new(username, credential));
        config.set_request_retransmits(REPEAT, REPEAT_AT_MOST, REQUESTS, REPEAT_AT_MOST);
        let (client, link) = match transport {
            TurnTransport::Udp => {
                let server = self.next_address().await.ok_or(TurnError::Unknown)?;
                let (link, Ends { local, remote }) = Link::udp(server).await?;
                (TurnClient::Udp(TurnClientUdp::allocate(local, remote, config)), link)
            }
            TurnTransport::Tcp | TurnTransport::Tls => {
                let (link, Ends { local, remote }) = Link::tcp(&self.server, self.proxy.as_ref()).await?;
                (TurnClient::Tcp(TurnClientTcp::allocate(local, remote, config)), link)
            }
        };
        Ok(Allocation { client, link, permitted: BTreeSet::new() })
    }

    async fn next_address(&self) -> Option<SocketAddr> {
        let servers = resolve_socket(&self.server.address).await;
        servers.iter().cycle().nth(self.failures % 2).copied()
    }

    fn now(&self) -> TurnInstant {
        TurnInstant::from_std(self.epoch)
    }

    /// Sends what is to be sent, notes what happened, and says when to come again.
    async fn advance(&mut self, allocation: &mut Allocation) -> Result<Instant, TurnError> {
        let next = allocation.client.poll(self.now());
        while let Some(transmit) = allocation.client.poll_transmit(self.now()) {
            allocation.link.write(&transmit.data).await?;
        }
        while let Some(event) = allocation.client.poll_event() {
            self.note(event, &mut allocation.permitted)?;
        }
        match next {
            TurnPollRet::WaitUntil(due) => Ok(due.to_std(self.epoch)),
            TurnPollRet::Closed => Err(TurnError::Gone),
            // Connections from the server to peers, which were not asked for.
            TurnPollRet::AllocateTcpSocket { .. } | TurnPollRet::TcpClose { .. } => Ok(Instant::now()),
        }
    }

    fn note(&self, event: TurnEvent, permitted: &mut BTreeSet<IpAddr>) -> Result<(), TurnError> {
        match event {
            TurnEvent::AllocationCreated(_, address) => {
                info!(server = %self.server.address, %address, "address at the TURN server");
                self.address.send_replace(Some(address));
                Ok(())
            }
            TurnEvent::AllocationCreateFailed(_) => Err(TurnError::Refused),
            TurnEvent::PermissionCreateFailed(_, host) => {
                debug!(%host, "the TURN server does not let a peer's host in");
                permitted.remove(&host);
                Ok(())
            }
            other => {
                debug!(event = ?other, "TURN server");
                Ok(())
            }
        }
    }

    async fn handle(&self, allocation: &mut Allocation, order: Order) -> Result<(), TurnError> {
        match order {
            Order::Permit(host) => self.permit(allocation, host),
            Order::Send(to, bytes) => {
                // Before the host is permitted it is lost, and sent again.
                if let Ok(Some(transmit)) =
                    allocation.client.send_to(TransportType::Udp, to, bytes, self.now())
                {
                    allocation.link.write(&transmit.data.build()).await?;
                }
            }
        }
        Ok(())
    }

    fn permit(&self, allocation: &mut Allocation, host: IpAddr) {
        // Before there is an address, no peer knows of it.
        if self.address.borrow().is_none() || !allocation.permitted.insert(host) {
            return;
        }
        if allocation.client.create_permission(TransportType::Udp, host, self.now()).is_err() {
            allocation.permitted.remove(&host);
        }
    }

    fn receive(&self, allocation: &mut Allocation, bytes: Vec<u8>, desk: &Desk) {
        let address = *self.address.borrow();
        let pass_on = |peer, bytes: &[u8]| {
            if let Some(address) = address {
                desk.deliver(peer, Destination::Relayed(address), bytes);
            }
        };
        let (from, to) = (allocation.client.remote_addr(), allocation.client.local_addr());
        let transmit = Transmit { data: bytes, transport: allocation.client.transport(), from, to };
        if let TurnRecvRet::PeerData(data) = allocation.client.recv(transmit, self.now()) {
            pass_on(data.peer, data.data());
        }
        // Of a stream, more than one message may have come.
        while let Some(data) = allocation.client.poll_recv(self.now()) {
            pass_on(data.peer, data.data());
        }
    }

    /// The server need not keep what nobody uses any longer.
    async fn give_back(&mut self, mut allocation: Allocation) -> Result<(), TurnError> {
        if allocation.client.delete(self.now()).is_ok() {
            self.advance(&mut allocation).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng as _, RngCore as _, SeedableRng as _};

    use super::*;

    /// Bytes that begin like a message of any kind, its length right or wrong, with anything behind it.
    fn message(random: &mut rand::rngs::StdRng) -> Vec<u8> {
        let mut bytes = vec![0; random.random_range(0..120)];
        random.fill_bytes(&mut bytes);
        if bytes.len() >= 20 && random.random_bool(0.9) {
            let length = (bytes.len() - 20) as u16;
            bytes[0] &= 0x01;
            bytes[2..4].copy_from_slice(&length.to_be_bytes());
            bytes[4..8].copy_from_slice(&0x2112_A442_u32.to_be_bytes());
        }
        bytes
    }

    #[tokio::test]
    async fn nonsense_in_the_servers_name_does_no_harm() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let server = socket.local_addr().unwrap();
        let desk = Desk::new(socket, None).unwrap();
        let mut random = rand::rngs::StdRng::seed_from_u64(7);
        for transport in [TransportType::Udp, TransportType::Tcp] {
            let config = TurnConfig::new(TurnCredentials::new("site", "secret"));
            let (link, Ends { local, remote }) = Link::udp(server).await.unwrap();
            let client = match transport {
                TransportType::Udp => TurnClient::Udp(TurnClientUdp::allocate(local, remote, config)),
                TransportType::Tcp => TurnClient::Tcp(TurnClientTcp::allocate(local, remote, config)),
            };
            let mut allocation = Allocation { client, link, permitted: BTreeSet::new() };
            let turn_server = TurnServer {
                address: server.to_string(),
                transport: TurnTransport::Udp,
                username: "site".into(),
                credential: "secret".into(),
            };
            let (mut holder, turn) = Holder::new(turn_server, None);
            for _ in 0..20_000 {
                holder.receive(&mut allocation, message(&mut random), &desk);
            }
            assert!(holder.advance(&mut allocation).await.is_ok());
            assert_eq!(turn.address(), None);
        }
    }
}
