//! Looks at a network: at the relay, and at UDP from sockets of its own.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use proxystore_shared::stun::{MAX_LEN, Message};
use tokio::net::UdpSocket;
use tokio::time::timeout_at;

use super::assess::{Observations, Relay};
use crate::signaling::probe::{Contact, probe, proxy};
use crate::signaling::{RelayLogin, host_of};
use crate::transport::addresses::resolve;
use crate::transport::shared_socket::reachable_from;
use crate::transport::socket;
use crate::transport::stun::{Outcome, Question, StunClient};

/// A server's host and port, as given.
pub type Server = (String, u16);

/// Asks the relay, then its UDP ports and `servers`, from sockets on `bind`.
pub async fn observe(
    relay: Option<&RelayLogin>,
    servers: &[Server],
    bind: Option<IpAddr>,
) -> io::Result<Observations> {
    let relay_report = match relay {
        Some(login) => Some(look_at(login).await),
        None => None,
    };
    let at_relay = match (relay, &relay_report) {
        (Some(login), Some(report)) => ports(login, &report.udp_ports).await,
        _ => Vec::new(),
    };
    let mut asked: Vec<Question> = at_relay.iter().flatten().map(|server| question(*server, None)).collect();
    for (host, port) in servers {
        let ips = resolve(host).await;
        asked.extend(ips.into_iter().map(|ip| question(SocketAddr::new(ip, *port), None)));
    }
    // A socket that has not sent to the other port, or that would no longer be a stranger.
    let strangers = at_relay.iter().filter_map(|ports| Some(question(*ports.first()?, Some(*ports.get(1)?))));
    let (answers, strangers) = tokio::try_join!(ask(bind, asked), ask(bind, strangers.collect()))?;
    let (local, answers) = answers;
    let seen = |outcome| match outcome {
        Outcome::Mapped(address) => Some(address),
        Outcome::Open | Outcome::Silent => None,
    };
    Ok(Observations {
        relay: relay_report,
        local,
        answers: answers.into_iter().map(|(question, outcome)| (question.server, seen(outcome))).collect(),
        strangers: strangers
            .1
            .into_iter()
            .map(|(question, outcome)| (question.server, seen(outcome).is_some()))
            .collect(),
    })
}

fn question(server: SocketAddr, answer_from: Option<SocketAddr>) -> Question {
    Question { server, answer_from }
}

async fn look_at(login: &RelayLogin) -> Relay {
    let outcome = probe(login).await;
    let (contact, error) = match outcome {
        Ok(contact) => (Some(contact), None),
        Err(error) => (None, Some(error)),
    };
    let round_trip = |contact: &Contact| contact.round_trip.as_secs_f64() * 1e3;
    Relay {
        address: login.address.clone(),
        proxy: proxy(login),
        reached: contact.is_some(),
        error,
        round_trip_ms: contact.as_ref().map(round_trip),
        carries_data: contact.as_ref().is_some_and(|contact| contact.offer.datagrams),
        udp_ports: contact.map(|contact| contact.offer.udp_ports).unwrap_or_default(),
    }
}

/// The relay's UDP ports, together for each of its addresses.
async fn ports(login: &RelayLogin, ports: &[u16]) -> Vec<Vec<SocketAddr>> {
    let Some(host) = host_of(&login.address).filter(|_| !ports.is_empty()) else { return Vec::new() };
    let at = |ip| ports.iter().map(|port| SocketAddr::new(ip, *port)).collect();
    resolve(&host).await.into_iter().map(at).collect()
}

/// Those of every interface; a relay on this host sees a loopback one.
fn addresses_of(local: SocketAddr) -> Vec<SocketAddr> {
    let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
    let loopback = loopback.map(|ip| SocketAddr::new(ip, local.port()));
    socket::host_candidates(local).into_iter().chain(loopback).collect()
}

/// Asks from one new socket, until everything is answered or given up. Also gives the socket's addresses.
async fn ask(
    bind: Option<IpAddr>,
    questions: Vec<Question>,
) -> io::Result<(Vec<SocketAddr>, Vec<(Question, Outcome)>)> {
    let socket = UdpSocket::from_std(socket::open(bind, 0)?)?;
    let local = socket.local_addr()?;
    let mut client = StunClient::default();
    questions.into_iter().for_each(|question| client.ask(question, Instant::now()));
    let mut buffer = [0; MAX_LEN + 1];
    loop {
        for transmission in client.handle_timeout(Instant::now()) {
            let to = reachable_from(local, transmission.to);
            // There may be no way to this address; then there is no answer either.
            let _ = socket.send_to(&transmission.datagram, to).await;
        }
        let Some(due) = client.poll_timeout() else { break };
        if let Ok(received) = timeout_at(due.into(), socket.recv_from(&mut buffer)).await {
            let (len, from) = received?;
            if let Some(message) = Message::decode(&buffer[..len]) {
                client.handle_message(from, message);
            }
        }
    }
    Ok((addresses_of(local), client.outcomes().collect()))
}
