//! One side step by step, then two sides over a network that delays and reorders.

use std::collections::VecDeque;

use proptest::prelude::*;
use proxystore_shared::description::{IceCredentials, Setup};
use uuid::Uuid;

use super::*;

const TIMEOUT: Duration = Duration::from_secs(10);

fn id(number: u128) -> EndpointId {
    Uuid::from_u128(number).into()
}

fn known() -> Counterpart {
    Counterpart { key: PublicKey([1; 32]), candidates: Vec::new() }
}

fn counterpart() -> Described {
    Described::Ours(known())
}

fn python() -> Described {
    let ice = IceCredentials { ufrag: "abcd".into(), pwd: "0123456789012345678901".into() };
    let webrtc = WebRtcPeer { ice, fingerprint: [0; 32], setup: Setup::ActPass };
    Described::Python(PythonCounterpart { webrtc, candidates: Vec::new() })
}

fn session(number: u64) -> SessionId {
    SessionId(number)
}

/// The actions without what they carry, for comparing.
fn names(actions: &[Action]) -> Vec<&'static str> {
    let name = |action: &Action| match action {
        Action::SendOffer(_) => "offer",
        Action::SendAnswer(_) => "answer",
        Action::Dial(_) => "dial",
        Action::ConnectPython(_) => "connect",
        Action::Nominate(_) => "nominate",
        Action::Use(_) => "use",
        Action::Retire(_) => "retire",
        Action::Close(_) => "close",
        Action::Fail(_) => "fail",
    };
    actions.iter().map(name).collect()
}

/// One side under a clock that stands still unless told.
struct Side {
    negotiation: Negotiation,
    now: Instant,
}

impl Side {
    fn new(us: u128, peer: u128) -> Self {
        Self { negotiation: Negotiation::new(id(us), id(peer), TIMEOUT), now: Instant::now() }
    }

    fn on(&mut self, input: Input) -> Vec<&'static str> {
        names(&self.negotiation.handle(self.now, input))
    }

    fn after(&mut self, time: Duration) -> Vec<&'static str> {
        self.now += time;
        self.on(Input::Tick)
    }
}

#[test]
fn the_offerer_takes_the_first_connection_and_nominates_it() {
    let mut side = Side::new(1, 2);
    assert_eq!(side.on(Input::Wanted(session(7))), ["offer"]);
    assert_eq!(side.on(Input::Wanted(session(8))), [""; 0], "one attempt at a time");
    assert_eq!(side.on(Input::Answer(session(9), counterpart())), [""; 0], "an answer to something else");
    assert_eq!(side.on(Input::Answer(session(7), counterpart())), ["dial"]);
    assert_eq!(side.on(Input::Up(1)), ["nominate", "use"]);
    assert_eq!(side.on(Input::Up(2)), [""; 0]);
    assert_eq!(side.negotiation.in_use(), Some(1));
    assert_eq!(side.after(SPARE_GRACE), ["close"]);
}

#[test]
fn the_answerer_waits_for_the_nomination() {
    let mut side = Side::new(2, 1);
    assert_eq!(side.on(Input::Offer(session(7), counterpart())), ["answer", "dial"]);
    assert_eq!(side.on(Input::Up(1)), [""; 0]);
    assert_eq!(side.on(Input::Up(2)), [""; 0]);
    assert_eq!(side.on(Input::Nominated(2)), ["use"]);
    assert_eq!(side.on(Input::Nominated(2)), [""; 0]);
    assert_eq!(side.after(SPARE_GRACE), ["close"], "the one that was not chosen");
}

#[test]
fn of_two_offers_the_smaller_ids_stands() {
    let (mut small, mut large) = (Side::new(1, 2), Side::new(2, 1));
    small.on(Input::Wanted(session(1)));
    large.on(Input::Wanted(session(2)));
    assert_eq!(small.on(Input::Offer(session(2), counterpart())), [""; 0]);
    assert_eq!(large.on(Input::Offer(session(1), counterpart())), ["answer", "dial"]);
}

