//! A relay's client that registers, and sends and receives what is forwarded.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::{SinkExt as _, StreamExt as _};
use proxystore_shared::EndpointId;
use proxystore_shared::relay_message::{DescriptionKind, PeerConnection, Registration, RelayMessage};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

/// For an answer of a relay that has much to do.
const DEADLINE: Duration = Duration::from_secs(60);

/// What thousands of clients in one process can afford.
const READ_BUFFER_LEN: usize = 8 * 1024;

/// A registered client.
pub struct Client {
    /// Its id.
    pub id: EndpointId,
    socket: WebSocketStream<TcpStream>,
}

impl Client {
    /// Connects and registers.
    pub async fn register(port: u16) -> Result<Self> {
        timeout(DEADLINE, Self::register_in_time(port)).await.context("no registration in time")?
    }

    async fn register_in_time(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let request = format!("ws://127.0.0.1:{port}/").into_client_request()?;
        let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER_LEN);
        let (socket, _) = client_async_with_config(request, stream, Some(config)).await?;
        let mut client = Self { id: EndpointId::random(), socket };
        let registration = Registration { name: "bench".into(), uuid: client.id };
        let message = RelayMessage::RelayRegistration(registration).encode();
        client.socket.send(Message::text(message)).await?;
        let answer = client.next_text().await?;
        let RelayMessage::RelayResponse(response) = RelayMessage::decode(&answer)? else {
            bail!("no answer to a registration: {answer}");
        };
        ensure!(response.success, "not registered: {answer}");
        Ok(client)
    }

    /// A message for `peer` of about `len` bytes.
    pub fn message(&self, peer: EndpointId, len: usize) -> Message {
        let connection = PeerConnection {
            source_uuid: self.id,
            source_name: "bench".into(),
            peer_uuid: peer,
            description_type: DescriptionKind::Offer,
            description: description(len),
            error: None,
        };
        Message::text(RelayMessage::PeerConnection(connection).encode())
    }

    /// Sends what [`Client::message`] made.
    pub async fn send(&mut self, message: Message) -> Result<()> {
        Ok(self.socket.send(message).await?)
    }

    /// Receives a forwarded message.
    pub async fn receive(&mut self) -> Result<Utf8Bytes> {
        timeout(DEADLINE, self.next_text()).await.context("no message in time")?
    }

    async fn next_text(&mut self) -> Result<Utf8Bytes> {
        loop {
            match self.socket.next().await.context("the relay hung up")?? {
                Message::Text(text) => return Ok(text),
                Message::Close(frame) => bail!("the relay closed: {frame:?}"),
                _ => {}
            }
        }
    }
}

/// Lines as a session description has them, with the line ends that JSON escapes.
fn description(len: usize) -> String {
    let line = "a=candidate:2147483647 1 udp 2130706431 192.0.2.17 41000 typ host\r\n";
    line.chars().cycle().take(len).collect()
}
