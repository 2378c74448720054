//! A port of the site's router, got from a real one: miniupnpd, which speaks PCP and NAT-PMP.

use std::net::UdpSocket;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use proxystore_endpoint::transport::mapping::PortMapper;
use proxystore_tests::net::{self, Namespace, Program};
use proxystore_tests::{PATIENCE, skipped, until};
use tempfile::TempDir;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const MINIUPNPD: &str = "/usr/sbin/miniupnpd";

/// Of the router, towards an internet of one other machine. miniupnpd insists on an address outside the ranges that are
/// reserved for documentation; nothing leads from here to the one who has it.
const PUBLIC: &str = "1.2.3.4";

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
enable_natpmp=yes
enable_upnp=no
secure_mode=yes
uuid=12345678-1234-4234-9234-123456789abc
upnp_table_name=filter
upnp_nat_table_name=filter
upnp_forward_chain=miniupnpd
upnp_nat_chain=prerouting_miniupnpd
upnp_nat_postrouting_chain=postrouting_miniupnpd
allow 1024-65535 192.168.9.0/24 1024-65535
";

struct Lab {
    host: Arc<Namespace>,
    router: Arc<Namespace>,
    stranger: Arc<Namespace>,
    _program: Program,
    _dir: TempDir,
}

impl Lab {
    async fn start() -> Result<Self> {
        let (host, router) = (Namespace::new("host")?, Namespace::new("router")?);
        let stranger = Namespace::new("stranger")?;
        router.ip(&format!("link add lan type veth peer name eth netns {}", host.name()))?;
        router.ip(&format!("link add wan type veth peer name eth netns {}", stranger.name()))?;
        router.ip("address add 192.168.9.1/24 dev lan\nlink set lan up")?;
        router.ip(&format!("address add {PUBLIC}/24 dev wan\nlink set wan up"))?;
        host.ip("address add 192.168.9.2/24 dev eth\nlink set eth up\nroute add default via 192.168.9.1")?;
        stranger.ip("address add 1.2.3.5/24 dev eth\nlink set eth up")?;
        router.set("net/ipv4/ip_forward", "1")?;
        router.nft(RULES)?;
        let dir = tempfile::tempdir()?;
        let (config, pid) = (dir.path().join("miniupnpd.conf"), dir.path().join("pid"));
        std::fs::write(&config, CONFIG)?;
        let log = dir.path().join("log");
        let program = Program::start(&router, Path::new(MINIUPNPD), &log, |command| {
            command.arg("-d").arg("-f").arg(config).arg("-P").arg(pid);
        })?;
        let listens = || router.output("ss", &["-Hlun"]).is_ok_and(|sockets| sockets.contains(":5351"));
        until("miniupnpd listens", listens).await.with_context(|| program.log())?;
        Ok(Self { host, router, stranger, _program: program, _dir: dir })
    }

    /// Asks for the port of a socket, has the stranger send to it, and takes the mapping back.
    async fn map_and_knock(&self) -> Result<()> {
        let socket = tokio::net::UdpSocket::bind("0.0.0.0:0").await?;
        let (mapper, mut address) = PortMapper::new(socket.local_addr()?);
        let stop = CancellationToken::new();
        let task = tokio::spawn(mapper.run(stop.clone()));
        let public = timeout(PATIENCE, address.wait_for(Option::is_some)).await.context("no port")??;
        let public = public.context("a port")?;
        assert_eq!(public.ip().to_string(), PUBLIC);

        let knock = || Ok(UdpSocket::bind("1.2.3.5:7000")?.send_to(b"knock", public)?);
        self.stranger.within(knock)?;
        let mut word = [0; 16];
        let (len, from) = timeout(PATIENCE, socket.recv_from(&mut word)).await.context("no knock")??;
        assert_eq!((&word[..len], from.to_string().as_str()), (&b"knock"[..], "1.2.3.5:7000"));

        stop.cancel();
        timeout(PATIENCE, task).await??;
        Ok(())
    }

    fn forwards(&self) -> Result<bool> {
        Ok(self
            .router
            .output("nft", &["list", "chain", "inet", "filter", "prerouting_miniupnpd"])?
            .contains("dnat"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_forwards_a_port_until_it_is_taken_back() -> Result<()> {
    if !net::possible() {
        return Ok(());
    }
    if !Path::new(MINIUPNPD).exists() {
        skipped("miniupnpd is not installed");
        return Ok(());
    }
    let lab = Lab::start().await?;
    lab.host.within(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(lab.map_and_knock())
    })?;
    assert!(!lab.forwards()?, "the port is taken back");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn where_there_is_no_router_nobody_is_asked() -> Result<()> {
    if !net::possible() {
        return Ok(());
    }
    let lonely = Namespace::new("lonely")?;
    lonely.within(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (mapper, address) = PortMapper::new("0.0.0.0:4000".parse()?);
            let stop = CancellationToken::new();
            let task = tokio::spawn(mapper.run(stop.clone()));
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert_eq!(*address.borrow(), None);
            stop.cancel();
            Ok(timeout(PATIENCE, task).await??)
        })
    })
}
