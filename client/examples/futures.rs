//! A chain of tasks that all start at once: each waits for its predecessor's result through a proxy of a value to
//! come, so the one who starts them never sees the data.
//!
//! Run with `cargo run -p proxystore --example futures`.

use std::time::{Duration, Instant};

use proxystore::connectors::FileConnector;
use proxystore::{Proxy, ProxyFuture, Store};

/// For a predecessor's result.
const PATIENCE: Duration = Duration::from_secs(60);

/// Values each task passes on.
const VALUES: usize = 4 << 20;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let store = Store::new("results", FileConnector::new(directory.path())?).cache_size(0);

    let mut input: Proxy<Vec<f32>> = store.proxy(&vec![1.0; VALUES]).await?;
    let mut tasks = Vec::new();
    for stage in 1..=3 {
        let output = store.future(PATIENCE).await?;
        let next = output.proxy();
        tasks.push(tokio::spawn(run_stage(stage, Instant::now(), input, output)));
        input = next;
    }
    println!("all stages are started; none has its input yet except the first");
    println!("result: {} values, the last is {}", input.resolve_async().await?.len(), input[VALUES - 1]);
    for task in tasks {
        task.await??;
    }
    Ok(())
}

async fn run_stage(
    stage: u32,
    start: Instant,
    input: Proxy<Vec<f32>>,
    output: ProxyFuture<Vec<f32>>,
) -> anyhow::Result<()> {
    input.resolve_async().await?;
    println!("stage {stage}: input arrived after {:?}", start.elapsed());
    output.set_result(&input.iter().map(|value| value * 2.0).collect()).await?;
    println!("stage {stage}: output stored after {:?}", start.elapsed());
    Ok(())
}
