//! A site: a host, what is between it and the internet, and the endpoint on it.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use proxystore_shared::config::endpoint::EndpointConfig;

use super::endpoint::Endpoint;
use super::namespace::Namespace;
use super::nat::Wall;
use super::plan::Plan;
use super::proxy::Proxy;
use super::relay::Relay;
use super::router::Router;
use super::segment::{Plug, Segment, Subnet};
use super::wire::Wire;
use crate::Site as Configured;

/// The port of every endpoint's HTTP API; each has a machine of its own.
const HTTP_PORT: u16 = 8765;

/// A host's number on its LAN; a second host is the next one.
const HOST: u8 = 2;

/// A site whose endpoint runs.
#[derive(Debug)]
pub struct Site {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// What it stands on.
    pub ground: Ground,
    _proxy: Option<Proxy>,
}

/// A site without its endpoint.
#[derive(Debug)]
pub struct Ground {
    /// The host.
    pub host: Arc<Namespace>,
    /// Its cable.
    pub plug: Plug,
    /// Its routers, from the host outwards.
    pub routers: Vec<Router>,
    /// What the host is plugged into.
    segment: Segment,
    _wire: Option<Wire>,
}

impl Ground {
    /// Builds the networks of a site. Its outermost machine is machine `number` of the internet.
    pub fn new(name: &str, internet: &Segment, number: u8, plan: &Plan) -> Result<Self> {
        let mut segment = internet.clone();
        let mut routers = Vec::new();
        let mut number = number;
        for (depth, nat) in plan.nats.iter().enumerate().rev() {
            let wall = if depth == 0 { plan.wall } else { Wall::Open };
            let router = Router::new(&format!("{name}-router{depth}"), &segment, number, *nat, wall)?;
            // A provider's own network lies between two routers.
            let subnet = if depth == 0 { Subnet::private(plan.lan) } else { Subnet::PROVIDER };
            segment = router.lan("lan", subnet)?;
            number = HOST;
            routers.insert(0, router);
        }
        Self::plugged(name, segment, number, routers, plan)
    }

    /// Another host on the same LAN.
    pub fn neighbour(&self, name: &str, plan: &Plan) -> Result<Self> {
        Self::plugged(name, self.segment.clone(), HOST + 1, Vec::new(), plan)
    }

    /// A host on another LAN of the same router.
    pub fn stranger(&self, name: &str, plan: &Plan) -> Result<Self> {
        let router = self.routers.first().context("two LANs need a router")?;
        let segment = router.lan("lanb", Subnet::private(plan.lan))?;
        Self::plugged(name, segment, HOST, Vec::new(), plan)
    }

    fn plugged(name: &str, segment: Segment, number: u8, routers: Vec<Router>, plan: &Plan) -> Result<Self> {
        let host = Namespace::new(name)?;
        let (plug, wire) = match plan.distance {
            None => (segment.plug(&host, "eth", number, plan.stack)?, None),
            Some(options) => {
                let device = format!("eth{number}");
                let wire = Wire::lay([segment.gateway(), &host], &device, options)?;
                (segment.extend(&host, &device, number)?, Some(wire))
            }
        };
        Ok(Self { host, plug, routers, segment, _wire: wire })
    }

    /// Starts an endpoint here.
    pub async fn settle(self, name: &str, plan: &Plan) -> Result<Site> {
        self.settle_with(name, plan, |_| ()).await
    }

    /// The same with a configuration that is its own.
    pub async fn settle_with(
        self,
        name: &str,
        plan: &Plan,
        adapt: impl FnOnce(&mut EndpointConfig),
    ) -> Result<Site> {
        let proxy = self.proxy(plan)?;
        let configured = Configured::build(name, &Relay::url(plan.stack))?.with(|config| {
            config.port = HTTP_PORT;
            config.peering.bind = None;
            // These tests watch networks: what is fetched twice must travel twice.
            config.peering.cache_size = 0;
            // Survives `Endpoint::kill`.
            config.storage.database_path = Some("blobs.db".into());
            adapt(config);
        });
        let mut environment = Vec::new();
        for name in ["http_proxy", "https_proxy"] {
            environment.extend(proxy.iter().map(|proxy| (name.to_owned(), proxy.url.clone())));
        }
        let trusted = plan.trusted.iter().map(|trusted| trusted.display().to_string());
        environment.extend(trusted.map(|trusted| ("SSL_CERT_FILE".to_owned(), trusted)));
        let endpoint = Endpoint::start(&self.host, configured, environment).await?;
        Ok(Site { endpoint, ground: self, _proxy: proxy })
    }

    fn proxy(&self, plan: &Plan) -> Result<Option<Proxy>> {
        let Some(login) = plan.proxy else { return Ok(None) };
        let router = self.routers.first().context("a proxy needs a router")?;
        Proxy::start(router.namespace(), self.segment.gateway_address(), login).map(Some)
    }
}
