//! ZeroMQ: subscribers connect to the publisher, without a broker between them.
//!
//! Any ZeroMQ publisher and subscriber of other programs take part: messages have two frames, topic and content, as
//! Python ProxyStore's have. There is no encryption and no login: use it within a network that you trust.

mod peer;
mod zmtp;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval_at};

use self::peer::Peers;
use self::zmtp::{Frame, FrameReader, FrameWriter, handshake};
use super::broker::{ANSWER_DEADLINE, within};
use super::event::check_len;
use super::mailbox::{Inlet, Mailbox};
use super::{MAX_MESSAGE_LEN, Publisher, StreamError, Subscriber};

/// How often a publisher is asked whether it still lives; its answer must come before the next question.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// Sends to the subscribers that are connected to it, and to nobody if there are none.
///
/// Dropping it goes on sending in the background what is still queued, as long as the runtime runs; closing waits
/// for that.
pub struct ZeroMqPublisher {
    address: SocketAddr,
    peers: Arc<Peers>,
    listener: JoinHandle<()>,
}

impl ZeroMqPublisher {
    /// Accepts subscribers at `host:port`, on every interface for the host `0.0.0.0`; port 0 takes any that is free.
    pub async fn bind(address: &str) -> Result<Self, StreamError> {
        let failed = |error: io::Error| StreamError::Config {
            broker: format!("a ZeroMQ publisher at {address}"),
            reason: error.to_string(),
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let peers = Arc::new(Peers::new(format!("the ZeroMQ publisher at {address}")));
        let listener = tokio::spawn(peer::accept(listener, Arc::downgrade(&peers)));
        Ok(Self { address, peers, listener })
    }

    /// Where subscribers connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until `count` subscribers listen to this topic: what is sent before, they miss. One that listens to
    /// everything that begins so, as other programs may, does not count.
    pub async fn wait_for_subscribers(
        &self,
        topic: &str,
        count: usize,
        patience: Duration,
    ) -> Result<(), StreamError> {
        match tokio::time::timeout(patience, self.peers.wait_for(topic, count)).await {
            Ok(()) => Ok(()),
            Err(_) => Err(StreamError::NotInTime { topic: topic.to_owned(), after: patience }),
        }
    }
}

#[async_trait]
impl Publisher for ZeroMqPublisher {
    /// Done means queued for every subscriber. One that takes nothing for ten seconds is disconnected.
    async fn publish(&self, topic: &str, message: Bytes) -> Result<(), StreamError> {
        check_len(topic, message.len())?;
        self.peers.send(topic, message).await
    }

    async fn close(&self) -> Result<(), StreamError> {
        self.listener.abort();
        self.peers.close().await
    }
}

impl Drop for ZeroMqPublisher {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl fmt::Debug for ZeroMqPublisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZeroMqPublisher").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Receives what a publisher sends on a topic.
#[derive(Debug)]
pub struct ZeroMqSubscriber {
    mailbox: Mailbox,
}

impl ZeroMqSubscriber {
    /// Connects to the publisher at `host:port`, which must be there already.
    pub async fn connect(address: &str, topic: impl Into<String>) -> Result<Self, StreamError> {
        let topic = topic.into();
        let broker = format!("the ZeroMQ publisher at {address}");
        let link = within(ANSWER_DEADLINE, &broker, async {
            Link::open(address, &topic).await.map_err(|error| {
                let (broker, reason) = (broker.clone(), error.to_string());
                match error.kind() {
                    io::ErrorKind::InvalidData => StreamError::Refused { broker, reason },
                    _ => StreamError::Unreachable { broker, reason },
                }
            })
        });
        let link = link.await?;
        let wanted = topic.clone();
        let mailbox = Mailbox::new(&topic, |inlet| async move { link.read(&wanted, &broker, inlet).await });
        Ok(Self { mailbox })
    }
}

#[async_trait]
impl Subscriber for ZeroMqSubscriber {
    fn topic(&self) -> &str {
        self.mailbox.topic()
    }

    async fn next(&mut self) -> Result<Bytes, StreamError> {
        self.mailbox.next().await
    }
}

/// A connection to a publisher.
struct Link {
    reader: FrameReader,
    writer: FrameWriter,
    knows_ping: bool,
}

impl Link {
    async fn open(address: &str, topic: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        let (reader, mut writer, knows_ping) =
            handshake(stream, "SUB", &["PUB", "XPUB"], MAX_MESSAGE_LEN).await?;
        writer.message(&peer::subscription(topic)).await?;
        Ok(Self { reader, writer, knows_ping })
    }

    /// Moves messages into a mailbox until something fails.
    async fn read(mut self, topic: &str, broker: &str, inlet: Inlet) -> StreamError {
        let broken =
            |error: io::Error| StreamError::Broken { broker: broker.to_owned(), reason: error.to_string() };
        loop {
            match self.message().await {
                // A subscription is for every topic that begins so.
                Ok(message) if message[0].body != topic.as_bytes() => {}
                Ok([_, content]) => {
                    if let Err(error) = inlet.push(content.body).await {
                        return error;
                    }
                }
                Err(error) => return broken(error),
            }
        }
    }

    /// The next message, which has two frames.
    async fn message(&mut self) -> io::Result<[Frame; 2]> {
        let first = self.frame().await?;
        if !first.more {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message has no topic"));
        }
        let second = self.frame().await?;
        if second.more {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message has more than two frames"));
        }
        Ok([first, second])
    }

    /// The next frame of a message; meanwhile asks and gives signs of life.
    async fn frame(&mut self) -> io::Result<Frame> {
        let mut pings = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
        let mut asked = false;
        loop {
            let frame = tokio::select! {
                biased;
                frame = self.reader.frame() => frame?,
                _ = pings.tick(), if self.knows_ping => {
                    if asked {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    self.writer.ping().await?;
                    asked = true;
                    continue;
                }
            };
            if !frame.command {
                return Ok(frame);
            }
            asked = false;
            self.writer.answer(&frame.body).await?;
        }
    }
}
