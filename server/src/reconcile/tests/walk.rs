//! A long random walk: clients, guests, a host that does wrong, time, crashes and stops, all drawn by
//! dice, against the real reconciler, real SQLite files and a simulated host. After every few steps
//! the rows and the host are compared with what always holds (the invariants of ARCHITECTURE.md) and
//! with what the holder of each lease may expect (`holder.rs`); now and then everything is made well
//! and the server must come to rest (`rest.rs`); in the end nothing may be left.
//!
//! Time moves only when a step lets it: Tokio's clock is paused and the server's clock is read from
//! it. What is not in hand is when SQLite's threads answer. A seed therefore draws the same steps
//! again, while what meets what in between may differ; who looks for a fault runs the same seed a few
//! times. A failure tells the last steps.
//!
//! Not among the faults is a host that shows nothing although everything runs: it is believed, as
//! there is nobody else to ask.

mod checks;
mod dice;
mod holder;
mod lives;
mod record;
mod rest;
mod step;
mod turn;
mod world;

use step::Step;
use world::World;

/// How long each walk is; all of them together are a hundred thousand steps.
const STEPS: usize = 10_000;

async fn walk(seed: u64) {
    let mut world = World::new(seed).await;
    for _ in 0..STEPS {
        let step = Step::draw(&mut world.dice);
        world.take(step).await;
    }
    world.end().await;
    world.tally.assert_that_much_happened();
}

#[tokio::test(start_paused = true)]
async fn walk_1() {
    walk(1).await;
}

#[tokio::test(start_paused = true)]
async fn walk_2() {
    walk(2).await;
}

#[tokio::test(start_paused = true)]
async fn walk_3() {
    walk(3).await;
}

#[tokio::test(start_paused = true)]
async fn walk_4() {
    walk(4).await;
}

#[tokio::test(start_paused = true)]
async fn walk_5() {
    walk(5).await;
}

#[tokio::test(start_paused = true)]
async fn walk_6() {
    walk(6).await;
}

#[tokio::test(start_paused = true)]
async fn walk_7() {
    walk(7).await;
}

#[tokio::test(start_paused = true)]
async fn walk_8() {
    walk(8).await;
}

#[tokio::test(start_paused = true)]
async fn walk_9() {
    walk(9).await;
}

#[tokio::test(start_paused = true)]
async fn walk_10() {
    walk(10).await;
}
