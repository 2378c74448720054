//! Sessions come, go and come back: peers restart, relays restart, both sides call at once.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use noq::{Connection, PathId, PathStatus};
use proxystore_endpoint::transport::quic::CloseCode;
use proxystore_endpoint::transport::shared_socket::mapped;
use proxystore_relay::Relay;
use proxystore_shared::EndpointId;
use proxystore_shared::description::{SessionDescription, SessionId};
use proxystore_shared::digest::GROUP_LEN;
use proxystore_shared::frame::Request;
use proxystore_shared::relay_message::DescriptionKind;
use proxystore_tests::scripted::{ScriptedPeer, answer_missing, ask, nominate};
use proxystore_tests::{PATIENCE, Site, noise, relay, relay_on, until, url};
use reqwest::StatusCode;
use serde_json::Value;
use tokio::time::{sleep, timeout};

async fn sites(relay: &str) -> Result<(Site, Site)> {
    Ok((Site::start("a", relay).await?, Site::start("b", relay).await?))
}

async fn peer_state(site: &Site) -> Result<String> {
    let peers: Value =
        serde_json::from_str(&site.http().get(site.url("/v1/peers")).send().await?.text().await?)?;
    Ok(peers["peers"][0]["state"].as_str().unwrap_or("none").to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_calling_at_once_share_one_session() -> Result<()> {
    let relay = relay().await?;
    let (a, b) = sites(&url(&relay)).await?;
    a.put("k", None, Bytes::from_static(b"at a")).await?;
    b.put("k", None, Bytes::from_static(b"at b")).await?;
    for _ in 0..5 {
        let (from_b, from_a) = tokio::join!(a.get("k", Some(&b)), b.get("k", Some(&a)));
        assert_eq!((&from_b?[..], &from_a?[..]), (&b"at b"[..], &b"at a"[..]));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_was_restarted_is_reached_by_the_first_request() -> Result<()> {
    let relay = relay().await?;
    let (a, mut b) = sites(&url(&relay)).await?;
    b.put("k", None, Bytes::from_static(b"before")).await?;
    a.get("k", Some(&b)).await?;
    b.restart().await?;
    b.put("k", None, Bytes::from_static(b"after")).await?;
    assert_eq!(&a.get("k", Some(&b)).await?[..], b"after");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_vanished_without_a_word_is_reached_again_too() -> Result<()> {
    let relay = relay().await?;
    let (a, mut b) = sites(&url(&relay)).await?;
    b.put("k", None, Bytes::from_static(b"before")).await?;
    a.get("k", Some(&b)).await?;
    b.vanish().await?;
    b.restart().await?;
    b.put("k", None, Bytes::from_static(b"after")).await?;
    assert_eq!(&a.get("k", Some(&b)).await?[..], b"after");
    a.put("new", Some(&b), noise(3 << 20, 1)).await?;
    assert_eq!(b.get("new", None).await?, noise(3 << 20, 1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_outlive_the_relay_and_new_ones_follow_its_return() -> Result<()> {
    let first = relay().await?;
    let (port, address) = (first.local_addr().port(), url(&first));
    let (a, b) = sites(&address).await?;
    b.put("k", None, Bytes::from_static(b"v")).await?;
    a.get("k", Some(&b)).await?;
    // Through a relay that is gone, two that have no other path cannot agree on one.
    for site in [&a, &b] {
        site.reaches_peers_directly().await?;
    }
    first.stop().await;
    let endpoint = a.server().endpoint();
    until("the loss is noticed", || endpoint.peers().is_some_and(|peers| !peers.relay().connected)).await?;
    assert_eq!(&a.get("k", Some(&b)).await?[..], b"v", "over the session that was open");
    let _second = relay_on(port).await?;
    a.registered().await?;
    b.registered().await?;
    let c = Site::start("c", &address).await?;
    assert_eq!(&c.get("k", Some(&b)).await?[..], b"v", "over a new session");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_session_is_closed_and_opened_again() -> Result<()> {
    let relay = relay().await?;
    let short = |name| {
        Ok::<_, anyhow::Error>(
            Site::build(name, &url(&relay))?.with(|config| config.peering.session_idle_timeout = 1),
        )
    };
    let (a, b) = (short("a")?.start().await?, short("b")?.start().await?);
    b.put("k", None, Bytes::from_static(b"v")).await?;
    a.get("k", Some(&b)).await?;
    assert_eq!(peer_state(&a).await?, "connected");
    tokio::time::timeout(Duration::from_secs(20), async {
        while peer_state(&a).await? == "connected" {
            sleep(Duration::from_millis(50)).await;
        }
        Ok::<_, anyhow::Error>(())
    })
    .await??;
    assert_eq!(&a.get("k", Some(&b)).await?[..], b"v");
    Ok(())
}

/// A site that closes sessions soon, and gives up soon.
async fn short_tempered(name: &str, relay: &str) -> Result<Site> {
    let site = Site::build(name, relay)?.with(|config| {
        config.peering.session_idle_timeout = 1;
        config.peering.connect_timeout = 5;
    });
    site.start().await
}

/// Waits until the site has no session.
async fn parted(site: &Site) -> Result<()> {
    let parting = async {
        while peer_state(site).await? != "idle" {
            sleep(Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, parting).await?
}

/// Stops the relay, and waits until `site` has noticed.
async fn stop(relay: Relay, site: &Site) -> Result<()> {
    relay.stop().await;
    let endpoint = site.server().endpoint();
    until("the loss is noticed", || endpoint.peers().is_some_and(|peers| !peers.relay().connected)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn acquaintances_meet_again_without_the_relay() -> Result<()> {
    let relay = relay().await?;
    let address = url(&relay);
    let (a, b) = (short_tempered("a", &address).await?, short_tempered("b", &address).await?);
    a.put("k", None, Bytes::from_static(b"at a")).await?;
    b.put("k", None, Bytes::from_static(b"at b")).await?;
    a.get("k", Some(&b)).await?;
    stop(relay, &a).await?;
    parted(&a).await?;
    parted(&b).await?;
    assert_eq!(&a.get("k", Some(&b)).await?[..], b"at b");
    assert_eq!(&b.get("k", Some(&a)).await?[..], b"at a", "over the same session");
    for _ in 0..5 {
        parted(&a).await?;
        parted(&b).await?;
        let (from_b, from_a) = tokio::join!(a.get("k", Some(&b)), b.get("k", Some(&a)));
        assert_eq!((&from_b?[..], &from_a?[..]), (&b"at b"[..], &b"at a"[..]), "both call at once");
    }
    Ok(())
}

/// Asks `site` for an object of a peer that has none, over the connection that `meeting` makes.
async fn ask_over(
    site: &Site,
    peer: &EndpointId,
    meeting: impl Future<Output = Result<Connection>>,
) -> Result<Connection> {
    let refusing = async {
        let connection = meeting.await?;
        answer_missing(&connection).await?;
        anyhow::Ok(connection)
    };
    let route = site.url(&format!("/v1/objects/k?endpoint={peer}"));
    let (asked, connection) = tokio::join!(site.http().get(route).send(), refusing);
    let answer = asked?;
    ensure!(answer.status() == StatusCode::NOT_FOUND, "{}", answer.text().await?);
    connection
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_whose_answer_was_lost_with_the_relay_is_met_again_where_it_was() -> Result<()> {
    let relay = relay().await?;
    let address = url(&relay);
    let a = short_tempered("a", &address).await?;
    let mut peer = ScriptedPeer::register(&address).await?;
    let id = peer.id;
    let calling_back = async {
        let offer = SessionDescription::decode(&peer.receive().await?.description)?;
        let candidate = offer.candidates.first().context("no candidates")?;
        peer.dial(candidate.address, offer.quic.context("not an offer of ours")?.key).await
    };
    let connection = ask_over(&a, &id, calling_back).await?;
    stop(relay, &a).await?;
    connection.close(CloseCode::Idle.into(), b"");
    parted(&a).await?;
    ask_over(&a, &id, peer.accept()).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_names_the_relay_when_the_acquaintance_is_gone_as_well() -> Result<()> {
    let relay = relay().await?;
    let address = url(&relay);
    let (a, mut b) = (short_tempered("a", &address).await?, Site::start("b", &address).await?);
    b.put("k", None, Bytes::from_static(b"v")).await?;
    a.get("k", Some(&b)).await?;
    b.stop().await;
    stop(relay, &a).await?;
    let error = a.get("k", Some(&b)).await.expect_err("nobody is there").to_string();
    assert!(error.contains("not connected to its relay") && error.contains("where it was last"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_peer_and_a_stopped_one_are_named() -> Result<()> {
    let relay = relay().await?;
    let (a, mut b) = sites(&url(&relay)).await?;
    b.stop().await;
    let error = a.get("k", Some(&b)).await.expect_err("b is stopped").to_string();
    assert!(
        error.contains("502") && error.contains(&b.id().to_string()) && error.contains("not registered"),
        "{error}"
    );
    let route = format!("/get?key=k&endpoint={}", b.id());
    let answer = a.http().get(a.url(&route)).send().await?;
    assert_eq!(answer.status().as_u16(), 500, "the Python route");
    assert!(answer.text().await?.contains(&b.id().to_string()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_relay_the_error_says_so() -> Result<()> {
    let relay = relay().await?;
    let address = url(&relay);
    let a = Site::build("a", &address)?.with(|config| config.peering.connect_timeout = 1).start().await?;
    let b = Site::start("b", &address).await?;
    relay.stop().await;
    let endpoint = a.server().endpoint();
    until("the loss is noticed", || endpoint.peers().is_some_and(|peers| !peers.relay().connected)).await?;
    let error = a.get("k", Some(&b)).await.expect_err("no relay").to_string();
    assert!(error.contains("not connected to its relay"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_the_peer_are_passed_on() -> Result<()> {
    let relay = relay().await?;
    let a = Site::build("a", &url(&relay))?
        .with(|config| config.storage.max_object_size = 1 << 30)
        .start()
        .await?;
    let b = Site::build("b", &url(&relay))?
        .with(|config| {
            config.storage.max_object_size = 8 << 20;
            config.storage.memory_limit = Some(10 << 20);
        })
        .start()
        .await?;
    let error = a.put("k", Some(&b), noise(9 << 20, 1)).await.expect_err("too large").to_string();
    assert!(error.contains("413"), "{error}");
    a.put("k1", Some(&b), noise(6 << 20, 1)).await?;
    let error = a.put("k2", Some(&b), noise(6 << 20, 1)).await.expect_err("full").to_string();
    assert!(error.contains("507"), "{error}");
    assert!(b.get("k2", None).await.is_err(), "nothing of it was stored");
    Ok(())
}

/// The peer has dialled, and opened the path that it wants used, before the relay tells who it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_is_older_than_the_session_is_used() -> Result<()> {
    let relay = relay().await?;
    let everywhere = IpAddr::from(Ipv4Addr::UNSPECIFIED);
    let site = Site::build("a", &url(&relay))?.with(|config| config.peering.bind = Some(everywhere));
    let site = site.start().await?;
    let object = noise(GROUP_LEN as usize, 4);
    site.put("k", None, object.clone()).await?;
    let (address, key) = ScriptedPeer::register(&url(&relay)).await?.locate(site.id()).await?;

    let mut peer = ScriptedPeer::register(&url(&relay)).await?;
    let at = |ip: [u8; 4]| SocketAddr::from((ip, address.port()));
    let connection = peer.dial(at([127, 0, 0, 1]), key).await?;
    let first = connection.path(PathId::ZERO).context("no first path")?;
    // Fails until the peer has provided for another path.
    let second = timeout(PATIENCE, async {
        loop {
            let opening = connection.open_path(mapped(at([127, 0, 0, 2])), PathStatus::Backup);
            if let Ok(path) = opening.await {
                return path;
            }
            sleep(Duration::from_millis(1)).await;
        }
    });
    let second = second.await?;
    first.set_status(PathStatus::Backup)?;
    second.set_status(PathStatus::Available)?;
    // Acknowledged, so that the other side has seen what came before it.
    let acknowledged = connection.stats().frame_rx.path_acks;
    second.ping()?;
    until("the peer has answered", || connection.stats().frame_rx.path_acks > acknowledged).await?;
    peer.describe(site.id(), DescriptionKind::Offer, SessionId(8), peer.key).await?;
    nominate(&connection).await?;

    let fetch = async || {
        let before = (first.stats().udp_rx.bytes, second.stats().udp_rx.bytes);
        let get = Request::Get { object_id: "k".parse()?, range: None, if_none_match: None, lead: None };
        let (_, _send, mut receive) = ask(&connection, &get, Bytes::new()).await?;
        assert!(receive.read_to_end(object.len()).await? == object);
        Ok::<_, anyhow::Error>((
            first.stats().udp_rx.bytes - before.0,
            second.stats().udp_rx.bytes - before.1,
        ))
    };
    // A session is looked after from a moment later than it serves its first request.
    timeout(PATIENCE, async {
        loop {
            let (by_first, by_second) = fetch().await?;
            ensure!(first.status().is_ok(), "the first path was given up, not passed over");
            if by_second > 20 * by_first {
                return Ok(());
            }
        }
    })
    .await?
}
