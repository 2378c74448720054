//! The way to a TURN server.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::transport::shared_socket::reachable_from;

/// For a connection over TCP to come up, or to take what is written: a server at the other end of the world takes a second.
const TCP_LIMIT: Duration = Duration::from_secs(5);

/// Read at once from a connection over TCP: a dozen datagrams.
const TCP_BUFFER: usize = 16 << 10;

/// How the server is reached.
pub(super) enum Link {
    /// From the endpoint's own socket, which also receives what comes back.
    Udp { socket: UdpSocket, server: SocketAddr },
    /// Over a connection of its own.
    Tcp { stream: TcpStream, buffer: Vec<u8> },
}

impl Link {
    /// Over a second handle to the endpoint's socket.
    pub fn udp(socket: UdpSocket, server: SocketAddr) -> io::Result<Self> {
        let server = reachable_from(socket.local_addr()?, server);
        Ok(Self::Udp { socket, server })
    }

    /// Connects; also says from where.
    pub async fn tcp(server: SocketAddr) -> io::Result<(Self, SocketAddr)> {
        let stream = timeout(TCP_LIMIT, TcpStream::connect(server)).await??;
        stream.set_nodelay(true)?;
        let local = stream.local_addr()?;
        Ok((Self::Tcp { stream, buffer: vec![0; TCP_BUFFER] }, local))
    }

    /// Writes a message to the server.
    pub async fn write(&mut self, message: &[u8]) -> io::Result<()> {
        match self {
            Self::Udp { socket, server } => {
                // A datagram that cannot be sent is a lost one.
                let _ = socket.send_to(message, *server);
                Ok(())
            }
            Self::Tcp { stream, .. } => timeout(TCP_LIMIT, stream.write_all(message)).await?,
        }
    }

    /// Reads from the server; for ever over UDP, where it comes with everybody else's datagrams.
    pub async fn read(&mut self) -> io::Result<Vec<u8>> {
        match self {
            Self::Udp { .. } => std::future::pending().await,
            Self::Tcp { stream, buffer } => match stream.read(buffer).await? {
                0 => Err(ErrorKind::UnexpectedEof.into()),
                len => Ok(buffer[..len].to_vec()),
            },
        }
    }
}
