//! A port of the site's router: got from a real one, miniupnpd, and from scripted ones that are older, forgetful or
//! hostile.

mod lab;
mod natpmp;
mod upnp;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use lab::{LOOPBACK, Lab, MINIUPNPD, NEIGHBOUR, PORT, PUBLIC, STRANGER};
use natpmp::{Asked, Granted, NAT_PMP, NatPmp};
use proxystore_endpoint::transport::mapping::PortMapper;
use proxystore_tests::net::{self, Inside, Namespace};
use proxystore_tests::{PATIENCE, skipped};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use upnp::{SSDP, Script, Upnp};

/// What scripted routers grant: less than twice the shortest time between requests (10 s), more than once.
const LIFETIME: u32 = 15;

/// To an external port of the scripted router.
fn public(port: u16) -> Result<SocketAddr> {
    Ok(SocketAddr::new(PUBLIC.parse()?, port))
}

/// Has a port forwarded by miniupnpd with `lines` in its configuration, which listens on a UDP port.
async fn is_forwarded_until_taken_back(lines: &str, port: u16) -> Result<()> {
    if !net::possible() {
        return Ok(());
    }
    if !Path::new(MINIUPNPD).exists() {
        skipped("miniupnpd is not installed");
        return Ok(());
    }
    let lab = Lab::new()?;
    let _router = lab.miniupnpd(lines, port).await?;
    let mut mapped = lab.map().await?;
    let address = mapped.granted().await?;
    assert_eq!(address.ip().to_string(), PUBLIC);
    assert!(lab.forwards()?);
    lab.knock(&mapped, address).await?;
    mapped.end().await?;
    assert!(!lab.forwards()?, "the port is taken back");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_forwards_a_port_until_it_is_taken_back() -> Result<()> {
    is_forwarded_until_taken_back("enable_natpmp=yes\nenable_upnp=no", NAT_PMP).await
}

#[tokio::test(flavor = "multi_thread")]
async fn so_does_one_that_speaks_only_upnp() -> Result<()> {
    is_forwarded_until_taken_back("enable_natpmp=no\nenable_upnp=yes", SSDP).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_speaks_only_nat_pmp_is_asked_by_it() -> Result<()> {
    if !net::possible() {
        return Ok(());
    }
    for refuses_pcp in [true, false] {
        let lab = Lab::new()?;
        let grant = |_| Some(Granted { external: 5000, lifetime: LIFETIME, epoch: 1 });
        let mut router = NatPmp::start(&lab, natpmp::Script { refuses_pcp, grant }).await?;
        let mut mapped = lab.map().await?;
        assert_eq!(mapped.granted().await?, public(5000)?);
        assert_eq!(router.asked().await?, Asked { internal: PORT, suggested: PORT, lifetime: 600 });
        mapped.end().await?;
        // RFC 6886 takes a mapping back by a lifetime of 0 and no port.
        assert_eq!(router.asked().await?, Asked { internal: PORT, suggested: 0, lifetime: 0 });
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_is_asked_for_again_before_it_expires() -> Result<()> {
    if !net::possible() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let grant = |_| Some(Granted { external: 5000, lifetime: LIFETIME, epoch: 1 });
    let mut router = NatPmp::start(&lab, natpmp::Script { refuses_pcp: true, grant }).await?;
    let mut mapped = lab.map().await?;
    router.asked().await?;
    let start = Instant::now();
    assert_eq!(mapped.granted().await?, public(5000)?);
    let again = router.asked().await?;
    assert_eq!((again.internal, again.suggested), (PORT, 5000));
    let after = start.elapsed().as_secs_f64();
    assert!((9.5..f64::from(LIFETIME)).contains(&after), "after {after} s");
    assert!(!mapped.address.has_changed()?, "it holds all the time");
    mapped.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_has_restarted_forwards_another_port() -> Result<()> {
    if !net::possible() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let mut started = false;
    // Before it restarts, and after it: somebody else was faster to ask for the first port.
    let grant = move |_| {
        let (external, epoch) = if std::mem::replace(&mut started, true) { (6000, 3) } else { (5000, 9000) };
        Some(Granted { external, lifetime: LIFETIME, epoch })
    };
    let _router = NatPmp::start(&lab, natpmp::Script { refuses_pcp: true, grant }).await?;
    let mut mapped = lab.map().await?;
    assert_eq!(mapped.granted().await?, public(5000)?);
    timeout(PATIENCE, mapped.address.changed()).await??;
    assert_eq!(*mapped.address.borrow(), Some(public(6000)?), "without a moment in between");
    mapped.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_the_router_takes_away_is_asked_for_anew() -> Result<()> {
    if !net::possible() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let mut asked = 0;
    let grant = move |_| {
        asked += 1;
        (asked != 2).then_some(Granted { external: 5000 + asked, lifetime: LIFETIME, epoch: 1 })
    };
    let _router = NatPmp::start(&lab, natpmp::Script { refuses_pcp: true, grant }).await?;
    let mut mapped = lab.map().await?;
    assert_eq!(mapped.granted().await?, public(5001)?);
    timeout(PATIENCE, mapped.address.changed()).await??;
    assert_eq!(*mapped.address.borrow_and_update(), None, "nobody sends to a port that is lost");
    assert_eq!(mapped.granted().await?, public(5003)?);
    mapped.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_for_ever_of_another_port_is_accepted_and_given_back() -> Result<()> {
    if !net::possible() {
        return Ok(());
    }
    let lab = Lab::new()?;
    let router = Upnp::start(&lab, Script { taken: vec![PORT], ..Script::default() }).await?;
    let mut mapped = lab.map().await?;
    let address = mapped.granted().await?;
    let port = address.port();
    assert_eq!(address, public(port)?);
    mapped.end().await?;
    let expected = [
        "search".into(),
        "GET /description".into(),
        "GET /actions".into(),
        "address".into(),
        format!("add {PORT} to {PORT} for 600"),
        format!("add {port} to {PORT} for 600"),
        format!("add {port} to {PORT} for 0"),
        format!("delete {port}"),
    ];
    assert_eq!(router.seen(), expected);
    Ok(())
}

/// What a router sees that tells the host to go elsewhere, where nobody must see anything.
async fn seen_by_a_hostile_router(script: Script) -> Result<Vec<String>> {
    let lab = Lab::new()?;
    let elsewhere = [watch(&lab.stranger, STRANGER)?, watch(&lab.host, LOOPBACK)?];
    let router = Upnp::start(&lab, script).await?;
    let mut mapped = lab.map().await?;
    // Longer than the router has for it.
    let is_granted = timeout(Duration::from_secs(6), mapped.address.changed()).await.is_ok();
    assert!(!is_granted, "a port from a router that lies");
    mapped.end().await?;
    for listener in elsewhere {
        assert!(listener.accept().is_err(), "somebody else was asked");
        let is_reached = lab.reaches(listener.local_addr()?).await? && listener.accept().is_ok();
        assert!(is_reached, "it could have been");
    }
    Ok(router.seen())
}

fn watch(machine: &Namespace, ip: &str) -> Result<TcpListener> {
    machine.within(|| {
        let listener = TcpListener::bind((ip, upnp::HTTP))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_sends_nobody_elsewhere() -> Result<()> {
    if !net::possible() {
        return Ok(());
    }
    let described_at = |ip| Script { location: upnp::url(ip, "description"), ..Script::default() };
    let controlled_at = |ip| Script { control: upnp::url(ip, "control"), ..Script::default() };
    let neighbour = Script { answers_from: NEIGHBOUR, ..described_at(NEIGHBOUR) };
    let (stranger, itself, control, neighbour) = tokio::try_join!(
        seen_by_a_hostile_router(described_at(STRANGER)),
        seen_by_a_hostile_router(described_at(LOOPBACK)),
        seen_by_a_hostile_router(controlled_at(STRANGER)),
        seen_by_a_hostile_router(neighbour),
    )?;
    assert_eq!(stranger, ["search"]);
    assert_eq!(itself, ["search"]);
    assert_eq!(control, ["search", "GET /description"]);
    assert!(neighbour.len() > 1, "the router itself is silent, so it is asked again: {neighbour:?}");
    assert!(neighbour.iter().all(|seen| seen == "search"), "nobody listens to a neighbour: {neighbour:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn where_there_is_no_router_nobody_is_asked() -> Result<()> {
    if !net::possible() {
        return Ok(());
    }
    let lonely = Inside::new(&*Namespace::new("lonely")?)?;
    let looks_around = async {
        let (mapper, address) = PortMapper::new("0.0.0.0:4000".parse()?);
        let stop = CancellationToken::new();
        let task = tokio::spawn(mapper.run(stop.clone()));
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(*address.borrow(), None);
        stop.cancel();
        Ok(timeout(PATIENCE, task).await??)
    };
    lonely.run(looks_around).await?
}
