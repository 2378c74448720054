//! The way to a server over TCP: straight, or through an HTTP proxy where nothing else leads out.
//!
//! Which way is decided from the configuration and, failing that, from the environment that other programs go by.

mod proxy;

use std::io;
use std::net::IpAddr;

use hyper_util::client::proxy::matcher::Matcher;
use proxystore_shared::config::endpoint::ProxySetting;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::http::Uri;

use self::proxy::{Proxy, ProxyError};

/// Why there is no connection to a server.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// The server, asked directly, does not answer.
    #[error("cannot connect to {server}: {source}")]
    Unreachable {
        /// Host and port.
        server: String,
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
        matches!(self, Self::Proxy(error) if error.is_final())
    }
}

/// A way to a server.
#[derive(Debug)]
pub struct Route {
    /// Host and port as in a URL: an IPv6 address has brackets.
    server: String,
    proxy: Option<Proxy>,
}

impl Route {
    /// The way to `port` at the host of `server` that configuration and environment ask for. The environment goes by the
    /// scheme, `http` or `https`.
    pub fn to(server: &Uri, port: u16, configured: Option<&ProxySetting>) -> Result<Self, RouteError> {
        Self::choose(server, port, configured, &Matcher::from_env())
    }

    fn choose(
        server: &Uri,
        port: u16,
        configured: Option<&ProxySetting>,
        environment: &Matcher,
    ) -> Result<Self, RouteError> {
        let host = server.host().unwrap_or_default();
        let intercept = match configured {
            Some(setting) if setting.is_off() => None,
            Some(setting) => {
                let matcher = Matcher::builder().all(setting.as_str()).build();
                Some(matcher.intercept(server).ok_or(ProxyError::Malformed)?)
            }
            None if is_loopback(host) => None,
            None => environment.intercept(server),
        };
        let proxy = intercept.map(|intercept| Proxy::new(&intercept)).transpose()?;
        Ok(Self { server: format!("{host}:{port}"), proxy })
    }

    /// The proxy on the way, without its password.
    pub fn proxy(&self) -> Option<String> {
        self.proxy.as_ref().map(Proxy::to_string)
    }

    /// Connects. The system's patience is longer than anybody's here: callers set a limit.
    pub async fn connect(&self) -> Result<TcpStream, RouteError> {
        let unreachable = |source| RouteError::Unreachable { server: self.server.clone(), source };
        let stream = match &self.proxy {
            Some(proxy) => proxy.connect(&self.server).await?,
            None => TcpStream::connect(&self.server).await.map_err(unreachable)?,
        };
        stream.set_nodelay(true).map_err(unreachable)?;
        Ok(stream)
    }
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

    const SERVER: &str = "https://relay.example.org/path";

    fn nothing() -> Matcher {
        Matcher::builder().build()
    }

    fn everything() -> Matcher {
        Matcher::builder().all("http://env:3128").build()
    }

    fn choose(server: &str, configured: Option<&str>, environment: &Matcher) -> Result<Route, RouteError> {
        let configured = configured.map(ProxySetting::from);
        Route::choose(&server.parse().unwrap(), 443, configured.as_ref(), environment)
    }

    fn proxy_for(server: &str, configured: Option<&str>, environment: &Matcher) -> Option<String> {
        choose(server, configured, environment).unwrap().proxy()
    }

    #[test]
    fn without_a_proxy_the_way_is_straight() {
        for (server, expected) in
            [(SERVER, "relay.example.org:443"), ("http://[2001:db8::1]:8700", "[2001:db8::1]:443")]
        {
            let route = choose(server, None, &nothing()).unwrap();
            assert_eq!((route.server.as_str(), route.proxy()), (expected, None));
        }
    }

    #[test]
    fn the_environment_counts_by_the_scheme() {
        let matcher = Matcher::builder().http("http://plain:1").https("http://secure").build();
        assert_eq!(proxy_for("http://relay", None, &matcher).as_deref(), Some("http://plain:1"));
        assert_eq!(proxy_for("https://relay", None, &matcher).as_deref(), Some("http://secure:80"));
        assert_eq!(proxy_for(SERVER, None, &everything()).as_deref(), Some("http://env:3128"));
    }

    #[test]
    fn no_proxy_is_respected() {
        let matcher = Matcher::builder().all("http://env:3128").no("example.org,10.0.0.0/8,[x").build();
        for (server, expected) in [
            (SERVER, None),
            ("http://10.1.2.3:8700", None),
            ("http://11.1.2.3:8700", Some("http://env:3128")),
            ("https://notexample.org", Some("http://env:3128")),
        ] {
            assert_eq!(proxy_for(server, None, &matcher).as_deref(), expected, "{server}");
        }
    }

    #[test]
    fn a_server_on_this_host_is_not_sought_at_the_environments_proxy() {
        for server in
            ["http://localhost:8700", "http://127.0.0.2:8700", "https://[::1]", "http://[::ffff:127.0.0.1]"]
        {
            assert_eq!(proxy_for(server, None, &everything()), None, "{server}");
            let configured = proxy_for(server, Some("http://mine:8080"), &everything());
            assert_eq!(configured.as_deref(), Some("http://mine:8080"), "{server}");
        }
    }

    #[test]
    fn the_configuration_comes_before_the_environment() {
        let configured = proxy_for(SERVER, Some("http://mine:8080"), &everything());
        assert_eq!(configured.as_deref(), Some("http://mine:8080"));
        for none in ["", "none"] {
            assert_eq!(proxy_for(SERVER, Some(none), &everything()), None, "{none:?}");
        }
    }

    #[test]
    fn a_proxy_that_cannot_work_is_refused_for_good() {
        for proxy in ["ftp://proxy", "http://", "https://proxy", "socks5://proxy"] {
            let error = choose(SERVER, Some(proxy), &nothing()).unwrap_err();
            assert!(error.is_final() && error.to_string().contains("peering.proxy"), "{error}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        for url in ["http://me:hush@proxy:3128", "http://me:hu@sh@proxy:3128", "http://me:hu%40sh@proxy:3128"]
        {
            let shown = match choose(SERVER, Some(url), &nothing()) {
                Ok(route) => format!("{route:?} {:?}", route.proxy()),
                Err(error) => format!("{error} {error:?}"),
            };
            for secret in ["hush", "hu@", "sh@", "hu%", "aHU", "bWU6"] {
                let setting = ProxySetting::from(url);
                assert!(!shown.contains(secret) && !format!("{setting:?}").contains(secret), "{shown}");
            }
        }
    }
}
