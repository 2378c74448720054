//! The relay dies before two endpoints have found a direct path: they know each other by then, and find it alone.

use anyhow::{Context as _, Result, ensure};
use proxystore_tests::net::PathKind::{Direct, Relayed};
use proxystore_tests::net::{self, Nat, Pair};
use proxystore_tests::{noise, until};
use tokio::time::{Duration, sleep};

use crate::faults::{LARGE, RATE, fetch_despite, works};

/// Two hosts on the internet that have met, with all they say going through the relay, and a large object at B, whose
/// link is slow.
async fn relayed_pair() -> Result<Option<Pair>> {
    if !net::possible() {
        return Ok(None);
    }
    let pair = Pair::with("").a(Nat::None).b(Nat::None).start().await?;
    pair.block_udp()?;
    pair.b.endpoint.put("large", None, noise(LARGE, 3)).await?;
    works(&pair).await?;
    pair.uses(Relayed).await?;
    pair.b.ground.plug.slow_down(RATE)?;
    Ok(Some(pair))
}

/// Fetches at A what is at B, which needs a session beside the one that died.
async fn fetch_small(pair: &Pair) -> Result<()> {
    let fetched = pair.a.endpoint.get("small", Some(pair.b.endpoint.id)).await;
    ensure!(fetched.with_context(|| pair.logs())?.bytes == noise(1000, 4), "other bytes than those stored");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_finds_the_direct_path_after_the_relay_has_died() -> Result<()> {
    let Some(pair) = relayed_pair().await? else { return Ok(()) };
    pair.relay.kill();
    pair.pass_udp()?;
    fetch_small(&pair).await?;
    pair.uses(Direct).await?;
    works(&pair).await?;
    pair.relay.restart().await?;
    pair.registered().await?;
    works(&pair).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_finds_the_direct_path_while_the_relay_seems_to_be_there() -> Result<()> {
    let Some(pair) = relayed_pair().await? else { return Ok(()) };
    pair.relay.plug.pull()?;
    pair.pass_udp()?;
    fetch_small(&pair).await?;
    pair.uses(Direct).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_started_again_without_a_relay_finds_whom_it_has_met() -> Result<()> {
    if !net::possible() {
        return Ok(());
    }
    let pair = Pair::with("").a(Nat::PortRestricted).b(Nat::None).start().await?;
    works(&pair).await?;
    pair.uses(Direct).await?;
    let endpoint = &pair.a.endpoint;
    let peer = pair.b.endpoint.id.to_string();
    until("A has a record of B", || endpoint.acquaintances().contains(&peer)).await?;
    pair.relay.kill();
    endpoint.restart().await?;
    fetch_small(&pair).await?;
    pair.uses(Direct).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_under_way_goes_on_directly_when_the_relay_dies() -> Result<()> {
    let Some(pair) = relayed_pair().await? else { return Ok(()) };
    let fault = async {
        pair.relay.kill();
        pair.pass_udp()
    };
    fetch_despite(&pair, Direct, fault).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_under_way_goes_on_when_the_way_opens_after_the_relay_has_died() -> Result<()> {
    let Some(pair) = relayed_pair().await? else { return Ok(()) };
    let fault = async {
        pair.relay.kill();
        sleep(Duration::from_secs(5)).await;
        pair.pass_udp()
    };
    fetch_despite(&pair, Direct, fault).await
}
