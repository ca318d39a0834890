//! What everybody in a simulation shares: the dice, the weather, and who lives.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;
use wire::id::{BootId, BrickId, NodeId};
use wire::net::{Fate, Identity, Weather};

use crate::brick::lock;

/// Numbers from a seed: SplitMix64.
#[derive(Debug)]
pub struct Dice(Mutex<u64>);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(Mutex::new(seed))
    }

    pub fn next(&self) -> u64 {
        let mut state = lock(&self.0);
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = *state;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// Below `n`.
    pub fn below(&self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    pub fn one_in(&self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn ms(&self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from + 1))
    }
}

/// One brick's process.
#[derive(Debug, Clone, Copy)]
pub struct Life {
    pub boot: BootId,
    pub born: Instant,
    pub alive: bool,
    /// When the life before this one ended.
    pub last_end: Option<Instant>,
}

/// A process that may stand still, as under SIGSTOP, or end, as under SIGKILL.
#[derive(Debug, Default)]
pub struct Process {
    frozen: AtomicBool,
    dead: AtomicBool,
    next: AtomicU64,
    /// Of all work in it, in the order it began.
    wakers: Mutex<BTreeMap<u64, Waker>>,
}

impl Process {
    pub fn freeze(&self, frozen: bool) {
        self.frozen.store(frozen, Ordering::Relaxed);
        self.wake();
    }

    pub fn kill(&self) {
        self.dead.store(true, Ordering::Relaxed);
        self.wake();
    }

    fn wake(&self) {
        let wakers: Vec<Waker> = lock(&self.wakers).values().cloned().collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Lets `work` go on only while the process lives and is not frozen. Work of a dead process
    /// ends in a panic that nobody hears of but the transport, which takes it for a lost call.
    pub async fn subject<T>(self: Arc<Self>, work: impl Future<Output = T>) -> T {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let _gone = Gone(&self, number);
        let mut work = std::pin::pin!(work);
        std::future::poll_fn(|cx| {
            if self.dead.load(Ordering::Relaxed) {
                std::panic::resume_unwind(Box::new("killed"));
            }
            let done = match self.frozen.load(Ordering::Relaxed) {
                true => std::task::Poll::Pending,
                false => work.as_mut().poll(cx),
            };
            if done.is_pending() {
                let mut wakers = lock(&self.wakers);
                match wakers.get_mut(&number) {
                    Some(waker) => waker.clone_from(cx.waker()),
                    None => drop(wakers.insert(number, cx.waker().clone())),
                }
            }
            done
        })
        .await
    }
}

struct Gone<'a>(&'a Process, u64);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        lock(&self.0.wakers).remove(&self.1);
    }
}

/// See the module's head.
#[derive(Debug)]
pub struct World {
    pub dice: Dice,
    steps: AtomicU64,
    /// Of everything that happened, to compare two runs.
    trace: AtomicU64,
    fair: AtomicBool,
    cut: Mutex<BTreeSet<NodeId>>,
    /// Those that only can't reach each other.
    parted: Mutex<BTreeSet<[NodeId; 2]>>,
    /// Bricks whose disks take long for everything.
    slow: Mutex<BTreeSet<BrickId>>,
    addresses: Mutex<BTreeMap<u64, NodeId>>,
    lives: Mutex<BTreeMap<BrickId, Life>>,
    /// Who serves in the chain, and since when.
    serving: Mutex<BTreeMap<BrickId, Instant>>,
    /// The heads there were, and since which epoch of the chain.
    heads: Mutex<Vec<(u64, Option<BrickId>)>>,
    /// How often a brick lost its memory, or served again without it.
    pub crashes: AtomicU64,
}

impl World {
    pub fn new(seed: u64) -> Arc<World> {
        Arc::new(World {
            dice: Dice::new(seed),
            steps: AtomicU64::new(0),
            trace: AtomicU64::new(seed),
            fair: AtomicBool::new(false),
            cut: Mutex::default(),
            parted: Mutex::default(),
            slow: Mutex::default(),
            addresses: Mutex::default(),
            lives: Mutex::default(),
            serving: Mutex::default(),
            heads: Mutex::default(),
            crashes: AtomicU64::new(0),
        })
    }

    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// Something happened.
    pub fn step(&self, what: u64) {
        self.steps.fetch_add(1, Ordering::Relaxed);
        self.note(what);
    }

    pub fn note(&self, what: u64) {
        let trace = self.trace.load(Ordering::Relaxed);
        self.trace.store((trace ^ what).wrapping_mul(0x0100_0000_01b3).rotate_left(17), Ordering::Relaxed);
    }

    pub fn trace(&self) -> u64 {
        self.trace.load(Ordering::Relaxed)
    }

    pub fn be_fair(&self) {
        self.fair.store(true, Ordering::Relaxed);
    }

    pub fn is_fair(&self) -> bool {
        self.fair.load(Ordering::Relaxed)
    }

    pub fn cut(&self, node: NodeId, cut: bool) {
        let mut all = lock(&self.cut);
        if cut {
            all.insert(node)
        } else {
            all.remove(&node)
        };
    }

    /// Two can't reach each other, though others can reach both; or only the first can't reach the second.
    pub fn part(&self, a: NodeId, b: NodeId, both_ways: bool) {
        let mut all = lock(&self.parted);
        all.insert([a, b]);
        if both_ways {
            all.insert([b, a]);
        }
    }

