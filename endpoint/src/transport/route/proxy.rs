//! An HTTP proxy that is asked for a connection to a server (`CONNECT`, RFC 9110, section 9.3.6).

use std::fmt;
use std::io;
use std::time::Duration;

use hyper_util::client::proxy::matcher::Intercept;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tracing::debug;

/// To reach the proxy and for its answer, which waits for the server. Less than an endpoint gives a registration with the
/// relay or a connection to a TURN server, so that the error names the proxy.
const DEADLINE: Duration = Duration::from_secs(8);

/// Longest head of an answer. Proxies add a few headers of their own; 8 KiB is what common servers take for a head.
const MAX_HEAD_LEN: usize = 8 << 10;

/// Most headers of an answer.
const MAX_HEADERS: usize = 64;

/// Most characters of the proxy's words that are passed on.
const MAX_REASON_LEN: usize = 100;

/// Why a proxy led nowhere.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The address in the configuration. It is not shown: it may hold a password.
    #[error(
        "`peering.proxy` is not the address of a proxy: it reads like http://user:password@host:3128, or \"none\""
    )]
    Malformed,
    /// SOCKS, or a proxy that itself is behind TLS.
    #[error(
        "{proxy} is a kind of proxy that is not supported: set `peering.proxy` to an http:// one, or to \"none\" to \
         go without"
    )]
    Unsupported {
        /// Without its password.
        proxy: String,
    },
    /// Nobody there, or gone before it answered.
    #[error("no connection to the proxy {proxy}: {source}; is `peering.proxy`, else https_proxy, right?")]
    Unreachable {
        /// Without its password.
        proxy: String,
        /// What the system said.
        source: io::Error,
    },
    /// It may wait for the server.
    #[error("the proxy {proxy} did not answer within {} s: does it reach {server}?", DEADLINE.as_secs())]
    Silent {
        /// Without its password.
        proxy: String,
        /// Host and port.
        server: String,
    },
    /// It will not.
    #[error("the proxy {proxy} refused a connection to {server} with \"{status} {reason}\": {}", remedy(*status))]
    Refused {
        /// Without its password.
        proxy: String,
        /// Host and port.
        server: String,
        /// Of its answer.
        status: u16,
        /// Its words.
        reason: String,
    },
    /// Another kind of server.
    #[error("what listens at {proxy} does not answer as an HTTP proxy: {problem}")]
    Nonsense {
        /// Without its password.
        proxy: String,
        /// What it did instead.
        problem: &'static str,
    },
}

impl ProxyError {
    /// Whether the same would happen again.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Malformed | Self::Unsupported { .. })
    }
}

fn remedy(status: u16) -> &'static str {
    match status {
        // Some proxies answer 401 where the password is wrong.
        401 | 407 => "it wants the right user and password, as in http://user:password@host:3128",
        403 => "ask those who run it to allow CONNECT to this host and port",
        405 | 501 => "it does not know CONNECT; is it an HTTP proxy?",
        500.. => "it does not reach that server; ask those who run it",
        _ => "ask those who run it",
    }
}

/// A proxy. Displays without its password.
pub struct Proxy {
    /// As in a URL: an IPv6 address has brackets.
    host: String,
    port: u16,
    authorization: Option<HeaderValue>,
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

impl Proxy {
    /// What configuration or environment name.
    pub fn new(intercept: &Intercept) -> Result<Self, ProxyError> {
        let uri = intercept.uri();
        let host = uri.host().filter(|host| !host.is_empty()).ok_or(ProxyError::Malformed)?.to_owned();
        let port = uri.port_u16().unwrap_or(80);
        match uri.scheme_str() {
            Some("http") => Ok(Self { host, port, authorization: intercept.basic_auth().cloned() }),
            scheme => {
                let proxy = format!("{}://{host}:{port}", scheme.unwrap_or_default());
                Err(ProxyError::Unsupported { proxy })
            }
        }
    }

    /// A connection through the proxy to `server`, host and port.
    pub async fn connect(&self, server: &str) -> Result<TcpStream, ProxyError> {
        match timeout(DEADLINE, self.tunnel(server)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ProxyError::Silent { proxy: self.to_string(), server: server.to_owned() }),
        }
    }

    async fn tunnel(&self, server: &str) -> Result<TcpStream, ProxyError> {
        let unreachable = |source| ProxyError::Unreachable { proxy: self.to_string(), source };
        let address = format!("{}:{}", self.host, self.port);
        let mut stream = TcpStream::connect(address).await.map_err(unreachable)?;
        stream.write_all(&self.request(server)).await.map_err(unreachable)?;
        let mut head = Vec::new();
        loop {
            if stream.read_buf(&mut head).await.map_err(unreachable)? == 0 {
                return Err(self.nonsense("it closed the connection"));
            }
            if let Some((status, reason)) = self.parse(&head)? {
                debug!(proxy = %self, server, status, "the proxy answered");
                let refused = || ProxyError::Refused {
                    proxy: self.to_string(),
                    server: server.to_owned(),
                    status,
                    reason,
                };
                return if (200..300).contains(&status) { Ok(stream) } else { Err(refused()) };
            }
        }
    }

    fn request(&self, server: &str) -> Vec<u8> {
        let mut request = format!("CONNECT {server} HTTP/1.1\r\nHost: {server}\r\n").into_bytes();
        if let Some(value) = &self.authorization {
            request.extend(b"Proxy-Authorization: ");
            request.extend(value.as_bytes());
            request.extend(b"\r\n");
        }
        request.extend(b"\r\n");
        request
    }

    /// Status and reason, once the whole head is there.
    fn parse(&self, head: &[u8]) -> Result<Option<(u16, String)>, ProxyError> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        match response.parse(head) {
            Ok(httparse::Status::Complete(len)) => {
                let status = response.code.unwrap_or_default();
                // Behind a refusal comes a page for people. Nobody but the server may speak behind a consent, and those
                // we ask for do not speak first.
                if (200..300).contains(&status) && len < head.len() {
                    return Err(self.nonsense("it sent more than an answer"));
                }
                let reason = response.reason.unwrap_or_default();
                let printable = reason.chars().filter(|char| !char.is_control());
                Ok(Some((status, printable.take(MAX_REASON_LEN).collect())))
            }
            Ok(httparse::Status::Partial) if head.len() < MAX_HEAD_LEN => Ok(None),
            Ok(httparse::Status::Partial) => Err(self.nonsense("the head of its answer is over 8 KiB")),
            Err(_) => Err(self.nonsense("its answer is not HTTP")),
        }
    }

    fn nonsense(&self, problem: &'static str) -> ProxyError {
        ProxyError::Nonsense { proxy: self.to_string(), problem }
    }
}
