//! A host behind a router, and a stranger on the router's other side.

use std::net::{SocketAddr, UdpSocket as StdUdpSocket};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use proxystore_endpoint::transport::mapping::PortMapper;
use proxystore_tests::net::{Inside, Namespace, Program};
use proxystore_tests::{PATIENCE, until};
use tempfile::TempDir;
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub const MINIUPNPD: &str = "/usr/sbin/miniupnpd";

/// Of the router, towards an internet of one other machine. miniupnpd insists on an address outside the ranges that are
/// reserved for documentation; nothing leads from here to the one who has it.
pub const PUBLIC: &str = "1.2.3.4";

/// The other machine.
pub const STRANGER: &str = "1.2.3.5";

/// Of the router, towards the host.
pub const ROUTER: &str = "192.168.9.1";

/// Also on the router's network; the router has it as well, so that it can lie about who it is.
pub const NEIGHBOUR: &str = "192.168.9.3";

/// Of the host.
const HOST: &str = "192.168.9.2";

/// Of the host to itself.
pub const LOOPBACK: &str = "127.0.0.1";

/// Of the socket whose port is asked for.
pub const PORT: u16 = 41000;

/// A NAT that gives every destination another port, and lets nobody in but those it forwards.
const RULES: &str = "
table inet filter {
    chain forward {
        type filter hook forward priority filter; policy drop
        ct state established,related accept
        iifname lan accept
        jump miniupnpd
    }
    chain prerouting { type nat hook prerouting priority dstnat; jump prerouting_miniupnpd; }
    chain postrouting {
        type nat hook postrouting priority srcnat
        jump postrouting_miniupnpd
        oifname wan masquerade fully-random
    }
    chain miniupnpd { }
    chain prerouting_miniupnpd { }
    chain postrouting_miniupnpd { }
}";

const CONFIG: &str = "
ext_ifname=wan
listening_ip=lan
port=0
secure_mode=yes
uuid=12345678-1234-4234-9234-123456789abc
upnp_table_name=filter
upnp_nat_table_name=filter
upnp_forward_chain=miniupnpd
upnp_nat_chain=prerouting_miniupnpd
upnp_nat_postrouting_chain=postrouting_miniupnpd
allow 1024-65535 192.168.9.0/24 1024-65535
";

pub struct Lab {
    pub router: Arc<Namespace>,
    pub stranger: Arc<Namespace>,
    pub host: Arc<Namespace>,
    inside: Inside,
}

/// A running router program.
pub struct Miniupnpd {
    _program: Program,
    _dir: TempDir,
}

/// A socket of the host whose port is asked for.
pub struct Mapped {
    pub socket: UdpSocket,
    pub address: watch::Receiver<Option<SocketAddr>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Lab {
    /// The networks. Nobody listens on the router yet.
    pub fn new() -> Result<Self> {
        let (host, router) = (Namespace::new("host")?, Namespace::new("router")?);
        let stranger = Namespace::new("stranger")?;
        router.ip(&format!("link add lan type veth peer name eth netns {}", host.name()))?;
        router.ip(&format!("link add wan type veth peer name eth netns {}", stranger.name()))?;
        router.ip(&format!("address add {ROUTER}/24 dev lan\naddress add {NEIGHBOUR}/24 dev lan"))?;
        router.ip(&format!("address add {PUBLIC}/24 dev wan\nlink set lan up\nlink set wan up"))?;
        host.ip(&format!("address add {HOST}/24 dev eth\nlink set eth up"))?;
        host.ip(&format!("route add default via {ROUTER}"))?;
        stranger.ip(&format!("address add {STRANGER}/24 dev eth\nlink set eth up"))?;
        router.set("net/ipv4/ip_forward", "1")?;
        router.nft(RULES)?;
        Ok(Self { inside: Inside::new(&host)?, host, router, stranger })
    }

    /// Starts miniupnpd with `lines` in its configuration, and waits for it to listen on a UDP port.
    pub async fn miniupnpd(&self, lines: &str, port: u16) -> Result<Miniupnpd> {
        let dir = tempfile::tempdir()?;
        let (config, pid) = (dir.path().join("miniupnpd.conf"), dir.path().join("pid"));
        std::fs::write(&config, format!("{lines}{CONFIG}"))?;
        let log = dir.path().join("log");
        let program = Program::start(&self.router, Path::new(MINIUPNPD), &log, |command| {
            command.arg("-d").arg("-f").arg(config).arg("-P").arg(pid);
        })?;
        let port = format!(":{port} ");
        let listens = || self.router.output("ss", &["-Hlun"]).is_ok_and(|sockets| sockets.contains(&port));
        until("miniupnpd listens", listens).await.with_context(|| program.log())?;
        Ok(Miniupnpd { _program: program, _dir: dir })
    }

    /// Whether the host reaches a TCP port.
    pub async fn reaches(&self, address: SocketAddr) -> Result<bool> {
        self.inside.run(async move { TcpStream::connect(address).await.is_ok() }).await
    }

    /// Asks for the port of a new socket of the host.
    pub async fn map(&self) -> Result<Mapped> {
        let start = async {
            let socket = UdpSocket::bind(("0.0.0.0", PORT)).await?;
            let (mapper, address) = PortMapper::new(socket.local_addr()?);
            let stop = CancellationToken::new();
            let task = tokio::spawn(mapper.run(stop.clone()));
            Ok(Mapped { socket, address, stop, task })
        };
        self.inside.run(start).await?
    }

    /// Whether miniupnpd forwards a port.
    pub fn forwards(&self) -> Result<bool> {
        let chain = ["list", "chain", "inet", "filter", "prerouting_miniupnpd"];
        Ok(self.router.output("nft", &chain)?.contains("dnat"))
    }

    /// Has the stranger send to the public address, and waits for the datagram.
    pub async fn knock(&self, mapped: &Mapped, public: SocketAddr) -> Result<()> {
        let from = format!("{STRANGER}:7000");
        self.stranger.within(|| Ok(StdUdpSocket::bind(&from)?.send_to(b"knock", public)?))?;
        let mut word = [0; 16];
        let received = timeout(PATIENCE, mapped.socket.recv_from(&mut word)).await.context("no knock")?;
        let (len, sender) = received?;
        assert_eq!((&word[..len], sender.to_string()), (&b"knock"[..], from));
        Ok(())
    }
}

impl Mapped {
    /// The public address, once there is one.
    pub async fn granted(&mut self) -> Result<SocketAddr> {
        let address =
            timeout(PATIENCE, self.address.wait_for(Option::is_some)).await.context("no port")??;
        address.context("a port")
    }

    /// Stops asking, and waits until the port is given back.
    pub async fn end(self) -> Result<()> {
        self.stop.cancel();
        Ok(timeout(PATIENCE, self.task).await??)
    }
}
