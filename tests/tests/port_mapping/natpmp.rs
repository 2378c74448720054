//! A router that speaks NAT-PMP (RFC 6886) and nothing newer, as a test tells it.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use proxystore_tests::PATIENCE;
use proxystore_tests::net::Inside;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::lab::{Lab, PUBLIC, ROUTER};

/// Where it is asked.
pub const NAT_PMP: u16 = 5351;

/// Operations, and what is added to them in answers.
const ADDRESS: u8 = 0;
const MAP_UDP: u8 = 1;
const ANSWER: u8 = 128;

/// Result codes.
const SUCCESS: u16 = 0;
const UNSUPPORTED_VERSION: u16 = 1;
const REFUSED: u16 = 2;

/// What a host asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    pub internal: u16,
    pub suggested: u16,
    pub lifetime: u32,
}

/// What the router says to that.
#[derive(Debug, Clone, Copy)]
pub struct Granted {
    pub external: u16,
    pub lifetime: u32,
    /// Seconds since the router started.
    pub epoch: u32,
}

/// How it behaves.
pub struct Script<G> {
    /// Whether it tells those who speak PCP that it does not; else it says nothing.
    pub refuses_pcp: bool,
    /// Grants a port, or refuses it.
    pub grant: G,
}

/// The running router; dropping it ends it.
pub struct NatPmp {
    asked: mpsc::UnboundedReceiver<Asked>,
    _inside: Inside,
}

impl NatPmp {
    pub async fn start<G>(lab: &Lab, script: Script<G>) -> Result<Self>
    where
        G: FnMut(Asked) -> Option<Granted> + Send + 'static,
    {
        let (report, asked) = mpsc::unbounded_channel();
        let inside = Inside::new(&lab.router)?;
        let socket = inside.run(async { UdpSocket::bind((ROUTER, NAT_PMP)).await }).await??;
        tokio::spawn(serve(socket, script, report));
        Ok(Self { asked, _inside: inside })
    }

    /// What it is asked for next.
    pub async fn asked(&mut self) -> Result<Asked> {
        timeout(PATIENCE, self.asked.recv()).await.context("it is not asked")?.context("it has ended")
    }
}

async fn serve<G>(socket: UdpSocket, mut script: Script<G>, report: mpsc::UnboundedSender<Asked>)
where
    G: FnMut(Asked) -> Option<Granted>,
{
    let mut request = [0; 1100];
    while let Ok((len, from)) = socket.recv_from(&mut request).await {
        if let Some(answer) = script.answer(&request[..len], &report) {
            let _ = socket.send_to(&answer, from).await;
        }
    }
}

impl<G: FnMut(Asked) -> Option<Granted>> Script<G> {
    fn answer(&mut self, request: &[u8], report: &mpsc::UnboundedSender<Asked>) -> Option<Vec<u8>> {
        match *request {
            [0, ADDRESS] => {
                let public: Ipv4Addr = PUBLIC.parse().ok()?;
                Some([head(ADDRESS, SUCCESS, 1), public.octets().to_vec()].concat())
            }
            [0, MAP_UDP, 0, 0, i1, i2, s1, s2, ref lifetime @ ..] => {
                let asked = Asked {
                    internal: u16::from_be_bytes([i1, i2]),
                    suggested: u16::from_be_bytes([s1, s2]),
                    lifetime: u32::from_be_bytes(lifetime.try_into().ok()?),
                };
                let _ = report.send(asked);
                Some(mapping(asked, (self.grant)(asked)))
            }
            [2, operation, ..] if self.refuses_pcp => Some(head(operation, UNSUPPORTED_VERSION, 1)),
            _ => None,
        }
    }
}

fn head(operation: u8, result: u16, epoch: u32) -> Vec<u8> {
    [&[0, ANSWER | operation][..], &result.to_be_bytes(), &epoch.to_be_bytes()].concat()
}

fn mapping(asked: Asked, granted: Option<Granted>) -> Vec<u8> {
    let Granted { external, lifetime, epoch } =
        granted.unwrap_or(Granted { external: 0, lifetime: 0, epoch: 1 });
    let result = if granted.is_some() { SUCCESS } else { REFUSED };
    let ports = [asked.internal.to_be_bytes(), external.to_be_bytes()].concat();
    [head(MAP_UDP, result, epoch), ports, lifetime.to_be_bytes().to_vec()].concat()
}
