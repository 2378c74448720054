//! The websocket while it is connected: reads and writes at once, so that neither direction holds up the other.

use std::sync::Mutex;
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use proxystore_shared::relay_message::{PeerConnection, RelayMessage};
use tokio::sync::{mpsc, watch};
use tokio::time::{self, Instant, Interval, MissedTickBehavior};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{Letter, LoginError, Outbox, Socket, closed};
use crate::lock::lock;
use crate::transport::relayed::{Arrivals, Departures, RelayEnd};

/// Between pings: below the minute after which common NATs forget an idle connection.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// Without any frame from the relay before the connection counts as lost.
const SILENCE: Duration = Duration::from_secs(50);

/// Without an answer to a ping while something makes the connection look dead.
const CHECK_LIMIT: Duration = Duration::from_secs(2);

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
        let Outbox { letters, datagrams: RelayEnd { departures, arrivals, .. }, checks, .. } = outbox;
        let mut work = Work { letters, departures, checks: checks.clone(), ping: pings() };
        tokio::select! {
            error = read(&mut stream, inbox, arrivals, &heard) => Some(error),
            error = write(&mut sink, &mut work, &heard) => error,
            error = check(checks, &heard) => Some(error),
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
        *lock(heard) = Instant::now();
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

/// Gives the connection up when a check finds it silent.
async fn check(checks: &mut watch::Receiver<()>, heard: &Heard) -> LoginError {
    // Those of an earlier connection.
    checks.mark_unchanged();
    loop {
        // Nobody is left to ask for a check only when the endpoint stops.
        if checks.changed().await.is_err() {
            return std::future::pending().await;
        }
        let asked = Instant::now();
        time::sleep(CHECK_LIMIT).await;
        if *lock(heard) < asked {
            return LoginError::Silent(CHECK_LIMIT);
        }
    }
}

fn silence(heard: &Heard) -> Duration {
    lock(heard).elapsed()
}

/// What there is to write.
struct Work<'a> {
    letters: &'a mut mpsc::Receiver<Letter>,
    departures: &'a mut Departures,
    checks: watch::Receiver<()>,
    ping: Interval,
}

fn pings() -> Interval {
    let mut ping = time::interval(PING_INTERVAL);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ping
}

impl Work<'_> {
    /// The next message; none once there is nobody left to send for. Messages go before datagrams.
    async fn next(&mut self) -> Option<Message> {
        loop {
            tokio::select! {
                biased;
                _ = self.ping.tick() => return Some(Message::Ping(Default::default())),
                Ok(()) = self.checks.changed() => return Some(Message::Ping(Default::default())),
                letter = self.letters.recv() => {
                    let Letter { message, expires } = letter?;
                    if expires > Instant::now().into_std() {
                        return Some(Message::text(RelayMessage::PeerConnection(message).encode()));
                    }
                }
                frame = self.departures.next() => return frame.map(Message::Binary),
            }
        }
    }
}

async fn write(
    sink: &mut SplitSink<Socket, Message>,
    work: &mut Work<'_>,
    heard: &Heard,
) -> Option<LoginError> {
    loop {
        let message = work.next().await?;
        if silence(heard) > SILENCE {
            return Some(LoginError::Silent(SILENCE));
        }
        match time::timeout(SEND_TIMEOUT, send(sink, message, work.departures)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Some(error.into()),
            Err(_) => return Some(LoginError::Silent(SEND_TIMEOUT)),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What a check says of a relay that is heard of so long after it.
    async fn checked(answer_after: Option<Duration>) -> Option<LoginError> {
        let (ask, mut asked) = watch::channel(());
        let heard = Mutex::new(Instant::now() - Duration::from_secs(20));
        let answering = async {
            tokio::task::yield_now().await;
            ask.send_replace(());
            if let Some(delay) = answer_after {
                time::sleep(delay).await;
                *lock(&heard) = Instant::now();
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            error = check(&mut asked, &heard) => Some(error),
            () = answering => None,
            () = time::sleep(2 * CHECK_LIMIT) => None,
        }
    }

    #[tokio::test]
    async fn a_relay_that_answers_is_alive_however_fast_it_is() {
        let (at_once, later, never) =
            tokio::join!(checked(Some(Duration::ZERO)), checked(Some(CHECK_LIMIT / 2)), checked(None));
        assert!(at_once.is_none() && later.is_none(), "{at_once:?} {later:?}");
        assert!(matches!(never, Some(LoginError::Silent(CHECK_LIMIT))));
    }
}
