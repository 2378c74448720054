//! A port that the router forwards, by whichever protocol it speaks.

use std::fmt::Display;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crab_nat::MappingFailure;
use igd_next::{AddPortError, GetExternalIpError, SearchError};
use tokio::time::error::Elapsed;

use super::router::Request;
use super::{pcp, upnp};

/// The port, until it is given back.
pub enum Lease {
    /// By PCP or NAT-PMP.
    Pcp(pcp::Lease),
    /// By UPnP.
    Upnp(Box<upnp::Lease>),
}

/// Why the router forwards no port.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It said no by PCP or NAT-PMP, or nothing.
    #[error(transparent)]
    Pcp(#[from] MappingFailure),
    /// No socket to ask with.
    #[error("no socket for UPnP: {0}")]
    Socket(#[from] io::Error),
    /// It does not speak UPnP either, or too slowly.
    #[error("no answer by PCP, NAT-PMP and UPnP")]
    Silence(#[from] Elapsed),
    /// It describes itself in a way that cannot be used.
    #[error("UPnP: {}", brief(.0))]
    Description(#[from] SearchError),
    /// It does not tell its address.
    #[error("UPnP: {}", brief(.0))]
    Address(#[from] GetExternalIpError),
    /// It refuses the port.
    #[error("UPnP: {}", brief(.0))]
    Port(#[from] AddPortError),
    /// Peers cannot send to its address.
    #[error("its address is {0}, to which peers cannot send")]
    Useless(IpAddr),
}

impl Lease {
    /// Asks by the newest protocol that the router speaks. Who refuses by one is not asked by the next.
    pub async fn ask(request: Request) -> Result<Self, Refusal> {
        match pcp::Lease::ask(request).await {
            Ok(lease) => Ok(Self::Pcp(lease)),
            Err(refusal) if refusal.is_silence() => {
                Ok(Self::Upnp(Box::new(upnp::Lease::ask(request).await?)))
            }
            Err(refusal) => Err(refusal),
        }
    }

    /// Asks for the same port again; a router that has given it away since it restarted may grant another.
    pub async fn renew(&mut self) -> Result<(), Refusal> {
        match self {
            Self::Pcp(lease) => lease.renew().await,
            Self::Upnp(lease) => lease.renew().await,
        }
    }

    /// Gives it back, as far as the router listens.
    pub async fn release(self) {
        match self {
            Self::Pcp(lease) => lease.release().await,
            Self::Upnp(lease) => lease.release().await,
        }
    }

    /// Where peers send to.
    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Pcp(lease) => lease.address(),
            Self::Upnp(lease) => lease.address(),
        }
    }

    /// For how long it was granted.
    pub fn lifetime(&self) -> Duration {
        match self {
            Self::Pcp(lease) => lease.lifetime(),
            Self::Upnp(_) => upnp::Lease::LIFETIME,
        }
    }

    /// For logs.
    pub fn protocol(&self) -> &'static str {
        match self {
            Self::Pcp(lease) => lease.protocol(),
            Self::Upnp(_) => "UPnP",
        }
    }
}

impl Refusal {
    /// Whether nobody answered by PCP and NAT-PMP.
    fn is_silence(&self) -> bool {
        use crab_nat::pcp::Failure;
        matches!(self, Self::Pcp(MappingFailure::Pcp(Failure::Timeout | Failure::Socket(_))))
    }
}

/// Errors of UPnP may hold all that the router said; a line of it, no longer than a line here, is enough for a log.
fn brief(error: &impl Display) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().chars().take(120).collect()
}

/// The address that a router names, unless it cannot be one that peers send to.
pub fn usable(ip: IpAddr) -> Result<IpAddr, Refusal> {
    let ip = ip.to_canonical();
    let is_usable = match ip {
        IpAddr::V6(_) => false,
        IpAddr::V4(v4) => {
            !(v4.is_unspecified()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast())
        }
    };
    if is_usable { Ok(ip) } else { Err(Refusal::Useless(ip)) }
}
