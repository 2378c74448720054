//! One WebRTC connection with data channels: turns datagrams and time into frames, and frames into datagrams.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proxystore_shared::config::endpoint::MAX_PEER_CHANNELS;
use proxystore_shared::description::{Candidate, CandidateKind, IceCredentials, Setup, WebRtcPeer};
use str0m::channel::{ChannelConfig, ChannelId, Reliability};
use str0m::config::Fingerprint;
use str0m::error::IceError;
use str0m::net::{Protocol, Receive};
use str0m::{IceCreds, Input, Output, Rtc, RtcConfig, RtcError};
use tokio::time::{sleep_until, timeout};

use super::desk::{Datagram, Desk, Destination, Identity, Inbox};
use crate::lock::lock;

/// Silence after which the peer is given up. Python asks for a sign of life every 5 s and gives up after six without.
const MAX_SILENCE: Duration = Duration::from_secs(40);

/// From the end of the DTLS handshake until SCTP begins. Python (aiortc 1.16) misses what comes right behind the handshake, and
/// SCTP's first message is repeated after 3 s only.
const SETTLE: Duration = Duration::from_millis(50);

/// Between looks at the round trip.
const STATS: Duration = Duration::from_secs(1);

/// Bytes that may be under way on a path without length: what a Python endpoint's socket holds with Linux's usual buffers
/// (208 KiB, of which each datagram takes twice its size). With more it overflows while SCTP still doubles its rate, and the
/// many losses took the first transfer of a session 1.5 to 18 s instead of 0.45 (docs/decisions/0014-webrtc.md).
const UNDER_WAY: usize = 96 << 10;

/// Bytes under way for each second of the round trip besides: about what a Python endpoint takes in.
const PYTHON_RATE: f64 = 16e6;

/// So much of the round trip is what a Python endpoint takes to answer.
const PYTHON_DELAY: Duration = Duration::from_millis(10);

/// The most bytes under way: Python's own window is 1 MiB.
const MAX_UNDER_WAY: usize = 1 << 20;

/// What both sides have said of themselves.
#[derive(Debug)]
pub struct Terms {
    /// What this side's description said.
    pub local: IceCredentials,
    /// Where this side may be reached.
    pub local_candidates: Vec<Candidate>,
    /// What the peer's description said.
    pub remote: WebRtcPeer,
    /// Where the peer may be reached.
    pub remote_candidates: Vec<Candidate>,
    /// What this side did.
    pub role: Role,
}

/// What a side did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It made the offer, and opens so many channels.
    Offerer {
        /// One or more.
        channels: usize,
    },
    /// It answered.
    Answerer,
}

/// What happens on a connection.
#[derive(Debug)]
pub enum Event {
    /// Every channel is open.
    Open,
    /// A frame came.
    Frame(Vec<u8>),
    /// There is room for a frame again.
    Room,
    /// It is over.
    Closed(String),
}

/// What can be told of a connection.
#[derive(Debug, Clone, Copy, Default)]
pub struct View {
    /// Where the peer is.
    pub remote: Option<SocketAddr>,
    /// Whether a TURN server is in between.
    pub relayed: bool,
    /// Round trip of the last check.
    pub round_trip: Option<Duration>,
    /// UDP bytes sent.
    pub sent: u64,
    /// UDP bytes received.
    pub received: u64,
}

/// See the module's head.
pub struct Connection {
    /// It has 20 KB.
    rtc: Box<Rtc>,
    inbox: Inbox,
    /// Addresses of this side.
    bases: Vec<SocketAddr>,
    /// Addresses at TURN servers, of either side.
    relays: Vec<SocketAddr>,
    /// Channels that are open.
    channels: Vec<ChannelId>,
    /// Channels that there will be; not known to the side that answered before the first is open.
    expected: Option<usize>,
    /// When this side opens the channels.
    opening: Option<Instant>,
    /// The channel for the next frame: they take turns, as Python has it.
    turn: usize,
    /// A frame for which there was no room.
    unsent: Option<Vec<u8>>,
    events: VecDeque<Event>,
    /// When the protocol wants to be called.
    due: Instant,
    heard: Instant,
    shortest: Option<Duration>,
    /// Bytes that may be under way.
    window: usize,
    view: Arc<Mutex<View>>,
}

