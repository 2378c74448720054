//! PCP (RFC 6887), and of routers that do not know it NAT-PMP (RFC 6886): one datagram each way.

use std::net::SocketAddr;
use std::time::Duration;

use crab_nat::{
    InternetProtocol, MappingFailure, PortMapping, PortMappingOptions, PortMappingType, TimeoutConfig, natpmp,
};

use super::LIFETIME;
use super::lease::{Refusal, usable};
use super::router::Request;

/// The router is one hop away: it answers in milliseconds, or after a repetition, or not at all.
const TIMING: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(250),
    max_retries: 3,
    max_retry_timeout: Some(Duration::from_secs(1)),
};

/// A port that was granted.
pub struct Lease {
    mapping: PortMapping,
    address: SocketAddr,
}

impl Lease {
    /// Asks for a port, if possible of the number that the socket has.
    pub async fn ask(request: Request) -> Result<Self, Refusal> {
        let mapping = map(request).await?;
        let address = external_address(&mapping).await?;
        Ok(Self { mapping, address })
    }

    /// Asks for it again, before it expires.
    pub async fn renew(&mut self) -> Result<(), Refusal> {
        self.mapping.renew().await?;
        self.address = external_address(&self.mapping).await?;
        Ok(())
    }

    /// Gives it back.
    pub async fn release(self) {
        // It expires by itself.
        let _ = self.mapping.try_drop().await;
    }

    /// Where peers send to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// For how long it was granted.
    pub fn lifetime(&self) -> Duration {
        Duration::from_secs(self.mapping.lifetime().into())
    }

    /// By which of the two.
    pub fn protocol(&self) -> &'static str {
        match self.mapping.mapping_type() {
            PortMappingType::Pcp { .. } => "PCP",
            PortMappingType::NatPmp => "NAT-PMP",
        }
    }
}

async fn map(request: Request) -> Result<PortMapping, MappingFailure> {
    let (router, port) = (request.router.into(), request.port);
    let options = PortMappingOptions {
        external_port: Some(port),
        lifetime_seconds: Some(LIFETIME.as_secs() as u32),
        timeout_config: Some(TIMING),
    };
    match PortMapping::new(router, request.client.into(), InternetProtocol::Udp, port, options).await {
        // Some routers that know only the older protocol say nothing to the newer one.
        Err(MappingFailure::Pcp(newer)) => {
            natpmp::port_mapping(router, InternetProtocol::Udp, port, options).await.map_err(|older| {
                match older {
                    // What was said to the newer one, if anything, is the answer.
                    natpmp::Failure::Timeout | natpmp::Failure::Socket(_) => newer.into(),
                    older => older.into(),
                }
            })
        }
        outcome => outcome,
    }
}

async fn external_address(mapping: &PortMapping) -> Result<SocketAddr, Refusal> {
    let ip = match mapping.mapping_type() {
        PortMappingType::Pcp { external_ip, .. } => external_ip,
        PortMappingType::NatPmp => natpmp::external_address(mapping.gateway(), Some(TIMING))
            .await
            .map_err(MappingFailure::from)?
            .into(),
    };
    Ok(SocketAddr::new(usable(ip)?, mapping.external_port().get()))
}
