//! The websocket while it is connected: reads and writes at once, so that neither direction holds up the other.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use proxystore_shared::relay_message::{PeerConnection, RelayMessage};
use tokio::sync::mpsc;
use tokio::time::{self, Interval, MissedTickBehavior};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{Letter, LoginError, Outbox, Socket, closed};
use crate::transport::relayed::{Arrivals, Departures, RelayEnd};

/// Between pings: below the minute after which common NATs forget an idle connection.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// Without any frame from the relay before the connection counts as lost.
pub const SILENCE: Duration = Duration::from_secs(50);

/// To hand something to the relay.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Frames of datagrams that are written together, so that each does not cost a system call: half a megabyte.
const MAX_BATCH: usize = 8;

/// Carries messages and datagrams both ways until the connection fails; none when asked to stop.
pub async fn converse(
    socket: Socket,
    outbox: &mut Outbox,
    inbox: &mpsc::Sender<PeerConnection>,
    stop: &CancellationToken,
) -> Option<LoginError> {
    let heard = Mutex::new(Instant::now());
    let (mut sink, mut stream) = socket.split();
    let carrying = async {
        let Outbox { letters, datagrams: RelayEnd { departures, arrivals, .. }, .. } = outbox;
        tokio::select! {
            error = read(&mut stream, inbox, arrivals, &heard) => Some(error),
            error = write(&mut sink, letters, departures, &heard) => error,
        }
    };
    let outcome = tokio::select! {
        () = stop.cancelled() => None,
        outcome = carrying => outcome,
    };
    if outcome.is_none() {
        // The relay forgets us sooner if told; it is no loss if it is not.
        let _ = time::timeout(SEND_TIMEOUT, sink.close()).await;
    }
    outcome
}

/// When the relay was last heard of.
type Heard = Mutex<Instant>;

async fn read(
    stream: &mut SplitStream<Socket>,
    inbox: &mpsc::Sender<PeerConnection>,
    arrivals: &Arrivals,
    heard: &Heard,
) -> LoginError {
    loop {
        let frame = stream.next().await;
        *heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        if let Err(error) = receive(frame, inbox, arrivals) {
            return error;
        }
    }
}

fn receive(
    frame: Option<Result<Message, tungstenite::Error>>,
    inbox: &mpsc::Sender<PeerConnection>,
    arrivals: &Arrivals,
) -> Result<(), LoginError> {
    match frame.ok_or(LoginError::Gone)?? {
        Message::Binary(frame) => {
            if let Err(error) = arrivals.deliver(frame) {
                debug!(%error, "the relay sent a frame that holds no datagrams");
            }
        }
        Message::Text(text) => match RelayMessage::decode(&text) {
            Ok(RelayMessage::PeerConnection(message)) => {
                if inbox.try_send(message).is_err() {
                    warn!("more offers arrive than can be answered; one was dropped");
                }
            }
            Ok(other) => debug!(?other, "unexpected message from the relay"),
            Err(error) => warn!(%error, "the relay sent something else than a message; skipped"),
        },
        Message::Close(frame) => return Err(closed(frame)),
        _ => {}
    }
    Ok(())
}

/// Messages go before datagrams. Ends without an error once there is nobody left to send for.
async fn write(
    sink: &mut SplitSink<Socket, Message>,
    letters: &mut mpsc::Receiver<Letter>,
    departures: &mut Departures,
    heard: &Heard,
) -> Option<LoginError> {
    let mut ping = time::interval(PING_INTERVAL);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let message = match next_message(letters, departures, &mut ping).await? {
            Message::Ping(_) if is_silent(heard) => return Some(LoginError::Silent),
            message => message,
        };
        match time::timeout(SEND_TIMEOUT, send(sink, message, departures)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Some(error.into()),
            Err(_) => return Some(LoginError::Silent),
        }
    }
}

fn is_silent(heard: &Heard) -> bool {
    heard.lock().unwrap_or_else(PoisonError::into_inner).elapsed() > SILENCE
}

async fn next_message(
    letters: &mut mpsc::Receiver<Letter>,
    departures: &mut Departures,
    ping: &mut Interval,
) -> Option<Message> {
    loop {
        tokio::select! {
            biased;
            _ = ping.tick() => return Some(Message::Ping(Default::default())),
            letter = letters.recv() => {
                let Letter { message, expires } = letter?;
                if expires > Instant::now() {
                    return Some(Message::text(RelayMessage::PeerConnection(message).encode()));
                }
            }
            frame = departures.next() => return frame.map(Message::Binary),
        }
    }
}

/// Sends `message`, and with it what datagrams wait.
async fn send(
    sink: &mut SplitSink<Socket, Message>,
    message: Message,
    departures: &mut Departures,
) -> Result<(), tungstenite::Error> {
    sink.feed(message).await?;
    for _ in 1..MAX_BATCH {
        let Some(frame) = departures.waiting() else { break };
        sink.feed(Message::Binary(frame)).await?;
    }
    sink.flush().await
}
