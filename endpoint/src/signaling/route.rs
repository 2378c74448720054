//! The way to the relay: straight, or through an HTTP proxy where nothing else leads out.
//!
//! Which way is decided from the configuration and, failing that, from the environment that other programs go by.

use std::io;
use std::net::IpAddr;

use hyper_util::client::proxy::matcher::Matcher;
use proxystore_shared::config::endpoint::ProxySetting;
use proxystore_shared::relayed;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::http::Uri;

use super::RelayLogin;
use super::proxy::{Proxy, ProxyError};

/// What TCP paces the connection by: BBR does not take each lost packet for a full line, as the usual cubic does.
const CONGESTION_CONTROL: &[u8] = b"bbr";

/// Why there is no connection to the relay.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// The configured address names no host.
    #[error("{0:?} is not the address of a relay: it reads like wss://relay.example.org")]
    Relay(String),
    /// The relay, asked directly, does not answer.
    #[error("cannot connect to {relay}: {source}")]
    Unreachable {
        /// Host and port.
        relay: String,
        /// What the system said.
        source: io::Error,
    },
    /// See [`ProxyError`].
    #[error(transparent)]
    Proxy(#[from] ProxyError),
}

impl RouteError {
    /// Whether the same would happen again.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Relay(_)) || matches!(self, Self::Proxy(error) if error.is_final())
    }
}

/// A way to a relay.
#[derive(Debug)]
pub struct Route {
    /// As in a URL: an IPv6 address has brackets.
    host: String,
    port: u16,
    proxy: Option<Proxy>,
}

/// Connects to the relay of `login`, by its route.
pub async fn connect(login: &RelayLogin) -> Result<TcpStream, RouteError> {
    Route::of(login)?.connect().await
}

impl Route {
    /// The way that configuration and environment ask for.
    pub fn of(login: &RelayLogin) -> Result<Self, RouteError> {
        Self::choose(&login.address, login.proxy.as_ref(), &Matcher::from_env())
    }

    fn choose(
        relay: &str,
        configured: Option<&ProxySetting>,
        environment: &Matcher,
    ) -> Result<Self, RouteError> {
        let (uri, port) = parse(relay).ok_or_else(|| RouteError::Relay(relay.to_owned()))?;
        let host = uri.host().unwrap_or_default().to_owned();
        let intercept = match configured {
            Some(setting) if setting.is_off() => None,
            Some(setting) => {
                let matcher = Matcher::builder().all(setting.as_str()).build();
                Some(matcher.intercept(&uri).ok_or(ProxyError::Malformed)?)
            }
            None if is_loopback(&host) => None,
            None => environment.intercept(&uri),
        };
        let proxy = intercept.map(|intercept| Proxy::new(&intercept)).transpose()?;
        Ok(Self { host, port, proxy })
    }

    /// The proxy on the way, without its password.
    pub fn proxy(&self) -> Option<String> {
        self.proxy.as_ref().map(Proxy::to_string)
    }

    async fn connect(&self) -> Result<TcpStream, RouteError> {
        let relay = format!("{}:{}", self.host, self.port);
        let stream = match &self.proxy {
            Some(proxy) => proxy.connect(&relay).await?,
            None => TcpStream::connect(&relay).await.map_err(|source| unreachable(&relay, source))?,
        };
        stream.set_nodelay(true).map_err(|source| unreachable(&relay, source))?;
        // Where the system lacks it or does not allow it, its default does.
        let socket = SockRef::from(&stream);
        let _ = socket.set_tcp_congestion(CONGESTION_CONTROL);
        if let Some(len) = relayed::send_buffer_len() {
            let _ = socket.set_send_buffer_size(len);
        }
        Ok(stream)
    }
}

