//! A relay for one test, and clients for it. Every wait has a deadline that only a failure reaches.

use std::future::Future;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use proxystore_relay::Relay;
use proxystore_shared::EndpointId;
use proxystore_shared::config::relay::RelayConfig;
use proxystore_shared::relay_message::{
    DescriptionKind, PeerConnection, Registration, RelayMessage, Response,
};
use proxystore_shared::relayed::{Envelope, HEADER_LEN, SUBPROTOCOL};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::Response as HttpResponse;
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

pub type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Far beyond anything a healthy relay needs on a loaded machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// Of every frame that is sent here.
const ECN: u8 = 1;
const SEGMENT_LEN: u16 = 1200;

pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("timed out: {what}"))
}

/// Waits until `condition` holds.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let holds = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(what, holds).await;
}

pub async fn start(configure: impl FnOnce(&mut RelayConfig)) -> Relay {
    let mut config = loopback();
    configure(&mut config);
    Relay::start(config).await.expect("starts")
}

/// On ports that the system chooses.
pub fn loopback() -> RelayConfig {
    let mut config = RelayConfig { host: Some("127.0.0.1".into()), port: 0, ..RelayConfig::default() };
    config.udp.ports = vec![0, 0];
    config
}

/// A websocket to a relay.
pub struct Client {
    pub socket: Socket,
    pub id: EndpointId,
}

impl Client {
    pub async fn connect(relay: &Relay) -> Self {
        Self::connect_with(relay, None).await.expect("connects")
    }

    pub async fn connect_with(relay: &Relay, authorization: Option<&str>) -> Result<Self, Error> {
        let headers = authorization.map(|value| ("authorization", value));
        Self::upgrade(relay, headers.as_slice()).await.map(|(client, _)| client)
    }

