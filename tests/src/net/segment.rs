//! Wires: a segment is a switch with a gateway, a plug is one machine's cable to it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::Result;

use super::namespace::Namespace;

/// The number of the gateway's address in every subnet.
const GATEWAY: u8 = 1;

/// Addresses of a segment; machine `n` has address `n`.
#[derive(Debug, Clone, Copy)]
pub struct Subnet {
    /// First three bytes of its IPv4 addresses.
    pub v4: [u8; 3],
    /// Its IPv6 addresses, if it has any, by their last byte but `n`.
    pub v6: Option<Ipv6Addr>,
}

impl Subnet {
    /// Addresses that are never used outside of documentation (RFC 5737, RFC 3849).
    pub const INTERNET: Self =
        Self { v4: [203, 0, 113], v6: Some(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0)) };

    /// What a provider has between its customers' routers and its own (RFC 6598).
    pub const PROVIDER: Self = Self { v4: [100, 64, 0], v6: None };

    /// The addresses of most homes and many institutes.
    pub const fn private(number: u8) -> Self {
        Self { v4: [192, 168, number], v6: None }
    }

    /// The IPv4 address of a machine.
    pub fn v4(&self, number: u8) -> Ipv4Addr {
        let [a, b, c] = self.v4;
        Ipv4Addr::new(a, b, c, number)
    }

    /// The IPv6 address of a machine.
    pub fn v6(&self, number: u8) -> Option<Ipv6Addr> {
        self.v6.map(|base| Ipv6Addr::from_bits(base.to_bits() | u128::from(number)))
    }

    /// The addresses of a machine that speaks `stack`.
    fn addresses(&self, number: u8, stack: Stack) -> Vec<IpAddr> {
        let v4 = stack.v4().then(|| self.v4(number).into());
        let v6 = if stack.v6() { self.v6(number).map(IpAddr::from) } else { None };
        v4.into_iter().chain(v6).collect()
    }
}

/// Which versions of IP a machine speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stack {
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
    /// Both.
    Dual,
}

impl Stack {
    fn v4(self) -> bool {
        self != Self::V6
    }

    fn v6(self) -> bool {
        self != Self::V4
    }
}

/// A switch, and the gateway that it leads to.
#[derive(Debug, Clone)]
pub struct Segment {
    gateway: Arc<Namespace>,
    bridge: String,
    subnet: Subnet,
}

impl Segment {
    /// A switch named `bridge` in `gateway`, which is machine 1 of the segment.
    pub fn new(gateway: &Arc<Namespace>, bridge: &str, subnet: Subnet) -> Result<Self> {
        gateway.ip(&format!("link add {bridge} type bridge\nlink set {bridge} up"))?;
        // Where bridges can ask the packet filter of routers, they do by default: a switch asks nobody.
        let asks = "net/bridge/bridge-nf-call-iptables";
        if Path::new("/proc/sys").join(asks).exists() {
            gateway.set(asks, "0")?;
        }
        for address in subnet.addresses(GATEWAY, Stack::Dual) {
            gateway.ip(&format!("addr add {} dev {bridge}", with_prefix(address)))?;
        }
        Ok(Self { gateway: gateway.clone(), bridge: bridge.into(), subnet })
    }

    /// Its addresses.
    pub fn subnet(&self) -> Subnet {
        self.subnet
    }

    /// The machine that is its gateway.
    pub fn gateway(&self) -> &Namespace {
        &self.gateway
    }

    /// The address of its gateway.
    pub fn gateway_address(&self) -> Ipv4Addr {
        self.subnet.v4(GATEWAY)
    }

    /// Connects `machine` by an interface of that name, as machine `number`.
    pub fn plug(&self, machine: &Arc<Namespace>, interface: &str, number: u8, stack: Stack) -> Result<Plug> {
        let port = format!("{}{number}", self.bridge);
        self.gateway.ip(&format!(
            "link add {port} type veth peer name {interface} netns {}\nlink set {port} master {} up",
            machine.name(),
            self.bridge
        ))?;
        self.plugged(machine, interface, &port, number, stack)
    }

    /// Connects `machine` over a wire to the gateway instead, with a device of that name at either end. IPv4 only.
    pub fn extend(&self, machine: &Arc<Namespace>, device: &str, number: u8) -> Result<Plug> {
        // Machines at the switch find the one at the far end of the wire at the gateway.
        self.gateway.set("net/ipv4/ip_forward", "1")?;
        self.gateway.set(&format!("net/ipv4/conf/{}/proxy_arp", self.bridge), "1")?;
        self.gateway
            .ip(&format!("link set {device} up\nroute add {} dev {device}", self.subnet.v4(number)))?;
        self.plugged(machine, device, device, number, Stack::V4)
    }