fn unreachable(relay: &str, source: io::Error) -> RouteError {
    RouteError::Unreachable { relay: relay.to_owned(), source }
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

/// The proxy's own loopback is another machine's.
fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match host.parse::<IpAddr>() {
        Ok(ip) => ip.to_canonical().is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELAY: &str = "wss://relay.example.org/path";

    fn nothing() -> Matcher {
        Matcher::builder().build()
    }

    fn everything() -> Matcher {
        Matcher::builder().all("http://env:3128").build()
    }

    fn proxy_for(relay: &str, configured: Option<&str>, environment: &Matcher) -> Option<String> {
        let configured = configured.map(ProxySetting::from);
        Route::choose(relay, configured.as_ref(), environment).unwrap().proxy()
    }

    #[test]
    fn without_a_proxy_the_way_is_straight() {
        for (relay, host, port) in [
            ("ws://relay.example.org", "relay.example.org", 80),
            (RELAY, "relay.example.org", 443),
            ("wss://[2001:db8::1]:8700", "[2001:db8::1]", 8700),
        ] {
            let route = Route::choose(relay, None, &nothing()).unwrap();
            assert_eq!((route.host.as_str(), route.port, route.proxy()), (host, port, None));
        }
    }

    #[test]
    fn the_environment_counts_by_the_kind_of_address() {
        let matcher = Matcher::builder().http("http://plain:1").https("http://secure").build();
        assert_eq!(proxy_for("ws://relay", None, &matcher).as_deref(), Some("http://plain:1"));
        assert_eq!(proxy_for("wss://relay", None, &matcher).as_deref(), Some("http://secure:80"));
        assert_eq!(proxy_for(RELAY, None, &everything()).as_deref(), Some("http://env:3128"));
    }

    #[test]
    fn no_proxy_is_respected() {
        let matcher = Matcher::builder().all("http://env:3128").no("example.org,10.0.0.0/8,[x").build();
        for (relay, expected) in [
            (RELAY, None),
            ("ws://10.1.2.3:8700", None),
            ("ws://11.1.2.3:8700", Some("http://env:3128")),
            ("wss://notexample.org", Some("http://env:3128")),
        ] {
            assert_eq!(proxy_for(relay, None, &matcher).as_deref(), expected, "{relay}");
        }
    }

    #[test]
    fn a_relay_on_this_host_is_not_sought_at_the_environments_proxy() {
        for relay in ["ws://localhost:8700", "ws://127.0.0.2:8700", "wss://[::1]", "ws://[::ffff:127.0.0.1]"]
        {
            assert_eq!(proxy_for(relay, None, &everything()), None, "{relay}");
            let configured = proxy_for(relay, Some("http://mine:8080"), &everything());
            assert_eq!(configured.as_deref(), Some("http://mine:8080"), "{relay}");
        }
    }

    #[test]
    fn the_configuration_comes_before_the_environment() {
        let configured = proxy_for(RELAY, Some("http://mine:8080"), &everything());
        assert_eq!(configured.as_deref(), Some("http://mine:8080"));
        for none in ["", "none"] {
            assert_eq!(proxy_for(RELAY, Some(none), &everything()), None, "{none:?}");
        }
    }

    #[test]
    fn what_cannot_work_is_refused_for_good() {
        for relay in ["relay.example.org", "http://relay", "ws://", "wss://a b"] {
            let error = Route::choose(relay, None, &nothing()).unwrap_err();
            assert!(error.is_final() && error.to_string().contains(relay), "{error}");
        }
        for proxy in ["ftp://proxy", "http://", "https://proxy", "socks5://proxy"] {
            let error = Route::choose(RELAY, Some(&ProxySetting::from(proxy)), &nothing()).unwrap_err();
            assert!(error.is_final() && error.to_string().contains("peering.proxy"), "{error}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        for url in ["http://me:hush@proxy:3128", "http://me:hu@sh@proxy:3128", "http://me:hu%40sh@proxy:3128"]
        {
            let setting = ProxySetting::from(url);
            let shown = match Route::choose(RELAY, Some(&setting), &nothing()) {
                Ok(route) => format!("{route:?} {:?}", route.proxy()),
                Err(error) => format!("{error} {error:?}"),
            };
            for secret in ["hush", "hu@", "sh@", "hu%", "aHU", "bWU6"] {
                assert!(!shown.contains(secret) && !format!("{setting:?}").contains(secret), "{shown}");
            }
        }
    }
}