    /// With `headers` in the request; returns the answer too.
    pub async fn upgrade(
        relay: &Relay,
        headers: &[(&'static str, &str)],
    ) -> Result<(Self, HttpResponse<Option<Vec<u8>>>), Error> {
        let mut request = format!("ws://{}/", relay.local_addr()).into_client_request()?;
        for (name, value) in headers {
            request.headers_mut().append(*name, value.parse().expect("a header value"));
        }
        let (socket, response) = soon("connecting", Box::pin(connect_async(request))).await?;
        Ok((Self { socket, id: EndpointId::random() }, response))
    }

    /// A client that asked for datagrams.
    pub async fn extended(relay: &Relay) -> Self {
        let headers = [("sec-websocket-protocol", SUBPROTOCOL)];
        let (mut client, _) = Self::upgrade(relay, &headers).await.expect("connects");
        client.register().await;
        client
    }

    pub async fn registered(relay: &Relay) -> Self {
        let mut client = Self::connect(relay).await;
        client.register().await;
        client
    }

    /// Registers with the client's own id and expects success.
    pub async fn register(&mut self) {
        self.send(&registration(self.id)).await;
        assert_eq!(self.receive().await, RelayMessage::RelayResponse(Response::registered()));
    }

    pub async fn send(&mut self, message: &RelayMessage) {
        self.send_text(&message.encode()).await;
    }

    pub async fn send_text(&mut self, text: &str) {
        soon("sending", self.socket.send(Message::text(text))).await.expect("sends");
    }

    pub async fn receive(&mut self) -> RelayMessage {
        RelayMessage::decode(&self.receive_text().await).expect("decodes")
    }

    pub async fn receive_text(&mut self) -> String {
        loop {
            match soon("receiving", self.socket.next()).await.expect("open").expect("reads") {
                Message::Text(text) => return text.to_string(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("expected a text frame, got {other:?}"),
            }
        }
    }

    pub async fn send_frame(&mut self, frame: impl Into<Bytes>) {
        soon("sending", self.socket.send(Message::binary(frame))).await.expect("sends");
    }

    /// Sends a frame of datagrams.
    pub async fn send_datagrams(&mut self, peer: EndpointId, datagrams: &[u8]) {
        self.send_frame(frame_to(peer, datagrams)).await;
    }

    /// The next frame of datagrams, and who sent it.
    pub async fn receive_datagrams(&mut self) -> (EndpointId, Vec<u8>) {
        loop {
            match soon("datagrams", self.socket.next()).await.expect("open").expect("reads") {
                Message::Binary(frame) => {
                    let envelope = Envelope::decode(&frame).expect("decodes");
                    assert_eq!((envelope.ecn, envelope.segment_len), (ECN, SEGMENT_LEN));
                    return (envelope.peer, frame[HEADER_LEN..].to_vec());
                }
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("expected a binary frame, got {other:?}"),
            }
        }
    }

    /// Reads on until the relay closes, and returns the code.
    pub async fn close_code(&mut self) -> u16 {
        self.close_frame().await.0
    }

    pub async fn close_frame(&mut self) -> (u16, String) {
        loop {
            match soon("being closed", self.socket.next()).await {
                Some(Ok(Message::Close(Some(frame)))) => {
                    return (frame.code.into(), frame.reason.to_string());
                }
                Some(Ok(Message::Close(None))) => panic!("closed without a code"),
                Some(Ok(_)) => {}
                other => panic!("the connection ended without a close frame: {other:?}"),
            }
        }
    }

    /// The message arrives at `receiver` as it was sent.
    pub async fn reaches(&mut self, receiver: &mut Self) {
        let message = self.message_to(receiver.id, "a description");
        self.send(&message).await;
        assert_eq!(receiver.receive().await, message);
    }

    /// A message to `peer` comes back; returns its error.
    pub async fn error_from(&mut self, peer: EndpointId) -> String {
        let sent = self.message_to(peer, "a description");
        self.send(&sent).await;
        returned_error(sent, self.receive().await)
    }

    pub fn message_to(&self, peer: EndpointId, description: &str) -> RelayMessage {
        RelayMessage::PeerConnection(PeerConnection {
            source_uuid: self.id,
            source_name: "test".into(),
            peer_uuid: peer,
            description_type: DescriptionKind::Offer,
            description: description.into(),
            error: None,
        })
    }
}

/// A frame of datagrams for `peer`.
pub fn frame_to(peer: EndpointId, datagrams: &[u8]) -> Vec<u8> {
    [&Envelope { peer, ecn: ECN, segment_len: SEGMENT_LEN }.encode(), datagrams].concat()
}

/// One of a relay's metrics; labels are part of the name.
pub async fn metric(relay: &Relay, name: &str) -> u64 {
    let text = http_request(relay, "GET /metrics HTTP/1.1").await;
    let line = text.lines().find_map(|line| line.strip_prefix("proxystore_relay_")?.strip_prefix(name));
    line.unwrap_or_else(|| panic!("{name} is missing in: {text}")).trim().parse().expect("a number")
}

/// Sends a request and returns the whole response; the relay is asked to close after it.
pub async fn http_request(relay: &Relay, head: &str) -> String {
    let mut stream = TcpStream::connect(relay.local_addr()).await.expect("connects");
    let request = format!("{head}\r\nHost: relay\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sends");
    let mut response = String::new();
    soon("a response", stream.read_to_string(&mut response)).await.expect("reads");
    response
}

pub fn registration(id: EndpointId) -> RelayMessage {
    RelayMessage::RelayRegistration(Registration { name: "test".into(), uuid: id })
}

/// Checks that `received` is `sent` except for its error, which is returned.
pub fn returned_error(sent: RelayMessage, received: RelayMessage) -> String {
    let (RelayMessage::PeerConnection(sent), RelayMessage::PeerConnection(mut received)) = (sent, received)
    else {
        panic!("not a peer message")
    };
    let error = received.error.take().expect("has an error");
    assert_eq!(received, sent);
    error
}
