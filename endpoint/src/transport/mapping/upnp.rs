//! UPnP (Internet Gateway Device 1 and 2), which home routers speak that know nothing newer: the router tells by UDP
//! where its description is, and the description where requests go.
//!
//! Whoever is on the network can answer, and whoever answers can name any URL. So only the router is asked, only what
//! comes from its address is listened to, and every URL must be on that address. Answers are bounded in size and depth
//! by `igd-next` (1 MiB, 64 elements deep), and in time by [`LIMIT`].

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use igd_next::aio::Gateway;
use igd_next::aio::tokio::{Tokio, search_gateway};
use igd_next::{AddPortError, PortMappingProtocol, SearchOptions};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::LIFETIME;
use super::lease::{Refusal, usable};
use super::router::Request;

/// For all that is said to the router about one lease: five requests or a few more, for each of which a slow router
/// takes some hundred milliseconds.
const LIMIT: Duration = Duration::from_secs(5);

/// The port of SSDP.
const SSDP: u16 = 1900;

/// What it is asked. The group's address stands here, although nobody else is asked: some routers insist on it. They
/// may take a second for the answer.
const QUESTION: &str = "M-SEARCH * HTTP/1.1\r\n\
    HOST: 239.255.255.250:1900\r\n\
    MAN: \"ssdp:discover\"\r\n\
    MX: 1\r\n\
    ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\r\n";

/// Before the question is repeated: a datagram may be lost, and the second granted above passes.
const REPEAT: Duration = Duration::from_millis(1500);

/// What fits into one packet; routers say a third of it.
const MAX_ANSWER: usize = 1500;

/// Requests for a port with another number, or for ever, after one that was refused for such a reason.
const REMEDIES: usize = 3;

/// Ports that belong to nobody (RFC 6335), for when the one of the socket's number is taken.
const DYNAMIC: RangeInclusive<u16> = 49152..=u16::MAX;

/// What people see in the router's list.
const DESCRIPTION: &str = "ProxyStore endpoint";

/// A port that was granted.
pub struct Lease {
    gateway: Gateway<Tokio>,
    /// Where it leads.
    local: SocketAddr,
    /// Where peers send to.
    address: SocketAddr,
    /// In seconds; 0 is for ever.
    duration: u32,
}

impl Lease {
    /// The router does not say whether it grants less than it is asked for. What it grants for ever is asked for as
    /// often, in case that it restarts.
    pub const LIFETIME: Duration = LIFETIME;

    /// Asks for a port, if possible of the number that the socket has.
    pub async fn ask(request: Request) -> Result<Self, Refusal> {
        timeout(LIMIT, async {
            let gateway = find(request).await?;
            // Its address first: a port of an address that is of no use need not be taken back.
            let ip = usable(gateway.get_external_ip().await?)?;
            let port = request.port.get();
            let mut lease = Self {
                gateway,
                local: SocketAddr::new(request.client.into(), port),
                address: SocketAddr::new(ip, port),
                duration: LIFETIME.as_secs() as u32,
            };
            lease.add().await?;
            Ok(lease)
        })
        .await?
    }

    /// Asks for it again, before it expires.
    pub async fn renew(&mut self) -> Result<(), Refusal> {
        timeout(LIMIT, async {
            self.address.set_ip(usable(self.gateway.get_external_ip().await?)?);
            Ok(self.add().await?)
        })
        .await?
    }

    /// Gives it back.
    pub async fn release(self) {
        // Nobody is there to be told that the router would not.
        let _ = self.gateway.remove_port(PortMappingProtocol::UDP, self.address.port()).await;
    }

    /// Where peers send to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Follows a refusal that names its remedy.
    async fn add(&mut self) -> Result<(), AddPortError> {
        for _ in 0..REMEDIES {
            match self.add_once().await {
                Err(AddPortError::OnlyPermanentLeasesSupported) => self.duration = 0,
                Err(AddPortError::PortInUse) => self.address.set_port(rand::random_range(DYNAMIC)),
                outcome => return outcome,
            }
        }
        self.add_once().await
    }

    async fn add_once(&self) -> Result<(), AddPortError> {
        let (protocol, port) = (PortMappingProtocol::UDP, self.address.port());
        self.gateway.add_port(protocol, port, self.local, self.duration, DESCRIPTION).await
    }
}

/// The router's description. The search of `igd-next` would believe whoever sends to its socket; so that socket is on
/// loopback, where it is handed what the router has said, and takes URLs of the router's address only.
async fn find(request: Request) -> Result<Gateway<Tokio>, Refusal> {
    let answer = ask(request).await?;
    let hand = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let mut options = SearchOptions::default();
    options.bind_addr = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
    options.broadcast_address = hand.local_addr()?;
    options.allowed_gateway_ips = vec![request.router.into()];
    options.timeout = Some(LIMIT);
    let search = async { Ok(search_gateway(options).await?) };
    let hand_over = async {
        let (_, searcher) = hand.recv_from(&mut [0; MAX_ANSWER]).await?;
        hand.send_to(&answer, searcher).await.map_err(Refusal::from)
    };
    let (gateway, _) = tokio::try_join!(search, hand_over)?;
    Ok(gateway)
}

/// What the router answers; asks until it does.
async fn ask(request: Request) -> io::Result<Vec<u8>> {
    let socket = UdpSocket::bind((request.client, 0)).await?;
    loop {
        socket.send_to(QUESTION.as_bytes(), (request.router, SSDP)).await?;
        if let Ok(answer) = timeout(REPEAT, listen(&socket, request.router)).await {
            return answer;
        }
    }
}

async fn listen(socket: &UdpSocket, router: Ipv4Addr) -> io::Result<Vec<u8>> {
    let mut answer = [0; MAX_ANSWER];
    loop {
        // From whichever port.
        let (len, from) = socket.recv_from(&mut answer).await?;
        if from.ip() == router {
            return Ok(answer[..len].to_vec());
        }
    }
}
