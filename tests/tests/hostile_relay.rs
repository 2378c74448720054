//! A relay that lies about who is who: it passes messages on, but changes them. Endpoints must notice, because the
//! relay is trusted to introduce them and with nothing else.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use proxystore_shared::description::{Candidate, CandidateKind, SessionDescription};
use proxystore_shared::relay_message::{DescriptionKind, PeerConnection, RelayMessage, Response};
use proxystore_shared::{EndpointId, PublicKey};
use proxystore_tests::Site;
use proxystore_tests::scripted::new_identity;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::Message;

/// What the relay does to an answer on its way.
type Lie = Box<dyn Fn(PeerConnection) -> PeerConnection + Send + Sync>;

/// A relay with Python's protocol that lies.
struct Liar {
    lie: Lie,
    clients: Mutex<HashMap<EndpointId, mpsc::UnboundedSender<String>>>,
}

impl Liar {
    async fn start(lie: impl Fn(PeerConnection) -> PeerConnection + Send + Sync + 'static) -> Result<String> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let liar = Arc::new(Self { lie: Box::new(lie), clients: Mutex::default() });
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(liar.clone().serve(stream));
            }
        });
        Ok(format!("ws://{address}"))
    }

    async fn serve(self: Arc<Self>, stream: TcpStream) -> Result<()> {
        let mut socket = accept_async(stream).await?;
        let (sender, mut queue) = mpsc::unbounded_channel();
        loop {
            tokio::select! {
                frame = socket.next() => match frame.context("gone")?? {
                    Message::Text(text) => self.handle(RelayMessage::decode(&text)?, &sender)?,
                    _ => continue,
                },
                Some(text) = queue.recv() => socket.send(Message::text(text)).await?,
            }
        }
    }

    fn handle(&self, message: RelayMessage, sender: &mpsc::UnboundedSender<String>) -> Result<()> {
        let mut clients = self.clients.lock().expect("no test panics here");
        match message {
            RelayMessage::RelayRegistration(registration) => {
                clients.insert(registration.uuid, sender.clone());
                sender.send(RelayMessage::RelayResponse(Response::registered()).encode())?;
            }
            RelayMessage::PeerConnection(message) => {
                let message = match message.description_type {
                    DescriptionKind::Answer => (self.lie)(message),
                    // The peer's own dial, which proves the right key, might overtake the lie.
                    DescriptionKind::Offer => rewrite(message, |it| it.candidates.clear()),
                };
                let receiver = clients.get(&message.peer_uuid).context("unknown peer")?;
                receiver.send(RelayMessage::PeerConnection(message).encode())?;
            }
            RelayMessage::RelayResponse(_) => {}
        }
        Ok(())
    }
}

/// Changes what a message describes.
fn rewrite(mut message: PeerConnection, change: impl Fn(&mut SessionDescription)) -> PeerConnection {
    let mut description = SessionDescription::decode(&message.description).expect("an honest endpoint's");
    change(&mut description);
    message.description = description.encode();
    message
}

/// Two sites at a relay that tells this lie; what A is told when it asks B for an object.
async fn told(
    lie: impl Fn(PeerConnection) -> PeerConnection + Send + Sync + 'static,
) -> Result<(u16, String)> {
    let relay = Liar::start(lie).await?;
    let site =
        |name| Site::build(name, &relay).map(|it| it.with(|config| config.peering.connect_timeout = 2));
    let (a, b) = (site("a")?.start().await?, site("b")?.start().await?);
    b.put("k", None, Bytes::from_static(b"secret")).await?;
    let answer = a.http().get(a.object("k", Some(&b))).send().await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

fn foreign_key() -> Result<PublicKey> {
    Ok(new_identity()?.public_key())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_lie_the_object_comes() -> Result<()> {
    assert_eq!(told(|message| message).await?, (200, "secret".into()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swapped_key_is_refused_by_name() -> Result<()> {
    let key = foreign_key()?;
    let (status, text) =
        told(move |message| rewrite(message, |it| it.quic.as_mut().expect("ours").key = key)).await?;
    assert!(status >= 500 && text.contains("not the one its id"), "{status}: {text}");
    Ok(())
}

/// Then it looks like a Python endpoint's, which has no key to prove.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_left_out_is_missed() -> Result<()> {
    let (status, text) = told(|message| rewrite(message, |it| it.quic = None)).await?;
    assert!(status >= 500 && text.contains("stands for a key"), "{status}: {text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_another_peers_is_refused() -> Result<()> {
    let other = foreign_key()?;
    let elsewhere = Candidate { address: "127.0.0.1:9".parse()?, kind: CandidateKind::Host };
    let swap = move |it: &mut SessionDescription| {
        it.quic.as_mut().expect("ours").key = other;
        it.candidates = vec![elsewhere];
    };
    let (status, text) = told(move |message| rewrite(message, swap)).await?;
    assert!(status >= 500 && text.contains("not the one its id"), "{status}: {text}");
    Ok(())
}

/// The key is right, the addresses lead to somebody who does not have it.
#[tokio::test(flavor = "multi_thread")]
async fn a_detour_to_somebody_without_the_key_ends_in_an_error() -> Result<()> {
    let relay = {
        let mallory: SocketAddr = {
            let socket = UdpSocket::bind("127.0.0.1:0").await?;
            let address = socket.local_addr()?;
            // Says something to whoever calls, but has nothing to prove.
            tokio::spawn(async move {
                let mut datagram = [0; 2048];
                while let Ok((len, from)) = socket.recv_from(&mut datagram).await {
                    let _ = socket.send_to(&datagram[..len], from).await;
                }
            });
            address
        };
        let detour = Candidate { address: mallory, kind: CandidateKind::Host };
        Liar::start(move |message| rewrite(message, |it| it.candidates = vec![detour])).await?
    };
    // B must not call A either: it has addresses of IPv6 only, A of IPv4.
    let a = Site::build("a", &relay)?.with(|config| config.peering.connect_timeout = 2).start().await?;
    let on_v6 = |config: &mut proxystore_shared::config::endpoint::EndpointConfig| {
        config.peering.bind = Some(std::net::Ipv6Addr::LOCALHOST.into());
    };
    let b = Site::build("b", &relay)?.with(on_v6).start().await?;
    b.put("k", None, Bytes::from_static(b"secret")).await?;
    let answer = a.http().get(a.object("k", Some(&b))).send().await?;
    assert!(answer.status().is_server_error());
    let text = answer.text().await?;
    assert!(!text.contains("secret"), "{text}");
    let peers: Value = serde_json::from_str(&a.http().get(a.url("/v1/peers")).send().await?.text().await?)?;
    assert_ne!(peers["peers"][0]["state"], "connected");
    Ok(())
}
