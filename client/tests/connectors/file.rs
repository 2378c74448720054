use std::fs;
use std::path::Path;

use proxystore::connectors::FileConnector;
use proxystore::{Connector, ConnectorError, Key, Object, PutOptions};

fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn contract() {
    let directory = tempfile::tempdir().unwrap();
    crate::check_contract(FileConnector::new(directory.path()).unwrap());
    assert_eq!(names_in(directory.path()), Vec::<String>::new(), "something was left behind");
}

#[tokio::test]
async fn an_object_is_a_file_of_its_own_as_python_lays_it_out() {
    let directory = tempfile::tempdir().unwrap();
    let connector = FileConnector::new(directory.path()).unwrap();
    let key = connector.put(Object::from(b"BS\nhello".to_vec()), &PutOptions::default()).await.unwrap();
    let Key::File { filename } = &key else { panic!("{key}") };
    let mut names = names_in(directory.path());
    names.sort();
    assert_eq!(names, [filename.clone(), format!("{filename}.ready")]);
    assert_eq!(fs::read(directory.path().join(filename)).unwrap(), b"BS\nhello");
}

#[tokio::test]
async fn a_key_does_not_lead_out_of_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    let connector = FileConnector::new(directory.path().join("objects")).unwrap();
    fs::write(directory.path().join("secret"), "secret").unwrap();
    for filename in ["../secret", "/etc/passwd", "", ".", "..", ".hidden", "a\0b"] {
        let key = Key::File { filename: filename.to_owned() };
        let refused = connector.get(&key).await.unwrap_err();
        assert!(matches!(refused, ConnectorError::ForeignKey { .. }), "{filename}: {refused}");
        assert!(connector.evict(&key).await.is_err());
    }
    assert!(directory.path().join("secret").exists());
}

#[tokio::test]
async fn clearing_is_on_demand() {
    let parent = tempfile::tempdir().unwrap();
    for clear in [false, true] {
        let directory = parent.path().join("objects");
        let connector = FileConnector::new(&directory).unwrap().clear_on_close(clear);
        connector.put(Object::from(vec![1]), &PutOptions::default()).await.unwrap();
        connector.close().await.unwrap();
        assert_eq!(directory.exists(), !clear);
    }
}

#[tokio::test]
async fn an_object_that_python_wrote_is_there_once_its_marker_is() {
    let directory = tempfile::tempdir().unwrap();
    let connector = FileConnector::new(directory.path()).unwrap();
    let key = Key::File { filename: "by-python".to_owned() };
    fs::write(directory.path().join("by-python"), "BS\nwhole").unwrap();
    assert_eq!(connector.get(&key).await.unwrap(), None, "it may not be complete");
    assert!(!connector.exists(&key).await.unwrap());
    fs::write(directory.path().join("by-python.ready"), "").unwrap();
    assert_eq!(connector.get(&key).await.unwrap(), Some(Object::from(b"BS\nwhole".to_vec())));
    assert_eq!(connector.get_stream(&key).await.unwrap().unwrap().len, Some(8));
    connector.evict(&key).await.unwrap();
    assert_eq!(names_in(directory.path()), Vec::<String>::new());
}

#[tokio::test]
async fn an_object_is_replaced_whole() {
    let directory = tempfile::tempdir().unwrap();
    let connector = FileConnector::new(directory.path()).unwrap();
    let key = connector.new_key().await.unwrap();
    for version in 1..4_u8 {
        let object = Object::from(vec![version; 1000]);
        connector.set(&key, object.clone()).await.unwrap();
        assert_eq!(connector.get(&key).await.unwrap(), Some(object));
        assert_eq!(names_in(directory.path()).len(), 2);
    }
}