    pub fn join(&self, a: NodeId, b: NodeId) {
        lock(&self.parted).retain(|pair| *pair != [a, b] && *pair != [b, a]);
    }

    pub fn slow_down(&self, brick: BrickId, slow: bool) {
        let mut all = lock(&self.slow);
        if slow {
            all.insert(brick)
        } else {
            all.remove(&brick)
        };
    }

    pub fn at_address(&self, number: u64, node: NodeId) {
        lock(&self.addresses).insert(number, node);
    }

    /// Nobody answers there any more.
    pub fn no_address(&self, number: u64) {
        lock(&self.addresses).remove(&number);
    }

    pub fn crash_count(&self) -> u64 {
        self.crashes.load(Ordering::Relaxed)
    }

    pub fn born(&self, brick: BrickId, boot: BootId) {
        let mut lives = lock(&self.lives);
        let last_end = lives.get(&brick).map(|_| Instant::now());
        let last_end = lives.get(&brick).and_then(|life| life.last_end).or(last_end);
        lives.insert(brick, Life { boot, born: Instant::now(), alive: true, last_end });
    }

    pub fn died(&self, brick: BrickId) {
        if let Some(life) = lock(&self.lives).get_mut(&brick) {
            life.alive = false;
            life.last_end = Some(Instant::now());
        }
        self.crashes.fetch_add(1, Ordering::Relaxed);
    }

    /// A brick that lost its memory serves what it is left with: what was lost is seen to be.
    pub fn loss_shows(&self) {
        self.crashes.fetch_add(1, Ordering::Relaxed);
    }

    pub fn life(&self, brick: BrickId) -> Option<Life> {
        lock(&self.lives).get(&brick).copied()
    }

    /// The map says who serves now, the head first, and since which epoch of the chain.
    pub fn serving(&self, epoch: u64, now: &[BrickId]) {
        let (mut heads, head) = (lock(&self.heads), now.first().copied());
        if heads.last().is_none_or(|(_, last)| *last != head) {
            heads.push((epoch, head));
        }
        let mut serving = lock(&self.serving);
        serving.retain(|brick, _| now.contains(brick));
        for brick in now {
            serving.entry(*brick).or_insert_with(Instant::now);
        }
    }

    /// Which head, of all there were, an epoch of the chain had.
    pub fn tenure(&self, epoch: u64) -> u64 {
        lock(&self.heads).iter().filter(|(since, _)| *since <= epoch).count() as u64
    }

    /// Whether a brick lives in that life and has served without a break since `since`.
    pub fn kept(&self, brick: BrickId, boot: BootId, since: Instant) -> bool {
        let same = self.life(brick).is_some_and(|life| life.alive && life.boot == boot);
        same && lock(&self.serving).get(&brick).is_some_and(|at| *at <= since)
    }

    /// How long a piece of work of a brick's store takes.
    pub fn disk_delay(&self, brick: BrickId) -> Duration {
        self.step(1);
        if lock(&self.slow).contains(&brick) {
            return self.dice.ms(20, 900);
        }
        match self.dice.below(64) {
            0 => self.dice.ms(5, 60),
            1..=8 => self.dice.ms(1, 3),
            _ => Duration::ZERO,
        }
    }
}

/// The weather as a part of the world.
pub struct Sky(pub Arc<World>);

impl Weather for Sky {
    fn fate(&self, from: &Identity, to: u64) -> Fate {
        let world = &self.0;
        world.step(to << 8 | u64::from(from.node.0[0]));
        let dice = &world.dice;
        let is_cut = {
            let cut = lock(&world.cut);
            let target = lock(&world.addresses).get(&to).copied();
            let parted = |node: NodeId| lock(&world.parted).contains(&[from.node, node]);
            cut.contains(&from.node) || target.is_some_and(|node| cut.contains(&node) || parted(node))
        };
        if !lock(&world.addresses).contains_key(&to) {
            // Nobody listens there any more.
            return Fate { arrives_after: None, breaks_after: Some(Duration::ZERO), ..Fate::default() };
        }
        let quick = |dice: &Dice| match dice.below(8) {
            0 => dice.ms(1, 3),
            _ => Duration::ZERO,
        };
        if is_cut {
            return Fate { arrives_after: None, breaks_after: Some(dice.ms(1, 3000)), ..Fate::default() };
        }
        let fine = Fate { arrives_after: Some(quick(dice)), reply_after: quick(dice), breaks_after: None };
        if world.is_fair() {
            return fine;
        }
        match dice.below(400) {
            // Lost; the caller learns it sooner or later.
            0 => Fate { arrives_after: None, breaks_after: Some(dice.ms(1, 2000)), ..fine },
            // The connection breaks, and the request comes all the same, late.
            1 => Fate { arrives_after: Some(dice.ms(1, 6000)), breaks_after: Some(dice.ms(0, 200)), ..fine },
            // The reply is lost.
            2 => Fate { reply_after: dice.ms(100, 3000), breaks_after: Some(dice.ms(0, 100)), ..fine },
            3..=10 => Fate { arrives_after: Some(dice.ms(1, 300)), ..fine },
            11..=18 => Fate { reply_after: dice.ms(1, 300), ..fine },
            _ => fine,
        }
    }
}
