//! Every kind of site with every other: objects cross, and by the path that theory promises.
//!
//! What was measured on the way is written to `networks.md` in the target folder; `scripts/bench networks` puts it
//! into the documentation.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::future::join_all;
use proxystore_tests::net::PathKind::{Direct, Relayed};
use proxystore_tests::net::{self, Fetched, Home, Nat, Pair, PairBuilder, PathKind, Plan, ProxyLogin, Stack};
use proxystore_tests::noise;

use crate::report::{self, Measured, keep_logs};

/// An object that crosses in one packet.
const SMALL: usize = 1_000;

/// An object that crosses in many groups.
const LARGE: usize = 20_000_000;

/// Sites that can connect directly have done so by then.
const LONG_ENOUGH: Duration = Duration::from_secs(5);

/// Two sites, and the path that bytes must take between them.
struct Cell {
    a: &'static str,
    b: &'static str,
    expected: PathKind,
    pair: PairBuilder,
}

impl Cell {
    fn new(a: &'static str, b: &'static str, expected: PathKind, pair: PairBuilder) -> Self {
        Self { a, b, expected, pair }
    }

    fn name(&self) -> String {
        format!("{} and {}", self.a, self.b)
    }

    async fn run(self) -> Result<Measured> {
        let name = self.name();
        let pair = self.pair.start().await.context(name.clone())?;
        let result = tokio::try_join!(exchange(&pair), settle(&pair, self.expected));
        if result.is_err() {
            keep_logs(&name, &pair.logs())?;
        }
        let ((small, large), direct_after) = result.context(name)?;
        Ok(Measured {
            a: self.a,
            b: self.b,
            path: self.expected,
            first_byte: small.first_byte,
            direct_after,
            throughput: LARGE as f64 / 1e6 / large.last_byte.as_secs_f64(),
        })
    }
}

/// Fetches at A what is at B, then stores at B through A.
async fn exchange(pair: &Pair) -> Result<(Fetched, Fetched)> {
    let (a, b) = (&pair.a.endpoint, &pair.b.endpoint);
    let objects = [noise(SMALL, 1), noise(LARGE, 2)];
    b.put("small", None, objects[0].clone()).await?;
    b.put("large", None, objects[1].clone()).await?;
    let small = a.get("small", Some(b.id)).await.context("fetching the small object")?;
    let large = a.get("large", Some(b.id)).await.context("fetching the large object")?;
    ensure!(small.bytes == objects[0] && large.bytes == objects[1], "other bytes than those stored");
    for (name, object) in ["small from a", "large from a"].iter().zip(objects) {
        a.put(name, Some(b.id), object.clone()).await.with_context(|| format!("storing the {name}"))?;
        ensure!(b.get(name, None).await?.bytes == object, "other bytes stored than those sent: {name}");
    }
    Ok((small, large))
}

/// Waits until both use the expected path; if that is the direct one, says how long it took them. Where there is none,
/// none is found later.
async fn settle(pair: &Pair, expected: PathKind) -> Result<Option<Duration>> {
    let start = Instant::now();
    pair.uses(expected).await?;
    if expected == Direct {
        return Ok(Some(start.elapsed()));
    }
    tokio::time::sleep(LONG_ENOUGH).await;
    pair.uses(expected).await?;
    Ok(None)
}

/// Every kind of NAT with every other.
fn nats() -> impl Iterator<Item = Cell> {
    let pairs = Nat::ALL.into_iter().flat_map(|a| Nat::ALL.map(|b| (a, b)));
    pairs.map(|(a, b)| Cell::new(a.name(), b.name(), punched(a, b), Pair::with("").a(a).b(b)))
}

/// A symmetric NAT's port towards a peer cannot be known beforehand: the peer must admit packets from any port.
fn punched(a: Nat, b: Nat) -> PathKind {
    let strict = |nat| matches!(nat, Nat::Symmetric | Nat::PortRestricted);
    let symmetric = a == Nat::Symmetric || b == Nat::Symmetric;
    if symmetric && strict(a) && strict(b) { Relayed } else { Direct }
}

/// Firewalls, proxies, versions of IP, and sites that share a router.
fn others() -> Vec<Cell> {
    let pair = || Pair::with("");
    let cone = Nat::EndpointIndependent;
    let speaking = |a, b| pair().a(Plan::speaking(a)).b(Plan::speaking(b));
    let proxy = Plan::behind_proxy;
    let double = || Plan::double(Nat::PortRestricted, Nat::PortRestricted);
    vec![
        Cell::new("UDP blocked", "no NAT", Relayed, pair().a(Plan::without_udp())),
        Cell::new(
            "UDP blocked",
            "UDP blocked",
            Relayed,
            pair().a(Plan::without_udp()).b(Plan::without_udp()),
        ),
        Cell::new("HTTP proxy", "no NAT", Relayed, pair().a(proxy(ProxyLogin::Open))),
        Cell::new(
            "HTTP proxy, password",
            "symmetric",
            Relayed,
            pair().a(proxy(ProxyLogin::Password)).b(Nat::Symmetric),
        ),
        Cell::new("IPv6", "IPv6", Direct, speaking(Stack::V6, Stack::V6)),
        Cell::new("IPv4", "IPv4 and IPv6", Direct, speaking(Stack::V4, Stack::Dual)),
        Cell::new("IPv6", "IPv4 and IPv6", Direct, speaking(Stack::V6, Stack::Dual)),
        Cell::new("IPv4", "IPv6", Relayed, speaking(Stack::V4, Stack::V6)),
        Cell::new("double NAT", "port-restricted", Direct, pair().a(double()).b(Nat::PortRestricted)),
        Cell::new(
            "port-restricted",
            "the same addresses",
            Direct,
            pair().a(Nat::PortRestricted).b(Nat::PortRestricted).with_equal_lans(),
        ),
        Cell::new("symmetric", "the same LAN", Direct, pair().a(Nat::Symmetric).at(Home::OneLan)),
        Cell::new(
            "endpoint-independent",
            "another LAN of the router",
            Direct,
            pair().a(cone).at(Home::TwoLans),
        ),
        Cell::new(
            "port-restricted",
            "another LAN of the router",
            Relayed,
            pair().a(Nat::PortRestricted).at(Home::TwoLans),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn any_two_sites_exchange_objects_by_the_best_path_there_is() -> Result<()> {
    if !net::possible() {
        return Ok(());
    }
    // To look at a few by themselves, say CELLS=symmetric.
    let chosen = std::env::var("CELLS").unwrap_or_default();
    let cells: Vec<Cell> = nats().chain(others()).filter(|cell| cell.name().contains(&chosen)).collect();
    let results = join_all(cells.into_iter().map(Cell::run)).await;
    let failed: Vec<String> =
        results.iter().filter_map(|result| Some(format!("{:#}", result.as_ref().err()?))).collect();
    let measured: Vec<Measured> = results.into_iter().flatten().collect();
    report::write(&measured)?;
    ensure!(failed.is_empty(), "{} cells failed:\n{}", failed.len(), failed.join("\n"));
    Ok(())
}
