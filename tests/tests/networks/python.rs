//! One of ours and a Python endpoint behind NATs, which meet by ICE: each asks the relay's STUN for its public address, and
//! where that is not enough, one of them has an address at a TURN server (coturn).

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use proxystore_shared::EndpointId;
use proxystore_shared::config::endpoint::{EndpointConfig, IceServer, OneOrMany, TurnTransport};
use proxystore_tests::net::PathKind::{self, Direct, Relayed};
use proxystore_tests::net::{
    self, Ground, Inside, Namespace, Nat, Plan, Program, ProxyLogin, Relay, Segment, Site,
};
use proxystore_tests::net::{Stack, Subnet};
use proxystore_tests::process::lay_out;
use proxystore_tests::{PATIENCE, Site as Configured, http_client, noise, python, skipped, until};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

/// A port of the relay that answers STUN.
const STUN_PORT: u16 = 3478;

/// What lets the sites use the TURN server.
const CREDENTIAL: &str = "secret";

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
    async fn start(ground: Ground, relay: &str, turn: Option<IceServer>) -> Result<Self> {
        let stun = IceServer {
            urls: OneOrMany::One(format!("stun:{}:{STUN_PORT}", relay_address())),
            username: None,
            credential: None,
        };
        let ice_servers = [stun].into_iter().chain(turn).collect();
        let configured = Configured::build("python", relay)?.with(|config| {
            config.port = HTTP_PORT;
            // An id of ours stands for a key, which Python endpoints do not have.
            config.uuid = EndpointId::random();
            config.relay.ice_servers = Some(ice_servers);
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

/// A TURN server on the internet.
struct Coturn {
    program: Program,
    dir: TempDir,
}

/// Its number there.
const COTURN: u8 = 20;

/// Its port for TLS (RFC 7065).
const TURNS_PORT: u16 = 5349;

impl Coturn {
    async fn start(internet: &Segment) -> Result<Self> {
        let machine = Namespace::new("turn")?;
        internet.plug(&machine, "eth", COTURN, Stack::V4)?;
        let dir = tempfile::tempdir()?;
        let host = Subnet::INTERNET.v4(COTURN);
        let address = host.to_string();
        let certified = rcgen::generate_simple_self_signed([address.clone()])?;
        let key = dir.path().join("key.pem");
        fs::write(Self::certificate(&dir), certified.cert.pem())?;
        fs::write(&key, certified.signing_key.serialize_pem())?;
        let log = dir.path().join("turn.log");
        let program = Program::start(&machine, Path::new("turnserver"), &log, |command| {
            command.args(["-n", "--listening-ip", &address, "--relay-ip", &address]);
            command.args(["--lt-cred-mech", "--realm", "tests", "--user", &format!("site:{CREDENTIAL}")]);
            command.arg("--cert").arg(Self::certificate(&dir)).arg("--pkey").arg(key);
            command.args(["--no-dtls", "--no-cli", "--log-file", "stdout", "--pidfile"]);
            command.arg(dir.path().join("pid")).arg("--userdb").arg(dir.path().join("users"));
        })?;
        let listens = || Ok(std::net::TcpStream::connect((host, TURNS_PORT))?);
        until("coturn listens", || machine.within(listens).is_ok()).await.with_context(|| program.log())?;
        Ok(Self { program, dir })
    }

    fn certificate(dir: &TempDir) -> PathBuf {
        dir.path().join("certificate.pem")
    }

    /// As a configuration names it.
    fn named(transport: TurnTransport, credential: &str) -> IceServer {
        let host = Subnet::INTERNET.v4(COTURN);
        let url = match transport {
            TurnTransport::Udp => format!("turn:{host}"),
            TurnTransport::Tcp => format!("turn:{host}?transport=tcp"),
            TurnTransport::Tls => format!("turns:{host}"),
        };
        IceServer {
            urls: OneOrMany::One(url),
            username: Some("site".into()),
            credential: Some(credential.into()),
        }
    }
}

/// What a pair is built from.
struct Pair {
    ours: Plan,
    theirs: Plan,
    /// TURN servers in the two configurations.
    our_turn: Option<IceServer>,
    their_turn: Option<IceServer>,
    /// Whether our host trusts the TURN server's certificate.
    trusts_turn: bool,
    /// Our UDP port; 0 for any.
    port: u16,
}

impl Pair {
    fn behind(ours: Nat, theirs: Nat) -> Self {
        let theirs = Plan { lan: 2, ..theirs.into() };
        Self { ours: ours.into(), theirs, our_turn: None, their_turn: None, trusts_turn: true, port: 0 }
    }
}

struct Lab {
    ours: Site,
    python: PythonSite,
    relay: Relay,
    coturn: Option<Coturn>,
    _internet: Arc<Namespace>,
}

impl Lab {
    /// Builds it; none where networks cannot be made or Python is missing.
    async fn new(pair: Pair) -> Result<Option<Self>> {
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
        let uses_turn = pair.our_turn.is_some() || pair.their_turn.is_some();
        if uses_turn && !net::is_installed("turnserver") {
            skipped("networks with a TURN server: coturn is not installed");
            return Ok(None);
        }
        let coturn = if uses_turn { Some(Coturn::start(&internet).await?) } else { None };
        let Pair { mut ours, theirs, our_turn, their_turn, trusts_turn, port } = pair;
        ours.trusted = coturn.as_ref().filter(|_| trusts_turn).map(|coturn| Coturn::certificate(&coturn.dir));
        let accepted = |turn: &IceServer| trusts_turn && turn.credential.as_deref() == Some(CREDENTIAL);
        let waits = our_turn.as_ref().is_some_and(accepted);
        let ground = Ground::new("a", &internet, 11, &ours)?;
        let adapt = |config: &mut EndpointConfig| {
            config.relay.ice_servers = our_turn.map(|turn| vec![turn]);
            config.peering.port = port;
        };
        let ours = ground.settle_with("a", &ours, adapt).await?;
        let ground = Ground::new("b", &internet, 12, &theirs)?;
        let python = PythonSite::start(ground, &Relay::url(Stack::V4), their_turn).await?;
        let lab = Self { ours, python, relay, coturn, _internet: machine };
        lab.wait_for_addresses(waits).await.with_context(|| lab.logs())?;
        Ok(Some(lab))
    }

    /// What the relay sees of our socket, and what a TURN server lends, goes into descriptions.
    async fn wait_for_addresses(&self, lent: bool) -> Result<()> {
        let endpoint = &self.ours.endpoint;
        let observed = async {
            loop {
                let known = match lent {
                    true => endpoint.log().contains(": address at the TURN server"),
                    false => endpoint.text("/v1/status").await?.contains("203.0.113."),
                };
                if known {
                    return anyhow::Ok(());
                }
                sleep(POLL).await;
            }
        };
        timeout(PATIENCE, observed).await.context("our addresses are not known")?
    }

    fn logs(&self) -> String {
        let (ours, python) = (self.ours.endpoint.log(), self.python.program.log());
        let turn = self.coturn.as_ref().map(|coturn| coturn.program.log()).unwrap_or_default();
        format!("== ours\n{ours}\n== Python\n{python}\n== relay\n{}\n== TURN\n{turn}", self.relay.log())
    }

    /// An object crosses in each direction, in the end by `path`; `ours_first` says who makes the offer.
    async fn exchange(&self, ours_first: bool, path: PathKind) -> Result<()> {
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
        let shown = async {
            while endpoint.peer(python.id).await?.context("no session")?.path != Some(path) {
                sleep(POLL).await;
            }
            Ok(())
        };
        timeout(PATIENCE, shown).await.with_context(|| format!("no {path:?} path is shown"))?
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
        let Some(lab) = Lab::new(Pair::behind(ours, theirs)).await? else { return Ok(()) };
        let context =
            || format!("{} and {}, ours first: {ours_first}\n{}", ours.name(), theirs.name(), lab.logs());
        lab.exchange(ours_first, Direct).await.with_context(context)?;
    }
    Ok(())
}

/// Python has no way through the relay, so there is none.
#[tokio::test(flavor = "multi_thread")]
async fn where_no_nat_can_be_punched_both_are_told() -> Result<()> {
    let Some(lab) = Lab::new(Pair::behind(Nat::Symmetric, Nat::Symmetric)).await? else { return Ok(()) };
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

#[tokio::test(flavor = "multi_thread")]
async fn where_one_side_has_a_turn_server_no_nat_is_in_the_way() -> Result<()> {
    let turn = || Some(Coturn::named(TurnTransport::Udp, CREDENTIAL));
    for (our_turn, their_turn, ours_first) in
        [(turn(), None, true), (turn(), None, false), (None, turn(), true), (None, turn(), false)]
    {
        let context = format!("ours: {our_turn:?}, Python's: {their_turn:?}, ours first: {ours_first}");
        let pair = Pair { our_turn, their_turn, ..Pair::behind(Nat::Symmetric, Nat::Symmetric) };
        let Some(lab) = Lab::new(pair).await? else { return Ok(()) };
        lab.exchange(ours_first, Relayed).await.with_context(|| format!("{context}\n{}", lab.logs()))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tcp_and_tls_a_turn_server_helps_where_no_udp_passes() -> Result<()> {
    for (ours, transport) in [
        (Plan::without_udp(), TurnTransport::Tcp),
        (Plan::without_udp(), TurnTransport::Tls),
        (Plan::behind_proxy(ProxyLogin::Password), TurnTransport::Tls),
    ] {
        let our_turn = Some(Coturn::named(transport, CREDENTIAL));
        let pair = Pair { ours, our_turn, ..Pair::behind(Nat::None, Nat::PortRestricted) };
        let Some(lab) = Lab::new(pair).await? else { return Ok(()) };
        lab.exchange(true, Relayed).await.with_context(|| format!("{transport:?}\n{}", lab.logs()))?;
    }
    Ok(())
}

/// The server has not forgotten the address that it lent to the process that was killed.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_was_killed_gets_another_address_at_the_turn_server() -> Result<()> {
    let our_turn = Some(Coturn::named(TurnTransport::Udp, CREDENTIAL));
    let pair = Pair { our_turn, port: 41_000, ..Pair::behind(Nat::Symmetric, Nat::Symmetric) };
    let Some(lab) = Lab::new(pair).await? else { return Ok(()) };
    lab.ours.endpoint.restart().await?;
    let lent = || lab.ours.endpoint.log().matches(": address at the TURN server").count();
    until("there is a second address", || lent() == 2).await.with_context(|| lab.logs())?;
    lab.exchange(true, Relayed).await.with_context(|| lab.logs())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_server_whose_certificate_nobody_vouches_for_is_not_used() -> Result<()> {
    let our_turn = Some(Coturn::named(TurnTransport::Tls, CREDENTIAL));
    let pair = Pair { our_turn, trusts_turn: false, ..Pair::behind(Nat::None, Nat::None) };
    let Some(lab) = Lab::new(pair).await? else { return Ok(()) };
    let log = || lab.ours.endpoint.log();
    until("the refusal is in the log", || log().contains("no address at the TURN server")).await?;
    ensure!(log().contains("certificate"), "{}", log());
    lab.exchange(true, Direct).await.with_context(|| lab.logs())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_server_that_refuses_is_named_and_in_nobodys_way() -> Result<()> {
    const WRONG: &str = "not-the-secret";
    let our_turn = Some(Coturn::named(TurnTransport::Udp, WRONG));
    let pair = Pair { our_turn, ..Pair::behind(Nat::PortRestricted, Nat::PortRestricted) };
    let Some(lab) = Lab::new(pair).await? else { return Ok(()) };
    lab.exchange(true, Direct).await.with_context(|| lab.logs())?;
    let log = || lab.ours.endpoint.log();
    until("the refusal is in the log", || log().contains("no address at the TURN server")).await?;
    let log = log();
    ensure!(log.contains("does not accept the user name and credential"), "{log}");
    ensure!(!log.contains(WRONG), "the credential is in the log: {log}");
    Ok(())
}
