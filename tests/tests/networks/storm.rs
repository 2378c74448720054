//! A minute of faults at random under a constant load: nothing that was acknowledged is lost, nothing is corrupted, no
//! request hangs, and afterwards nothing is left over.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::future::try_join_all;
use proxystore_tests::net::{self, Endpoint, Nat, Pair, Site};
use proxystore_tests::{PATIENCE, noise};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::{Instant, sleep};

/// How long faults of one kind go on; there are two kinds.
const SPELL: Duration = Duration::from_secs(30);

/// Who puts and gets, each one request at a time.
const WORKERS: u64 = 6;

/// Largest object: two groups of 1 MiB and a bit.
const LARGEST: usize = 2_500_000;

/// Open files and tasks more than before that are no leak: connections which clients keep for their next request, each
/// of them a file and a task.
const SPARE: usize = 2 * WORKERS as usize;

/// Tasks of the relay more than before that are no leak: clients have one each, and one that was cut off is not missed
/// before it has been silent for a while.
const RELAY_SPARE: usize = 4;

/// An object that was acknowledged: where it is, and what makes its bytes.
#[derive(Debug, Clone)]
struct Stored {
    at_b: bool,
    name: String,
    len: usize,
    seed: u64,
}

/// What workers share.
struct Load<'a> {
    pair: &'a Pair,
    acknowledged: Mutex<Vec<Stored>>,
    over: AtomicBool,
}

impl Load<'_> {
    fn site(&self, b: bool) -> &Site {
        if b { &self.pair.b } else { &self.pair.a }
    }

    /// Puts and gets until it is over. Requests may fail; those that succeed must have done what they say.
    async fn work(&self, worker: u64) -> Result<()> {
        let mut random = StdRng::seed_from_u64(worker);
        for n in 0.. {
            if self.over.load(Ordering::Relaxed) {
                break;
            }
            let through = self.site(random.random());
            let known = self.known(&mut random);
            let result = match known.filter(|_| random.random()) {
                Some(stored) => self.fetch(through, &stored).await,
                None => {
                    let name = format!("{worker}-{n}");
                    let len = random.random_range(1..LARGEST);
                    self.store(through, Stored { at_b: random.random(), name, len, seed: random.random() })
                        .await
                }
            };
            if let Err(error) = result {
                ensure!(!net::hung(&error), "a request hung: {error:#}");
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    fn list(&self) -> MutexGuard<'_, Vec<Stored>> {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, random: &mut StdRng) -> Option<Stored> {
        let acknowledged = self.list();
        (!acknowledged.is_empty()).then(|| acknowledged[random.random_range(0..acknowledged.len())].clone())
    }

    async fn store(&self, through: &Site, object: Stored) -> Result<()> {
        let at = self.site(object.at_b).endpoint.id;
        through.endpoint.put(&object.name, Some(at), noise(object.len, object.seed)).await?;
        self.list().push(object);
        Ok(())
    }

    async fn fetch(&self, through: &Site, object: &Stored) -> Result<()> {
        let at = self.site(object.at_b).endpoint.id;
        let fetched = through.endpoint.get(&object.name, Some(at)).await?;
        assert!(fetched.bytes == noise(object.len, object.seed), "{object:?} is corrupted");
        Ok(())
    }
}

/// One fault after the other until `end`, each repaired before the next.
async fn faults(pair: &Pair, random: &mut StdRng, end: Instant, kinds: u32) -> Result<()> {
    while Instant::now() < end {
        let site = if random.random() { &pair.a } else { &pair.b };
        let duration = Duration::from_millis(random.random_range(100..3000));
        match random.random_range(0..kinds) {
            0 => {
                site.ground.plug.pull()?;
                sleep(duration).await;
                site.ground.plug.push()?;
            }
            1 => site.ground.routers[0].reboot()?,
            2 => {
                pair.relay.kill();
                sleep(duration).await;
                pair.relay.restart().await?;
            }
            _ => {
                site.endpoint.kill();
                sleep(duration).await;
                site.endpoint.restart().await?;
            }
        }
        sleep(duration).await;
    }
    Ok(())
}

/// Links and the relay fail.
const NETWORK: u32 = 3;

/// Endpoints are killed as well.
const EVERYTHING: u32 = 4;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_in_a_storm() -> Result<()> {
    if !net::possible() {
        return Ok(());
    }
    let pair = Pair::with("").a(Nat::PortRestricted).b(Nat::PortRestricted).start().await?;
    for kinds in [NETWORK, EVERYTHING] {
        storm(&pair, kinds).await.with_context(|| pair.logs())?;
    }
    Ok(())
}

async fn storm(pair: &Pair, kinds: u32) -> Result<()> {
    let load = Load { pair, acknowledged: Mutex::default(), over: AtomicBool::new(false) };
    for site in [&pair.a, &pair.b] {
        // Sessions are open before anything is counted.
        site.endpoint.put("first", Some(pair.a.endpoint.id), noise(1000, 0)).await?;
        site.endpoint.put("first", Some(pair.b.endpoint.id), noise(1000, 0)).await?;
    }
    let before = Left::by(pair).await?;
    let mut random = StdRng::seed_from_u64(kinds.into());
    let weather = async {
        let result = faults(pair, &mut random, Instant::now() + SPELL, kinds).await;
        load.over.store(true, Ordering::Relaxed);
        result
    };
    let (happened, worked) =
        tokio::join!(weather, try_join_all((0..WORKERS).map(|worker| load.work(worker))));
    happened.context("a fault")?;
    worked?;
    pair.registered().await?;
    let acknowledged = load.list().clone();
    println!("{} puts were acknowledged", acknowledged.len());
    ensure!(acknowledged.len() > 20, "only {} puts succeeded", acknowledged.len());
    for object in &acknowledged {
        let at = load.site(object.at_b);
        load.fetch(at, object).await.with_context(|| format!("{object:?} is lost"))?;
    }
    settled(pair, before).await
}

/// What programs leave when they have a leak: open files of both endpoints, tasks of both and of the relay.
#[derive(Debug, Clone, Copy)]
struct Left {
    files: [usize; 2],
    tasks: [usize; 2],
    relay_tasks: usize,
}

impl Left {
    async fn by(pair: &Pair) -> Result<Self> {
        let (a, b) = (&pair.a.endpoint, &pair.b.endpoint);
        let files = |endpoint: &Endpoint| endpoint.process(|process| process.descriptors());
        Ok(Self {
            files: [files(a)?, files(b)?],
            tasks: [a.tasks().await?, b.tasks().await?],
            relay_tasks: pair.relay.tasks().await?,
        })
    }

    fn is_as_little_as(&self, before: &Self) -> bool {
        let few = |now: [usize; 2], before: [usize; 2]| (0..2).all(|at| now[at] <= before[at] + SPARE);
        few(self.files, before.files)
            && few(self.tasks, before.tasks)
            && self.relay_tasks <= before.relay_tasks + RELAY_SPARE
    }
}

/// Waits until nothing is left of the storm.
async fn settled(pair: &Pair, before: Left) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = Left::by(pair).await?;
        if left.is_as_little_as(&before) {
            println!("before {before:?}, after {left:?}");
            return Ok(());
        }
        if Instant::now() > deadline {
            let sockets = [&pair.a, &pair.b].map(|site| site.ground.host.output("ss", &["-tuanp"]));
            bail!("before {before:?}, after {left:?}\n{sockets:?}");
        }
        sleep(Duration::from_millis(100)).await;
    }
}