impl Connection {
    /// Begins to connect.
    pub fn new(desk: &Arc<Desk>, terms: Terms) -> Result<Self, RtcError> {
        let now = Instant::now();
        let no_certificate = || RtcError::Io(io::Error::other("there is no certificate for WebRTC"));
        let Identity { crypto, certificate } = desk.identity().cloned().ok_or_else(no_certificate)?;
        let config = RtcConfig::new()
            .set_crypto_provider(crypto)
            .set_dtls_cert(certificate)
            .set_local_ice_credentials(credentials(&terms.local))
            .set_sctp_max_buffered_amount(MAX_UNDER_WAY)
            .set_stats_interval(Some(STATS))
            .clear_codecs();
        let mut connection = Self {
            rtc: Box::new(config.build(now)),
            inbox: desk.open(terms.local.ufrag.clone()),
            bases: Vec::new(),
            relays: Vec::new(),
            channels: Vec::new(),
            expected: None,
            opening: None,
            turn: 0,
            unsent: None,
            events: VecDeque::new(),
            due: now,
            heard: now,
            shortest: None,
            window: UNDER_WAY,
            view: Arc::default(),
        };
        connection.begin(terms)?;
        connection.drain();
        // Else it waits for the peer's first check.
        connection.handle(Input::Timeout(now));
        Ok(connection)
    }

    fn begin(&mut self, terms: Terms) -> Result<(), RtcError> {
        let is_offerer = terms.role != Role::Answerer;
        let mut api = self.rtc.direct_api();
        api.set_ice_controlling(is_offerer);
        api.set_remote_ice_credentials(credentials(&terms.remote.ice));
        let bytes = terms.remote.fingerprint.to_vec();
        api.set_remote_fingerprint(Fingerprint { hash_func: "sha-256".into(), bytes });
        let both = terms.local_candidates.iter().chain(&terms.remote_candidates);
        let relayed = both.filter(|candidate| candidate.kind == CandidateKind::Relayed);
        self.relays = relayed.map(|candidate| candidate.address).collect();
        self.add_local_candidates(&terms.local_candidates);
        for candidate in &terms.remote_candidates {
            self.inbox.permit(candidate.address.ip());
            if let Ok(candidate) = remote_candidate(candidate) {
                self.rtc.add_remote_candidate(candidate);
            }
        }
        let mut api = self.rtc.direct_api();
        // An answer that leaves the beginning to us was the other side's choice; our own answers begin.
        api.start_dtls(!is_offerer || terms.remote.setup == Setup::Passive)?;
        match terms.role {
            Role::Offerer { channels } => self.expected = Some(channels),
            Role::Answerer => api.start_sctp(false),
        }
        Ok(())
    }

    /// Opens the channels; the side that offered does.
    fn open_channels(&mut self) {
        if let Some(channels) = self.expected {
            self.rtc.direct_api().start_sctp(true);
            for index in 0..channels {
                let config = ChannelConfig {
                    label: format!("p2p-{index}-{channels}"),
                    ordered: false,
                    reliability: Reliability::Reliable,
                    ..Default::default()
                };
                self.rtc.direct_api().create_data_channel(config);
            }
        }
    }

    fn add_local_candidates(&mut self, candidates: &[Candidate]) {
        let hosts = candidates.iter().filter(|candidate| candidate.kind == CandidateKind::Host);
        self.bases = hosts.map(|candidate| candidate.address).collect();
        for candidate in candidates {
            let address = candidate.address;
            let made = match candidate.kind {
                CandidateKind::Host => str0m::Candidate::host(address, "udp"),
                CandidateKind::Reflexive => match self.base_for(address) {
                    Some(base) => str0m::Candidate::server_reflexive(address, base, "udp"),
                    None => continue,
                },
                CandidateKind::Relayed => str0m::Candidate::relayed(address, address, "udp"),
            };
            // One that the protocol has no use for, like an IPv6 address of a single link, is left out.
            if let Ok(made) = made {
                self.rtc.add_local_candidate(made);
            }
        }
    }

