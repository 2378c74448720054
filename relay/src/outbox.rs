//! What waits to be written to one client: control messages, and datagrams behind them.
//!
//! Other sessions put messages in, the client's own takes them out, and nobody waits for anybody. Both queues are
//! bounded and allocate nothing while they are empty. Control messages matter: a client that lets too many pile
//! up loses its connection. Datagrams do not: those that find no room are dropped, as on any network.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use proxystore_shared::config::relay::RelayConfig;
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::{Bytes, Message, Utf8Bytes};

use crate::close::Close;

/// Bytes of control messages that may wait for one client, or one message if that is longer. The default of 64
/// waiting messages is reached first unless they have over 64 KB; descriptions have two or three.
const MAX_CONTROL_BYTES: usize = 4 << 20;

/// Ends a session from outside, once: the first reason stays.
#[derive(Debug, Default)]
pub struct Kick {
    reason: OnceLock<Close>,
    kicked: Notify,
}

impl Kick {
    /// Asks the session to end with `close`.
    pub fn kick(&self, close: Close) {
        // A session that is being closed already needs no second reason.
        let _ = self.reason.set(close);
        self.kicked.notify_one();
    }

    /// Waits for [`Kick::kick`]. Only the session's own task waits.
    pub async fn kicked(&self) -> Close {
        loop {
            if let Some(close) = self.reason.get() {
                return close.clone();
            }
            self.kicked.notified().await;
        }
    }
}

/// How much may wait, for one client and for all together.
#[derive(Debug)]
pub struct Room {
    control_messages: usize,
    datagram_frames: usize,
    datagram_bytes: usize,
    total_datagram_bytes: usize,
    waiting_datagram_bytes: AtomicUsize,
}

impl Room {
    /// As much as the configuration allows.
    pub fn new(config: &RelayConfig) -> Self {
        Self {
            control_messages: config.limits.queue_messages,
            datagram_frames: config.datagrams.queue_frames,
            datagram_bytes: config.datagrams.queue_bytes,
            total_datagram_bytes: config.datagrams.total_queue_bytes,
            waiting_datagram_bytes: AtomicUsize::new(0),
        }
    }

    /// Bytes of datagrams that wait now, for all clients.
    pub fn waiting_datagram_bytes(&self) -> usize {
        self.waiting_datagram_bytes.load(Ordering::Relaxed)
    }

    fn take(&self, len: usize) -> bool {
        let before = self.waiting_datagram_bytes.fetch_add(len, Ordering::Relaxed);
        let fits = before.saturating_add(len) <= self.total_datagram_bytes;
        if !fits {
            self.give_back(len);
        }
        fits
    }

    fn give_back(&self, len: usize) {
        self.waiting_datagram_bytes.fetch_sub(len, Ordering::Relaxed);
    }
}

/// There is no room.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

/// What waits for one client.
#[derive(Debug)]
pub struct Outbox {
    room: Arc<Room>,
    queues: Mutex<Queues>,
    session: AtomicWaker,
    /// Ends the client's session.
    pub kick: Kick,
}

#[derive(Debug, Default)]
struct Queues {
    control: Queue,
    datagrams: Queue,
}

impl Outbox {
    /// An empty outbox.
    pub fn new(room: Arc<Room>) -> Self {
        Self { room, queues: Mutex::default(), session: AtomicWaker::new(), kick: Kick::default() }
    }

    /// Adds a control message.
    pub fn push_control(&self, text: Utf8Bytes) -> Result<(), Full> {
        let limits = (self.room.control_messages, MAX_CONTROL_BYTES);
        self.lock().control.push(Message::Text(text), limits)?;
        self.session.wake();
        Ok(())
    }

    /// Adds a frame of datagrams.
    pub fn push_datagrams(&self, frame: Bytes) -> Result<(), Full> {
        let len = frame.len();
        if !self.room.take(len) {
            return Err(Full);
        }
        let limits = (self.room.datagram_frames, self.room.datagram_bytes);
        let pushed = self.lock().datagrams.push(Message::Binary(frame), limits);
        match pushed {
            Ok(()) => self.session.wake(),
            Err(Full) => self.room.give_back(len),
        }
        pushed
    }