#[test]
fn a_python_endpoint_is_offered_to_once_and_its_connection_is_used_when_it_is_up() {
    let mut side = Side::new(1, 2);
    assert_eq!(side.on(Input::Wanted(session(7))), ["offer"]);
    assert_eq!(side.after(3 * REPEAT), [""; 0], "not known to be ours, so not again");
    assert_eq!(side.on(Input::Answer(session(7), python())), ["connect"]);
    assert_eq!(side.on(Input::Up(1)), ["use"]);
    assert_eq!(side.negotiation.in_use(), Some(1));
    assert!(!side.negotiation.is_trying());
}

#[test]
fn who_has_become_a_python_endpoint_is_offered_to_once() {
    let mut side = Side::new(2, 1);
    side.negotiation.repeat_offers();
    assert_eq!(side.on(Input::Offer(session(1), python())), ["answer", "connect"]);
    assert_eq!(side.on(Input::Up(1)), ["use"]);
    side.on(Input::Down(1));
    assert_eq!(side.on(Input::Wanted(session(2))), ["offer"]);
    assert_eq!(side.after(3 * REPEAT), [""; 0]);
}

#[test]
fn a_python_endpoint_that_was_not_reached_gets_no_offer_before_it_has_given_up() {
    let mut side = Side::new(1, 2);
    side.on(Input::Wanted(session(1)));
    side.on(Input::Answer(session(1), python()));
    assert_eq!(side.after(TIMEOUT), ["fail"]);
    side.now += PYTHON_HOLDS / 2;
    assert_eq!(side.on(Input::Wanted(session(2))), ["fail"]);
    side.now += PYTHON_HOLDS;
    assert_eq!(side.on(Input::Wanted(session(3))), ["offer"]);
    side.on(Input::Answer(session(3), python()));
    assert_eq!(side.after(TIMEOUT), ["fail"]);
    assert_eq!(
        side.on(Input::Offer(session(4), python())),
        ["answer", "connect"],
        "its own is another matter"
    );
    side.on(Input::Up(1));
    side.on(Input::Down(1));
    assert_eq!(side.on(Input::Wanted(session(5))), ["offer"], "the last attempt did not fail");
}

#[test]
fn of_two_offers_a_python_endpoints_stands() {
    let mut side = Side::new(1, 2);
    side.on(Input::Wanted(session(1)));
    assert_eq!(side.on(Input::Offer(session(2), python())), ["answer", "connect"]);
    assert_eq!(side.on(Input::Up(3)), ["use"]);
}

#[test]
fn a_restarted_python_endpoint_replaces_its_connection() {
    let mut side = Side::new(1, 2);
    side.on(Input::Offer(session(1), python()));
    side.on(Input::Up(1));
    assert_eq!(side.on(Input::Offer(session(2), python())), ["answer", "connect"]);
    assert_eq!(side.on(Input::Up(2)), ["use", "retire"]);
}

#[test]
fn a_silent_connection_serves_until_another_is_chosen() {
    let mut side = Side::new(1, 2);
    side.on(Input::Wanted(session(1)));
    side.on(Input::Up(1));
    assert_eq!(side.on(Input::Wanted(session(2))), ["offer"]);
    assert_eq!(side.negotiation.in_use(), Some(1));
    assert_eq!(side.on(Input::Up(2)), ["nominate", "use", "retire"]);
    assert_eq!(side.negotiation.in_use(), Some(2));
}

#[test]
fn a_restarted_peers_offer_is_answered_though_a_session_seems_open() {
    let mut side = Side::new(1, 2);
    side.on(Input::Wanted(session(1)));
    side.on(Input::Up(1));
    assert_eq!(side.on(Input::Offer(session(9), counterpart())), [""; 0], "made before it saw our offer");
    side.on(Input::Answer(session(1), counterpart()));
    assert_eq!(side.on(Input::Offer(session(2), counterpart())), ["answer", "dial"]);
    side.on(Input::Up(2));
    assert_eq!(side.on(Input::Nominated(2)), ["use", "retire"]);
}

