//! `endpoint check-nat` says of networks what they are.

use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context as _, Result};
use proxystore_shared::config::endpoint::{IceServer, OneOrMany, ProxySetting};
use proxystore_shared::config::relay::RelayConfig;
use proxystore_tests::net::{self, Ground, Namespace, Nat, Plan, Relay, Segment, Stack, Subnet, Wall};
use proxystore_tests::process::{lay_out, program};
use proxystore_tests::proxy::{Answer, ScriptedProxy};
use proxystore_tests::{PATIENCE, Site, free_port, relay, url};
use serde_json::{Value, json};

/// What the program printed, and its exit code.
fn said(output: Output) -> Result<(Value, i32)> {
    let complaint = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_slice(&output.stdout).with_context(|| format!("no report: {complaint}"))?;
    Ok((report, output.status.code().context("killed")?))
}

fn check_from(machine: &Namespace, relay: &str) -> Result<(Value, i32)> {
    let mut command = machine.command(program("endpoint")?);
    command.args(["--json", "check-nat", "--relay", relay]);
    for variable in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env_remove(variable);
    }
    said(command.output()?)
}

struct Lab {
    internet: Segment,
    _relay: Relay,
}

impl Lab {
    async fn start() -> Result<Self> {
        let internet = Segment::new(&Namespace::new("internet")?, "net", Subnet::INTERNET)?;
        let relay = Relay::start(&internet, "").await?;
        Ok(Self { internet, _relay: relay })
    }

    fn check(&self, number: u8, plan: &Plan) -> Result<(Value, i32)> {
        let ground = Ground::new("a", &self.internet, number, plan)?;
        check_from(&ground.host, &Relay::url(plan.stack))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_are_told_apart() -> Result<()> {
    if !net::possible() {
        return Ok(());
    }
    let lab = Lab::start().await?;
    let (steady, open) =
        ("endpoint-independent-or-address-dependent", "endpoint-independent-or-address-dependent");
    let (fickle, closed) = ("address-and-port-dependent", "address-and-port-dependent");
    for (number, (nat, mapping, filtering, path)) in (11..).zip([
        (Nat::None, "no-nat", open, "direct-to-most"),
        (Nat::EndpointIndependent, steady, open, "direct-to-most"),
        (Nat::AddressRestricted, steady, open, "direct-to-most"),
        (Nat::PortRestricted, steady, closed, "direct-to-most"),
        (Nat::Symmetric, fickle, closed, "direct-to-open-networks"),
    ]) {
        let (report, code) = lab.check(number, &Plan::from(nat))?;
        let (ipv4, what) = (&report["ipv4"], format!("{}: {report}", nat.name()));
        assert_eq!((report["udp"].as_str(), code), (Some("passes"), 0), "{what}");
        assert_eq!(ipv4["mapping"], mapping, "{what}");
        assert_eq!(ipv4["filtering"], filtering, "{what}");
        assert_eq!(report["path_to_expect"], path, "{what}");
        let address = ipv4["public_addresses"][0].as_str().unwrap_or_default();
        assert!(address.starts_with(&format!("203.0.113.{number}:")), "{what}");
        assert_eq!(report["relay"]["carries_data"], true, "{what}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn walls_are_noticed() -> Result<()> {
    if !net::possible() {
        return Ok(());
    }
    let lab = Lab::start().await?;
    let (report, code) = lab.check(11, &Plan::without_udp())?;
    assert_eq!((report["udp"].as_str(), code), (Some("blocked"), 0), "{report}");
    assert_eq!(report["path_to_expect"], "relayed-only");
    assert!(report["advice"][0].as_str().is_some_and(|advice| advice.contains("send UDP")), "{report}");

    let walled = Plan { wall: Wall::All, ..Nat::PortRestricted.into() };
    let (report, code) = lab.check(12, &walled)?;
    assert_eq!((report["path_to_expect"].as_str(), code), (Some("nothing"), 1), "{report}");
    assert_eq!(report["relay"]["reached"], false);
    assert!(report["advice"][0].as_str().is_some_and(|advice| advice.contains("by TCP")), "{report}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ipv6_is_checked_where_there_is_nothing_else() -> Result<()> {
    if !net::possible() {
        return Ok(());
    }
    let (report, code) = Lab::start().await?.check(11, &Plan::speaking(Stack::V6))?;
    assert_eq!(
        (&report["ipv4"], &report["ipv6"]["mapping"], code),
        (&Value::Null, &json!("no-nat"), 0),
        "{report}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoints_relay_is_asked_through_its_proxy() -> Result<()> {
    let relay = relay().await?;
    let proxy = ScriptedProxy::start(Answer::Lead(relay.local_addr())).await?;
    let site = Site::build("a", &url(&relay))?
        .with(|config| config.peering.proxy = Some(ProxySetting::from(proxy.url().as_str())));
    let (home, _) = lay_out(site)?;
    let run = move || {
        let mut command = Command::new(program("endpoint")?);
        said(command.args(["check-nat", "a", "--json"]).env("PROXYSTORE_HOME", home.path()).output()?)
    };
    let (report, code) = tokio::task::spawn_blocking(run).await??;
    assert_eq!(report["relay"]["proxy"], proxy.url());
    assert_eq!(report["relay"]["reached"], true);
    assert!(report["relay"]["round_trip_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{report}");
    assert_eq!((&report["ipv4"]["mapping"], code), (&json!("no-nat"), 0), "{report}");
    assert_eq!(relay.client_count(), 0, "it only looks");
    Ok(())
}

/// As Python's configuration has it, for peers that need ICE.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_asks_the_stun_servers_of_its_configuration() -> Result<()> {
    let mut config = RelayConfig { host: Some("127.0.0.1".into()), port: free_port()?, ..Default::default() };
    config.udp.ports = Vec::new();
    let (without_stun, with_stun) = (proxystore_relay::Relay::start(config).await?, relay().await?);
    let port = with_stun.offer().udp_ports[0];
    let server = IceServer {
        urls: OneOrMany::Many(vec![format!("stun:127.0.0.1:{port}"), "turn:127.0.0.1".into()]),
        username: None,
        credential: None,
    };
    for (servers, nat) in [(Some(vec![server]), "none"), (Some(Vec::new()), "unknown"), (None, "unknown")] {
        let site = Site::build("a", &url(&without_stun))?.with(|config| config.relay.ice_servers = servers);
        let site = site.start().await?;
        let status = || async { site.http().get(site.url("/v1/status")).send().await?.json::<Value>().await };
        // Whom nobody is asked for it has nothing to wait for.
        let wait = if nat == "unknown" { Duration::from_millis(500) } else { PATIENCE };
        let known = async {
            while status().await?["network"]["nat"] == "unknown" {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            anyhow::Ok(())
        };
        let _ = tokio::time::timeout(wait, known).await;
        assert_eq!(status().await?["network"]["nat"], nat);
    }
    Ok(())
}
