//! What a site's router does to packets, as rules of nftables.
//!
//! Every kind keeps a host's port where it can, as Linux does; `mapped` says which host has which port. An inbound
//! packet that nobody asked for is dropped before it leaves a trace: the kernel would otherwise remember it, and give
//! the host another port towards that peer.

use std::net::Ipv4Addr;

/// How a router translates addresses (the terms of RFC 4787 and, before it, of RFC 3489).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nat {
    /// There is no router: the host has an address of the internet.
    None,
    /// One port for every remote address, open to everybody ("full cone").
    EndpointIndependent,
    /// One port, open to the addresses that the host has sent to ("restricted cone").
    AddressRestricted,
    /// One port, open to the addresses and ports that the host has sent to ("port-restricted cone").
    PortRestricted,
    /// A port for each remote address and port, open to that one only.
    Symmetric,
}

impl Nat {
    /// From the most to the least permissive.
    pub const ALL: [Self; 5] = [
        Self::None,
        Self::EndpointIndependent,
        Self::AddressRestricted,
        Self::PortRestricted,
        Self::Symmetric,
    ];

    /// The name for tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "no NAT",
            Self::EndpointIndependent => "endpoint-independent",
            Self::AddressRestricted => "address-restricted",
            Self::PortRestricted => "port-restricted",
            Self::Symmetric => "symmetric",
        }
    }

    /// Inbound packets that nobody asked for but that pass.
    fn admitted(self) -> &'static str {
        match self {
            Self::EndpointIndependent => "fib daddr type local dnat to udp dport map @mapped",
            Self::AddressRestricted => {
                "iifname wan udp dport . ip saddr @asked dnat to udp dport map @mapped"
            }
            Self::None | Self::PortRestricted | Self::Symmetric => "",
        }
    }

    fn ports(self) -> &'static str {
        if self == Self::Symmetric { "fully-random" } else { "" }
    }
}

/// What a router refuses to pass on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Wall {
    /// Nothing.
    #[default]
    Open,
    /// UDP, but for DNS.
    Udp,
    /// Everything: only a proxy leads out.
    All,
}

impl Wall {
    fn rule(self) -> &'static str {
        match self {
            Self::Open => "",
            Self::Udp => "meta l4proto udp udp dport != 53 drop",
            Self::All => "drop",
        }
    }
}

/// The rules of a router whose interface `wan` has the address `public`; every other interface is a LAN.
///
/// Hosts of two LANs reach each other at the public address only, and that where the NAT admits it ("hairpinning").
pub fn rules(nat: Nat, wall: Wall, public: Ipv4Addr) -> String {
    let (admitted, ports, wall) = (nat.admitted(), nat.ports(), wall.rule());
    format!(
        r#"
table ip nat {{
    map mapped {{ type inet_service : ipv4_addr; flags dynamic, timeout; timeout 2m; }}
    set asked {{ type inet_service . ipv4_addr; flags dynamic, timeout; timeout 2m; }}
    chain admit {{
        type nat hook prerouting priority dstnat
        {admitted}
    }}
    chain refuse {{
        type filter hook prerouting priority dstnat + 10
        iifname wan ct state new ct status & dnat == 0 drop
    }}
    chain pass_on {{
        type filter hook forward priority filter
        {wall}
        oifname wan meta l4proto udp update @mapped {{ udp sport : ip saddr }} update @asked {{ udp sport . ip daddr }}
        iifname != wan oifname != wan ct status & dnat == 0 drop
    }}
    chain translate {{
        type nat hook postrouting priority srcnat
        oifname wan masquerade {ports}
        ct status & dnat != 0 iifname != wan snat to {public}
    }}
}}
"#
    )
}
