//! Asks the site's router to forward a UDP port to the endpoint's socket (PCP, else NAT-PMP), so that peers get in
//! through NATs that no hole can be punched into. See `docs/decisions/0009-port-mapping.md`.
//!
//! One task owns the mapping. Nothing waits for it: most routers do not answer.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use crab_nat::{
    InternetProtocol, MappingFailure, PortMapping, PortMappingOptions, PortMappingType, TimeoutConfig, natpmp,
};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

/// Asked of the router. One that restarts forgets the mapping, and is asked again after half of this; one that is not
/// told of our end keeps it no longer.
const LIFETIME: Duration = Duration::from_secs(600);

/// Between looks at the routing table, which costs one small file: a laptop in another network has another router.
const LOOK: Duration = Duration::from_secs(10);

/// Before a router that refused, or said nothing, is asked again.
const PAUSE: Duration = Duration::from_secs(300);

/// To take the mapping back when we stop. The router forgets it anyway.
const RELEASE_LIMIT: Duration = Duration::from_millis(500);

/// The router is one hop away: it answers in milliseconds, or after a repetition, or not at all.
const TIMING: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(250),
    max_retries: 3,
    max_retry_timeout: Some(Duration::from_secs(1)),
};

/// Where the routing table is that holds for sockets of the calling thread.
const ROUTES: &str = "/proc/thread-self/net/route";

/// The flag of a route that leads to a router (`RTF_GATEWAY`).
const TO_ROUTER: u32 = 0x2;

/// Gets a port and keeps it.
pub struct PortMapper {
    /// The socket's own address.
    local: SocketAddr,
    held: Option<Held>,
    /// A router that would not, and when it may be asked again.
    refused: Option<(Ipv4Addr, Instant)>,
    published: watch::Sender<Option<SocketAddr>>,
}

struct Held {
    router: Ipv4Addr,
    mapping: PortMapping,
    renew_at: Instant,
}

impl PortMapper {
    /// For the socket bound to `local`. The receiver has the address from which its port is forwarded, while it is.
    pub fn new(local: SocketAddr) -> (Self, watch::Receiver<Option<SocketAddr>>) {
        let (published, receiver) = watch::channel(None);
        (Self { local, held: None, refused: None, published }, receiver)
    }

    /// Runs until `stop`, and takes the mapping back then.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return self.release().await,
                _ = looks.tick() => {}
            }
            tokio::select! {
                () = stop.cancelled() => return self.release().await,
                () = self.look() => {}
            }
        }
    }

    async fn look(&mut self) {
        let Some((router, client)) = way_out(self.local) else {
            // Another network, or none: the mapping is out of reach.
            self.hold(None);
            return;
        };
        let now = Instant::now();
        match &mut self.held {
            Some(held) if held.router == router && now < held.renew_at => {}
            Some(held) if held.router == router => {
                let renewed = held.mapping.renew().await.is_ok();
                if renewed && let Some(address) = external_address(router, &held.mapping).await {
                    held.renew_at = now + half_life(&held.mapping);
                    self.publish(Some(address));
                } else {
                    // It may have restarted: the next look asks anew.
                    self.hold(None);
                }
            }
            _ if self.refused.is_some_and(|(who, until)| who == router && now < until) => {}
            _ => self.ask(router, client).await,
        }
    }

    async fn ask(&mut self, router: Ipv4Addr, client: Ipv4Addr) {
        self.hold(None);
        match map(router, client, self.local.port()).await {
            Ok(mapping) => {
                let Some(address) = external_address(router, &mapping).await else {
                    self.refused = Some((router, Instant::now() + PAUSE));
                    return;
                };
                info!(%router, %address, "the router forwards a UDP port");
                let renew_at = Instant::now() + half_life(&mapping);
                self.hold(Some(Held { router, mapping, renew_at }));
                self.publish(Some(address));
            }
            Err(error) => {
                debug!(%router, %error, "the router forwards no port");
                self.refused = Some((router, Instant::now() + PAUSE));
            }
        }
    }

    fn hold(&mut self, held: Option<Held>) {
        if held.is_none() {
            self.publish(None);
        }
        self.held = held;
    }

    fn publish(&self, address: Option<SocketAddr>) {
        self.published.send_if_modified(|published| std::mem::replace(published, address) != address);
    }

    async fn release(mut self) {
        if let Some(held) = self.held.take() {
            // It expires by itself.
            let _ = timeout(RELEASE_LIMIT, held.mapping.try_drop()).await;
        }
    }
}

async fn map(router: Ipv4Addr, client: Ipv4Addr, port: u16) -> Result<PortMapping, MappingFailure> {
    let port = NonZeroU16::new(port).ok_or(natpmp::Failure::Timeout)?;
    let options = PortMappingOptions {
        external_port: Some(port),
        lifetime_seconds: Some(LIFETIME.as_secs() as u32),
        timeout_config: Some(TIMING),
    };
    match PortMapping::new(router.into(), client.into(), InternetProtocol::Udp, port, options).await {
        // Some routers that know only the older protocol say nothing to the newer one.
        Err(MappingFailure::Pcp(_)) => {
            Ok(natpmp::port_mapping(router.into(), InternetProtocol::Udp, port, options).await?)
        }
        outcome => outcome,
    }
}

/// Where peers send to; none if the router names an address that cannot be one.
async fn external_address(router: Ipv4Addr, mapping: &PortMapping) -> Option<SocketAddr> {
    let ip = match mapping.mapping_type() {
        PortMappingType::Pcp { external_ip, .. } => external_ip.to_canonical(),
        PortMappingType::NatPmp => natpmp::external_address(router.into(), Some(TIMING)).await.ok()?.into(),
    };
    let IpAddr::V4(v4) = ip else { return None };
    let is_useless = v4.is_unspecified()
        || v4.is_loopback()
        || v4.is_link_local()
        || v4.is_multicast()
        || v4.is_broadcast();
    (!is_useless).then(|| SocketAddr::new(ip, mapping.external_port().get()))
}

/// Half of what the router granted, which may be less than asked for; nobody is asked more often than we look.
fn half_life(mapping: &PortMapping) -> Duration {
    Duration::from_secs(u64::from(mapping.lifetime()) / 2).max(LOOK)
}

/// The router on the way out, and our address on its network; none where there is nothing to ask.
fn way_out(local: SocketAddr) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let router = default_router(&std::fs::read_to_string(ROUTES).ok()?)?;
    let IpAddr::V4(client) = local_address_towards(router).ok()? else { return None };
    let is_ours = local.ip().is_unspecified() || local.ip().to_canonical() == IpAddr::from(client);
    is_ours.then_some((router, client))
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
