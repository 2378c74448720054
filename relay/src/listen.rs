//! Listening sockets: one for each address the relay was told to listen on, and its UDP ports.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::task::Poll;

use proxystore_shared::relayed;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// Connections the system may hold until they are accepted; Linux caps this at `net.core.somaxconn`.
const BACKLOG: i32 = 1024;

/// For datagrams that cross the internet inside TCP: cubic, Linux's default, takes each lost packet for a full line and
/// collapses at a loss of 0.1 %; BBR measures the line instead.
const CONGESTION_CONTROL: &[u8] = b"bbr";

/// Bytes the system takes for a connection beyond what is on its way: 2 ms of a line of 1 Gbit/s. It would take
/// megabytes, and control messages would wait behind them (0.75 s for a client that reads 5 MB/s, measured; 0.07 s
/// with this bound): here they overtake the datagrams that wait.
const MAX_UNSENT: u32 = 256 * 1024;

/// Why the relay cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// `host` is no address and no name that resolves to one.
    #[error("host: cannot resolve {host:?}: {source}")]
    Resolve {
        /// The configured host.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// Another program has the port.
    #[error("{0} is already in use: stop the other program, or choose another port with --port")]
    InUse(SocketAddr),
    /// Another program has the UDP port.
    #[error(
        "{0}/udp is already in use: stop the other program, or choose other ports with --udp-ports or \
         `ports = []` under [udp] for none"
    )]
    UdpInUse(SocketAddr),
    /// Anything else.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// The sockets of one relay.
#[derive(Debug)]
pub struct Listeners {
    sockets: Vec<TcpListener>,
    local_addr: SocketAddr,
}

impl Listeners {
    /// Listens on every address of `host`; on every interface, by IPv6 and IPv4, without one.
    ///
    /// If `port` is 0, the system chooses one, which all addresses share.
    pub async fn bind(host: Option<&str>, port: u16) -> Result<Self, ListenError> {
        let Some(host) = host else { return Self::bind_everywhere(port) };
        let (first, rest) = resolve(host, port).await?;
        let mut listeners = Self::bind_one(first)?;
        let port = listeners.local_addr.port();
        for address in rest {
            listeners.sockets.extend(Self::bind_one(SocketAddr::new(address.ip(), port))?.sockets);
        }
        Ok(listeners)
    }

    fn bind_everywhere(port: u16) -> Result<Self, ListenError> {
        let any = |ip: IpAddr| Self::bind_one(SocketAddr::new(ip, port));
        match any(Ipv6Addr::UNSPECIFIED.into()) {
            // A host without IPv6.
            Err(ListenError::Bind { .. }) => any(Ipv4Addr::UNSPECIFIED.into()),
            listening => listening,
        }
    }

    fn bind_one(address: SocketAddr) -> Result<Self, ListenError> {
        let listener = listen(address).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => ListenError::InUse(address),
            _ => ListenError::Bind { address, source },
        })?;
        let local_addr = listener.local_addr().map_err(|source| ListenError::Bind { address, source })?;
        Ok(Self { sockets: vec![listener], local_addr })
    }

    /// The first address.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The congestion control of the connections, as the system calls it.
    pub fn congestion_control(&self) -> String {
        let name = self.sockets.first().and_then(|socket| SockRef::from(socket).tcp_congestion().ok());
        String::from_utf8_lossy(&name.unwrap_or_default()).trim_end_matches('\0').to_owned()
    }

    /// The next connection on any of the sockets. Nothing is lost if the future is dropped.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        std::future::poll_fn(|context| {
            let ready = self.sockets.iter().map(|socket| socket.poll_accept(context));
            ready.into_iter().find(Poll::is_ready).unwrap_or(Poll::Pending)
        })
        .await
    }
}

