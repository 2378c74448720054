//! Two sites, a relay, and the networks between them.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{sleep, timeout};

use super::endpoint::{PathKind, Peer};
use super::namespace::Namespace;
use super::nat::Nat;
use super::plan::Plan;
use super::relay::Relay;
use super::segment::{Segment, Subnet};
use super::site::{Ground, Site};
use crate::PATIENCE;

/// Networks at once: most of a test is waiting, but each moves tens of megabytes through three programs.
static TURNS: Semaphore = Semaphore::const_new(4);

/// Between two looks at something that must happen.
const LOOK: Duration = Duration::from_millis(20);

/// Describes two sites.
#[derive(Debug)]
pub struct PairBuilder {
    relay: String,
    a: Plan,
    b: Plan,
    home: Home,
}

/// Where the two hosts are, seen from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// Each at its own site.
    Apart,
    /// On one LAN, behind A's router.
    OneLan,
    /// On two LANs of A's router, which keeps them apart: they meet at its public address only.
    TwoLans,
}

/// Two running sites, both registered at a relay.
#[derive(Debug)]
pub struct Pair {
    /// One site.
    pub a: Site,
    /// The other.
    pub b: Site,
    /// The relay they meet at.
    pub relay: Relay,
    _turn: SemaphorePermit<'static>,
}

impl PairBuilder {
    /// What is between A and the internet.
    pub fn a(self, plan: impl Into<Plan>) -> Self {
        Self { a: plan.into(), ..self }
    }

    /// What is between B and the internet.
    pub fn b(self, plan: impl Into<Plan>) -> Self {
        Self { b: Plan { lan: 2, ..plan.into() }, ..self }
    }

    /// Both behind A's router.
    pub fn at(self, home: Home) -> Self {
        Self { home, ..self }
    }

    /// The same private addresses at both sites.
    pub fn with_equal_lans(mut self) -> Self {
        self.b.lan = self.a.lan;
        self
    }

    /// Builds the networks, starts relay and endpoints, and waits until both are registered.
    pub async fn start(self) -> Result<Pair> {
        let turn = TURNS.acquire().await?;
        let internet = Segment::new(&Namespace::new("internet")?, "net", Subnet::INTERNET)?;
        let relay = Relay::start(&internet, &self.relay).await?;
        let a = Ground::new("a", &internet, 11, &self.a)?;
        let b = match self.home {
            Home::Apart => Ground::new("b", &internet, 12, &self.b)?,
            Home::OneLan => a.neighbour("b", &self.b)?,
            Home::TwoLans => a.stranger("b", &self.b)?,
        };
        let (a, b) = (a.settle("a", &self.a).await?, b.settle("b", &self.b).await?);
        let pair = Pair { a, b, relay, _turn: turn };
        pair.registered().await?;
        Ok(pair)
    }
}

impl Pair {
    /// Describes two hosts on the internet, with a relay whose configuration file has the text `relay`.
    pub fn with(relay: &str) -> PairBuilder {
        let plan = Plan::from(Nat::None);
        PairBuilder { relay: relay.to_owned(), a: plan.clone(), b: plan.clone(), home: Home::Apart }.b(plan)
    }

    /// Waits until the relay knows both.
    pub async fn registered(&self) -> Result<()> {
        let both = async {
            while !(self.a.endpoint.registered().await? && self.b.endpoint.registered().await?) {
                sleep(LOOK).await;
            }
            anyhow::Ok(())
        };
        let waited = timeout(PATIENCE, both).await;
        waited.with_context(|| format!("not registered within {PATIENCE:?}\n{}", self.logs()))?
    }

    /// Waits until both use a path of that kind.
    pub async fn uses(&self, kind: PathKind) -> Result<()> {
        let both = async {
            while !self
                .views()
                .await?
                .iter()
                .all(|peer| peer.as_ref().is_some_and(|peer| peer.path == Some(kind)))
            {
                sleep(LOOK).await;
            }
            anyhow::Ok(())
        };
        match timeout(PATIENCE, both).await {
            Ok(waited) => waited,
            Err(_) => bail!("not {kind:?} within {PATIENCE:?}, but {:#?}", self.views().await?),
        }
    }

    /// Lets no UDP pass between the two hosts, which must have addresses of the internet.
    pub fn block_udp(&self) -> Result<()> {
        let (a, b) = (&self.a.ground.plug, &self.b.ground.plug);
        a.shut_out(b)?;
        b.shut_out(a)
    }

    /// Lets it pass again.
    pub fn pass_udp(&self) -> Result<()> {
        self.a.ground.plug.let_in()?;
        self.b.ground.plug.let_in()
    }

    /// What A and B say of each other.
    pub async fn views(&self) -> Result<[Option<Peer>; 2]> {
        let (a, b) = (&self.a.endpoint, &self.b.endpoint);
        Ok([a.peer(b.id).await?, b.peer(a.id).await?])
    }

    /// What relay and endpoints logged, for people who look for the cause of a failure.
    pub fn logs(&self) -> String {
        let (a, b) = (self.a.endpoint.log(), self.b.endpoint.log());
        format!("== A\n{a}\n== B\n{b}\n== relay\n{}", self.relay.log())
    }
}
