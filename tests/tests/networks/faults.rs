//! What happens to networks and machines in the middle of a transfer: the bytes arrive all the same, no request hangs,
//! and the best path is found again.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use proxystore_tests::net::PathKind::{Direct, Relayed};
use proxystore_tests::net::{self, Fetched, Nat, Pair, PathKind, Plan};
use proxystore_tests::process::program;
use proxystore_tests::{PATIENCE, noise, skipped};
use tokio::time::{Instant, sleep};

/// The object under way when something happens, in bytes.
pub const LARGE: usize = 20_000_000;

/// Rate of B's link in megabits a second: the large object takes four seconds, and the fault comes in the first.
pub const RATE: u16 = 40;

/// Two sites behind NATs of a kind that already use the expected path, and a large object at B, whose link is slow.
async fn pair(nat: Nat, path: PathKind) -> Result<Option<Pair>> {
    if !net::possible() {
        return Ok(None);
    }
    let pair = Pair::with("").a(nat).b(nat).start().await?;
    make_ready(&pair, path).await?;
    pair.b.ground.plug.slow_down(RATE)?;
    Ok(Some(pair))
}

/// Puts the large object at B, and waits until the two use the expected path.
async fn make_ready(pair: &Pair, path: PathKind) -> Result<()> {
    pair.b.endpoint.put("large", None, noise(LARGE, 3)).await?;
    works(pair).await?;
    pair.uses(path).await
}

/// Lets `fault` happen while A fetches the large object, which must arrive. Afterwards all is as before.
pub async fn fetch_despite(
    pair: &Pair,
    path: PathKind,
    fault: impl Future<Output = Result<()>>,
) -> Result<()> {
    let before = received(pair).await?;
    let under_way = async {
        while received(pair).await? < before + LARGE as u64 / 10 {
            sleep(Duration::from_millis(20)).await;
        }
        fault.await
    };
    let (a, b) = (&pair.a.endpoint, &pair.b.endpoint);
    let (fetched, happened) = tokio::join!(a.get("large", Some(b.id)), under_way);
    happened.context("the fault")?;
    ensure!(fetched.with_context(|| pair.logs())?.bytes == noise(LARGE, 3), "other bytes than those stored");
    works(pair).await?;
    pair.uses(path).await
}

/// Two sites behind routers, one of them far away; only where the emulator of distance is built.
async fn distant_pair(distance: &'static [&'static str]) -> Result<Option<Pair>> {
    if !net::possible() {
        return Ok(None);
    }
    if let Err(missing) = program("wanem") {
        skipped(&format!("sites far apart: {missing}"));
        return Ok(None);
    }
    let b = Plan::from(Nat::PortRestricted).over(distance);
    let pair = Pair::with("").a(Nat::PortRestricted).b(b).start().await?;
    make_ready(&pair, Direct).await?;
    Ok(Some(pair))
}

async fn received(pair: &Pair) -> Result<u64> {
    Ok(pair.a.endpoint.peer(pair.b.endpoint.id).await?.map_or(0, |peer| peer.received_bytes))
}

