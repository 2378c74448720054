//! A look at a relay without registering there, for `endpoint check-nat`.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use proxystore_shared::relayed::RelayOffer;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;

use super::{CONNECT_TIMEOUT, LoginError, RelayLogin, Socket, closed, route, upgrade};

/// Round trips that are measured; the shortest counts, so that one late packet does not.
const PINGS: usize = 3;

/// For all of them: two seconds a round trip would be a satellite link in bad weather.
const PING_LIMIT: Duration = Duration::from_secs(6);

/// How the relay was reached.
#[derive(Debug)]
pub struct Contact {
    /// What it offers.
    pub offer: RelayOffer,
    /// Round trip, over the websocket.
    pub round_trip: Duration,
}

/// The proxy on the way to the relay, if there is one, without its password.
pub fn proxy(login: &RelayLogin) -> Option<String> {
    route::of(login).ok()?.proxy()
}

/// Opens a websocket to the relay and measures the round trip. Gives the reason in words if that fails.
pub async fn probe(login: &RelayLogin) -> Result<Contact, String> {
    let contact = async {
        let (socket, offer) =
            timeout(CONNECT_TIMEOUT, upgrade(login)).await.map_err(|_| LoginError::Timeout)??;
        let measuring = timeout(PING_LIMIT, measure(socket)).await;
        Ok::<_, LoginError>(Contact { offer, round_trip: measuring.map_err(|_| LoginError::Timeout)?? })
    };
    contact.await.map_err(|error| error.to_string())
}

async fn measure(mut socket: Socket) -> Result<Duration, LoginError> {
    let mut shortest = Duration::MAX;
    for number in 0..PINGS {
        let (payload, sent) = (number.to_string().into_bytes(), Instant::now());
        socket.send(Message::Ping(payload.clone().into())).await?;
        loop {
            match socket.next().await.ok_or(LoginError::Gone)?? {
                Message::Pong(pong) if pong == payload => break,
                Message::Close(frame) => return Err(closed(frame)),
                _ => {}
            }
        }
        shortest = shortest.min(sent.elapsed());
    }
    // The relay notices by itself too.
    let _ = socket.close(None).await;
    Ok(shortest)
}
