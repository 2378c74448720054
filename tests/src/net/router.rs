//! A site's router.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::Result;

use super::namespace::Namespace;
use super::nat::{self, Nat, Wall};
use super::segment::{Plug, Segment, Stack, Subnet};

/// The port that a host's UDP has after the first reboot of its router; the next one after the next.
const FIRST_PORT: u16 = 40_000;

/// A router between a segment and the LANs that are made of it.
#[derive(Debug)]
pub struct Router {
    namespace: Arc<Namespace>,
    /// Its cable towards the internet.
    pub wan: Plug,
    next_port: AtomicU16,
}

impl Router {
    /// A router at `upstream`, as machine `number` there.
    pub fn new(label: &str, upstream: &Segment, number: u8, nat: Nat, wall: Wall) -> Result<Self> {
        let namespace = Namespace::new(label)?;
        let wan = upstream.plug(&namespace, "wan", number, Stack::V4)?;
        namespace.set("net/ipv4/ip_forward", "1")?;
        namespace.nft(&nat::rules(nat, wall, wan.v4()))?;
        Ok(Self { namespace, wan, next_port: AtomicU16::new(FIRST_PORT) })
    }

    /// The router as a machine.
    pub fn namespace(&self) -> &Arc<Namespace> {
        &self.namespace
    }

    /// A LAN whose gateway it is.
    pub fn lan(&self, bridge: &str, subnet: Subnet) -> Result<Segment> {
        Segment::new(&self.namespace, bridge, subnet)
    }

    /// Forgets every mapping. The host behind it, which must have one UDP socket only, gets another port; not for
    /// NATs that admit what nobody asked for, because they look ports up by the host's.
    pub fn reboot(&self) -> Result<()> {
        let port = self.next_port.fetch_add(1, Ordering::Relaxed);
        self.namespace.set("net/ipv4/ip_forward", "0")?;
        self.namespace.nft(&format!(
            "insert rule ip nat translate oifname wan meta l4proto udp masquerade to :{port}"
        ))?;
        self.namespace.output("conntrack", &["--flush"])?;
        self.namespace.set("net/ipv4/ip_forward", "1")
    }

    /// Makes its outer link one for packets of `bytes`, and keeps that to itself: ICMP is filtered. As real routers
    /// on such links do, it tells TCP at least.
    pub fn narrow(&self, bytes: u16) -> Result<()> {
        self.wan.limit_packets(bytes)?;
        self.namespace.nft(
            "table ip narrow {
                chain silence { type filter hook output priority filter; ip protocol icmp drop; }
                chain tell_tcp {
                    type filter hook forward priority mangle
                    tcp flags syn tcp option maxseg size set rt mtu
                }
            }",
        )
    }
}
