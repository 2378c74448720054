//! Asks the site's router to forward a UDP port to the endpoint's socket, so that peers get in through NATs that no hole
//! can be punched into. See `docs/decisions/0009-port-mapping.md`.
//!
//! One task owns the mapping. Nothing waits for it: most routers do not answer.

mod lease;
mod pcp;
mod router;
mod upnp;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use lease::Lease;
use router::Request;

/// Asked of the router. One that restarts forgets the mapping, and is asked again after half of this; one that is not
/// told of our end keeps it no longer.
const LIFETIME: Duration = Duration::from_secs(600);

/// Between looks at the routing table, which costs one small file: a laptop in another network has another router.
const LOOK: Duration = Duration::from_secs(10);

/// Before a router that refused, or said nothing, is asked again.
const PAUSE: Duration = Duration::from_secs(300);

/// To take the mapping back when we stop: over TCP with UPnP, where slow routers think for some hundred milliseconds.
/// All but those that know only permanent leases forget it anyway.
const RELEASE_LIMIT: Duration = Duration::from_secs(1);

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
    request: Request,
    lease: Lease,
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
        while stop.run_until_cancelled(self.look()).await.is_some() {
            // Counted from the end of the look, so that a lease whose half is this long is due at the next one.
            let _ = timeout(LOOK, stop.cancelled()).await;
        }
        self.release().await;
    }

    async fn look(&mut self) {
        let Some(request) = Request::of(self.local) else {
            // Another network, or none: the mapping is out of reach.
            self.hold(None);
            return;
        };
        let now = Instant::now();
        match &mut self.held {
            Some(held) if held.request == request && now < held.renew_at => {}
            Some(held) if held.request == request => match held.lease.renew().await {
                Ok(()) => {
                    held.renew_at = now + half_life(&held.lease);
                    let address = held.lease.address();
                    self.publish(Some(address));
                }
                // It may have restarted: the next look asks anew.
                Err(error) => {
                    debug!(router = %request.router, %error, "the router forwards the port no longer");
                    self.hold(None);
                }
            },
            _ if self.refused.is_some_and(|(who, until)| who == request.router && now < until) => {}
            _ => self.ask(request).await,
        }
    }

    async fn ask(&mut self, request: Request) {
        self.hold(None);
        let router = request.router;
        match Lease::ask(request).await {
            Ok(lease) => {
                let address = lease.address();
                info!(%router, %address, protocol = lease.protocol(), "the router forwards a UDP port");
                let renew_at = Instant::now() + half_life(&lease);
                self.hold(Some(Held { request, lease, renew_at }));
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
            let _ = timeout(RELEASE_LIMIT, held.lease.release()).await;
        }
    }
}

/// Half of what the router granted, which may be less than asked for; nobody is asked more often than we look.
fn half_life(lease: &Lease) -> Duration {
    (lease.lifetime() / 2).max(LOOK)
}