/// Waits until each site can store at the other, and fetch that.
pub async fn works(pair: &Pair) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = try_both_ways(pair).await {
        if Instant::now() > deadline {
            bail!("still after {PATIENCE:?}: {error:#}\n{}", pair.logs());
        }
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

async fn try_both_ways(pair: &Pair) -> Result<()> {
    let (a, b) = (&pair.a.endpoint, &pair.b.endpoint);
    for (here, there) in [(a, b), (b, a)] {
        here.put("small", Some(there.id), noise(1000, 4)).await?;
        ensure!(here.get("small", Some(there.id)).await?.bytes == noise(1000, 4));
    }
    Ok(())
}

/// A request may be answered or fail; it must not hang, which `Endpoint::get` sees to.
fn ended(answer: &Result<Fetched>) -> Result<()> {
    ensure!(answer.as_ref().err().is_none_or(|error| !net::hung(error)), "{answer:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_router_reboots() -> Result<()> {
    let Some(pair) = pair(Nat::PortRestricted, Direct).await? else { return Ok(()) };
    fetch_despite(&pair, Direct, async { pair.a.ground.routers[0].reboot() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_packets_of_a_hundred_are_lost() -> Result<()> {
    let Some(pair) = pair(Nat::PortRestricted, Direct).await? else { return Ok(()) };
    fetch_despite(&pair, Direct, async { pair.a.ground.plug.lose(2) }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_over_1280_bytes_vanish() -> Result<()> {
    let Some(pair) = pair(Nat::PortRestricted, Direct).await? else { return Ok(()) };
    fetch_despite(&pair, Direct, async { pair.a.ground.routers[0].narrow(1280) }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cable_is_pulled_for_three_seconds() -> Result<()> {
    let Some(pair) = pair(Nat::PortRestricted, Direct).await? else { return Ok(()) };
    let fault = async {
        pair.a.ground.plug.pull()?;
        sleep(Duration::from_secs(3)).await;
        pair.a.ground.plug.push()
    };
    fetch_despite(&pair, Direct, fault).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_interface_is_down_for_two_seconds() -> Result<()> {
    let Some(pair) = pair(Nat::None, Direct).await? else { return Ok(()) };
    let fault = async {
        pair.a.ground.plug.down()?;
        sleep(Duration::from_secs(2)).await;
        pair.a.ground.plug.up()
    };
    fetch_despite(&pair, Direct, fault).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_has_another_address() -> Result<()> {
    let Some(pair) = pair(Nat::PortRestricted, Direct).await? else { return Ok(()) };
    fetch_despite(&pair, Direct, async { pair.a.ground.plug.readdress(77) }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_site_has_another_public_address() -> Result<()> {
    let Some(pair) = pair(Nat::None, Direct).await? else { return Ok(()) };
    fetch_despite(&pair, Direct, async { pair.b.ground.plug.readdress(77) }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relay_restarts_while_bytes_travel_directly() -> Result<()> {
    let Some(pair) = pair(Nat::PortRestricted, Direct).await? else { return Ok(()) };
    fetch_despite(&pair, Direct, pair.relay.restart()).await?;
    pair.registered().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relay_restarts_while_bytes_travel_through_it() -> Result<()> {
    let Some(pair) = pair(Nat::Symmetric, Relayed).await? else { return Ok(()) };
    fetch_despite(&pair, Relayed, pair.relay.restart()).await?;
    pair.registered().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relay_is_out_of_reach_for_ten_seconds() -> Result<()> {
    for (nat, path) in [(Nat::PortRestricted, Direct), (Nat::Symmetric, Relayed)] {
        let Some(pair) = pair(nat, path).await? else { return Ok(()) };
        let fault = async {
            pair.relay.plug.pull()?;
            sleep(Duration::from_secs(10)).await;
            pair.relay.plug.push()
        };
        fetch_despite(&pair, path, fault).await.with_context(|| nat.name())?;
    }
    Ok(())
}

/// The session has no way but the relay, learns of no other before that is gone, and nobody tells it.
#[tokio::test(flavor = "multi_thread")]
async fn the_relay_vanishes_just_when_a_direct_way_opens() -> Result<()> {
    if !net::possible() {
        return Ok(());
    }
    let pair = Pair::with("").start().await?;
    pair.block_udp()?;
    make_ready(&pair, Relayed).await?;
    pair.b.ground.plug.slow_down(RATE)?;
    let fault = async {
        pair.relay.plug.pull()?;
        pair.pass_udp()?;
        sleep(Duration::from_secs(10)).await;
        pair.relay.plug.push()
    };
    fetch_despite(&pair, Direct, fault).await?;
    pair.registered().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_peer_starts_again_while_the_relay_is_out_of_reach() -> Result<()> {
    let Some(pair) = pair(Nat::PortRestricted, Direct).await? else { return Ok(()) };
    let (a, b) = (&pair.a.endpoint, &pair.b.endpoint);
    pair.relay.plug.pull()?;
    b.kill();
    b.restart().await?;
    // Nobody can introduce the two.
    ended(&a.get("small", Some(b.id)).await)?;
    pair.relay.plug.push()?;
    works(&pair).await?;
    pair.uses(Direct).await?;
    pair.registered().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_peer_is_killed_and_starts_again() -> Result<()> {
    let Some(pair) = pair(Nat::PortRestricted, Direct).await? else { return Ok(()) };
    let fault = async {
        pair.b.endpoint.kill();
        sleep(Duration::from_secs(1)).await;
        pair.b.endpoint.restart().await
    };
    fetch_despite(&pair, Direct, fault).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_peer_sleeps() -> Result<()> {
    let Some(pair) = pair(Nat::PortRestricted, Direct).await? else { return Ok(()) };
    let (a, b) = (&pair.a.endpoint, &pair.b.endpoint);
    b.process(|process| process.pause())?;
    let meanwhile = async {
        sleep(Duration::from_secs(15)).await;
        b.process(|process| process.resume())
    };
    let (answer, woken) = tokio::join!(a.get("small", Some(b.id)), meanwhile);
    woken?;
    ended(&answer)?;
    works(&pair).await?;
    pair.uses(Direct).await
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_milliseconds_lie_between_the_sites() -> Result<()> {
    let Some(pair) = distant_pair(&["--round-trip", "300", "--rate", "100"]).await? else { return Ok(()) };
    fetch_despite(&pair, Direct, async { Ok(()) }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_arrive_twice_and_overtake_each_other() -> Result<()> {
    let distance = &["--round-trip", "20", "--rate", "100", "--duplicate", "0.05", "--reorder", "0.05"];
    let Some(pair) = distant_pair(distance).await? else { return Ok(()) };
    fetch_despite(&pair, Direct, async { Ok(()) }).await
}
