//! Every kind of site with every other: objects cross, and by the path that theory promises.
//!
//! What was measured on the way is written to `networks.md` in the target folder; `scripts/bench networks` puts it
//! into the documentation.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::join_all;
use proxystore_tests::net::PathKind::{Direct, Relayed};
use proxystore_tests::net::{self, Home, Nat, Pair, PairBuilder, PathKind, Plan, ProxyLogin, Stack};
use proxystore_tests::noise;

use crate::report::{Measured, write};

/// A small object, and one that takes a while.
const SIZES: [usize; 2] = [1_000, 20_000_000];

/// Two sites, and the path that bytes must take between them.
pub struct Cell {
    pub a: String,
    pub b: String,
    expected: PathKind,
    pair: PairBuilder,
}

impl Cell {
    fn new(a: &str, b: &str, expected: PathKind, pair: PairBuilder) -> Self {
        Self { a: a.into(), b: b.into(), expected, pair }
    }
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
        Cell::new("UDP blocked", "UDP blocked", Relayed, pair().a(Plan::without_udp()).b(Plan::without_udp())),
        Cell::new("HTTP proxy", "no NAT", Relayed, pair().a(proxy(ProxyLogin::Open))),
        Cell::new("HTTP proxy, password", "symmetric", Relayed, pair().a(proxy(ProxyLogin::Password)).b(Nat::Symmetric)),
        Cell::new("IPv6", "IPv6", Direct, speaking(Stack::V6, Stack::V6)),
        Cell::new("IPv4", "IPv4 and IPv6", Direct, speaking(Stack::V4, Stack::Dual)),
        Cell::new("IPv6", "IPv4 and IPv6", Direct, speaking(Stack::V6, Stack::Dual)),
        Cell::new("IPv4", "IPv6", Relayed, speaking(Stack::V4, Stack::V6)),
        Cell::new("double NAT", "port-restricted", Direct, pair().a(double()).b(Nat::PortRestricted)),
        Cell::new("port-restricted", "the same addresses", Direct, pair().a(Nat::PortRestricted).b(Nat::PortRestricted).with_equal_lans()),
        Cell::new("symmetric", "the same LAN", Direct, pair().a(Nat::Symmetric).at(Home::OneLan)),
        Cell::new("endpoint-independent", "another LAN of the router", Direct, pair().a(cone).at(Home::TwoLans)),
        Cell::new("port-restricted", "another LAN of the router", Relayed, pair().a(Nat::PortRestricted).at(Home::TwoLans)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn any_two_sites_exchange_objects_by_the_best_path_there_is() -> Result<()> {
    if !net::possible() {
        return Ok(());
    }
    let chosen = std::env::var("CELLS").unwrap_or_default();
    let cells: Vec<Cell> = nats().chain(others()).filter(|cell| cell.name().contains(&chosen)).collect();
    let results = join_all(cells.into_iter().map(run)).await;
    let failed: Vec<String> = results.iter().filter_map(|(name, result)| Some(format!("{name}: {:#}", result.as_ref().err()?))).collect();
    write(results.into_iter().filter_map(|(_, result)| result.ok()))?;
    ensure!(failed.is_empty(), "{} cells failed:\n{}", failed.len(), failed.join("\n"));
    Ok(())
}
