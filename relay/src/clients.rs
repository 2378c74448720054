//! Who is registered, and the queue through which each client is reached.
//!
//! The registry is the only state that sessions share. No call waits: a lookup locks one shard of the map, and a
//! full queue ends the receiver's session instead of delaying the sender's. Removal names the connection that
//! was registered, so that a session that ends late never removes its successor.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use proxystore_shared::EndpointId;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::auth::User;
use crate::close::Close;
use crate::datagrams::Dropped;
use crate::outbox::{Full, Outbox, Room};
use crate::routing::{self, Undeliverable};

/// Names are for people and logs: what is longer is cut, so that a client cannot make the registry large.
const MAX_NAME_CHARS: usize = 64;

/// Tells sessions apart that register the same endpoint one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionId(pub u64);

/// A registered client.
#[derive(Debug)]
pub struct Client {
    /// The session.
    pub connection: ConnectionId,
    /// Its user.
    pub user: User,
    /// What the client calls itself; cut to 64 characters.
    pub name: String,
    /// Where it connected from.
    pub address: SocketAddr,
    /// Whether it asked for datagrams.
    pub extended: bool,
    /// How to reach it.
    pub outbox: Arc<Outbox>,
}

/// The id belongs to another user.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("Endpoint {0} is registered by another user.")]
pub struct Refused(EndpointId);

/// The registered clients of one relay.
#[derive(Debug)]
pub struct Clients {
    by_id: DashMap<EndpointId, Client>,
    connections: AtomicU64,
    room: Arc<Room>,
}

impl Clients {
    /// Nobody yet, and `room` for what will wait for them.
    pub fn new(room: Room) -> Self {
        Self { by_id: DashMap::new(), connections: AtomicU64::new(0), room: Arc::new(room) }
    }

    /// What waits for clients has room here.
    pub fn room(&self) -> &Arc<Room> {
        &self.room
    }

    /// A number for a session that was not given before.
    pub fn next_connection(&self) -> ConnectionId {
        ConnectionId(self.connections.fetch_add(1, Ordering::Relaxed))
    }

    /// How many clients are registered.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// One line a client for the periodic report, sorted by name.
    pub fn describe(&self) -> Vec<String> {
        let describe = |id: &EndpointId, client: &Client| {
            format!("{:?} {id} from {} ({})", client.name, client.address, client.user)
        };
        let mut lines: Vec<_> = self.by_id.iter().map(|entry| describe(entry.key(), &entry)).collect();
        lines.sort_unstable();
        lines
    }

    /// Registers a client. Another session of the same user with the same id is ended with 4004; a session that
    /// has this id already does not ask again.
    pub fn register(self: &Arc<Self>, id: EndpointId, mut client: Client) -> Result<Registered, Refused> {
        if let Some((end, _)) = client.name.char_indices().nth(MAX_NAME_CHARS) {
            client.name.truncate(end);
        }
        let connection = client.connection;
        match self.by_id.entry(id) {
            Entry::Vacant(entry) => {
                entry.insert(client);
            }
            Entry::Occupied(entry) if !routing::may_replace(&entry.get().user, &client.user) => {
                return Err(Refused(id));
            }
            Entry::Occupied(mut entry) => entry.insert(client).outbox.kick.kick(Close::replaced()),
        }
        Ok(Registered { clients: self.clone(), id, connection })
    }

    /// Puts `text` into the queue of `peer`, or says why that is impossible.
    pub fn forward(&self, sender: &User, peer: EndpointId, text: Utf8Bytes) -> Result<(), Undeliverable> {
        let receiver = self.by_id.get(&peer).ok_or(Undeliverable::Unknown)?;
        routing::may_reach(sender, &receiver.user)?;
        receiver.outbox.push_control(text).map_err(|Full| {
            let connection = receiver.connection;
            receiver.outbox.kick.kick(Close::not_reading());
            // The entry's lock has to go before the entry can be removed.
            drop(receiver);
            self.remove(peer, connection);
            Undeliverable::NotReading
        })
    }

    /// The outbox for datagrams from a client of `sender` to `peer`, or why there is none.
    pub fn outbox_of(&self, sender: &User, peer: EndpointId) -> Result<Arc<Outbox>, Dropped> {
        let receiver = self.by_id.get(&peer).ok_or(Dropped::Unknown)?;
        routing::may_reach(sender, &receiver.user).map_err(|_| Dropped::Foreign)?;
        if receiver.extended { Ok(receiver.outbox.clone()) } else { Err(Dropped::Plain) }
    }

