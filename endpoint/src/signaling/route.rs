//! The way to the relay.

use proxystore_shared::relayed;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::http::Uri;

use super::{LoginError, RelayLogin};
use crate::transport::route::Route;

/// What TCP paces the connection by: BBR does not take each lost packet for a full line, as the usual cubic does.
const CONGESTION_CONTROL: &[u8] = b"bbr";

/// The way that configuration and environment ask for.
pub(super) fn of(login: &RelayLogin) -> Result<Route, LoginError> {
    let (uri, port) = parse(&login.address).ok_or_else(|| LoginError::NoAddress(login.address.clone()))?;
    Ok(Route::to(&uri, port, login.proxy.as_ref())?)
}

/// Connects to the relay, by its route.
pub(super) async fn connect(login: &RelayLogin) -> Result<TcpStream, LoginError> {
    let stream = of(login)?.connect().await?;
    // Where the system lacks it or does not allow it, its default does.
    let socket = SockRef::from(&stream);
    let _ = socket.set_tcp_congestion(CONGESTION_CONTROL);
    if let Some(len) = relayed::send_buffer_len() {
        let _ = socket.set_send_buffer_size(len);
    }
    Ok(stream)
}

/// The address in the words of the environment's variables, which know `http` and `https`, and the port.
fn parse(relay: &str) -> Option<(Uri, u16)> {
    let (scheme, rest) = relay.split_once("://")?;
    let (scheme, port) = match scheme {
        "ws" => ("http", 80),
        "wss" => ("https", 443),
        _ => return None,
    };
    let uri: Uri = format!("{scheme}://{rest}").parse().ok()?;
    let port = uri.port_u16().unwrap_or(port);
    uri.host().is_some().then_some((uri, port))
}

#[cfg(test)]
mod tests {
    use proxystore_shared::EndpointId;

    use super::*;

    #[test]
    fn an_address_names_host_and_port() {
        for (relay, expected) in [
            ("ws://relay.example.org", ("http", "relay.example.org", 80)),
            ("wss://relay.example.org/path", ("https", "relay.example.org", 443)),
            ("wss://[2001:db8::1]:8700", ("https", "[2001:db8::1]", 8700)),
        ] {
            let (uri, port) = parse(relay).unwrap();
            assert_eq!((uri.scheme_str().unwrap(), uri.host().unwrap(), port), expected);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_for_good() {
        for relay in ["relay.example.org", "http://relay", "ws://", "wss://a b"] {
            let login = RelayLogin {
                address: relay.into(),
                proxy: None,
                token: None,
                verify_certificate: true,
                name: "site".into(),
                id: EndpointId::random(),
            };
            let error = of(&login).unwrap_err();
            assert!(error.is_final() && error.to_string().contains(relay), "{error}");
        }
    }
}
