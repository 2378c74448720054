use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use super::*;
use crate::factory::from_fn;

/// Counts how often it was asked.
fn counting(count: &Arc<AtomicUsize>) -> Proxy<String, impl Factory<String>> {
    let count = count.clone();
    Proxy::new(from_fn(move || {
        count.fetch_add(1, SeqCst);
        thread::sleep(Duration::from_millis(20));
        Ok::<_, std::io::Error>("target".to_owned())
    }))
}

fn failing() -> Proxy<String, impl Factory<String>> {
    Proxy::new(from_fn(|| Err::<String, _>("no luck")))
}

#[test]
fn it_behaves_as_its_target() {
    let proxy = counting(&Arc::default());
    let same = counting(&Arc::default());
    assert!(!proxy.is_resolved());
    assert_eq!(proxy.to_string(), "target");
    assert!(proxy.is_resolved());
    assert_eq!(format!("{proxy:?}"), "\"target\"");
    assert_eq!(proxy, "target".to_owned());
    assert_eq!(proxy, same);
    assert_eq!(proxy.partial_cmp(&same), Some(Ordering::Equal));
    assert_eq!(AsRef::<str>::as_ref(&proxy), "target");
    assert!(HashSet::from(["target".to_owned()]).contains(Borrow::<String>::borrow(&proxy)));
    assert_eq!(proxy.len(), 6);
    assert_eq!(*proxy.extract().unwrap(), "target");
}

#[test]
fn sixty_four_threads_and_all_clones_share_one_resolution() {
    let count = Arc::new(AtomicUsize::new(0));
    let proxy = counting(&count);
    thread::scope(|scope| {
        for number in 0..64 {
            let proxy = if number % 2 == 0 { proxy.clone() } else { Proxy { shared: proxy.shared.clone() } };
            scope.spawn(move || assert_eq!(*proxy, "target"));
        }
    });
    assert_eq!(count.load(SeqCst), 1);
}

#[test]
fn an_error_is_kept_typed_and_given_to_all() {
    let proxy = failing();
    for _ in 0..2 {
        assert!(matches!(proxy.resolve().unwrap_err(), ResolveError::Factory(_)));
    }
    assert!(!proxy.is_resolved());
    assert_eq!(format!("{proxy:?}"), "Proxy(the factory failed: no luck)");
    let panic = thread::spawn(move || proxy.len()).join().unwrap_err();
    assert_eq!(words_of(&*panic), "cannot resolve a proxy: the factory failed: no luck");
}

#[test]
fn a_factory_that_panics_is_an_error() {
    fn panics() -> Result<u8, std::io::Error> {
        panic!("out of cheese")
    }
    let error = Proxy::new(from_fn(panics)).resolve().cloned().unwrap_err();
    assert!(matches!(error, ResolveError::Panicked(words) if words == "out of cheese"));
}

#[tokio::test]
async fn dereferencing_inside_a_runtime_of_one_thread_does_not_deadlock() {
    let count = Arc::new(AtomicUsize::new(0));
    let proxy = counting(&count);
    let other = proxy.clone();
    let waiting = tokio::spawn(async move { other.resolve_async().await.map(String::len) });
    tokio::task::yield_now().await;
    assert_eq!(proxy.len(), 6);
    assert_eq!(waiting.await.unwrap().unwrap(), 6);
    assert_eq!(count.load(SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn dereferencing_inside_a_runtime_of_threads_lets_other_tasks_go_on() {
    let proxy = Proxy::new(from_fn(|| {
        thread::sleep(Duration::from_millis(200));
        Ok::<_, std::io::Error>(1)
    }));
    let other_task = tokio::spawn(async { tokio::time::sleep(Duration::from_millis(1)).await });
    let resolved = tokio::spawn(async move { *proxy }).await.unwrap();
    assert_eq!(resolved, 1);
    assert!(other_task.is_finished());
}

#[tokio::test]
async fn a_future_that_is_dropped_does_not_stop_the_making() {
    let count = Arc::new(AtomicUsize::new(0));
    let proxy = counting(&count);
    tokio::time::timeout(Duration::from_millis(1), proxy.resolve_async()).await.unwrap_err();
    assert_eq!(proxy.resolve_async().await.unwrap(), "target");
    assert_eq!(count.load(SeqCst), 1);
}
