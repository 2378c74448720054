use proxystore::connectors::LocalConnector;
use proxystore::{
    ConnectorError, Store, StoreError, get_or_create_store, get_store, register_store, unregister_store,
};

use crate::{elsewhere, file_store};

#[tokio::test]
async fn a_registered_store_is_found_by_its_name() {
    let (_directory, store) = file_store("by-name");
    assert!(get_store("by-name").is_none());
    register_store(&store).unwrap();
    register_store(&store.clone()).unwrap();
    let key = store.put("value").await.unwrap();
    assert!(get_store("by-name").unwrap().exists(&key).await.unwrap());
    unregister_store("by-name");
    assert!(get_store("by-name").is_none());
}

#[test]
fn a_name_is_taken_once() {
    let first = Store::new("taken", LocalConnector::new());
    let second = Store::new("taken", LocalConnector::new());
    register_store(&first).unwrap();
    let error = register_store(&second).unwrap_err();
    assert_eq!(error, StoreError::NameTaken { name: "taken".to_owned() });
    assert!(error.to_string().contains("another name"), "{error}");
    unregister_store("taken");
    register_store(&second).unwrap();
}

#[tokio::test]
async fn closing_frees_the_name() {
    let (_directory, store) = file_store("closing");
    register_store(&store).unwrap();
    store.close().await.unwrap();
    assert!(get_store("closing").is_none());
}

#[tokio::test]
async fn a_configuration_finds_its_store_or_makes_it() {
    let (_directory, store) = file_store("made");
    let key = store.put("value").await.unwrap();
    let made = get_or_create_store(&elsewhere(&store).config()).unwrap();
    assert_eq!(made.get::<String>(&key).await.unwrap().as_deref(), Some(&"value".to_owned()));
    assert!(get_store("made").is_some(), "it is registered");
    assert!(get_or_create_store(&store.config()).unwrap().is_cached(&key), "and found again");
    unregister_store("made");
}

#[tokio::test]
async fn two_stores_of_one_name_are_not_mixed_up() {
    let (_here, ours) = file_store("namesake");
    let (_there, theirs) = file_store("namesake");
    register_store(&ours).unwrap();
    let key = theirs.put("theirs").await.unwrap();
    let found = get_or_create_store(&theirs.config()).unwrap();
    assert_eq!(found.get::<String>(&key).await.unwrap().as_deref(), Some(&"theirs".to_owned()));
    assert!(!get_store("namesake").unwrap().exists(&key).await.unwrap());
    assert!(get_or_create_store(&theirs.config()).unwrap().is_cached(&key), "it is made once");
    unregister_store("namesake");
}

#[test]
fn an_unknown_connector_is_named_with_those_that_are_known() {
    let mut config = file_store("unknown-connector").1.config();
    config.connector.kind = "carrier-pigeon".to_owned();
    let error = get_or_create_store(&config).unwrap_err();
    let StoreError::Connector { error: ConnectorError::UnknownKind { kind, known }, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(kind, "carrier-pigeon");
    assert!(known.contains("file, "), "{known}");
    assert!(get_store("unknown-connector").is_none());
}

#[test]
fn wrong_settings_are_named() {
    let mut config = file_store("wrong-settings").1.config();
    config.connector.settings = serde_json::json!({"store_dri": "/tmp"});
    let error = Store::from_config(&config).unwrap_err().to_string();
    assert!(error.contains("file") && error.contains("store_dri"), "{error}");
}
