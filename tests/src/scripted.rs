//! A peer that does exactly what a test tells it: it speaks to the relay and over QUIC, and lies where it is told to.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use noq::{Connection, RecvStream, SendStream};
use proxystore_endpoint::identity::Identity;
use proxystore_endpoint::transport::quic::Quic;
use proxystore_endpoint::transport::tls::{Expected, install_provider};
use proxystore_endpoint::transport::webrtc::Desk;
use proxystore_endpoint::transport::{relayed, socket};
use proxystore_shared::description::{Candidate, CandidateKind, QuicPeer, SessionDescription, SessionId};
use proxystore_shared::frame::{self, Answer, LENGTH_LEN, Request};
use proxystore_shared::relay_message::{DescriptionKind, PeerConnection, Registration, RelayMessage};
use proxystore_shared::{EndpointId, PublicKey};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::PATIENCE;

/// A registered client of a relay with a key and a UDP socket.
pub struct ScriptedPeer {
    /// The id it registered.
    pub id: EndpointId,
    /// The key it proves.
    pub key: PublicKey,
    address: SocketAddr,
    quic: Quic,
    relay: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

/// A fresh key.
pub fn new_identity() -> Result<Identity> {
    let dir = tempfile::tempdir()?;
    Ok(Identity::create(&dir.path().join("identity.key"))?)
}

impl ScriptedPeer {
    /// An honest peer.
    pub async fn register(relay: &str) -> Result<Self> {
        let identity = new_identity()?;
        let id = EndpointId::certified_by(&identity.public_key());
        Self::register_as(relay, id, identity).await
    }

    /// A peer that calls itself `id`, whatever its key.
    pub async fn register_as(relay: &str, id: EndpointId, identity: Identity) -> Result<Self> {
        install_provider();
        let key = identity.public_key();
        let socket = socket::open(Some(Ipv4Addr::LOCALHOST.into()), 0)?;
        let address = socket.local_addr()?;
        let webrtc = Arc::new(Desk::new(socket.try_clone()?, None)?);
        let (quic, _stun) = Quic::new(socket, relayed::queues().0, identity, webrtc)?;
        let (mut relay, _) = connect_async(relay).await?;
        let registration = Registration { name: "scripted".into(), uuid: id };
        relay.send(Message::text(RelayMessage::RelayRegistration(registration).encode())).await?;
        relay.next().await.context("no answer to the registration")??;
        Ok(Self { id, key, address, quic, relay })
    }

    /// The next offer or answer for this peer.
    pub async fn receive(&mut self) -> Result<PeerConnection> {
        loop {
            let frame = timeout(PATIENCE, self.relay.next()).await?.context("the relay went away")??;
            if let Message::Text(text) = frame
                && let RelayMessage::PeerConnection(message) = RelayMessage::decode(&text)?
            {
                return Ok(message);
            }
        }
    }

    /// Sends a description of this peer that claims `key`.
    pub async fn describe(
        &mut self,
        to: EndpointId,
        kind: DescriptionKind,
        session: SessionId,
        key: PublicKey,
    ) -> Result<()> {
        let candidates = vec![Candidate { address: self.address, kind: CandidateKind::Host }];
        let quic = Some(QuicPeer { key, session });
        let description = SessionDescription { kind, quic, webrtc: None, candidates };
        self.send(to, kind, description.encode()).await
    }

    /// Sends any description.
    pub async fn send(&mut self, to: EndpointId, kind: DescriptionKind, description: String) -> Result<()> {
        let message = PeerConnection {
            source_uuid: self.id,
            source_name: "scripted".into(),
            peer_uuid: to,
            description_type: kind,
            description,
            error: None,
        };
        self.relay.send(Message::text(RelayMessage::PeerConnection(message).encode())).await?;
        Ok(())
    }

    /// Waits for an offer and answers it, for peers whose answer will not be accepted.
    pub async fn answer_without_waiting(&mut self) -> Result<()> {
        self.answer_offer(self.key).await
    }

