//! Which datagram is for which connection.
//!
//! Address checks name it: the first half of their user name is one that this side made up. Anything else is for the
//! connection that has had an authentic message from that address, or at least has sent something there: a peer can name
//! any address as its own, but cannot take it away from the one that is there.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, OnceLock};

use dashmap::DashMap;
use proxystore_shared::stun;
use str0m::config::{CryptoProvider, DtlsCert};
use tokio::sync::mpsc;

use super::turn::Turn;
use crate::transport::shared_socket::{canonical, reachable_from};

/// Datagrams that wait for a connection: some 1.5 MB, more than Python has under way at once. More are lost, as they are on
/// the network.
const INBOX: usize = 1024;

/// Addresses that a connection may be known by. Both sides name at most 32.
const MAX_ADDRESSES: usize = 64;

/// A datagram and where it came from.
#[derive(Debug)]
pub struct Datagram {
    /// Its sender.
    pub from: SocketAddr,
    /// Where it was sent to.
    pub to: Destination,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Where a datagram was sent to.
#[derive(Debug, Clone, Copy)]
pub enum Destination {
    /// To this host; to which of its addresses, where the system says.
    Here(Option<IpAddr>),
    /// To this address at the TURN server.
    Relayed(SocketAddr),
}

/// See the module's head.
#[derive(Debug)]
pub struct Desk {
    socket: UdpSocket,
    local: SocketAddr,
    turn: Option<Turn>,
    /// Made for the first description: an endpoint without peers does without, and the library has 4 MB of memory at once.
    identity: OnceLock<Option<Identity>>,
    by_user: DashMap<String, mpsc::Sender<Datagram>>,
    by_address: DashMap<SocketAddr, Known>,
}

/// What stands for this endpoint until it stops.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub crypto: Arc<CryptoProvider>,
    pub certificate: DtlsCert,
}

impl Identity {
    /// None only where the system has no randomness.
    fn new() -> Option<Self> {
        let crypto = Arc::new(str0m::crypto::from_feature_flags());
        let certificate = crypto.dtls_provider.generate_certificate()?;
        Some(Self { crypto, certificate })
    }
}

#[derive(Debug)]
struct Known {
    user: String,
    inbox: mpsc::Sender<Datagram>,
    /// Whether an authentic message came from the address.
    proven: bool,
}

impl Desk {
    /// Sends from `socket`, a second handle to the endpoint's, and from the address at a TURN server if there is one.
    pub fn new(socket: UdpSocket, turn: Option<Turn>) -> io::Result<Self> {
        let local = socket.local_addr()?;
        let (by_user, by_address) = (DashMap::new(), DashMap::new());
        Ok(Self { socket, local, turn, identity: OnceLock::new(), by_user, by_address })
    }

    /// The address at the TURN server; none while there is none.
    pub fn relayed_address(&self) -> Option<SocketAddr> {
        self.turn.as_ref()?.address()
    }

    pub(super) fn identity(&self) -> Option<&Identity> {
        self.identity.get_or_init(Identity::new).as_ref()
    }

    /// SHA-256 of the certificate, for descriptions; none if none could be made.
    pub fn fingerprint(&self) -> Option<[u8; 32]> {
        let Identity { crypto, certificate } = self.identity()?;
        Some(crypto.sha256_provider.sha256(&certificate.certificate))
    }

    /// Hands a datagram to the connection it is for, and says whether it can be for nobody else. Nothing happens if there is
    /// none, or it is too busy: whoever sent it sends it again.
    pub fn deliver(&self, from: SocketAddr, to: Destination, bytes: &[u8]) -> bool {
        let datagram = || Datagram { from, to, bytes: bytes.to_vec() };
        if let Some(user) = stun::checked_user(bytes) {
            if let Some(inbox) = self.by_user.get(user) {
                let _ = inbox.try_send(datagram());
            }
            return true;
        }
        let Some(known) = self.by_address.get(&from) else { return false };
        let _ = known.inbox.try_send(datagram());
        known.proven
    }

    /// Opens an inbox for the connection whose checks name `user`.
    pub(super) fn open(self: &Arc<Self>, user: String) -> Inbox {
        let (sender, datagrams) = mpsc::channel(INBOX);
        self.by_user.insert(user.clone(), sender.clone());
        Inbox {
            desk: self.clone(),
            user,
            sender,
            datagrams,
            addresses: BTreeSet::new(),
            proven: BTreeSet::new(),
        }
    }

    fn send(&self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        if let Some(turn) = self.turn.as_ref().filter(|turn| turn.address() == Some(from)) {
            return turn.send(to, bytes);
        }
        let to = reachable_from(self.local, to);
        // A datagram that cannot be sent is a lost one.
        let _ = self.socket.send_to(bytes, to);
    }
}

/// What comes for one connection, and the way out for it. Dropping it closes both.
#[derive(Debug)]
pub(super) struct Inbox {
    desk: Arc<Desk>,
    user: String,
    sender: mpsc::Sender<Datagram>,
    datagrams: mpsc::Receiver<Datagram>,
    /// Addresses to which something was sent.
    addresses: BTreeSet<SocketAddr>,
    /// Addresses from which something authentic came.
    proven: BTreeSet<SocketAddr>,
}

impl Inbox {
    /// The next datagram.
    pub async fn receive(&mut self) -> Datagram {
        match self.datagrams.recv().await {
            Some(datagram) => datagram,
            // Its own sender is kept, so this does not happen.
            None => std::future::pending().await,
        }
    }

    /// Sends a datagram from one of our addresses; the answers will come here.
    pub fn send(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        self.claim(to, false);
        self.desk.send(from, to, bytes);
    }

    /// Lets a peer's host send to our address at the TURN server, if there is one.
    pub fn permit(&self, host: IpAddr) {
        if let Some(turn) = &self.desk.turn {
            turn.permit(host);
        }
    }

    /// An authentic message came from `address`.
    pub fn prove(&mut self, address: SocketAddr) {
        self.claim(address, true);
    }

    fn claim(&mut self, address: SocketAddr, proven: bool) {
        let address = canonical(address);
        let claims = if proven { &mut self.proven } else { &mut self.addresses };
        if claims.len() >= MAX_ADDRESSES || !claims.insert(address) {
            return;
        }
        let known = || Known { user: self.user.clone(), inbox: self.sender.clone(), proven };
        self.desk
            .by_address
            .entry(address)
            .and_modify(|current| {
                if proven && !current.proven {
                    *current = known();
                }
            })
            .or_insert_with(known);
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.desk.by_user.remove(&self.user);
        for address in self.addresses.union(&self.proven) {
            self.desk.by_address.remove_if(address, |_, known| known.user == self.user);
        }
    }
}
