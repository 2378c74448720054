//! The routers do what their names say, as seen by plain UDP: what the other tests rely on.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result};
use proxystore_tests::net::{self, Ground, Namespace, Nat, Plan, Segment, Stack, Subnet};

/// Longest wait for a packet that must come.
const PATIENCE: Duration = Duration::from_secs(5);

/// One machine's socket, and the address that others send to.
struct Speaker {
    socket: UdpSocket,
    address: SocketAddr,
}

impl Speaker {
    fn on(machine: &Namespace, address: SocketAddr) -> Result<Self> {
        let socket = machine.within(|| Ok(UdpSocket::bind(address)?))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { socket, address })
    }

    fn say(&self, word: &str, to: SocketAddr) -> Result<()> {
        self.socket.send_to(word.as_bytes(), to).with_context(|| format!("{word} to {to}"))?;
        Ok(())
    }

    fn hear(&self) -> Result<(String, SocketAddr)> {
        let mut word = [0; 64];
        let (len, from) = self.socket.recv_from(&mut word)?;
        Ok((String::from_utf8_lossy(&word[..len]).into_owned(), from))
    }
}

/// A host behind a router of a kind, and three remote addresses, of which two are one machine's.
struct Lab {
    ground: Ground,
    host: Speaker,
    remotes: [Speaker; 3],
    _others: Vec<net::Plug>,
}

impl Lab {
    fn new(nat: Nat) -> Result<Self> {
        let internet = Segment::new(&Namespace::new("internet")?, "net", Subnet::INTERNET)?;
        let ground = Ground::new("a", &internet, 11, &Plan::from(nat))?;
        let host = Speaker::on(&ground.host, "0.0.0.0:5000".parse()?)?;
        let (near, far) = (Namespace::new("near")?, Namespace::new("far")?);
        let others =
            vec![internet.plug(&near, "eth", 21, Stack::V4)?, internet.plug(&far, "eth", 22, Stack::V4)?];
        let remotes = [
            Speaker::on(&near, "203.0.113.21:7001".parse()?)?,
            Speaker::on(&near, "203.0.113.21:7002".parse()?)?,
            Speaker::on(&far, "203.0.113.22:7001".parse()?)?,
        ];
        Ok(Self { ground, host, remotes, _others: others })
    }

    /// The host's address as a remote machine sees it. Just after a cable was plugged in a packet may still be lost.
    fn seen_by(&self, remote: usize) -> Result<SocketAddr> {
        let remote = &self.remotes[remote];
        self.host.say("hello", remote.address)?;
        let heard = remote.hear().or_else(|_| {
            self.host.say("hello", remote.address)?;
            remote.hear()
        });
        Ok(heard?.1)
    }

    /// Who gets through to `address` besides the first remote machine, to which the host has sent.
    fn admitted(&self, address: SocketAddr) -> Result<Vec<usize>> {
        // The first one's packet always arrives, and the last of all.
        for n in [2, 1, 0] {
            self.remotes[n].say(&n.to_string(), address)?;
        }
        let mut admitted = Vec::new();
        loop {
            match self.host.hear()?.0.parse()? {
                0 => return Ok(admitted),
                n => admitted.push(n),
            }
        }
    }
}

#[test]
fn each_kind_of_nat_maps_and_filters_as_its_name_says() -> Result<()> {
    if !net::possible() {
        return Ok(());
    }
    for (nat, admitted, one_port) in [
        (Nat::None, vec![2, 1], true),
        (Nat::EndpointIndependent, vec![2, 1], true),
        (Nat::AddressRestricted, vec![1], true),
        (Nat::PortRestricted, vec![], true),
        (Nat::Symmetric, vec![], false),
    ] {
        let lab = Lab::new(nat)?;
        let address = lab.seen_by(0)?;
        assert_eq!(address.ip().to_string(), "203.0.113.11", "{}", nat.name());
        assert_eq!(lab.admitted(address)?, admitted, "{}: who gets through", nat.name());
        let others = [lab.seen_by(1)?, lab.seen_by(2)?];
        assert_eq!(others == [address; 2], one_port, "{}: {address} and {others:?}", nat.name());
        // Packets that were refused have not moved the host's port.
        assert_eq!(lab.seen_by(0)?, address, "{}", nat.name());
    }
    Ok(())
}

#[test]
fn a_router_that_reboots_gives_another_port() -> Result<()> {
    if !net::possible() {
        return Ok(());
    }
    let lab = Lab::new(Nat::PortRestricted)?;
    let before = lab.seen_by(0)?;
    lab.ground.routers[0].reboot()?;
    let after = lab.seen_by(0)?;
    assert_ne!(before.port(), after.port());
    assert_eq!(lab.seen_by(2)?, after, "still one port for every address");
    Ok(())
}

#[test]
fn packets_are_lost_and_cables_pulled() -> Result<()> {
    if !net::possible() {
        return Ok(());
    }
    let lab = Lab::new(Nat::PortRestricted)?;
    // Hosts and routers find each other while nothing is lost.
    lab.seen_by(0)?;
    lab.ground.plug.lose(50)?;
    let heard = (0..200).filter(|_| lab.host.say("x", lab.remotes[0].address).is_ok()).count();
    assert_eq!(heard, 200, "the sender notices nothing");
    lab.ground.plug.lose(0)?;
    lab.host.say("end", lab.remotes[0].address)?;
    let mut arrived = 0;
    while lab.remotes[0].hear()?.0 != "end" {
        arrived += 1;
    }
    assert!((20..180).contains(&arrived), "{arrived} of 200 arrived");

    lab.ground.plug.pull()?;
    lab.ground.plug.push()?;
    lab.seen_by(0)?;
    lab.ground.plug.readdress(77)?;
    lab.seen_by(2)?;
    Ok(())
}