    async fn answer_offer(&mut self, key: PublicKey) -> Result<()> {
        let offer = self.receive().await?;
        let quic = SessionDescription::decode(&offer.description)?.quic.context("not an offer of ours")?;
        self.describe(offer.source_uuid, DescriptionKind::Answer, quic.session, key).await
    }

    /// Waits for an offer, answers it claiming `key`, and takes the connection that follows.
    pub async fn answer_claiming(&mut self, key: PublicKey) -> Result<Connection> {
        self.answer_offer(key).await?;
        self.accept().await
    }

    /// Takes the next connection.
    pub async fn accept(&self) -> Result<Connection> {
        let incoming = timeout(PATIENCE, self.quic.accept()).await?.context("the socket is closed")?;
        Ok(incoming.await?)
    }

    /// [`ScriptedPeer::answer_claiming`] the key it has.
    pub async fn answer(&mut self) -> Result<Connection> {
        self.answer_claiming(self.key).await
    }

    /// Makes an offer to `peer` and opens a connection with it.
    pub async fn call(&mut self, peer: EndpointId) -> Result<Connection> {
        let (address, key) = self.locate(peer).await?;
        self.dial(address, key).await
    }

    /// Makes an offer to `peer` and learns its first address and its key.
    pub async fn locate(&mut self, peer: EndpointId) -> Result<(SocketAddr, PublicKey)> {
        self.describe(peer, DescriptionKind::Offer, SessionId(7), self.key).await?;
        let answer = SessionDescription::decode(&self.receive().await?.description)?;
        let address = answer.candidates.first().context("no candidates")?.address;
        Ok((address, answer.quic.context("not ours")?.key))
    }

    /// Opens a connection with the peer of this key, which need not have heard of this one.
    pub async fn dial(&self, address: SocketAddr, key: PublicKey) -> Result<Connection> {
        Ok(self.quic.dial(address, Expected::Key(key)).await?)
    }
}

/// The next request that is not a nomination.
pub async fn next_request(connection: &Connection) -> Result<(Request, SendStream, RecvStream)> {
    loop {
        let (send, mut receive) = timeout(PATIENCE, connection.accept_bi()).await??;
        match read_header::<Request>(&mut receive).await? {
            Request::Nominate => {}
            request => return Ok((request, send, receive)),
        }
    }
}

/// Answers the next request that there is no such object, and waits until the asker has that.
pub async fn answer_missing(connection: &Connection) -> Result<()> {
    let (_, mut send, _receive) = next_request(connection).await?;
    send.write_all(&frame::encode(&Answer::Missing)?).await?;
    send.finish()?;
    send.stopped().await?;
    Ok(())
}

/// Says that this connection is the one to use.
pub async fn nominate(connection: &Connection) -> Result<()> {
    let (mut send, _receive) = connection.open_bi().await?;
    send.write_all(&frame::encode(&Request::Nominate)?).await?;
    send.finish()?;
    send.stopped().await?;
    Ok(())
}

/// Sends `bytes` as they are on a stream of its own and reads the answer.
pub async fn ask_raw(connection: &Connection, bytes: &[u8]) -> Result<Answer> {
    let (mut send, mut receive) = connection.open_bi().await?;
    send.write_all(bytes).await?;
    send.finish()?;
    read_header(&mut receive).await
}

/// Sends a request and reads the answer; the stream stays open.
pub async fn ask(
    connection: &Connection,
    request: &Request,
    body: Bytes,
) -> Result<(Answer, SendStream, RecvStream)> {
    let (mut send, mut receive) = connection.open_bi().await?;
    send.write_all(&frame::encode(request)?).await?;
    send.write_all(&body).await?;
    Ok((read_header(&mut receive).await?, send, receive))
}

async fn read_header<T: serde::de::DeserializeOwned>(receive: &mut RecvStream) -> Result<T> {
    let reading = async {
        let mut prefix = [0; LENGTH_LEN];
        receive.read_exact(&mut prefix).await?;
        let mut header = vec![0; frame::header_len(prefix)?];
        receive.read_exact(&mut header).await?;
        anyhow::Ok(frame::decode(&header)?)
    };
    match timeout(Duration::from_secs(20), reading).await {
        Ok(header) => header,
        Err(_) => bail!("no header in time"),
    }
}