#[test]
fn failures_say_how_far_it_came() {
    let stage_after = |inputs: Vec<Input>| {
        let mut side = Side::new(1, 2);
        inputs.into_iter().for_each(|input| drop(side.on(input)));
        side.now += TIMEOUT;
        match side.negotiation.handle(side.now, Input::Tick).pop() {
            Some(Action::Fail(Failure::Timeout(stage))) => stage,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(stage_after(vec![Input::Wanted(session(1))]), Stage::Unanswered);
    let answered = vec![Input::Wanted(session(1)), Input::Answer(session(1), counterpart())];
    assert_eq!(stage_after(answered), Stage::Unreachable);
    assert_eq!(stage_after(vec![Input::Offer(session(1), counterpart()), Input::Up(1)]), Stage::Undecided);
}

#[test]
fn a_rejection_ends_the_attempt_at_once() {
    let mut side = Side::new(1, 2);
    side.on(Input::Wanted(session(1)));
    assert_eq!(side.on(Input::Rejected(PeerError::Unknown("no such peer".into()))), ["fail"]);
    assert!(!side.negotiation.is_trying());
    assert_eq!(side.on(Input::Wanted(session(2))), ["offer"]);
}

fn no_relay() -> PeerError {
    PeerError::NoRelay("it is gone".into())
}

/// A side that knows where the peer was, and has made an offer.
fn acquainted(us: u128, peer: u128) -> Side {
    let mut side = Side::new(us, peer);
    side.negotiation.remember(Some(known()));
    assert_eq!(side.on(Input::Wanted(session(1))), ["offer"]);
    side
}

#[test]
fn while_the_relay_is_away_the_peer_is_dialled_where_it_was_last() {
    let mut side = acquainted(1, 2);
    assert_eq!(side.on(Input::Waiting), ["dial"]);
    assert_eq!(side.on(Input::Waiting), [""; 0], "once");
    assert_eq!(side.on(Input::Unreached), [""; 0], "the relay may come back");
    assert_eq!(side.after(REPEAT), ["offer"]);
    assert_eq!(side.on(Input::Answer(session(1), counterpart())), ["dial"], "it has");
    assert_eq!(side.on(Input::Up(1)), ["nominate", "use"]);

    let mut stranger = Side::new(1, 2);
    stranger.on(Input::Wanted(session(1)));
    assert_eq!(stranger.on(Input::Waiting), [""; 0], "nobody knows where it is");
}

#[test]
fn a_relay_that_is_silent_is_not_waited_for_either() {
    let mut side = acquainted(1, 2);
    assert_eq!(side.after(REPEAT), ["offer", "dial"]);
    assert_eq!(side.after(REPEAT), ["offer"]);
}

#[test]
fn an_offer_that_cannot_be_sent_is_the_end_only_where_nothing_can_be_dialled() {
    let rejected = |actions: Vec<Action>| match actions.last() {
        Some(Action::Fail(Failure::Rejected(error))) => error.to_string() == no_relay().to_string(),
        _ => false,
    };
    let mut stranger = Side::new(1, 2);
    stranger.on(Input::Wanted(session(1)));
    assert!(rejected(stranger.negotiation.handle(stranger.now, Input::Unsent(no_relay()))));

    let mut side = acquainted(1, 2);
    assert_eq!(side.on(Input::Unsent(no_relay())), ["dial"]);
    assert!(rejected(side.negotiation.handle(side.now, Input::Unreached)));

    let mut side = acquainted(1, 2);
    side.on(Input::Unsent(no_relay()));
    assert!(rejected(side.negotiation.handle(side.now + TIMEOUT, Input::Tick)));

    let mut side = acquainted(1, 2);
    side.on(Input::Unsent(no_relay()));
    assert_eq!(side.on(Input::Up(1)), ["nominate", "use"]);
}

#[test]
fn an_answer_that_cannot_be_sent_leaves_the_addresses_of_the_offer() {
    let mut side = Side::new(2, 1);
    side.on(Input::Offer(session(1), counterpart()));
    assert_eq!(side.on(Input::Unsent(no_relay())), [""; 0]);
    side.on(Input::Up(1));
    assert_eq!(side.on(Input::Unreached), [""; 0], "one was reached");
    assert_eq!(side.on(Input::Nominated(1)), ["use"]);
    assert_eq!(side.on(Input::Unsent(no_relay())), [""; 0], "nothing depends on it");
}

#[test]
fn of_two_nominations_at_once_the_smaller_ids_stands() {
    let choosing = |us, peer| {
        let mut side = acquainted(us, peer);
        side.on(Input::Waiting);
        assert_eq!(side.on(Input::Up(us as ConnectionId)), ["nominate", "use"]);
        side.on(Input::Up(peer as ConnectionId));
        side
    };
    let (mut small, mut large) = (choosing(1, 2), choosing(2, 1));
    assert_eq!(large.on(Input::Nominated(1)), ["use", "retire"]);
    assert_eq!(small.on(Input::Nominated(2)), [""; 0]);
    assert_eq!(small.negotiation.in_use(), large.negotiation.in_use());
    small.now += CLASH;
    assert_eq!(small.on(Input::Nominated(2)), ["use", "retire"], "the peer has replaced it");
}

#[test]
fn a_choice_of_the_peer_counts_where_our_own_is_gone() {
    let mut small = acquainted(1, 2);
    small.on(Input::Up(1));
    small.on(Input::Up(2));
    small.on(Input::Down(1));
    assert_eq!(small.on(Input::Nominated(2)), ["use"]);
}

#[test]
fn an_offer_that_waited_for_the_relay_ends_when_the_choice_is_repeated() {
    let (mut side, mut peer) = (acquainted(1, 2), Side::new(2, 1));
    side.on(Input::Waiting);
    side.on(Input::Up(7));
    peer.on(Input::Up(7));
    assert_eq!(peer.on(Input::Nominated(7)), ["use"]);
    assert_eq!(peer.on(Input::Offer(session(1), counterpart())), ["answer", "dial"]);
    peer.on(Input::Up(8));
    assert_eq!(side.on(Input::Answer(session(1), counterpart())), ["nominate"]);
    assert_eq!(peer.on(Input::Nominated(7)), [""; 0]);
    assert!(!peer.negotiation.is_trying());
    assert_eq!(peer.after(SPARE_GRACE), ["close"], "what came of the answer");
}

/// What is on its way from one side to the other.
#[derive(Debug, Clone)]
enum Letter {
    Offer(SessionId),
    Answer(SessionId),
    Nomination(ConnectionId),
}

/// Two sides, each with its letters on the way and the connections that are about to come up at either.
struct World {
    sides: [Side; 2],
    letters: [VecDeque<Letter>; 2],
    /// What waits at each side for a relay that is away; none while it is there.
    held: Option<[VecDeque<Letter>; 2]>,
    rising: [VecDeque<ConnectionId>; 2],
    connections: ConnectionId,
    next_session: u64,
}

impl World {
    fn new() -> Self {
        Self {
            sides: [Side::new(1, 2), Side::new(2, 1)],
            letters: Default::default(),
            held: None,
            rising: Default::default(),
            connections: 0,
            next_session: 0,
        }
    }

    fn input(&mut self, at: usize, input: Input) {
        let now = self.sides[at].now;
        for action in self.sides[at].negotiation.handle(now, input) {
            match action {
                Action::SendOffer(session) => self.send(at, Letter::Offer(session)),
                Action::SendAnswer(session) => self.send(at, Letter::Answer(session)),
                Action::Nominate(connection) => {
                    self.letters[1 - at].push_back(Letter::Nomination(connection))
                }
                Action::Dial(_) => {
                    self.connections += 1;
                    self.rising.iter_mut().for_each(|rising| rising.push_back(self.connections));
                }
                Action::Fail(failure) => panic!("{failure:?}"),
                Action::ConnectPython(_) => panic!("both are of this project"),
                Action::Use(_) | Action::Retire(_) | Action::Close(_) => {}
            }
        }
    }

    fn send(&mut self, at: usize, letter: Letter) {
        match &mut self.held {
            None => self.letters[1 - at].push_back(letter),
            Some(held) => {
                held[at].push_back(letter);
                self.input(at, Input::Waiting);
            }
        }
    }

    /// Two sides that know each other, whose relay goes away.
    fn without_relay() -> Self {
        let mut world = Self { held: Some(Default::default()), ..Self::new() };
        for side in &mut world.sides {
            side.negotiation.remember(Some(known()));
        }
        world
    }

    fn relay_comes_back(&mut self) {
        for (at, held) in self.held.take().into_iter().flatten().enumerate() {
            self.letters[1 - at].extend(held);
        }
    }

    /// Lets everything happen that is to happen; then both sides use the same connection and want no other.
    fn comes_to_agree(&mut self) -> Result<(), TestCaseError> {
        while !self.is_quiet() {
            (0..2).for_each(|at| self.step(at, false));
        }
        let [a, b] = self.sides.each_ref().map(|side| &side.negotiation);
        prop_assert!(a.in_use().is_some());
        prop_assert_eq!(a.in_use(), b.in_use());
        prop_assert!(!a.is_trying() && !b.is_trying());
        Ok(())
    }

    fn want(&mut self, at: usize) {
        self.next_session += 1;
        self.input(at, Input::Wanted(session(self.next_session)));
    }

    /// Lets one thing happen at one side; `late` picks which kind first.
    fn step(&mut self, at: usize, late: bool) {
        if (late || self.letters[at].is_empty())
            && let Some(connection) = self.rising[at].pop_front()
        {
            return self.input(at, Input::Up(connection));
        }
        match self.letters[at].pop_front() {
            Some(Letter::Offer(session)) => self.input(at, Input::Offer(session, counterpart())),
            Some(Letter::Answer(session)) => self.input(at, Input::Answer(session, counterpart())),
            Some(Letter::Nomination(connection)) => {
                // A nomination travels on the connection, so the connection is up by then.
                if let Some(index) = self.rising[at].iter().position(|rising| *rising == connection) {
                    self.rising[at].remove(index);
                    self.input(at, Input::Up(connection));
                }
                self.input(at, Input::Nominated(connection));
            }
            None => {}
        }
    }

    fn is_quiet(&self) -> bool {
        (0..2).all(|at| self.letters[at].is_empty() && self.rising[at].is_empty())
    }
}

proptest! {
    #[test]
    fn both_sides_come_to_use_the_same_connection(
        wants in proptest::collection::vec(any::<bool>(), 1..4),
        steps in proptest::collection::vec(any::<(bool, bool)>(), 0..60),
    ) {
        let mut world = World::new();
        wants.into_iter().for_each(|second| world.want(usize::from(second)));
        steps.into_iter().for_each(|(second, late)| world.step(usize::from(second), late));
        world.comes_to_agree()?;
    }

    #[test]
    fn they_do_without_a_relay_as_well_and_when_it_comes_back(
        wants in proptest::collection::vec(any::<bool>(), 1..4),
        steps in proptest::collection::vec(any::<(bool, bool)>(), 0..60),
        later in proptest::collection::vec(any::<(bool, bool)>(), 0..60),
        rest in any::<bool>(),
    ) {
        let mut world = World::without_relay();
        wants.into_iter().for_each(|second| world.want(usize::from(second)));
        steps.into_iter().for_each(|(second, late)| world.step(usize::from(second), late));
        if rest {
            world.comes_to_agree()?;
        }
        world.relay_comes_back();
        later.into_iter().for_each(|(second, late)| world.step(usize::from(second), late));
        world.comes_to_agree()?;
    }
}

#[test]
fn an_unanswered_offer_is_made_again_to_peers_that_bear_it() {
    let mut side = Side::new(1, 2);
    side.negotiation.repeat_offers();
    assert_eq!(side.on(Input::Wanted(session(1))), ["offer"]);
    assert_eq!(side.after(REPEAT), ["offer"]);
    assert_eq!(side.after(REPEAT), ["offer"]);
    assert_eq!(side.on(Input::Answer(session(1), counterpart())), ["dial"]);
    assert!(side.after(REPEAT).is_empty(), "answered");
    let mut python = Side::new(1, 2);
    python.on(Input::Wanted(session(1)));
    assert!(python.after(REPEAT).is_empty(), "a Python endpoint must get one offer only");
}

#[test]
fn an_offer_that_was_answered_is_only_answered_again() {
    let mut side = Side::new(2, 1);
    assert_eq!(side.on(Input::Offer(session(5), counterpart())), ["answer", "dial"]);
    assert_eq!(side.on(Input::Offer(session(5), counterpart())), ["answer"]);
    side.on(Input::Nominated(7));
    assert_eq!(side.on(Input::Offer(session(5), counterpart())), ["answer"]);
}
