//! One of ours and a Python endpoint behind NATs, which meet by ICE: each asks the relay's STUN for its public address.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use proxystore_shared::EndpointId;
use proxystore_shared::config::endpoint::{IceServer, OneOrMany};
use proxystore_tests::net::PathKind::Direct;
use proxystore_tests::net::{self, Ground, Inside, Namespace, Nat, Plan, Program, Relay, Segment, Site};
use proxystore_tests::net::{Stack, Subnet};
use proxystore_tests::process::lay_out;
use proxystore_tests::{PATIENCE, Site as Configured, http_client, noise, python, skipped, until};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

/// A port of the relay that answers STUN.
const STUN_PORT: u16 = 3478;

const HTTP_PORT: u16 = 8765;

/// How often an endpoint is asked for what is to come.
const POLL: Duration = Duration::from_millis(50);

/// A host on which a Python endpoint runs.
struct PythonSite {
    id: EndpointId,
    program: Program,
    inside: Inside,
    _home: TempDir,
    _ground: Ground,
}

impl PythonSite {
    async fn start(ground: Ground, relay: &str) -> Result<Self> {
        let stun = IceServer {
            urls: OneOrMany::One(format!("stun:{}:{STUN_PORT}", relay_address())),
            username: None,
            credential: None,
        };
        let configured = Configured::build("python", relay)?.with(|config| {
            config.port = HTTP_PORT;
            // An id of ours stands for a key, which Python endpoints do not have.
            config.uuid = EndpointId::random();
            config.relay.ice_servers = Some(vec![stun]);
        });
        let (home, config) = lay_out(configured)?;
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("python/python_endpoint.py");
        let log = home.path().join("output.txt");
        let program = Program::start(&ground.host, &python(), &log, |command| {
            command.arg(script).arg(&config.name).env("PROXYSTORE_HOME", home.path());
        })?;
        let listens = || Ok(std::net::TcpStream::connect(("127.0.0.1", HTTP_PORT))?);
        until("the Python endpoint listens", || ground.host.within(listens).is_ok())
            .await
            .with_context(|| program.log())?;
        let inside = Inside::new(&ground.host)?;
        Ok(Self { id: config.uuid, program, inside, _home: home, _ground: ground })
    }

    /// What its client gets that asks it for an object at `at`.
    async fn get(&self, object: &str, at: EndpointId) -> Result<Vec<u8>> {
        let url = format!("http://127.0.0.1:{HTTP_PORT}/get?key={object}&endpoint={at}");
        let request = http_client()?.get(url);
        let answering = async move {
            let answer = request.send().await?;
            match answer.status().is_success() {
                true => Ok(answer.bytes().await?.to_vec()),
                false => bail!("{}: {}", answer.status(), answer.text().await?),
            }
        };
        self.inside.run(timeout(net::DEADLINE, answering)).await??
    }
}

fn relay_address() -> Ipv4Addr {
    Subnet::INTERNET.v4(10)
}

struct Lab {
    ours: Site,
    python: PythonSite,
    relay: Relay,
    _internet: Arc<Namespace>,
}

impl Lab {
    /// Builds it; none where networks cannot be made or Python is missing.
    async fn new(ours: Nat, theirs: Nat) -> Result<Option<Self>> {
        if !net::possible() {
            return Ok(None);
        }
        if !python().is_file() {
            skipped("networks with a Python endpoint: Python ProxyStore is not installed");
            return Ok(None);
        }
        let machine = Namespace::new("internet")?;
        let internet = Segment::new(&machine, "net", Subnet::INTERNET)?;
        let config = format!("[udp]\nports = [{STUN_PORT}, {}]\n", STUN_PORT + 1);
        let relay = Relay::start(&internet, &config).await?;
        let (a, b) = (Plan::from(ours), Plan { lan: 2, ..Plan::from(theirs) });
        let ours = Ground::new("a", &internet, 11, &a)?.settle("a", &a).await?;
        let ground = Ground::new("b", &internet, 12, &b)?;
        let python = PythonSite::start(ground, &Relay::url(Stack::V4)).await?;
        // What the relay sees of our socket goes into descriptions.
        let observed = async {
            while !ours.endpoint.text("/v1/status").await?.contains("203.0.113.") {
                sleep(POLL).await;
            }
            anyhow::Ok(())
        };
        timeout(PATIENCE, observed).await.context("the relay does not tell our address")??;
        Ok(Some(Self { ours, python, relay, _internet: machine }))
    }

    fn logs(&self) -> String {
        let (ours, python) = (self.ours.endpoint.log(), self.python.program.log());
        format!("== ours\n{ours}\n== Python\n{python}\n== relay\n{}", self.relay.log())
    }

    /// An object crosses in each direction; `ours_first` says who makes the offer.
    async fn exchange(&self, ours_first: bool) -> Result<()> {
        let (endpoint, python) = (&self.ours.endpoint, &self.python);
        let (there, here) = (noise(2_000_000, 1), noise(2_000_000, 2));
        endpoint.put("here", None, here.clone()).await?;
        if !ours_first {
            ensure!(python.get("here", endpoint.id).await? == here, "other bytes than those stored");
        }
        endpoint.put("there", Some(python.id), there.clone()).await?;
        ensure!(
            endpoint.get("there", Some(python.id)).await?.bytes == there,
            "other bytes than those stored"
        );
        ensure!(python.get("here", endpoint.id).await? == here, "other bytes than those stored");
        let direct = async {
            while endpoint.peer(python.id).await?.context("no session")?.path != Some(Direct) {
                sleep(POLL).await;
            }
            Ok(())
        };
        timeout(PATIENCE, direct).await.context("no direct path is shown")?
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn through_nats_that_can_be_punched_python_endpoints_are_reached() -> Result<()> {
    for (ours, theirs, ours_first) in [
        (Nat::PortRestricted, Nat::PortRestricted, true),
        (Nat::PortRestricted, Nat::PortRestricted, false),
        (Nat::Symmetric, Nat::EndpointIndependent, true),
        (Nat::None, Nat::Symmetric, false),
    ] {
        let Some(lab) = Lab::new(ours, theirs).await? else { return Ok(()) };
        let context =
            || format!("{} and {}, ours first: {ours_first}\n{}", ours.name(), theirs.name(), lab.logs());
        lab.exchange(ours_first).await.with_context(context)?;
    }
    Ok(())
}

/// Python has no way through the relay, so there is none.
#[tokio::test(flavor = "multi_thread")]
async fn where_no_nat_can_be_punched_both_are_told() -> Result<()> {
    let Some(lab) = Lab::new(Nat::Symmetric, Nat::Symmetric).await? else { return Ok(()) };
    let error = lab.ours.endpoint.get("any", Some(lab.python.id)).await.expect_err("there is no way");
    ensure!(!net::hung(&error), "it hung");
    let text = format!("{error:#}");
    ensure!(text.contains("Python endpoint") && text.contains("UDP"), "{text}");
    let again = lab.ours.endpoint.get("any", Some(lab.python.id)).await.expect_err("nor later");
    ensure!(format!("{again:#}").contains("takes another in"), "{again:#}");
    let theirs = lab.python.get("any", lab.ours.endpoint.id).await.expect_err("nor from there");
    ensure!(!net::hung(&theirs), "Python's client hung");
    Ok(())
}
