//! The policy with a clock of its own.

use proptest::prelude::*;

use super::*;

const RELAYED: PathId = PathId::ZERO;
const RELAYED_AGAIN: u32 = 7;

fn path(number: u32) -> PathId {
    PathId::from(number)
}

const MS: Duration = Duration::from_millis(1);

/// A policy and a network that answers, or does not.
struct World {
    policy: PathPolicy,
    now: Instant,
    counters: BTreeMap<PathId, Measured>,
    dead: Vec<PathId>,
}

impl World {
    fn new(leads: bool) -> Self {
        let now = Instant::now();
        let policy = PathPolicy::new(leads, true, now);
        Self { policy, now, counters: BTreeMap::new(), dead: Vec::new() }
    }

    fn tell(&mut self, input: Input) -> Vec<Action> {
        let actions = self.policy.handle(self.now, input);
        for action in &actions {
            if let Action::Close(path) = action {
                self.counters.remove(path);
            }
        }
        actions
    }

    fn open(&mut self, path: PathId, kind: Kind, round_trip: Duration) -> Vec<Action> {
        let measured = Measured { sent: 0, received: 0, round_trip };
        self.counters.insert(path, measured);
        self.tell(Input::Opened(path, kind, measured))
    }

    /// Both sides send on every path for a while.
    fn run(&mut self, time: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        let end = self.now + time;
        while self.now < end {
            self.now += 25 * MS;
            for path in self.counters.keys().copied().collect::<Vec<_>>() {
                let Some(counters) = self.counters.get_mut(&path) else { continue };
                counters.sent += 1;
                counters.received += u64::from(!self.dead.contains(&path));
                let counters = *counters;
                actions.extend(self.tell(Input::Measured(path, counters)));
            }
            actions.extend(self.tell(Input::Tick));
        }
        actions
    }
}

#[test]
fn a_direct_path_takes_over_from_the_relay_at_once() {
    let mut world = World::new(true);
    assert!(world.open(RELAYED, Kind::Relayed, 80 * MS).contains(&Action::Prefer(RELAYED)));
    assert!(world.tell(Input::Candidates).contains(&Action::StartRound));
    assert!(world.open(path(1), Kind::Direct, 90 * MS).contains(&Action::Prefer(path(1))));
    let later = world.run(Duration::from_secs(120));
    assert!(later.is_empty(), "nothing to do any more: {later:?}");
}

#[test]
fn a_stalled_path_is_closed_and_looked_for_again() {
    let mut world = World::new(true);
    world.open(RELAYED, Kind::Relayed, 80 * MS);
    world.open(path(1), Kind::Direct, 10 * MS);
    world.run(Duration::from_secs(10));
    world.dead.push(path(1));
    let actions = world.run(400 * MS);
    let position = |wanted| actions.iter().position(|action| *action == wanted);
    let (ping, close) = (position(Action::Ping(path(1))), position(Action::Close(path(1))));
    assert!(ping.is_some() && ping < close, "{actions:?}");
    assert_eq!(world.policy.in_use(), Some(RELAYED));
    let again = world.run(Duration::from_secs(1));
    assert!(again.contains(&Action::StartRound), "{again:?}");
    world.open(path(2), Kind::Direct, 10 * MS);
    assert_eq!(world.policy.in_use(), Some(path(2)));
}

#[test]
fn a_path_on_which_only_the_peer_is_silent_for_lack_of_work_is_kept() {
    let mut world = World::new(true);
    world.open(RELAYED, Kind::Relayed, 80 * MS);
    world.open(path(1), Kind::Direct, 10 * MS);
    let mut measured = Measured { sent: 5, received: 5, round_trip: 10 * MS };
    world.tell(Input::Measured(path(1), measured));
    measured.sent = 6;
    for _ in 0..400 {
        world.now += 25 * MS;
        let actions = world.tell(Input::Measured(path(1), measured));
        assert!(!actions.contains(&Action::Close(path(1))));
        // The answer to the ping, and an acknowledgement of ours.
        if actions.contains(&Action::Ping(path(1))) {
            measured.received += 1;
            measured.sent += 1;
        }
    }
}

/// All that it sends is acknowledged over the path in use.
#[test]
fn a_spare_path_through_the_relay_is_suspected_but_kept() {
    for leads in [true, false] {
        let mut world = World::new(leads);
        world.open(RELAYED, Kind::Relayed, 80 * MS);
        world.open(path(1), Kind::Direct, 10 * MS);
        world.dead.push(RELAYED);
        let actions = world.run(Duration::from_secs(25));
        assert_eq!(actions, [Action::Ping(RELAYED), Action::CheckRelay]);
    }
}

#[test]
fn a_direct_path_that_stalls_while_the_relay_is_suspected_is_looked_for_again() {
    let mut world = World::new(true);
    world.open(RELAYED, Kind::Relayed, 80 * MS);
    world.open(path(1), Kind::Direct, 10 * MS);
    world.dead.push(RELAYED);
    assert!(world.run(RELAYED_STALL + 500 * MS).contains(&Action::CheckRelay));
    world.dead.push(path(1));
    assert!(world.run(Duration::from_secs(2)).contains(&Action::StartRound));
}

#[test]
fn a_path_that_is_slow_because_it_is_used_is_not_left() {
    let mut world = World::new(true);
    world.open(path(1), Kind::Direct, 10 * MS);
    world.open(path(2), Kind::Direct, 10 * MS);
    let busy = Measured { sent: 9, received: 9, round_trip: 60 * MS };
    assert!(world.tell(Input::Measured(path(1), busy)).is_empty());
    let slower = Measured { sent: 1, received: 1, round_trip: 11 * MS };
    assert!(world.tell(Input::Measured(path(2), slower)).is_empty());
    assert_eq!(world.policy.in_use(), Some(path(1)));
}

