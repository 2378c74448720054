use std::time::Duration;

use proxystore::lifetime::{ContextLifetime, LeaseLifetime, StaticLifetime};
use proxystore::{Key, Store};

use crate::file_store;

async fn two_keys(store: &Store) -> [Key; 2] {
    [store.put("a").await.unwrap(), store.put("b").await.unwrap()]
}

async fn left(store: &Store, keys: &[Key]) -> usize {
    let mut left = 0;
    for key in keys {
        left += usize::from(store.exists(key).await.unwrap());
    }
    left
}

#[tokio::test]
async fn a_scope_evicts_its_objects_and_no_others() {
    let (_directory, store) = file_store("scope");
    let keys = two_keys(&store).await;
    let others = two_keys(&store).await;
    {
        let lifetime = ContextLifetime::new();
        lifetime.add_key(&store, keys[0].clone()).unwrap();
        lifetime.add_key(&store, keys[1].clone()).unwrap();
        assert_eq!(left(&store, &keys).await, 2);
    }
    assert_eq!((left(&store, &keys).await, left(&store, &others).await), (0, 2));
}

#[tokio::test]
async fn closing_tells_what_failed_and_evicts_the_rest() {
    let (_directory, store) = file_store("scope-failure");
    let keys = two_keys(&store).await;
    let lifetime = ContextLifetime::new();
    lifetime.add_key(&store, Key::Local { id: "foreign".to_owned() }).unwrap();
    for key in &keys {
        lifetime.add_key(&store, key.clone()).unwrap();
    }
    let error = lifetime.close().await.unwrap_err().to_string();
    assert!(error.contains("foreign"), "{error}");
    assert_eq!(left(&store, &keys).await, 0);
}

#[tokio::test]
async fn a_lease_runs_out_also_without_its_handle() {
    let (_directory, store) = file_store("lease");
    let keys = two_keys(&store).await;
    let lease = LeaseLifetime::new(Duration::from_millis(30));
    lease.add_key(&store, keys[0].clone()).unwrap();
    drop(lease);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while left(&store, &keys).await == 2 {
        assert!(tokio::time::Instant::now() < deadline, "the lease does not run out");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(left(&store, &keys).await, 1);
}

#[tokio::test]
async fn a_lease_is_extended_and_closed() {
    let (_directory, store) = file_store("lease-extended");
    let keys = two_keys(&store).await;
    let lease = LeaseLifetime::new(Duration::from_millis(30));
    assert!(lease.extend(Duration::from_secs(600)));
    lease.add_key(&store, keys[0].clone()).unwrap();
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert!(!lease.has_ended());
    assert_eq!(left(&store, &keys).await, 2);
    lease.close().await.unwrap();
    assert_eq!(left(&store, &keys).await, 1);

    let over = LeaseLifetime::new(Duration::ZERO);
    while !over.has_ended() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!over.extend(Duration::from_secs(1)));
    let refused = over.add_key(&store, keys[1].clone()).unwrap_err();
    assert_eq!(refused.key, keys[1]);
}

#[tokio::test]
async fn the_static_lifetime_lasts_as_long_as_its_guard() {
    let (_directory, store) = file_store("static");
    let proxy = store.proxy(&1_u8).await.unwrap();
    let guard = StaticLifetime::until_end_of_main();
    StaticLifetime::add_proxy(&proxy).unwrap();
    assert!(store.exists(proxy.key()).await.unwrap());
    drop(guard);
    assert!(!store.exists(proxy.key()).await.unwrap());
    assert!(StaticLifetime::add_proxy(&proxy).is_err());
}
