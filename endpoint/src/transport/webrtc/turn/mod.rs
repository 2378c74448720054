//! An address at a TURN server (RFC 8656), for Python endpoints that no address of this host can reach.
//!
//! One task holds it for as long as the endpoint runs, so that it is known before a peer is offered it and nobody waits
//! for it. The protocol is `turn-client-proto`'s, which has neither sockets nor clocks. Over UDP it shares the endpoint's
//! socket, and channels are not used there: their first bytes are QUIC's (RFC 9443, section 4).

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
    /// A datagram came from the server.
    Take(Vec<u8>),
    /// A peer's host may send to the address.
    Permit(IpAddr),
    /// Something goes to a peer.
    Send(SocketAddr, Vec<u8>),
}

/// Where the address is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Place {
    /// The server, if it is reached over the endpoint's own socket.
    server: Option<SocketAddr>,
    /// The address.
    address: Option<SocketAddr>,
}

/// The way to the task.
#[derive(Debug)]
pub struct Turn {
    orders: mpsc::Sender<Order>,
    place: watch::Receiver<Place>,
}

impl Turn {
    /// The address; none while there is none.
    pub fn address(&self) -> Option<SocketAddr> {
        self.place.borrow().address
    }

    /// Takes a datagram if it is the server's, and says whether it is.
    pub fn take(&self, from: SocketAddr, bytes: &[u8]) -> bool {
        let is_ours = self.place.borrow().server == Some(from);
        if is_ours {
            self.order(Order::Take(bytes.to_vec()));
        }
        is_ours
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_comes_from_the_server_is_its() {
        let (orders, mut taken) = mpsc::channel(4);
        let server = "192.0.2.1:3478".parse().unwrap();
        let (_sender, place) = watch::channel(Place { server: Some(server), address: None });
        let turn = Turn { orders, place };
        assert!(!turn.take("192.0.2.1:3479".parse().unwrap(), b"message"));
        assert!(turn.take(server, b"message"));
        assert!(matches!(taken.try_recv(), Ok(Order::Take(bytes)) if bytes == b"message"));
    }
}
