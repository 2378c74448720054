//! Endpoints behind an HTTP proxy reach the relay through it, and say what is wrong where they do not.

use anyhow::Result;
use bytes::Bytes;
use proxystore_relay::Relay;
use proxystore_shared::config::endpoint::ProxySetting;
use proxystore_shared::config::relay::RelayConfig;
use proxystore_tests::process::SiteProcess;
use proxystore_tests::proxy::{Answer, ScriptedProxy, TinyProxy};
use proxystore_tests::{Site, SiteBuilder, http_client, relay, skipped, until, url};
use tempfile::TempDir;

/// As in the configuration of a proxy.
const LOGIN: &str = "BasicAuth site hush";

async fn tinyproxy(lines: &str) -> Result<Option<TinyProxy>> {
    let proxy = TinyProxy::start(lines).await?;
    if proxy.is_none() {
        skipped("tinyproxy is not installed");
    }
    Ok(proxy)
}

fn behind(name: &str, relay: &str, proxy: &str) -> Result<SiteBuilder> {
    Ok(Site::build(name, relay)?.with(|config| {
        config.peering.proxy = Some(ProxySetting::from(proxy));
        config.relay.verify_certificate = false;
    }))
}

/// Waits until the site has tried, and gives what it says then.
async fn complaint(site: &Site) -> Result<String> {
    let error = || site.server().endpoint().peers().and_then(|peers| peers.relay().last_error);
    until("the relay is not reached", || error().is_some()).await?;
    Ok(error().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn sites_meet_through_a_proxy_that_wants_a_password() -> Result<()> {
    let Some(proxy) = tinyproxy(LOGIN).await? else { return Ok(()) };
    let relay = relay().await?;
    let a = behind("a", &url(&relay), &proxy.url("site:hush@"))?.start().await?;
    let b = behind("b", &url(&relay), &proxy.url("site:hush@"))?.start().await?;
    a.put("k", None, Bytes::from_static(b"v")).await?;
    assert_eq!(&b.get("k", Some(&a)).await?[..], b"v");
    let asked = format!("CONNECT {}", relay.local_addr());
    assert!(proxy.log().matches(&asked).count() >= 2, "{}", proxy.log());
    let info: serde_json::Value = a.http().get(a.url("/v1/status")).send().await?.json().await?;
    assert_eq!(info["relay"]["proxy"], proxy.url(""), "no password in {info}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_relay_is_reached_through_a_proxy() -> Result<()> {
    let Some(proxy) = tinyproxy("").await? else { return Ok(()) };
    let (relay, address, _dir) = encrypted_relay().await?;
    let _site = behind("a", &address, &proxy.url(""))?.start().await?;
    assert_eq!(relay.client_count(), 1);
    let asked = format!("CONNECT localhost:{}", relay.local_addr().port());
    assert!(proxy.log().contains(&asked), "{}", proxy.log());
    Ok(())
}

async fn encrypted_relay() -> Result<(Relay, String, TempDir)> {
    let dir = tempfile::tempdir()?;
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let (certfile, keyfile) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&certfile, certified.cert.pem())?;
    std::fs::write(&keyfile, certified.signing_key.serialize_pem())?;
    let config = RelayConfig {
        host: Some("127.0.0.1".into()),
        port: 0,
        certfile: Some(certfile),
        keyfile: Some(keyfile),
        ..RelayConfig::default()
    };
    let relay = Relay::start(config).await?;
    let address = format!("wss://localhost:{}", relay.local_addr().port());
    Ok((relay, address, dir))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_named_and_not_shown() -> Result<()> {
    let Some(proxy) = tinyproxy(LOGIN).await? else { return Ok(()) };
    let relay = relay().await?;
    for (credentials, status) in [("site:wrong@", "401"), ("", "407")] {
        let site = behind("a", &url(&relay), &proxy.url(credentials))?.start_unregistered().await?;
        let complaint = complaint(&site).await?;
        for part in [&proxy.url(""), status, "right user and password"] {
            assert!(complaint.contains(part), "{part} in {complaint}");
        }
        assert!(!complaint.contains("wrong"), "{complaint}");
    }
    assert_eq!(relay.client_count(), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_the_proxy_refuses_is_named() -> Result<()> {
    let Some(proxy) = tinyproxy("ConnectPort 1").await? else { return Ok(()) };
    let relay = relay().await?;
    let site = behind("a", &url(&relay), &proxy.url(""))?.start_unregistered().await?;
    let complaint = complaint(&site).await?;
    let address = relay.local_addr().to_string();
    for part in [&address, "403", "allow CONNECT"] {
        assert!(complaint.contains(part), "{part} in {complaint}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_proxy_is_told_from_one() -> Result<()> {
    let relay = relay().await?;
    let endless = [b"HTTP/1.1 200 OK\r\nX-Padding: ".to_vec(), vec![b'a'; 64 << 10]].concat();
    let impatient = b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 101 Switching Protocols\r\n\r\n".to_vec();
    for (answer, expected) in [
        (b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), "not HTTP"),
        (endless, "over 8 KiB"),
        (impatient, "more than an answer"),
        (b"HTTP/1.1 502 \x1b[31mBad\r\n\r\n".to_vec(), "not HTTP"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n<html>".to_vec(), "502 Bad Gateway"),
        (Vec::new(), "did not answer within"),
    ] {
        let proxy = ScriptedProxy::start(Answer::Bytes(answer)).await?;
        let site = behind("a", &url(&relay), &proxy.url())?.start_unregistered().await?;
        let complaint = complaint(&site).await?;
        assert!(complaint.contains(&proxy.url()) && complaint.contains(expected), "{complaint}");
    }
    assert_eq!(relay.client_count(), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_names_a_proxy_for_the_relay_and_for_nothing_else() -> Result<()> {
    let relay = relay().await?;
    let proxy = ScriptedProxy::start(Answer::Lead(relay.local_addr())).await?;
    let (proxied, local) = ("ws://relay.example.invalid:8700", url(&relay));
    for (address, expected) in [(proxied, Some(proxy.url())), (local.as_str(), None)] {
        let environment = ["http_proxy", "all_proxy"].map(|name| (name, proxy.url()));
        let site = SiteProcess::start_in(Site::build("a", address)?, &environment).await?;
        until("the site is registered", || relay.client_count() == 1).await?;
        let info = http_client()?.get(format!("{}/v1/status", site.base)).send().await?;
        let info: serde_json::Value = info.json().await?;
        assert_eq!(info["relay"]["proxy"].as_str(), expected.as_deref());
        drop(site);
        until("the site is gone", || relay.client_count() == 0).await?;
    }
    assert_eq!(proxy.asked(), ["CONNECT relay.example.invalid:8700 HTTP/1.1"]);
    Ok(())
}
