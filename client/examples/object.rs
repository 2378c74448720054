//! Puts an object into any store and gets it back, from the command line: a way to try a connector's
//! configuration, and how the tests with Python read and write.
//!
//! ```text
//! object put CONNECTOR text "hello"      prints the key
//! object put CONNECTOR bytes FILE
//! object put CONNECTOR array FILE        numbers, one a line
//! object get CONNECTOR KEY               prints what it is, and the value
//! ```
//!
//! CONNECTOR is a configuration as `{"kind": "file", "settings": {"store_dir": "/tmp/objects"}}`.

use std::fs;

use anyhow::{Context as _, Result, bail};
use proxystore::{Key, Store, StoreConfig};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    tokio::runtime::Runtime::new()?.block_on(async {
        match arguments[..] {
            ["put", connector, kind, value] => put(&open(connector)?, kind, value).await,
            ["get", connector, key] => get(&open(connector)?, key).await,
            _ => bail!("usage: object put CONNECTOR text|bytes|array VALUE, or object get CONNECTOR KEY"),
        }
    })
}

fn open(connector: &str) -> Result<Store> {
    let connector = serde_json::from_str(connector).context("CONNECTOR is not a configuration")?;
    let config = StoreConfig { name: "object".to_owned(), connector, cache_size: 0, cache_bytes: 0 };
    Ok(Store::from_config(&config)?)
}

async fn put(store: &Store, kind: &str, value: &str) -> Result<()> {
    let key = match kind {
        "text" => store.put(value).await?,
        "bytes" => store.put(&fs::read(value)?).await?,
        "array" => {
            let numbers =
                fs::read_to_string(value)?.lines().map(str::parse).collect::<Result<Vec<f64>, _>>()?;
            store.put(&ndarray::Array1::from(numbers)).await?
        }
        other => bail!("{other:?} is neither text, bytes nor array"),
    };
    println!("{}", serde_json::to_string(&key)?);
    Ok(())
}

async fn get(store: &Store, key: &str) -> Result<()> {
    let key: Key = serde_json::from_str(key).context("KEY is not a key")?;
    if let Ok(Some(text)) = store.get::<String>(&key).await {
        println!("text {text}");
    } else if let Ok(Some(array)) = store.get::<ndarray::ArrayD<f64>>(&key).await {
        println!("array {:?} {}", array.shape(), array.sum());
    } else {
        let bytes = store.get::<Vec<u8>>(&key).await?.with_context(|| format!("there is no object {key}"))?;
        println!("bytes {} {}", bytes.len(), bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>());
    }
    Ok(())
}