    /// Takes what has to be written next. Only the session's own task asks.
    pub fn poll_pop(&self, context: &Context<'_>) -> Poll<Message> {
        self.session.register(context.waker());
        let mut queues = self.lock();
        if let Some(message) = queues.control.pop() {
            return Poll::Ready(message);
        }
        let Some(frame) = queues.datagrams.pop() else { return Poll::Pending };
        self.room.give_back(frame.len());
        Poll::Ready(frame)
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.room.give_back(self.lock().datagrams.bytes);
    }
}

/// First in, first out, and how many bytes that is.
#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Message>,
    bytes: usize,
}

impl Queue {
    /// Within the limits, or alone.
    fn push(&mut self, message: Message, (max_messages, max_bytes): (usize, usize)) -> Result<(), Full> {
        let bytes = self.bytes + message.len();
        if !self.messages.is_empty() && (self.messages.len() >= max_messages || bytes > max_bytes) {
            return Err(Full);
        }
        self.messages.push_back(message);
        self.bytes = bytes;
        Ok(())
    }

    fn pop(&mut self) -> Option<Message> {
        let message = self.messages.pop_front()?;
        self.bytes -= message.len();
        if self.messages.is_empty() {
            // Most clients are idle for hours after a burst.
            self.messages = VecDeque::new();
        }
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn outbox(room: Room) -> Outbox {
        Outbox::new(Arc::new(room))
    }

    fn room() -> Room {
        Room {
            control_messages: 2,
            datagram_frames: 3,
            datagram_bytes: 100,
            total_datagram_bytes: 150,
            waiting_datagram_bytes: AtomicUsize::new(0),
        }
    }

    fn pop(outbox: &Outbox) -> Option<Message> {
        std::future::poll_fn(|context| outbox.poll_pop(context)).now_or_never()
    }

    fn frame(len: usize) -> Bytes {
        vec![0; len].into()
    }

    #[test]
    fn control_goes_first() {
        let outbox = outbox(room());
        for len in [1, 2] {
            assert_eq!(outbox.push_datagrams(frame(len)), Ok(()));
        }
        assert_eq!(outbox.push_control("x".into()), Ok(()));
        assert_eq!(pop(&outbox), Some(Message::text("x")));
        assert_eq!(pop(&outbox), Some(Message::Binary(frame(1))));
        assert_eq!(pop(&outbox), Some(Message::Binary(frame(2))));
        assert_eq!(pop(&outbox), None);
    }

    #[test]
    fn each_queue_has_its_own_bounds() {
        let outbox = outbox(room());
        let pushed = [40, 40, 40, 10, 1].map(|len| outbox.push_datagrams(frame(len)).is_ok());
        assert_eq!(pushed, [true, true, false, true, false], "over 100 bytes, then over 3 frames");
        assert_eq!(outbox.push_control("1".into()), Ok(()));
        assert_eq!(outbox.push_control("2".into()), Ok(()));
        assert_eq!(outbox.push_control("3".into()), Err(Full));
    }

    #[test]
    fn control_is_bounded_in_bytes_but_one_message_always_fits() {
        let outbox = outbox(room());
        let long = "x".repeat(MAX_CONTROL_BYTES + 1);
        assert_eq!(outbox.push_control(long.into()), Ok(()));
        assert_eq!(outbox.push_control("x".into()), Err(Full));
    }

    #[test]
    fn all_outboxes_share_a_bound() {
        let room = Arc::new(room());
        let (a, b) = (Outbox::new(room.clone()), Outbox::new(room.clone()));
        assert_eq!(a.push_datagrams(frame(100)), Ok(()));
        assert_eq!(b.push_datagrams(frame(51)), Err(Full));
        assert_eq!(b.push_datagrams(frame(50)), Ok(()));
        assert_eq!(room.waiting_datagram_bytes(), 150);
        assert!(pop(&b).is_some());
        drop(a);
        assert_eq!(room.waiting_datagram_bytes(), 0, "what was dropped with a client waits no longer");
    }

    #[test]
    fn an_empty_outbox_holds_no_memory() {
        let outbox = outbox(room());
        assert_eq!(outbox.push_datagrams(frame(1)), Ok(()));
        assert_eq!(outbox.push_control("x".into()), Ok(()));
        while pop(&outbox).is_some() {}
        let queues = outbox.lock();
        assert_eq!((queues.control.messages.capacity(), queues.datagrams.messages.capacity()), (0, 0));
    }
}
