//! An endpoint that is killed in the middle of its work, and started again.

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use proxystore_tests::process::SiteProcess;
use tokio::sync::Mutex;

use super::*;

/// Far more than the sockets in between hold.
const LARGE: usize = 64 << 20;

/// A process of its own, whose objects are files.
async fn process(files: &TempDir) -> SiteProcess {
    let database = files.path().join("blobs.db");
    let builder = alone("killed").with(|config| config.storage.database_path = Some(database));
    SiteProcess::start(builder).await.unwrap()
}

fn is_lost<T>(outcome: &Result<T, ConnectorError>) -> bool {
    use ConnectorError::{Broken, Unreachable};
    matches!(outcome, Err(Broken { .. } | Unreachable { .. }))
}

#[tokio::test]
async fn a_transfer_that_a_kill_cuts_is_an_error() {
    let files = tempfile::tempdir().unwrap();
    let mut process = process(&files).await;
    let connector = Arc::new(connector(process.home(), [process.id]));
    let whole = Object::from(noise(LARGE, 1));
    let key = put(&connector, whole.clone()).await;
    let mut to_come = Vec::new();
    for _ in 0..8 {
        to_come.push(connector.new_key().await.unwrap());
    }

    let mut stream = connector.get_stream(&key).await.unwrap().unwrap();
    let gets = to_come.iter().map(|_| {
        let (connector, key) = (connector.clone(), key.clone());
        tokio::spawn(async move { connector.get(&key).await })
    });
    let gets: Vec<_> = gets.collect();
    let sets = to_come.iter().map(|key| {
        let (connector, key, whole) = (connector.clone(), key.clone(), whole.clone());
        tokio::spawn(async move { connector.set(&key, whole).await })
    });
    let sets: Vec<_> = sets.collect();
    let first = stream.chunks.try_next().await.unwrap().unwrap();
    assert!(!first.is_empty());
    process.kill().await.unwrap();

    let rest = stream.chunks.try_collect::<Vec<_>>().await;
    assert!(matches!(&rest, Err(ConnectorError::Broken { .. })), "{:?}", rest.map(|chunks| chunks.len()));
    for outcome in join_all(gets).await {
        let outcome = outcome.unwrap();
        assert!(is_lost(&outcome) || outcome == Ok(Some(whole.clone())));
    }
    let mut set = Vec::new();
    for outcome in join_all(sets).await {
        let outcome = outcome.unwrap();
        assert!(is_lost(&outcome) || outcome == Ok(()), "{outcome:?}");
        set.push(outcome.is_ok());
    }
    assert!(is_lost(&connector.get(&key).await), "it is gone");

    process.restart().await.unwrap();
    assert_eq!(connector.get(&key).await.unwrap(), Some(whole.clone()));
    for (key, set) in to_come.iter().zip(set) {
        // Whether it was stored is open if the answer is lost; half of it never is.
        let found = connector.get(key).await.unwrap();
        assert!(found.as_ref().map_or(!set, |found| *found == whole), "{key}");
    }
}

#[tokio::test]
async fn an_upload_that_a_kill_cuts_leaves_nothing() {
    let files = tempfile::tempdir().unwrap();
    let process = Arc::new(Mutex::new(process(&files).await));
    let (home, id, base) = {
        let process = process.lock().await;
        (process.home().to_owned(), process.id, process.base.clone())
    };
    let connector = connector(&home, [id]);
    for len in [Some(64 << 20), None] {
        let killed = process.clone();
        let chunks = stream::iter(0..64).then(move |number| {
            let process = killed.clone();
            async move {
                if number == 16 {
                    process.lock().await.kill().await.unwrap();
                }
                Ok(Bytes::from(vec![number; 1 << 20]))
            }
        });
        let upload = ObjectStream { len, chunks: chunks.boxed() };
        let error = connector.put_stream(upload, &PutOptions::default()).await.unwrap_err();
        assert!(matches!(&error, ConnectorError::Broken { .. }), "{error}");

        process.lock().await.restart().await.unwrap();
        let http = proxystore_tests::http_client().unwrap();
        let listed = http.get(format!("{base}/v1/objects")).send().await.unwrap().text().await.unwrap();
        assert!(listed.contains(r#""objects":[]"#), "{listed}");
        let key = put(&connector, vec![1; 100]).await;
        assert_eq!(connector.get(&key).await.unwrap(), Some(vec![1; 100].into()));
        connector.evict(&key).await.unwrap();
    }
}