#[test]
fn the_only_path_is_kept_however_silent() {
    let mut world = World::new(true);
    world.open(path(1), Kind::Direct, 10 * MS);
    world.dead.push(path(1));
    let actions = world.run(Duration::from_secs(20));
    assert!(!actions.contains(&Action::Close(path(1))));
    assert!(actions.contains(&Action::OpenRelayed) && actions.contains(&Action::StartRound));
}

#[test]
fn rounds_become_rare() {
    let mut world = World::new(true);
    world.open(RELAYED, Kind::Relayed, 80 * MS);
    world.tell(Input::Candidates);
    let rounds =
        world.run(Duration::from_secs(300)).into_iter().filter(|it| *it == Action::StartRound).count();
    assert!((6..=10).contains(&rounds), "{rounds} rounds in five minutes");
}

#[test]
fn equal_paths_are_not_swapped_and_the_superfluous_one_is_closed() {
    let mut world = World::new(true);
    world.open(path(1), Kind::Direct, 20 * MS);
    world.open(path(2), Kind::Direct, 18 * MS);
    assert_eq!(world.policy.in_use(), Some(path(1)));
    let actions = world.run(Duration::from_secs(6));
    assert!(actions.contains(&Action::Close(path(2))));
    assert!(!actions.iter().any(|action| matches!(action, Action::Prefer(_))));
}

#[test]
fn a_clearly_faster_path_is_taken() {
    let mut world = World::new(true);
    world.open(path(1), Kind::Direct, 60 * MS);
    world.open(path(2), Kind::Direct, 10 * MS);
    assert_eq!(world.policy.in_use(), Some(path(2)));
}

#[test]
fn the_follower_uses_what_the_leader_declares() {
    let mut world = World::new(false);
    world.open(RELAYED, Kind::Relayed, 80 * MS);
    world.tell(Input::PeerPrefers(path(2)));
    world.open(path(1), Kind::Direct, 10 * MS);
    world.open(path(2), Kind::Direct, 40 * MS);
    assert_eq!(world.policy.in_use(), Some(path(2)));
    world.tell(Input::PeerPrefers(RELAYED));
    assert_eq!(world.policy.in_use(), Some(RELAYED));
    world.tell(Input::Closed(RELAYED));
    assert!(world.policy.in_use().is_some(), "it chooses itself when the declared path is gone");
    assert!(
        !world
            .run(Duration::from_secs(60))
            .iter()
            .any(|it| matches!(it, Action::StartRound | Action::OpenRelayed))
    );
}

#[test]
fn after_an_outage_the_relayed_path_is_replaced() {
    let mut world = World::new(true);
    world.open(RELAYED, Kind::Relayed, 80 * MS);
    world.tell(Input::Relay(false));
    world.run(Duration::from_secs(2));
    assert!(world.tell(Input::Relay(true)).contains(&Action::OpenRelayed));
    let actions = world.open(path(RELAYED_AGAIN), Kind::Relayed, 80 * MS);
    assert!(actions.contains(&Action::Close(RELAYED)));
    assert_eq!(world.policy.in_use(), Some(path(RELAYED_AGAIN)));
}

#[test]
fn a_path_through_a_relay_that_is_gone_is_closed_once_there_is_a_direct_one() {
    for leads in [true, false] {
        let mut world = World::new(leads);
        world.open(RELAYED, Kind::Relayed, 80 * MS);
        assert!(!world.tell(Input::Relay(false)).contains(&Action::Close(RELAYED)), "it is the only one");
        assert_eq!(world.policy.in_use(), Some(RELAYED));
        let actions = world.open(path(1), Kind::Direct, 20 * MS);
        assert!(actions.contains(&Action::Close(RELAYED)) && actions.contains(&Action::Prefer(path(1))));
        let actions = world.tell(Input::Relay(true));
        assert_eq!(actions.contains(&Action::OpenRelayed), leads);
    }
}

proptest! {
    /// Whatever happens, the path in use is one that is open, and there is one while any is.
    #[test]
    fn the_path_in_use_is_open(leads: bool, events in proptest::collection::vec((0u8..7, 0u32..4, 0u64..2000), 0..200)) {
        let mut now = Instant::now();
        let mut policy = PathPolicy::new(leads, false, now);
        let mut open = std::collections::BTreeSet::new();
        for (event, number, value) in events {
            let id = path(number);
            let measured = Measured { sent: value, received: value / 2, round_trip: Duration::from_millis(value) };
            let input = match event {
                0 if open.contains(&id) => continue,
                0 => {
                    open.insert(id);
                    Input::Opened(id, if value % 2 == 0 { Kind::Direct } else { Kind::Relayed }, measured)
                }
                1 => {
                    open.remove(&id);
                    Input::Closed(id)
                }
                2 => Input::PeerPrefers(id),
                3 => Input::Measured(id, measured),
                4 => Input::Relay(value % 2 == 0),
                5 => Input::Candidates,
                _ => {
                    now += Duration::from_millis(value);
                    Input::Tick
                }
            };
            for action in policy.handle(now, input) {
                if let Action::Close(closed) = action {
                    open.remove(&closed);
                }
                prop_assert!(leads || !matches!(action, Action::StartRound | Action::OpenRelayed));
            }
            prop_assert_eq!(policy.in_use().is_some(), !open.is_empty());
            prop_assert!(policy.in_use().is_none_or(|path| open.contains(&path)));
        }
    }
}
