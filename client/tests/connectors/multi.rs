use bytes::Bytes;
use futures_util::{StreamExt, stream};
use proxystore::connectors::multi::Policy;
use proxystore::connectors::{FileConnector, LocalConnector, MultiConnector};
use proxystore::{Connector, ConnectorError, Key, Object, ObjectStream, PutOptions, Store};
use tempfile::TempDir;

/// Objects of up to so many bytes stay in memory, larger ones go to files.
const SMALL: u64 = 1000;

fn small_and_large() -> (MultiConnector, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let small = Policy { max_size_bytes: SMALL, priority: 1, ..Policy::default() };
    let multi = MultiConnector::new()
        .with("large", FileConnector::new(directory.path()).unwrap(), Policy::default())
        .and_then(|multi| multi.with("small", LocalConnector::new(), small))
        .unwrap();
    (multi, directory)
}

fn name(key: &Key) -> &str {
    let Key::Multi { connector_name, .. } = key else { panic!("{key}") };
    connector_name
}

fn files_in(directory: &TempDir) -> usize {
    directory.path().read_dir().unwrap().count()
}

#[test]
fn contract() {
    let (multi, directory) = small_and_large();
    crate::check_contract(multi);
    assert_eq!(files_in(&directory), 0, "something was left behind");
}

#[tokio::test]
async fn a_batch_is_shared_out_by_size() {
    let (multi, directory) = small_and_large();
    let lens = [1, SMALL + 1, SMALL, 5000, 2];
    let objects = lens.map(|len| Object::from(vec![7; len as usize])).to_vec();
    let keys = multi.put_batch(objects.clone(), &PutOptions::default()).await.unwrap();
    assert_eq!(keys.iter().map(name).collect::<Vec<_>>(), ["small", "large", "small", "large", "small"]);
    assert_eq!(files_in(&directory), 2 * 2, "two objects, each with its marker");
    let objects: Vec<_> = objects.into_iter().map(Some).collect();
    assert_eq!(multi.get_batch(&keys).await.unwrap(), objects);
}

#[tokio::test]
async fn a_stream_of_unknown_length_goes_where_its_length_belongs() {
    let (multi, _directory) = small_and_large();
    for (chunks, expected) in [(0, "small"), (1, "small"), (10, "small"), (11, "large"), (1000, "large")] {
        let chunks: Vec<_> = (0..chunks).map(|n| Ok(Bytes::from(vec![n as u8; 100]))).collect();
        let whole: Object = chunks.iter().cloned().map(Result::unwrap).collect();
        let stream = ObjectStream { len: None, chunks: stream::iter(chunks).boxed() };
        let key = multi.put_stream(stream, &PutOptions::default()).await.unwrap();
        assert_eq!(name(&key), expected);
        assert_eq!(multi.get(&key).await.unwrap(), Some(whole));
    }
}

#[tokio::test]
async fn a_stream_that_outgrows_every_policy_is_refused_at_once() {
    let small = Policy { max_size_bytes: SMALL, ..Policy::default() };
    let multi = MultiConnector::new().with("small", LocalConnector::new(), small).unwrap();
    let endless = stream::repeat_with(|| Ok(Bytes::from_static(&[0; 100]))).boxed();
    let stream = ObjectStream { len: None, chunks: endless };
    let refused = multi.put_stream(stream, &PutOptions::default()).await.unwrap_err();
    assert!(matches!(refused, ConnectorError::NoPolicy { len: 1100, .. }), "{refused}");
}

#[tokio::test]
async fn tags_of_a_store_choose() {
    let lasting = Policy { subset_tags: vec!["lasting".to_owned()], ..Policy::default() };
    let secret = Policy { superset_tags: vec!["secret".to_owned()], priority: 1, ..Policy::default() };
    let multi = MultiConnector::new()
        .with("lasting", LocalConnector::new(), lasting)
        .and_then(|multi| multi.with("secret", LocalConnector::new(), secret))
        .unwrap();
    let store = Store::new("tags", multi);
    assert_eq!(name(&store.put(&1).await.unwrap()), "lasting");
    let secret = store.clone().with_superset_tags(["secret"]);
    assert_eq!(name(&secret.put(&1).await.unwrap()), "secret");
    let lasting = secret.with_subset_tags(["lasting"]);
    assert_eq!(name(&lasting.put(&1).await.unwrap()), "lasting");
    let neither = store.with_subset_tags(["nowhere"]).put(&1).await.unwrap_err().to_string();
    assert!(neither.contains("nowhere"), "{neither}");
}

#[tokio::test]
async fn an_unknown_name_in_a_key_says_which_are_known() {
    let (multi, _directory) = small_and_large();
    let inner = Box::new(Key::Local { id: "x".to_owned() });
    let key = Key::Multi { connector_name: "other".to_owned(), connector_key: inner };
    let refused = multi.get(&key).await.unwrap_err().to_string();
    assert!(refused.contains("\"other\"") && refused.contains("small, large"), "{refused}");
}

#[tokio::test]
async fn a_connector_that_is_not_for_this_host_gets_nothing_new() {
    let elsewhere = Policy { host_pattern: Some(vec![]), priority: 9, ..Policy::default() };
    let multi = MultiConnector::new()
        .with("elsewhere", LocalConnector::new(), elsewhere)
        .and_then(|multi| multi.with("here", LocalConnector::new(), Policy::default()))
        .unwrap();
    assert_eq!(name(&multi.put(vec![1].into(), &PutOptions::default()).await.unwrap()), "here");
}
