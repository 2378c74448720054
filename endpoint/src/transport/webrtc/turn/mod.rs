//! An address at a TURN server (RFC 8656), for Python endpoints that no address of this host can reach.
//!
//! One task holds it for as long as the endpoint runs, so that it is known before a peer is offered it and nobody waits
//! for it. The protocol is `turn-client-proto`'s, which has neither sockets nor clocks.

mod holder;
mod link;

use std::net::{IpAddr, SocketAddr};

use tokio::sync::{mpsc, watch};

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