    fn remove(&self, id: EndpointId, connection: ConnectionId) {
        self.by_id.remove_if(&id, |_, client| client.connection == connection);
    }
}

/// A session's entry in the registry; dropping it removes the entry unless a successor has taken its place.
#[derive(Debug)]
pub struct Registered {
    clients: Arc<Clients>,
    id: EndpointId,
    connection: ConnectionId,
}

impl Registered {
    /// The endpoint.
    pub fn id(&self) -> EndpointId {
        self.id
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.clients.remove(self.id, self.connection);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proxystore_shared::config::relay::RelayConfig;
    use tokio_tungstenite::tungstenite::Message;

    use super::*;

    fn clients() -> Arc<Clients> {
        let mut config = RelayConfig::default();
        config.limits.queue_messages = 1;
        Arc::new(Clients::new(Room::new(&config)))
    }

    fn client(clients: &Clients, user: User) -> Client {
        Client {
            connection: clients.next_connection(),
            user,
            name: "test".into(),
            address: ([127, 0, 0, 1], 1).into(),
            extended: true,
            outbox: Arc::new(Outbox::new(clients.room().clone())),
        }
    }

    fn pop(outbox: &Outbox) -> Option<Message> {
        std::future::poll_fn(|context| outbox.poll_pop(context)).now_or_never()
    }

    #[test]
    fn a_stale_session_never_removes_its_successor() {
        let clients = clients();
        let id = EndpointId::random();
        let (old, new) = (client(&clients, User::Anyone), client(&clients, User::Anyone));
        let (old_outbox, new_outbox) = (old.outbox.clone(), new.outbox.clone());
        let old = clients.register(id, old).expect("registers");
        let new = clients.register(id, new).expect("replaces");
        assert_eq!(old_outbox.kick.kicked().now_or_never(), Some(Close::replaced()));
        drop(old);
        assert_eq!(clients.forward(&User::Anyone, id, "x".into()), Ok(()));
        assert_eq!(pop(&new_outbox), Some(Message::text("x")));
        drop(new);
        assert_eq!(clients.len(), 0);
        assert_eq!(clients.forward(&User::Anyone, id, "x".into()), Err(Undeliverable::Unknown));
    }

    #[test]
    fn another_user_gets_neither_the_id_nor_the_peer() {
        let clients = clients();
        let id = EndpointId::random();
        let (alice, bob) = (User::Globus("alice".into()), User::Globus("bob".into()));
        let (owner, thief) = (client(&clients, alice), client(&clients, bob.clone()));
        let _registered = clients.register(id, owner).expect("registers");
        assert_eq!(clients.register(id, thief).map(|_| ()), Err(Refused(id)));
        assert_eq!(clients.forward(&bob, id, "x".into()), Err(Undeliverable::Foreign));
        assert_eq!(clients.outbox_of(&bob, id).map(|_| ()), Err(Dropped::Foreign));
    }

    #[test]
    fn a_full_queue_drops_the_receiver() {
        let clients = clients();
        let id = EndpointId::random();
        let slow = client(&clients, User::Anyone);
        let outbox = slow.outbox.clone();
        let _registered = clients.register(id, slow).expect("registers");
        assert_eq!(clients.forward(&User::Anyone, id, "1".into()), Ok(()));
        assert_eq!(clients.forward(&User::Anyone, id, "2".into()), Err(Undeliverable::NotReading));
        assert_eq!(outbox.kick.kicked().now_or_never(), Some(Close::not_reading()));
        assert_eq!(clients.forward(&User::Anyone, id, "3".into()), Err(Undeliverable::Unknown));
    }

    #[test]
    fn a_peer_that_did_not_ask_gets_no_datagrams() {
        let clients = clients();
        let id = EndpointId::random();
        assert_eq!(clients.outbox_of(&User::Anyone, id).map(|_| ()), Err(Dropped::Unknown));
        let plain = Client { extended: false, ..client(&clients, User::Anyone) };
        let _registered = clients.register(id, plain).expect("registers");
        assert_eq!(clients.outbox_of(&User::Anyone, id).map(|_| ()), Err(Dropped::Plain));
    }

    #[test]
    fn names_are_cut() {
        let clients = clients();
        let mut long = client(&clients, User::Anyone);
        long.name = "é".repeat(1000);
        let _registered = clients.register(EndpointId::random(), long).expect("registers");
        assert!(clients.describe()[0].len() < 300);
    }
}
