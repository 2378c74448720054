//! An address at a TURN server (RFC 8656), for Python endpoints that no address of this host can reach.
//!
//! One task holds it for as long as the endpoint runs, so that it is known before a peer is offered it and nobody waits
//! for it. The protocol is `turn-client-proto`'s, which has neither sockets nor clocks.

mod holder;
mod link;

use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::sync::{mpsc, watch};

use crate::transport::route::RouteError;

pub use holder::Holder;

/// What waits for the task: some 1.5 MB of datagrams. More are lost, as they are on the network.
const ORDERS: usize = 1024;

/// What others want of the task.
#[derive(Debug)]
enum Order {
    /// A peer's host may send to the address.
    Permit(IpAddr),
    /// Something goes to a peer.
    Send(SocketAddr, Vec<u8>),
}

/// The way to the task.
#[derive(Debug)]
pub struct Turn {
    orders: mpsc::Sender<Order>,
    /// The address; none while there is none.
    address: watch::Receiver<Option<SocketAddr>>,
}

impl Turn {
    /// The address; none while there is none.
    pub fn address(&self) -> Option<SocketAddr> {
        *self.address.borrow()
    }

    /// Lets a peer's host send to the address.
    pub fn permit(&self, host: IpAddr) {
        self.order(Order::Permit(host));
    }

    /// Sends from the address.
    pub fn send(&self, to: SocketAddr, bytes: &[u8]) {
        self.order(Order::Send(to, bytes.to_vec()));
    }

    fn order(&self, order: Order) {
        // What is too much is lost; its sender sends it again.
        let _ = self.orders.try_send(order);
    }
}

/// Why there is no address.
#[derive(Debug, thiserror::Error)]
enum TurnError {
    #[error("its name leads to no address")]
    Unknown,
    #[error("it has none to give")]
    Refused,
    // The library takes a second refusal of the credential for forged, and waits for another answer.
    #[error("it does not answer, or does not accept the user name and credential")]
    Gone,
    #[error("too many peers for one address")]
    Worn,
    #[error("this host's own addresses have changed")]
    Moved,
    #[error(transparent)]
    Route(#[from] RouteError),
    #[error("it was not reached, or left: {0}")]
    Io(#[from] io::Error),
}

impl TurnError {
    /// Whether the server will do better at once.
    fn is_no_fault_of_the_server(&self) -> bool {
        matches!(self, Self::Worn | Self::Moved)
    }
}
