//! A relay behind TLS: endpoints check its certificate unless told not to.

use anyhow::Result;
use bytes::Bytes;
use proxystore_relay::Relay;
use proxystore_shared::config::relay::{RelayConfig, RelayUdp};
use proxystore_tests::{Site, until};
use tempfile::TempDir;

/// A relay whose certificate nobody vouches for.
async fn self_signed() -> Result<(Relay, String, TempDir)> {
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
        udp: RelayUdp { ports: vec![0, 0], ..RelayUdp::default() },
        ..RelayConfig::default()
    };
    let relay = Relay::start(config).await?;
    let address = format!("wss://localhost:{}", relay.local_addr().port());
    Ok((relay, address, dir))
}

#[tokio::test(flavor = "multi_thread")]
async fn sites_meet_at_an_encrypted_relay() -> Result<()> {
    let (_relay, address, _dir) = self_signed().await?;
    let trusting = |name| {
        let builder = Site::build(name, &address)?;
        anyhow::Ok(builder.with(|config| config.relay.verify_certificate = false))
    };
    let (a, b) = (trusting("a")?.start().await?, trusting("b")?.start().await?);
    a.put("k", None, Bytes::from_static(b"v")).await?;
    assert_eq!(&b.get("k", Some(&a)).await?[..], b"v");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_nobody_vouches_for_is_refused() -> Result<()> {
    let (relay, address, _dir) = self_signed().await?;
    let a = Site::build("a", &address)?.start_unregistered().await?;
    let endpoint = a.server().endpoint();
    let error = || endpoint.peers().and_then(|peers| peers.relay().last_error).unwrap_or_default();
    until("the certificate is refused", || error().contains("certificate")).await?;
    assert_eq!(relay.client_count(), 0);
    Ok(())
}