/// The first address of `host`, and the others.
async fn resolve(host: &str, port: u16) -> Result<(SocketAddr, Vec<SocketAddr>), ListenError> {
    let unresolved = |source| ListenError::Resolve { host: host.to_owned(), source };
    let mut addresses = tokio::net::lookup_host((host, port)).await.map_err(unresolved)?.collect::<Vec<_>>();
    addresses.sort_unstable();
    addresses.dedup();
    let mut addresses = addresses.into_iter();
    let first = addresses.next().ok_or_else(|| unresolved(io::ErrorKind::NotFound.into()))?;
    Ok((first, addresses.collect()))
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        socket.set_only_v6(false)?;
    }
    // A relay that restarts gets its port back while old connections are in TIME_WAIT.
    socket.set_reuse_address(true)?;
    // Accepted connections inherit these. Where the system lacks one or does not allow it, its default does.
    let _ = socket.set_tcp_congestion(CONGESTION_CONTROL);
    let _ = socket.set_tcp_notsent_lowat(MAX_UNSENT);
    if let Some(len) = relayed::send_buffer_len() {
        let _ = socket.set_send_buffer_size(len);
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// The UDP ports of one relay, open on every address that it listens on.
#[derive(Debug, Default)]
pub struct UdpSockets {
    /// For each address, its sockets in the order of the ports.
    pub by_address: Vec<Vec<Arc<UdpSocket>>>,
    /// The ports, those included that the system chose.
    pub ports: Vec<u16>,
}

impl UdpSockets {
    /// Opens `ports` on every address of `host`; on every interface, by IPv6 and IPv4, without one.
    pub async fn bind(host: Option<&str>, ports: &[u16]) -> Result<Self, ListenError> {
        if ports.is_empty() {
            return Ok(Self::default());
        }
        let Some(host) = host else {
            return match Self::bind_all(&[Ipv6Addr::UNSPECIFIED.into()], ports) {
                // A host without IPv6.
                Err(ListenError::Bind { .. }) => Self::bind_all(&[Ipv4Addr::UNSPECIFIED.into()], ports),
                bound => bound,
            };
        };
        let (first, rest) = resolve(host, 0).await?;
        let addresses: Vec<IpAddr> = [first].iter().chain(&rest).map(SocketAddr::ip).collect();
        Self::bind_all(&addresses, ports)
    }

    /// The ports that the system chooses for the first address are those of all.
    fn bind_all(addresses: &[IpAddr], ports: &[u16]) -> Result<Self, ListenError> {
        let mut bound = Self { by_address: Vec::new(), ports: ports.to_vec() };
        for address in addresses {
            let mut sockets = Vec::new();
            for port in &mut bound.ports {
                let address = SocketAddr::new(*address, *port);
                let failed = |source: io::Error| match source.kind() {
                    io::ErrorKind::AddrInUse => ListenError::UdpInUse(address),
                    _ => ListenError::Bind { address, source },
                };
                let socket = open_udp(address).map_err(failed)?;
                *port = socket.local_addr().map_err(failed)?.port();
                sockets.push(Arc::new(socket));
            }
            bound.by_address.push(sockets);
        }
        Ok(bound)
    }
}

fn open_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_a_host_both_address_families_are_served() {
        let listeners = Listeners::bind(None, 0).await.expect("binds");
        let port = listeners.local_addr().port();
        let client = TcpStream::connect(("127.0.0.1", port)).await.expect("connects");
        let (_, from) = listeners.accept().await.expect("accepts");
        assert_eq!(from.port(), client.local_addr().expect("bound").port());
    }

    #[tokio::test]
    async fn all_addresses_of_a_name_share_the_port() {
        let listeners = Listeners::bind(Some("localhost"), 0).await.expect("binds");
        for socket in &listeners.sockets {
            let address = socket.local_addr().expect("bound");
            assert_eq!(address.port(), listeners.local_addr().port());
            let _client = TcpStream::connect(address).await.expect("connects");
            listeners.accept().await.expect("accepts");
        }
    }

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let taken = Listeners::bind(Some("127.0.0.1"), 0).await.expect("binds").local_addr();
        let held = TcpListener::bind(taken).await.expect("binds");
        let error = Listeners::bind(Some("127.0.0.1"), taken.port()).await.expect_err("taken");
        assert!(matches!(&error, ListenError::InUse(address) if *address == taken), "{error}");
        drop(held);
    }

    #[tokio::test]
    async fn a_host_that_is_none_is_named() {
        let error = Listeners::bind(Some("not a host"), 0).await.expect_err("no host").to_string();
        assert!(error.contains("not a host"), "{error}");
    }

    #[tokio::test]
    async fn a_taken_udp_port_is_named() {
        let held = UdpSockets::bind(Some("127.0.0.1"), &[0]).await.expect("binds");
        let error = UdpSockets::bind(Some("127.0.0.1"), &held.ports).await.expect_err("taken").to_string();
        assert!(error.contains(&format!("127.0.0.1:{}/udp", held.ports[0])), "{error}");
    }
}