    fn base_for(&self, address: SocketAddr) -> Option<SocketAddr> {
        self.bases.iter().copied().find(|base| base.is_ipv4() == address.is_ipv4())
    }

    /// The next thing that happens. Nothing is lost when this is dropped half way.
    pub async fn event(&mut self) -> Event {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            let due = self.due.min(self.heard + MAX_SILENCE).min(self.opening.unwrap_or(self.due));
            tokio::select! {
                datagram = self.inbox.receive() => self.receive(datagram),
                () = sleep_until(due.into()) => self.handle_timeout(),
            }
        }
    }

    fn handle_timeout(&mut self) {
        let now = Instant::now();
        if now.duration_since(self.heard) >= MAX_SILENCE {
            return self.end(format!("nothing was heard of the peer for {} s", MAX_SILENCE.as_secs()));
        }
        if self.opening.take_if(|opening| *opening <= now).is_some() {
            self.open_channels();
            self.drain();
        }
        self.handle(Input::Timeout(now));
    }

    fn receive(&mut self, datagram: Datagram) {
        let Datagram { from, to, bytes } = datagram;
        let destination = match to {
            Destination::Here(ip) => {
                let base = ip.and_then(|ip| self.bases.iter().copied().find(|base| base.ip() == ip));
                base.or_else(|| self.base_for(from))
            }
            Destination::Relayed(address) => Some(address),
        };
        let Some(destination) = destination else { return };
        let Ok(contents) = bytes.as_slice().try_into() else { return };
        let now = Instant::now();
        let receive = Receive { proto: Protocol::Udp, source: from, destination, contents };
        let input = Input::Receive(now, receive);
        if !self.rtc.accepts(&input) {
            return;
        }
        self.heard = now;
        lock(&self.view).received += bytes.len() as u64;
        self.inbox.prove(from);
        self.handle(input);
    }

    fn handle(&mut self, input: Input<'_>) {
        let had_room = self.has_room();
        match self.rtc.handle_input(input) {
            Ok(()) => self.drain(),
            Err(error) => self.end(error.to_string()),
        }
        if !had_room && self.has_room() {
            self.events.push_back(Event::Room);
        }
    }

    /// The protocol wants all its output taken before it gets more input.
    fn drain(&mut self) {
        loop {
            match self.rtc.poll_output() {
                Ok(Output::Timeout(due)) => {
                    self.due = due;
                    if !self.send_unsent() {
                        return;
                    }
                }
                Ok(Output::Transmit(transmit)) => {
                    lock(&self.view).sent += transmit.contents.len() as u64;
                    self.inbox.send(transmit.source, transmit.destination, &transmit.contents);
                }
                Ok(Output::Event(event)) => self.note(event),
                Err(error) => return self.end(error.to_string()),
            }
        }
    }

    fn note(&mut self, event: str0m::Event) {
        match event {
            str0m::Event::Connected if self.expected.is_some() => {
                self.opening = Some(Instant::now() + SETTLE);
            }
            str0m::Event::ChannelOpen(channel, label) => self.opened(channel, &label),
            str0m::Event::ChannelData(data) => self.events.push_back(Event::Frame(data.data)),
            str0m::Event::ChannelClose(_) | str0m::Event::Closed => {
                self.end("the peer closed the connection".into())
            }
            str0m::Event::PeerStats(stats) => {
                let Some(pair) = stats.selected_candidate_pair else { return };
                if let Some(round_trip) = pair.current_round_trip_time {
                    self.note_round_trip(round_trip);
                }
                let mut view = lock(&self.view);
                view.round_trip = pair.current_round_trip_time;
                view.remote = Some(pair.remote.addr);
                let (local, remote) = (pair.local.addr, pair.remote.addr);
                view.relayed = self.relays.contains(&local) || self.relays.contains(&remote);
            }
            _ => {}
        }
    }

    /// The shortest round trip counts: a longer one is what waits in front of the peer.
    fn note_round_trip(&mut self, round_trip: Duration) {
        let shortest = self.shortest.map_or(round_trip, |shortest| shortest.min(round_trip));
        self.shortest = Some(shortest);
        let on_the_way = shortest.saturating_sub(PYTHON_DELAY);
        let window = UNDER_WAY + (PYTHON_RATE * on_the_way.as_secs_f64()) as usize;
        self.window = window.min(MAX_UNDER_WAY);
    }

    fn opened(&mut self, channel: ChannelId, label: &str) {
        let expected = self.expected.or_else(|| channels_of(label));
        let Some(expected) = expected.filter(|expected| self.channels.len() < *expected) else {
            return self.end(format!("the peer opened a channel {label:?}, which is not expected"));
        };
        self.expected = Some(expected);
        self.channels.push(channel);
        if self.is_open() {
            self.events.push_back(Event::Open);
        }
    }

    fn end(&mut self, why: String) {
        self.rtc.disconnect();
        self.due = Instant::now() + MAX_SILENCE;
        self.events.push_back(Event::Closed(why));
    }

    /// Whether [`Connection::send`] may be called.
    pub fn has_room(&self) -> bool {
        self.unsent.is_none() && self.is_open()
    }

    fn is_open(&self) -> bool {
        self.expected == Some(self.channels.len())
    }

    /// Sends a frame; only when there is room.
    pub fn send(&mut self, frame: Vec<u8>) {
        self.unsent = Some(frame);
        if self.send_unsent() {
            self.drain();
        }
    }

    /// Whether there was something to send, and room for it.
    fn send_unsent(&mut self) -> bool {
        let Some(frame) = self.unsent.take() else { return false };
        if self.under_way() + frame.len() > self.window {
            self.unsent = Some(frame);
            return false;
        }
        let channel = self.channels[self.turn % self.channels.len()];
        let written = self.rtc.channel(channel).map(|mut channel| channel.write(true, &frame));
        match written {
            Some(Ok(true)) => {
                self.turn += 1;
                true
            }
            Some(Ok(false)) => {
                self.unsent = Some(frame);
                false
            }
            Some(Err(error)) => {
                self.end(error.to_string());
                false
            }
            None => {
                self.end("a channel is gone".into());
                false
            }
        }
    }

    fn under_way(&mut self) -> usize {
        let rtc = &mut self.rtc;
        let of =
            |channel: &ChannelId| rtc.channel(*channel).map_or(0, |mut channel| channel.buffered_amount());
        self.channels.iter().map(of).sum()
    }

    /// What can be told of it, for as long as it lasts.
    pub fn view(&self) -> Arc<Mutex<View>> {
        self.view.clone()
    }

    /// Tells the peer that it is over. A Python endpoint that is not told keeps its half for half a minute, and can end if
    /// it gets another offer meanwhile.
    pub async fn close(mut self, limit: Duration) {
        if self.rtc.close().is_err() {
            return;
        }
        self.drain();
        let closing = async {
            while self.rtc.is_alive() {
                self.event().await;
            }
        };
        // A peer that is gone needs not be told.
        let _ = timeout(limit, closing).await;
    }
}

fn credentials(ice: &IceCredentials) -> IceCreds {
    IceCreds { ufrag: ice.ufrag.clone(), pass: ice.pwd.clone() }
}

fn remote_candidate(candidate: &Candidate) -> Result<str0m::Candidate, IceError> {
    match candidate.kind {
        CandidateKind::Host => str0m::Candidate::host(candidate.address, "udp"),
        CandidateKind::Reflexive => {
            str0m::Candidate::server_reflexive(candidate.address, candidate.address, "udp")
        }
        CandidateKind::Relayed => str0m::Candidate::relayed(candidate.address, candidate.address, "udp"),
    }
}

/// How many channels there will be: the last number of a label like `p2p-0-4`.
fn channels_of(label: &str) -> Option<usize> {
    let count: u32 = label.rsplit_once('-')?.1.parse().ok()?;
    (1..=MAX_PEER_CHANNELS).contains(&count).then_some(count as usize)
}
