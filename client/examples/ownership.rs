//! An object that several tasks share: many read it or one changes it, and it goes with its owner.
//!
//! Run with `cargo run -p proxystore --example ownership`.

use proxystore::connectors::FileConnector;
use proxystore::{RefMutProxy, RefProxy, Store};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let store = Store::new("model", FileConnector::new(directory.path())?);
    let weights = store.owned_proxy(&vec![0.0_f64; 1000]).await?;

    for epoch in 1..=3 {
        // What a function service would carry: a borrow, a few hundred bytes long.
        let lent = weights.mut_borrow()?;
        let message = serde_json::to_string(&lent)?;
        println!("epoch {epoch}: sending a mutable borrow of {} bytes", message.len());
        train(&message).await?;
        if let Err(refused) = weights.borrow() {
            println!("         meanwhile: {refused}");
        }
        drop(lent);

        let readers: Vec<_> = (0..3).map(|_| weights.borrow()).collect::<Result<_, _>>()?;
        for reader in &readers {
            let received: RefProxy<Vec<f64>> = serde_json::from_str(&serde_json::to_string(reader)?)?;
            println!("         a reader elsewhere sees {}", received.resolve_async().await?[0]);
        }
    }

    let key = weights.key().clone();
    drop(weights);
    println!("the owner is gone; the object exists: {}", store.exists(&key).await?);
    Ok(())
}

/// A task elsewhere.
async fn train(message: &str) -> anyhow::Result<()> {
    let mut weights: RefMutProxy<Vec<f64>> = serde_json::from_str(message)?;
    let better = weights.resolve_async().await?.iter().map(|weight| weight + 1.0).collect();
    weights.update(better).await?;
    Ok(())
}