    fn plugged(
        &self,
        machine: &Arc<Namespace>,
        interface: &str,
        port: &str,
        number: u8,
        stack: Stack,
    ) -> Result<Plug> {
        let plug = Plug {
            switch: self.gateway.clone(),
            port: port.into(),
            machine: machine.clone(),
            interface: interface.into(),
            subnet: self.subnet,
            stack,
            number: AtomicU8::new(number),
        };
        plug.up()?;
        Ok(plug)
    }
}

/// A machine's cable to a switch.
#[derive(Debug)]
pub struct Plug {
    switch: Arc<Namespace>,
    port: String,
    machine: Arc<Namespace>,
    interface: String,
    subnet: Subnet,
    stack: Stack,
    number: AtomicU8,
}

impl Plug {
    /// The machine's IPv4 address.
    pub fn v4(&self) -> Ipv4Addr {
        self.subnet.v4(self.number())
    }

    fn number(&self) -> u8 {
        self.number.load(Ordering::Relaxed)
    }

    /// Pulls the cable: the machine keeps its addresses and routes.
    pub fn pull(&self) -> Result<()> {
        self.switch.ip(&format!("link set {} down", self.port))
    }

    /// Puts the cable back.
    pub fn push(&self) -> Result<()> {
        self.switch.ip(&format!("link set {} up", self.port))
    }

    /// Takes the interface down, and with it the machine's addresses and routes.
    pub fn down(&self) -> Result<()> {
        self.machine.ip(&format!("addr flush dev {0}\nlink set {0} down", self.interface))
    }

    /// Takes the interface up again, with the same addresses.
    pub fn up(&self) -> Result<()> {
        let interface = &self.interface;
        self.machine.ip(&format!("link set {interface} up"))?;
        for address in self.subnet.addresses(self.number(), self.stack) {
            self.machine.ip(&format!("addr add {} dev {interface}", with_prefix(address)))?;
        }
        for gateway in self.subnet.addresses(GATEWAY, self.stack) {
            let all = if gateway.is_ipv4() { "default" } else { "::/0" };
            self.machine.ip(&format!("route add {all} via {gateway} dev {interface}"))?;
        }
        Ok(())
    }

    /// Takes the interface down and up again as machine `number`.
    pub fn readdress(&self, number: u8) -> Result<()> {
        self.down()?;
        self.number.store(number, Ordering::Relaxed);
        self.up()
    }

    /// The longest packet that passes, either way; the longer ones vanish.
    pub fn limit_packets(&self, bytes: u16) -> Result<()> {
        self.machine.ip(&format!("link set {} mtu {bytes}", self.interface))?;
        self.switch.ip(&format!("link set {} mtu {bytes}", self.port))
    }

    /// Lets what the machine sends leave at that rate.
    pub fn slow_down(&self, megabits: u16) -> Result<()> {
        let rate = format!("{megabits}mbit");
        let shape = ["qdisc", "replace", "dev", &self.interface, "root", "tbf", "rate", &rate];
        self.machine.output("tc", &[&shape[..], &["burst", "64kb", "latency", "50ms"]].concat()).map(drop)
    }

    /// Loses `percent` of the packets, either way, from now on.
    pub fn lose(&self, percent: u8) -> Result<()> {
        // Each packet by itself, not the 64 KiB that the kernel otherwise passes on as one.
        self.machine.ip(&format!("link set {} gso_max_segs 1", self.interface))?;
        self.switch.ip(&format!("link set {} gso_max_segs 1", self.port))?;
        lose_arriving(&self.machine, &self.interface, percent)?;
        lose_arriving(&self.switch, &self.port, percent)
    }

    /// Lets no UDP in that the machine of `other` sends, until [`Plug::let_in`].
    pub fn shut_out(&self, other: &Plug) -> Result<()> {
        self.machine.nft(&format!(
            "table netdev shut {{
                chain arriving {{
                    type filter hook ingress device {} priority 0
                    ip saddr {} meta l4proto udp drop
                }}
            }}",
            self.interface,
            other.v4()
        ))
    }

    /// Lets everybody's UDP in again.
    pub fn let_in(&self) -> Result<()> {
        self.machine.nft("delete table netdev shut")
    }
}

fn lose_arriving(machine: &Namespace, interface: &str, percent: u8) -> Result<()> {
    let table = format!("netdev loss_{interface}");
    machine.nft(&format!("table {table}\ndelete table {table}"))?;
    machine.nft(&format!(
        "table {table} {{
            chain arriving {{
                type filter hook ingress device {interface} priority 0
                numgen random mod 100 < {percent} drop
            }}
        }}"
    ))
}

fn with_prefix(address: IpAddr) -> String {
    match address {
        IpAddr::V4(_) => format!("{address}/24"),
        IpAddr::V6(_) => format!("{address}/64"),
    }
}
