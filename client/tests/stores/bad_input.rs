use std::fs;
use std::process::Command;

use proxystore::connectors::FileConnector;
use proxystore::{Connector, ConnectorError, Key, Object, PutOptions, ResolveError, Store, StoreError};

use crate::{elsewhere, file_store, sent};

#[tokio::test]
async fn resolving_after_evict_names_the_key() {
    let (_directory, store) = file_store("evicted");
    let proxy = store.proxy(&1_u8).await.unwrap();
    store.evict(proxy.key()).await.unwrap();
    let error = proxy.resolve_async().await.unwrap_err();
    assert!(
        matches!(&error, ResolveError::Missing { store, key } if store == "evicted" && key == proxy.key())
    );
    assert!(error.to_string().contains(&proxy.key().to_string()), "{error}");
}

#[tokio::test]
async fn a_value_of_another_type_is_refused_not_misread() {
    let (_directory, store) = file_store("wrong-type");
    let key = store.put("text").await.unwrap();
    store.get::<String>(&key).await.unwrap().unwrap();
    let error = store.get::<Vec<f64>>(&key).await.unwrap_err();
    assert!(matches!(&error, StoreError::Serialize { key: Some(named), .. } if **named == key), "{error}");
    let proxy = store.proxy_from_key::<u64>(key);
    assert!(matches!(sent(&proxy).resolve_async().await.unwrap_err(), ResolveError::Store(_)));
}

#[tokio::test]
async fn truncated_and_foreign_objects_are_refused() {
    let (directory, store) = file_store("damaged");
    let key = store.put(&vec![1.5, 2.5, 3.5]).await.unwrap();
    let Key::File { filename } = &key else { panic!("{key}") };
    let file = directory.path().join(filename);
    let marker = directory.path().join(format!("{filename}.ready"));
    let whole = fs::read(&file).unwrap();
    for damaged in [&whole[..whole.len() - 1], &whole[..2], b"", b"<html>no</html>", b"PK\n\x80\x05."] {
        // As Python writes it: the marker is a file of its own.
        fs::remove_file(&marker).unwrap();
        fs::write(&marker, "").unwrap();
        fs::write(&file, damaged).unwrap();
        let error = elsewhere(&store).get::<Vec<f64>>(&key).await.unwrap_err();
        assert!(matches!(error, StoreError::Serialize { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_named() {
    let (directory, _store) = file_store("no-directory");
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let error = FileConnector::new(file.join("objects")).unwrap_err();
    assert!(error.to_string().contains("file/objects"), "{error}");
}

/// A small file system of its own, unmounted at the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(options: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(directory.path());
        mount.status().is_ok_and(|status| status.success()).then_some(Self(directory))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_is_an_error_and_leaves_no_half_object() {
    let Some(disk) = SmallDisk::mount("size=1m") else {
        proxystore_tests::skipped("a full disk: mounting a small one needs root");
        return;
    };
    let connector = FileConnector::new(disk.0.path()).unwrap();
    let options = PutOptions::default();
    let small = connector.put(Object::from(vec![1; 1000]), &options).await.unwrap();
    let error = connector.put(Object::from(vec![2; 2 << 20]), &options).await.unwrap_err();
    assert!(matches!(error, ConnectorError::Full { .. }), "{error}");
    let streamed = connector.put_stream(Object::from(vec![3; 2 << 20]).into(), &options).await.unwrap_err();
    assert!(matches!(streamed, ConnectorError::Full { .. }), "{streamed}");
    assert_eq!(fs::read_dir(disk.0.path()).unwrap().count(), 2, "an object and its marker");
    assert_eq!(connector.get(&small).await.unwrap().unwrap().len(), 1000);
    connector.put(Object::from(vec![4; 500_000]), &options).await.unwrap();
}

const WRITER_DIRECTORY: &str = "PROXYSTORE_TEST_WRITER_DIRECTORY";

#[test]
fn two_processes_write_one_directory() {
    const OBJECTS: usize = 200;
    let write = |directory: &str| -> Vec<Key> {
        let store = Store::new("both", FileConnector::new(directory).unwrap());
        let put = |n: usize| proxystore::block_on(store.put(&vec![n; 5000])).unwrap();
        (0..OBJECTS).map(put).collect()
    };
    if let Ok(directory) = std::env::var(WRITER_DIRECTORY) {
        println!("KEYS {}", serde_json::to_string(&write(&directory)).unwrap());
        return;
    }
    let (directory, store) = file_store("both");
    let mut writer = Command::new(std::env::current_exe().unwrap());
    writer.args(["--exact", "bad_input::two_processes_write_one_directory", "--nocapture"]);
    writer.env(WRITER_DIRECTORY, directory.path()).stdout(std::process::Stdio::piped());
    let writer = writer.spawn().unwrap();
    let mut keys = write(directory.path().to_str().unwrap());
    let output = String::from_utf8(writer.wait_with_output().unwrap().stdout).unwrap();
    let theirs = output.lines().find_map(|line| line.split_once("KEYS ")).unwrap().1;
    keys.extend(serde_json::from_str::<Vec<Key>>(theirs).unwrap());
    assert_eq!(keys.len(), 2 * OBJECTS);
    for (n, key) in keys.iter().enumerate() {
        let value = proxystore::block_on(store.get::<Vec<usize>>(key)).unwrap().unwrap();
        assert_eq!(*value, vec![n % OBJECTS; 5000]);
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2 * 2 * OBJECTS, "objects and markers");
}
