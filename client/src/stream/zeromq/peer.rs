//! The subscribers of a publisher.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::timeout;

use super::zmtp::{Frame, FrameReader, FrameWriter, handshake};
use crate::stream::StreamError;
use crate::stream::broker::{ANSWER_DEADLINE, within};

/// Messages that wait for a subscriber which is slow. Events are small; of the largest messages, these take 1 GiB.
const QUEUE_LEN: usize = 64;

/// Subscribers at once. A stream has a few; more are a mistake or an attack.
const MAX_PEERS: usize = 1024;

/// Subscriptions of one subscriber.
const MAX_SUBSCRIPTIONS: usize = 1024;

/// Bytes of a frame that a subscriber sends: a topic.
const FRAME_LIMIT: usize = 4096;

/// Waited after a connection could not be accepted, as when there are too many open files.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// A subscription as a message: for topics that begin so.
pub(super) fn subscription(topic: &str) -> Vec<u8> {
    [&[1], topic.as_bytes()].concat()
}

/// All that are connected.
pub(super) struct Peers {
    name: String,
    state: Mutex<State>,
    /// Told when a subscription comes.
    subscribed: watch::Sender<()>,
    /// Every task of a peer has a copy of this; once all are gone, `finished` ends.
    running: Mutex<Option<mpsc::Sender<()>>>,
    finished: tokio::sync::Mutex<mpsc::Receiver<()>>,
}

#[derive(Default)]
struct State {
    peers: BTreeMap<u64, Peer>,
    next_id: u64,
}

struct Peer {
    subscriptions: Vec<Bytes>,
    queue: mpsc::Sender<Arc<Message>>,
}

struct Message {
    topic: String,
    content: Bytes,
}

impl Peer {
    fn wants(&self, topic: &str) -> bool {
        self.subscriptions.iter().any(|prefix| topic.as_bytes().starts_with(prefix))
    }
}

impl Peers {
    pub fn new(name: String) -> Self {
        let (running, finished) = mpsc::channel(1);
        Self {
            name,
            state: Mutex::default(),
            subscribed: watch::Sender::new(()),
            running: Mutex::new(Some(running)),
            finished: tokio::sync::Mutex::new(finished),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> MutexGuard<'_, Option<mpsc::Sender<()>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a message for everybody who wants it.
    pub async fn send(&self, topic: &str, content: Bytes) -> Result<(), StreamError> {
        if self.running().is_none() {
            return Err(StreamError::Broken {
                broker: self.name.clone(),
                reason: "it was closed".to_owned(),
            });
        }
        let message = Arc::new(Message { topic: topic.to_owned(), content });
        for (id, queue) in self.queues(topic) {
            let queued = timeout(ANSWER_DEADLINE, queue.send(message.clone())).await;
            if !matches!(queued, Ok(Ok(()))) {
                // It is gone or stuck; when it is disconnected it learns that it missed something.
                self.state().peers.remove(&id);
            }
        }
        Ok(())
    }

    fn queues(&self, topic: &str) -> Vec<(u64, mpsc::Sender<Arc<Message>>)> {
        let state = self.state();
        let wanting = state.peers.iter().filter(|(_, peer)| peer.wants(topic));
        wanting.map(|(id, peer)| (*id, peer.queue.clone())).collect()
    }

    /// Waits until `count` subscribers want exactly this topic.
    pub async fn wait_for(&self, topic: &str, count: usize) {
        let mut subscribed = self.subscribed.subscribe();
        let wants = |peer: &&Peer| peer.subscriptions.iter().any(|known| known == topic.as_bytes());
        while self.state().peers.values().filter(wants).count() < count {
            // Never fails: the sender is in `self`.
            let _ = subscribed.changed().await;
        }
    }

    /// Waits until what is queued is sent.
    pub async fn close(&self) -> Result<(), StreamError> {
        self.running().take();
        self.state().peers.clear();
        let mut finished = self.finished.lock().await;
        within(ANSWER_DEADLINE, &self.name, async {
            finished.recv().await;
            Ok(())
        })
        .await
    }

    /// Its number, and what tells that it is still there; none if the publisher was closed.
    fn add(&self, queue: mpsc::Sender<Arc<Message>>) -> Option<(u64, mpsc::Sender<()>)> {
        let running = self.running().clone()?;
        let mut state = self.state();
        let id = state.next_id;
        state.next_id += 1;
        state.peers.insert(id, Peer { subscriptions: Vec::new(), queue });
        Some((id, running))
    }

    /// What a subscriber says. ZMTP 3.0 has subscriptions as messages, 3.1 as commands.
    fn hear(&self, id: u64, frame: &Frame) {
        let (adds, prefix) = match (frame.command, frame.body.as_ref()) {
            (false, [1, ..]) => (true, frame.body.slice(1..)),
            (false, [0, ..]) => (false, frame.body.slice(1..)),
            (true, body) if body.starts_with(b"\x09SUBSCRIBE") => (true, frame.body.slice(10..)),
            (true, body) if body.starts_with(b"\x06CANCEL") => (false, frame.body.slice(7..)),
            _ => return,
        };
        if let Some(peer) = self.state().peers.get_mut(&id) {
            let known = peer.subscriptions.iter().position(|known| *known == prefix);
            match known {
                None if adds && peer.subscriptions.len() < MAX_SUBSCRIPTIONS => {
                    peer.subscriptions.push(prefix)
                }
                Some(place) if !adds => drop(peer.subscriptions.swap_remove(place)),
                _ => {}
            }
        }
        self.subscribed.send_replace(());
    }
}

/// Accepts subscribers until the publisher is gone.
pub(super) async fn accept(listener: TcpListener, peers: Weak<Peers>) {
    let room = Arc::new(Semaphore::new(MAX_PEERS));
    // Never fails: nobody closes the semaphore.
    while let Ok(place) = room.clone().acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let peers = peers.clone();
        tokio::spawn(async move {
            let served = serve(stream, &peers).await;
            tracing::debug!(?served, "a ZeroMQ subscriber has left");
            drop(place);
        });
    }
}

/// Holds the publisher only weakly: when it is dropped, so is the queue, which ends this after what is in it.
async fn serve(stream: TcpStream, peers: &Weak<Peers>) -> io::Result<()> {
    let greeting = handshake(stream, "PUB", &["SUB", "XSUB"], FRAME_LIMIT);
    let (mut reader, mut writer, _) = timeout(ANSWER_DEADLINE, greeting).await??;
    let (sender, mut queue) = mpsc::channel(QUEUE_LEN);
    let Some((id, running)) = peers.upgrade().and_then(|peers| peers.add(sender)) else { return Ok(()) };
    let outcome = converse(id, peers, &mut reader, &mut writer, &mut queue).await;
    if let Some(peers) = peers.upgrade() {
        peers.state().peers.remove(&id);
    }
    drop(running);
    outcome
}

async fn converse(
    id: u64,
    peers: &Weak<Peers>,
    reader: &mut FrameReader,
    writer: &mut FrameWriter,
    queue: &mut mpsc::Receiver<Arc<Message>>,
) -> io::Result<()> {
    loop {
        tokio::select! {
            message = queue.recv() => {
                let Some(message) = message else { return writer.finish().await };
                let sending = writer.pair(message.topic.as_bytes(), &message.content);
                timeout(ANSWER_DEADLINE, sending).await??;
            }
            frame = reader.frame() => {
                let frame = frame?;
                if frame.command {
                    timeout(ANSWER_DEADLINE, writer.answer(&frame.body)).await??;
                }
                if let Some(peers) = peers.upgrade() {
                    peers.hear(id, &frame);
                }
            }
        }
    }
}
