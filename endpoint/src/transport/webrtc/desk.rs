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

use crate::transport::shared_socket::{canonical, mapped};

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
    /// The address of this host that it was sent to, where the system says.
    pub to: Option<IpAddr>,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// See the module's head.
#[derive(Debug)]
pub struct Desk {
    socket: UdpSocket,
    local: SocketAddr,
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
    /// Sends from `socket`, a second handle to the endpoint's.
    pub fn new(socket: UdpSocket) -> io::Result<Self> {
        let local = socket.local_addr()?;
        let (by_user, by_address) = (DashMap::new(), DashMap::new());
        Ok(Self { socket, local, identity: OnceLock::new(), by_user, by_address })
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
    pub fn deliver(&self, from: SocketAddr, to: Option<IpAddr>, bytes: &[u8]) -> bool {
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

    fn send(&self, to: SocketAddr, bytes: &[u8]) {
        let to = if self.local.is_ipv6() { mapped(to) } else { to };
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

    /// Sends a datagram; the answers will come here.
    pub fn send(&mut self, to: SocketAddr, bytes: &[u8]) {
        self.claim(to, false);
        self.desk.send(to, bytes);
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
