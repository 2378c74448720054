//! The router on the way out, and whether it is one to ask.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::num::NonZeroU16;

/// Where the routing table is that holds for sockets of the calling thread.
const ROUTES: &str = "/proc/thread-self/net/route";

/// The flag of a route that leads to a router (`RTF_GATEWAY`).
const TO_ROUTER: u32 = 0x2;

/// Who is asked for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// The router on the way out.
    pub router: Ipv4Addr,
    /// Our address on its network.
    pub client: Ipv4Addr,
    /// The port of our socket there.
    pub port: NonZeroU16,
}

impl Request {
    /// For the socket bound to `local`; none where there is nothing to ask.
    pub fn of(local: SocketAddr) -> Option<Self> {
        let port = NonZeroU16::new(local.port())?;
        let router = default_router(&std::fs::read_to_string(ROUTES).ok()?)?;
        let IpAddr::V4(client) = local_address_towards(router).ok()? else { return None };
        let is_ours = local.ip().is_unspecified() || local.ip().to_canonical() == IpAddr::from(client);
        is_ours.then_some(Self { router, client, port })
    }
}

/// From the routing table as Linux prints it; the first default route is the one in use. A router with a public address
/// has no NAT to open, and a stranger's is not ours to ask.
fn default_router(table: &str) -> Option<Ipv4Addr> {
    let routers = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number = |index: usize| u32::from_str_radix(fields.get(index)?, 16).ok();
        let (destination, router, flags, mask) = (number(1)?, number(2)?, number(3)?, number(7)?);
        // Addresses are printed as the machine holds the bytes that it sends.
        (destination == 0 && mask == 0 && flags & TO_ROUTER != 0)
            .then(|| Ipv4Addr::from(router.to_ne_bytes()))
    });
    routers.take(1).find(|router| router.is_private() || is_shared(*router))
}

/// The addresses between a provider and its customers (RFC 6598).
fn is_shared(ip: Ipv4Addr) -> bool {
    let [first, second, ..] = ip.octets();
    first == 100 && second & 0xC0 == 64
}

/// Sends nothing.
fn local_address_towards(router: Ipv4Addr) -> std::io::Result<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((router, crab_nat::GATEWAY_PORT))?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str =
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";

    fn table(router: [u8; 4], destination: &str, flags: &str) -> String {
        let router = u32::from_ne_bytes(router);
        format!("{HEADER}eth0\t{destination}\t{router:08X}\t{flags}\t0\t0\t0\t{destination}\t0\t0\t0\n")
    }

    #[test]
    fn only_routers_of_private_networks_are_asked() {
        for (router, asked) in [
            ([192, 168, 1, 1], true),
            ([10, 0, 0, 1], true),
            ([172, 31, 0, 1], true),
            ([100, 64, 0, 1], true),
            ([100, 128, 0, 1], false),
            ([203, 0, 113, 1], false),
            ([127, 0, 0, 1], false),
            ([169, 254, 0, 1], false),
        ] {
            let expected = asked.then_some(Ipv4Addr::from(router));
            assert_eq!(default_router(&table(router, "00000000", "0003")), expected, "{router:?}");
        }
    }

    #[test]
    fn other_routes_lead_to_no_router() {
        assert_eq!(default_router(&table([192, 168, 1, 1], "0000A8C0", "0003")), None);
        assert_eq!(default_router(&table([192, 168, 1, 1], "00000000", "0001")), None);
        for nonsense in ["", HEADER, "x\neth0 0 0\n", "x\neth0 g g g g g g g\n"] {
            assert_eq!(default_router(nonsense), None, "{nonsense:?}");
        }
    }
}
