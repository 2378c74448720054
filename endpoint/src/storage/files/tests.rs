//! What only files can do: outlive their process, and be damaged.

use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use proxystore_shared::digest::GROUP_LEN;
use tempfile::TempDir;

use super::layout::FileName;
use super::*;
use crate::storage::contract::{MAX_OBJECT_SIZE, content, contract_tests, eventually, get, id, put};

/// Syncing a disk that others use takes long and shows nothing to a test that pulls no plug.
const LIMITS: FileLimits = FileLimits { max_object_size: MAX_OBJECT_SIZE, fsync: false };

fn fresh() -> (Arc<dyn Storage>, TempDir) {
    let dir = TempDir::new().expect("temporary directory");
    (Arc::new(open(dir.path()).0), dir)
}

fn open(dir: &Path) -> (FileStorage, Recovery) {
    FileStorage::open(dir.to_owned(), LIMITS).expect("opens")
}

contract_tests!(fresh());

/// The files below `dir`, in order.
fn files(dir: PathBuf) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() { found.extend(files(path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// A store with one object of two groups and a little, closed, and the object's file.
async fn one_object() -> (TempDir, PathBuf, Vec<u8>) {
    let dir = TempDir::new().expect("temporary directory");
    let data = content(2 * GROUP_LEN as usize + 9, 1);
    put(&open(dir.path()).0, &id("a"), &data).await;
    let [file] = files(dir.path().join("objects")).try_into().expect("one file");
    (dir, file, data)
}

fn flip(path: &Path, offset: usize) {
    let mut bytes = fs::read(path).expect("readable");
    bytes[offset] ^= 1;
    fs::write(path, bytes).expect("writable");
}

/// Opens a store whose only file is damaged.
fn expect_quarantine(dir: &Path, reason: &str) -> FileStorage {
    let (storage, recovery) = open(dir);
    let [(place, why)] = recovery.quarantined.try_into().expect("one file in quarantine");
    assert!(why.contains(reason), "{why}");
    assert!(place.starts_with(dir.join("quarantine")) && place.is_file());
    assert_eq!((recovery.objects, recovery.bytes), (0, 0));
    assert_eq!(files(dir.join("objects")), [] as [PathBuf; 0]);
    storage
}

#[tokio::test]
async fn objects_outlive_the_store() {
    let dir = TempDir::new().expect("temporary directory");
    let mut metas = Vec::new();
    for size in [0, 1, GROUP_LEN as usize, 3 * GROUP_LEN as usize + 7] {
        let (storage, _) = open(dir.path());
        metas.push(put(&storage, &id(&format!("../{size}/é")), &content(size, 2)).await);
        put(&storage, &id("replaced"), &content(size, 3)).await;
        put(&storage, &id("evicted"), b"gone").await;
        assert!(storage.evict(&id("evicted")).await.expect("evicts"));
    }
    let (storage, recovery) = open(dir.path());
    let bytes = 1 + GROUP_LEN + 2 * (3 * GROUP_LEN + 7);
    assert_eq!(recovery, Recovery { objects: 5, bytes, ..Recovery::default() });
    assert_eq!(storage.usage(), Usage { objects: 5, bytes, limit: None });
    for meta in metas {
        let id = id(&format!("../{}/é", meta.size));
        assert_eq!(get(&storage, &id).await, Some(content(meta.size as usize, 2)));
        assert_eq!(storage.stat(&id).await.expect("stat"), Some(meta));
    }
    assert_eq!(get(&storage, &id("replaced")).await, Some(content(3 * GROUP_LEN as usize + 7, 3)));
}

#[tokio::test]
async fn nothing_but_current_versions_stays_on_disk() {
    let (storage, dir) = fresh();
    for seed in 0..5 {
        put(storage.as_ref(), &id("a"), &content(100, seed)).await;
    }
    put(storage.as_ref(), &id("b"), b"b").await;
    storage.evict(&id("b")).await.expect("evicts");
    let mut upload = storage.begin(&id("c"), None, false).await.expect("begins");
    upload.write(content(GROUP_LEN as usize, 0).into()).await.expect("writes");
    assert_eq!(files(dir.path().join("partial")).len(), 1);
    drop(upload);
    eventually("the partial file is removed", || files(dir.path().join("partial")).is_empty()).await;
    assert_eq!(files(dir.path().join("objects")).len(), 1);
    assert_eq!(files(dir.path().join("quarantine")).len(), 0);
}

#[tokio::test]
async fn objects_are_their_owners_alone() {
    let (dir, file, _) = one_object().await;
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&file), 0o600);
    for folder in ["objects", "partial", "quarantine"] {
        assert_eq!(mode(&dir.path().join(folder)), 0o700, "{folder}");
    }
    assert_eq!(mode(file.parent().expect("a folder")), 0o700);
}

#[tokio::test]
async fn interrupted_uploads_are_removed() {
    let (dir, _, data) = one_object().await;
    fs::write(dir.path().join("partial/0"), b"half an obj").expect("writable");
    fs::write(dir.path().join("partial/17"), b"").expect("writable");
    let (storage, recovery) = open(dir.path());
    assert_eq!(recovery.removed_partial, 2);
    assert_eq!(files(dir.path().join("partial")).len(), 0);
    assert_eq!(get(&storage, &id("a")).await, Some(data));
}

#[tokio::test]
async fn a_truncated_file_is_set_aside() {
    for kept in [0, 1, 50, GROUP_LEN, 2 * GROUP_LEN + 9] {
        let (dir, file, _) = one_object().await;
        fs::File::options().write(true).open(&file).and_then(|file| file.set_len(kept)).expect("cut");
        let storage = expect_quarantine(dir.path(), "cut off");
        assert_eq!(get(&storage, &id("a")).await, None);
    }
}

#[tokio::test]
async fn a_file_with_missing_content_is_set_aside() {
    let (dir, file, _) = one_object().await;
    let bytes = fs::read(&file).expect("readable");
    fs::write(&file, &bytes[1..]).expect("writable");
    expect_quarantine(dir.path(), "bytes instead of");
}

#[tokio::test]
async fn a_damaged_footer_is_set_aside() {
    let (dir, file, data) = one_object().await;
    flip(&file, data.len() + 3);
    let storage = expect_quarantine(dir.path(), "checksum");
    put(&storage, &id("a"), b"again").await;
    drop(storage);
    let (storage, recovery) = open(dir.path());
    assert_eq!((recovery.objects, recovery.quarantined.len()), (1, 0));
    assert_eq!(get(&storage, &id("a")).await, Some(b"again".to_vec()));
}

#[tokio::test]
async fn strange_files_are_set_aside_and_never_overwritten() {
    let (dir, file, _) = one_object().await;
    let folder = file.parent().expect("a folder").to_owned();
    drop(open(dir.path()));
    for _ in 0..2 {
        fs::write(folder.join("notes.txt"), b"mine").expect("writable");
        fs::create_dir(folder.join("folder")).expect("writable");
        assert_eq!(open(dir.path()).1.quarantined.len(), 2);
    }
    assert_eq!(files(dir.path().join("quarantine")).len(), 2);
    let other = FileName::new(&id("other"), 3);
    fs::rename(&file, dir.path().join(format!("objects/{:x}/{other}", other.folder()))).expect("moved");
    assert!(open(dir.path()).1.quarantined[0].1.contains("another object"));
}

#[tokio::test]
async fn damaged_content_is_found_when_it_is_read() {
    let (dir, file, data) = one_object().await;
    flip(&file, GROUP_LEN as usize + 5);
    let (storage, recovery) = open(dir.path());
    assert_eq!(recovery.objects, 1, "contents are not read at the start");
    let object = storage.open(&id("a")).await.expect("opens").expect("there");
    assert_eq!(object.group(0).await.expect("whole").segments[0], data[..GROUP_LEN as usize]);
    let error = object.group(1).await.expect_err("damaged");
    assert!(matches!(&error, StorageError::Corrupt(what) if what.contains("group 1")), "{error}");
    assert_eq!(get(&storage, &id("a")).await, None);
    assert_eq!((storage.usage().objects, storage.usage().bytes), (0, 0));
    assert_eq!(files(dir.path().join("quarantine")).len(), 1);
    assert!(matches!(object.group(1).await, Err(StorageError::Corrupt(_))));
    put(&storage, &id("a"), &data).await;
    assert!(
        matches!(object.group(1).await, Err(StorageError::Corrupt(_))),
        "the old version is still damaged"
    );
    assert_eq!(get(&storage, &id("a")).await, Some(data), "the new one is not set aside with it");
}

#[tokio::test]
async fn a_file_that_was_removed_is_reported_and_forgotten() {
    let (dir, file, _) = one_object().await;
    let (storage, _) = open(dir.path());
    fs::remove_file(file).expect("removed");
    assert!(matches!(storage.open(&id("a")).await.err(), Some(StorageError::Corrupt(_))));
    assert!(storage.open(&id("a")).await.expect("opens").is_none());
}

#[tokio::test]
async fn of_two_versions_the_later_one_counts() {
    let (dir, first, _) = one_object().await;
    let old = fs::read(&first).expect("readable");
    put(&open(dir.path()).0, &id("a"), b"new").await;
    fs::write(&first, old).expect("the earlier version is back");
    let (storage, recovery) = open(dir.path());
    assert_eq!((recovery.objects, recovery.bytes), (1, 3));
    assert_eq!(get(&storage, &id("a")).await, Some(b"new".to_vec()));
    assert!(!first.exists());
    put(&storage, &id("a"), b"newer").await;
    drop(storage);
    assert_eq!(get(&open(dir.path()).0, &id("a")).await, Some(b"newer".to_vec()));
}

#[test]
fn a_second_process_is_refused() {
    let dir = TempDir::new().expect("temporary directory");
    let first = open(dir.path());
    let error = FileStorage::open(dir.path().to_owned(), LIMITS).expect_err("in use");
    assert!(matches!(error, OpenError::InUse { .. }));
    assert!(error.to_string().contains("in use by another process"), "{error}");
    drop(first);
    open(dir.path());
}

#[test]
fn a_directory_others_may_write_to_is_refused() {
    let dir = TempDir::new().expect("temporary directory");
    drop(open(dir.path()));
    let objects = dir.path().join("objects");
    fs::set_permissions(&objects, Permissions::from_mode(0o770)).expect("allowed");
    let error = FileStorage::open(dir.path().to_owned(), LIMITS).expect_err("exposed");
    assert!(matches!(error, OpenError::Exposed { mode: 0o770, .. }));
    assert!(error.to_string().contains("chmod go-w"), "{error}");
}

#[test]
fn a_path_that_is_no_directory_is_refused_by_name() {
    let dir = TempDir::new().expect("temporary directory");
    let file = dir.path().join("a file");
    fs::write(&file, b"").expect("writable");
    let error = FileStorage::open(file.clone(), LIMITS).expect_err("no directory");
    assert!(error.to_string().contains(file.to_str().expect("text")), "{error}");
}

/// Names the directory for a child process: the same test, which then does the part that is not to survive.
const CHILD_DIR: &str = "PROXYSTORE_TEST_STORAGE_DIR";

fn child_dir() -> Option<PathBuf> {
    std::env::var_os(CHILD_DIR).map(PathBuf::from)
}

/// This test program once more, for the test called `name` alone.
fn child(name: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    let name = format!("{}::{name}", module_path!().split_once("::").expect("in a crate").1);
    command.args([&name, "--exact", "--nocapture"]).env(CHILD_DIR, dir).stdout(Stdio::null());
    command
}

/// What the child stores under `number`: up to two and a half groups.
fn numbered(number: usize) -> Vec<u8> {
    content(number * 397_003 % 2_600_000, number as u8)
}

async fn store_until_killed(dir: PathBuf) {
    let limits = FileLimits { fsync: true, ..LIMITS };
    let (storage, recovery) = FileStorage::open(dir, limits).expect("opens");
    let newest = storage.stat(&id("newest")).await.expect("stat");
    let first = recovery.objects as usize - usize::from(newest.is_some());
    for number in first.. {
        put(&storage, &id(&number.to_string()), &numbered(number)).await;
        eprintln!("stored {number}");
        put(&storage, &id("newest"), &numbered(number)).await;
        eprintln!("replaced {number}");
    }
}

/// Lets the child store a few objects and kills it; returns the last number it acknowledged to have stored, and
/// to have replaced.
fn run_and_kill(dir: &Path, acknowledgements: usize) -> (usize, Option<usize>) {
    let mut child =
        child("acknowledged_objects_survive_kill_9", dir).stderr(Stdio::piped()).spawn().expect("starts");
    let lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let (mut stored, mut replaced) = (None, None);
    for (count, line) in lines.map(|line| line.expect("readable")).enumerate() {
        match line.split_once(' ') {
            Some(("stored", number)) => stored = number.parse().ok(),
            Some(("replaced", number)) => replaced = number.parse().ok(),
            _ => panic!("the child failed: {line}"),
        }
        if count + 1 == acknowledgements {
            // SIGKILL; lines the child still wrote are acknowledgements too and are read below.
            child.kill().expect("killed");
        }
    }
    child.wait().expect("ended");
    (stored.expect("something was stored"), replaced)
}

#[tokio::test]
async fn acknowledged_objects_survive_kill_9() {
    if let Some(dir) = child_dir() {
        return store_until_killed(dir).await;
    }
    let parent = TempDir::new().expect("temporary directory");
    let dir = parent.path().join("store");
    for acknowledgements in [1, 2, 7, 12, 5] {
        let (stored, replaced) = run_and_kill(&dir, acknowledgements);
        let (storage, recovery) = open(&dir);
        assert_eq!(recovery.quarantined, []);
        for number in 0..=stored {
            let found = get(&storage, &id(&number.to_string())).await;
            assert!(found == Some(numbered(number)), "object {number} was acknowledged");
        }
        if let Some(replaced) = replaced {
            let newest = get(&storage, &id("newest")).await.expect("acknowledged");
            assert!((replaced..=stored + 1).any(|number| newest == numbered(number)), "a whole version");
        }
    }
}

/// Largest file the child of [`a_full_disk_leaves_no_partial_object`] may write, in the blocks of 512 bytes that
/// `ulimit -f` counts: a group and a half.
const FILE_BLOCKS: u64 = GROUP_LEN * 3 / 2 / 512;

async fn store_on_a_full_disk(dir: PathBuf) {
    let (storage, _) = open(&dir);
    put(&storage, &id("small"), b"fits").await;
    for size in [GROUP_LEN as usize * 3 / 2, 3 * GROUP_LEN as usize] {
        let mut upload = storage.begin(&id("large"), None, false).await.expect("begins");
        let written = upload.write(content(size, 1).into()).await;
        let error = match written {
            Ok(()) => upload.commit(None).await.expect_err("no room for the footer"),
            Err(error) => {
                upload.write(Bytes::from_static(b"more")).await.expect_err("broken");
                upload.commit(None).await.expect_err("broken");
                error
            }
        };
        let text = error.to_string();
        assert!(text.contains("cannot write the object in") && text.contains("os error"), "{text}");
        assert_eq!(storage.stat(&id("large")).await.expect("stat"), None);
        assert_eq!(files(dir.join("partial")), [] as [PathBuf; 0]);
        assert_eq!((storage.usage().objects, storage.usage().bytes), (1, 4));
    }
    put(&storage, &id("small"), b"replaced").await;
}

/// A limit on the size of files stands in for the full disk: both fail a write in the middle of an upload.
#[tokio::test]
async fn a_full_disk_leaves_no_partial_object() {
    if let Some(dir) = child_dir() {
        return store_on_a_full_disk(dir).await;
    }
    let dir = TempDir::new().expect("temporary directory");
    let child = child("a_full_disk_leaves_no_partial_object", dir.path());
    let script = format!("trap '' XFSZ; ulimit -f {FILE_BLOCKS}; exec \"$0\" \"$@\"");
    let output = Command::new("sh")
        .args(["-c", &script])
        .arg(child.get_program())
        .args(child.get_args())
        .env(CHILD_DIR, dir.path())
        .output()
        .expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let (storage, recovery) = open(dir.path());
    assert_eq!((recovery.objects, recovery.removed_partial), (1, 0));
    assert_eq!(get(&storage, &id("small")).await, Some(b"replaced".to_vec()));
}
