//! The way to a TURN server.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use proxystore_shared::config::endpoint::{ProxySetting, TurnServer, TurnTransport};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::http::Uri;

use super::TurnError;
use crate::transport::route::Route;

/// For a connection over TCP to come up, with a proxy and TLS. More than the proxy has, so that the error names it.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// For a connection to take what is written: a server at the other end of the world takes a second.
const WRITE_LIMIT: Duration = Duration::from_secs(5);

/// Read at once: a dozen datagrams of a connection over TCP.
const BUFFER: usize = 16 << 10;

/// The way to the server, and what was read last.
pub(super) struct Link {
    carrier: Carrier,
    buffer: Vec<u8>,
}

enum Carrier {
    /// A socket that only the server can send to.
    Udp(UdpSocket),
    Tcp(Box<dyn Stream>),
}

/// A connection over TCP, encrypted or not.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Between which addresses a way is: through a proxy, the other one is the proxy's.
pub(super) struct Ends {
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

impl Link {
    /// Over UDP, from a port of its own: to a server, an endpoint that was killed and comes back from the same port is one
    /// that has its address still, and it gives no other (RFC 8656, section 7.2).
    pub async fn udp(server: SocketAddr) -> io::Result<(Self, Ends)> {
        let any = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
        socket.connect(server).await?;
        let ends = Ends { local: socket.local_addr()?, remote: server };
        Ok((Self::over(Carrier::Udp(socket)), ends))
    }

    /// Connects over TCP or TLS, through `proxy` or what the environment says.
    pub async fn tcp(server: &TurnServer, proxy: Option<&ProxySetting>) -> Result<(Self, Ends), TurnError> {
        let connecting = async {
            let (stream, name) = connect(server, proxy).await?;
            let ends = Ends { local: stream.local_addr()?, remote: stream.peer_addr()? };
            let stream: Box<dyn Stream> = match server.transport {
                TurnTransport::Tls => Box::new(connector()?.connect(name, stream).await?),
                TurnTransport::Tcp | TurnTransport::Udp => Box::new(stream),
            };
            Ok((Self::over(Carrier::Tcp(stream)), ends))
        };
        timeout(CONNECT_LIMIT, connecting).await.map_err(io::Error::from)?
    }

    fn over(carrier: Carrier) -> Self {
        Self { carrier, buffer: vec![0; BUFFER] }
    }

    /// Writes a message to the server.
    pub async fn write(&mut self, message: &[u8]) -> io::Result<()> {
        match &mut self.carrier {
            Carrier::Udp(socket) => {
                // A datagram that cannot be sent is a lost one.
                let _ = socket.send(message).await;
                Ok(())
            }
            Carrier::Tcp(stream) => {
                let writing = async {
                    stream.write_all(message).await?;
                    stream.flush().await
                };
                timeout(WRITE_LIMIT, writing).await?
            }
        }
    }

    /// Reads from the server. Nothing is lost when this is dropped half way.
    pub async fn read(&mut self) -> io::Result<Vec<u8>> {
        let len = match &mut self.carrier {
            Carrier::Udp(socket) => socket.recv(&mut self.buffer).await?,
            Carrier::Tcp(stream) => match stream.read(&mut self.buffer).await? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                len => len,
            },
        };
        Ok(self.buffer[..len].to_vec())
    }
}

/// The connection, and the name that the server's certificate must be for.
async fn connect(
    server: &TurnServer,
    proxy: Option<&ProxySetting>,
) -> Result<(TcpStream, ServerName<'static>), TurnError> {
    // As the environment's variables know it.
    let scheme = if server.transport == TurnTransport::Tls { "https" } else { "http" };
    let uri: Uri = format!("{scheme}://{}", server.address).parse().map_err(|_| TurnError::Unknown)?;
    let (host, port) = uri.host().zip(uri.port_u16()).ok_or(TurnError::Unknown)?;
    let name =
        ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(|_| TurnError::Unknown)?;
    Ok((Route::to(&uri, port, proxy)?.connect().await?, name))
}

/// TLS with a server for whom one of the system's authorities vouches.
fn connector() -> io::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = builder.map_err(io::Error::other)?.with_root_certificates(roots).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
