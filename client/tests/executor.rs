//! Calls through a channel to functions elsewhere, as far as one process allows.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too, may panic")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use proptest::prelude::*;
use proxystore::connectors::FileConnector;
use proxystore::executor::{
    Executor, ExecutorError, Functions, MaybeProxy, ProxyRule, StoreExecutor, TaskError,
};
use proxystore::{Proxy, ResolveError, Store};
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};

type Texts = MaybeProxy<Vec<String>>;

fn functions() -> Functions {
    let mut functions = Functions::new();
    functions.register("len", |data: MaybeProxy<Bytes>| async move {
        data.resolve_async().await.map(|data| data.len() as u64)
    });
    functions.register("zeros", |len: MaybeProxy<usize>| async move {
        Ok::<_, ResolveError>(Bytes::from(vec![0; *len]))
    });
    functions.register_blocking(
        "describe",
        |name: MaybeProxy<String>, list: Texts, number: MaybeProxy<i32>, flag: MaybeProxy<Option<bool>>| {
            let sorts = [name.is_proxy(), list.is_proxy(), number.is_proxy(), flag.is_proxy()];
            Ok::<_, ResolveError>((sorts, format!("{} {:?} {} {:?}", *name, *list, *number, *flag)))
        },
    );
    functions.register("nothing", || async { Ok::<_, ResolveError>(()) });
    functions.register("fails", || async { Err::<(), _>("out of cheese") });
    functions.register_blocking("panics", |list: Texts| Ok::<_, ResolveError>(list[7].len() as u64));
    functions
}

/// A channel to a task that calls functions, one task each.
struct Channel {
    calls: mpsc::UnboundedSender<(String, Bytes, oneshot::Sender<Bytes>)>,
    largest: AtomicUsize,
}

impl Channel {
    fn new(functions: Functions) -> Self {
        let (calls, mut arriving) = mpsc::unbounded_channel::<(String, Bytes, oneshot::Sender<Bytes>)>();
        tokio::spawn(async move {
            let functions = std::sync::Arc::new(functions);
            while let Some((function, message, answer)) = arriving.recv().await {
                let functions = functions.clone();
                tokio::spawn(async move { answer.send(functions.call(&function, message).await) });
            }
        });
        Self { calls, largest: AtomicUsize::new(0) }
    }
}

#[async_trait]
impl Executor for &Channel {
    async fn execute(&self, function: &str, message: Bytes) -> Result<Bytes, ExecutorError> {
        self.largest.fetch_max(message.len(), SeqCst);
        let (answer, answered) = oneshot::channel();
        let _ = self.calls.send((function.to_owned(), message, answer));
        let lost = |_| ExecutorError::Transport { reason: "nobody works".to_owned() };
        let answer = answered.await.map_err(lost)?;
        self.largest.fetch_max(answer.len(), SeqCst);
        Ok(answer)
    }
}

/// A store whose objects are files, to be counted. Unregistered, so the other side makes one of its own.
fn store(name: &str) -> (Store, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    (Store::new(name, FileConnector::new(directory.path()).unwrap()), directory)
}

fn objects_in(directory: &TempDir) -> usize {
    // Each has a marker beside it.
    directory.path().read_dir().unwrap().count() / 2
}

#[tokio::test]
async fn messages_stay_small_and_arguments_go() {
    let channel = Channel::new(functions());
    let (store, directory) = store("small messages");
    let executor = StoreExecutor::new(&channel, store.clone()).proxy_if(ProxyRule::over(1000));
    let data = Bytes::from(vec![7; 5_000_000]);
    let len: MaybeProxy<u64> = executor.submit("len", &data).await.unwrap();
    assert_eq!((*len, len.is_proxy()), (5_000_000, false));
    assert_eq!(objects_in(&directory), 0, "the argument stays");

    let zeros: MaybeProxy<Bytes> = executor.submit("zeros", &5_000_000_usize).await.unwrap();
    assert!(zeros.is_proxy());
    let len: MaybeProxy<u64> = executor.call("len").pass(&zeros).unwrap().submit().await.unwrap();
    assert_eq!(*len, 5_000_000);
    assert_eq!(zeros.len(), 5_000_000, "what is passed on is not evicted");
    assert_eq!(objects_in(&directory), 1);
    assert!(channel.largest.load(SeqCst) < 2000, "{:?}", channel.largest);

    let kept = executor.clone().keep_arguments(true);
    kept.submit::<_, u64>("len", &data).await.unwrap();
    assert_eq!(objects_in(&directory), 2);
    let evicting = executor.evict_results(true);
    let zeros: MaybeProxy<Bytes> = evicting.submit("zeros", &2000_usize).await.unwrap();
    assert_eq!(objects_in(&directory), 3);
    assert_eq!(zeros.resolve_async().await.unwrap().len(), 2000);
    assert_eq!(objects_in(&directory), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_argument_travels_by_the_rule() {
    let channel = Channel::new(functions());
    let (store, directory) = store("rules");
    let list: Vec<_> = (0..100).map(|n| n.to_string()).collect();
    let strings = ProxyRule::for_type::<String>();
    let result = ProxyRule::for_type::<([bool; 4], String)>();
    for (rule, expected) in [
        (ProxyRule::never(), [false; 5]),
        (ProxyRule::always(), [true; 5]),
        (ProxyRule::over(100), [false, true, false, false, true]),
        (strings.clone(), [true, false, false, false, false]),
        (strings.clone().or(ProxyRule::over(100)), [true, true, false, false, true]),
        (strings.clone().and(ProxyRule::over(100)), [false; 5]),
        (result.and(ProxyRule::over(100)), [false, false, false, false, true]),
    ] {
        let executor = StoreExecutor::new(&channel, store.clone()).proxy_if(rule.clone());
        let call = executor.call("describe").arg(&"name".to_owned()).unwrap().arg(&list).unwrap();
        let call = call.arg(&-3).unwrap().arg(&None::<bool>).unwrap();
        let described: MaybeProxy<([bool; 4], String)> = call.submit().await.unwrap();
        let (sorts, text) = described.resolve_async().await.unwrap();
        assert_eq!((&sorts[..], described.is_proxy()), (&expected[..4], expected[4]), "{rule:?}");
        assert_eq!(*text, format!("name {list:?} -3 None"));
    }
    assert_eq!(objects_in(&directory), 4, "results stay");
}

#[tokio::test]
async fn many_calls_at_once() {
    let channel = Channel::new(functions());
    let (store, directory) = store("many");
    let executor = StoreExecutor::new(&channel, store).proxy_if(ProxyRule::over(500));
    let calls = (0..100_usize).map(|len| {
        let executor = executor.clone();
        async move {
            let data = Bytes::from(vec![1; len * 10]);
            assert_eq!(*executor.submit::<_, u64>("len", &data).await.unwrap(), len as u64 * 10);
        }
    });
    futures_util::future::join_all(calls).await;
    assert_eq!(objects_in(&directory), 0);
}

#[tokio::test]
async fn errors_come_back_as_what_they_are() {
    let channel = Channel::new(functions());
    let (store, directory) = store("errors");
    let executor = StoreExecutor::new(&channel, store).proxy_if(ProxyRule::always());
    let task = |error| match error {
        ExecutorError::Task(error) => error,
        error => panic!("{error:?}"),
    };

    let error = task(executor.call("sing").submit::<()>().await.unwrap_err());
    assert!(matches!(&error, TaskError::UnknownFunction { function, .. } if function == "sing"), "{error:?}");
    assert!(error.to_string().contains("describe, fails, len"), "{error}");

    let error = task(executor.submit::<_, ()>("nothing", &1).await.unwrap_err());
    assert_eq!(error.to_string(), "arguments of \"nothing\": it takes 0, not 1");

    let by_value = executor.clone().proxy_if(ProxyRule::never());
    let error = task(by_value.submit::<_, u64>("len", &vec!["no bytes".to_owned()]).await.unwrap_err());
    assert!(matches!(&error, TaskError::Arguments { function, .. } if function == "len"), "{error:?}");

    let error = task(executor.call("fails").submit::<()>().await.unwrap_err());
    assert_eq!(error, TaskError::Failed { function: "fails".to_owned(), reason: "out of cheese".to_owned() });

    let error = task(executor.submit::<_, u64>("panics", &vec![String::new()]).await.unwrap_err());
    assert!(
        matches!(&error, TaskError::Failed { reason, .. } if reason.contains("index out of bounds")),
        "{error:?}"
    );

    let error = by_value.call("nothing").submit::<String>().await.unwrap_err();
    assert!(matches!(error, ExecutorError::Serialize(_)), "{error:?}");

    let error = by_value.submit::<_, u64>("len", &Bytes::from(vec![0; 65 << 20])).await.unwrap_err();
    assert!(matches!(error, ExecutorError::TooLarge { .. }), "{error:?}");
    assert_eq!(objects_in(&directory), 0, "arguments of failed tasks go too");
}

#[tokio::test]
async fn a_result_that_cannot_be_stored_is_an_error() {
    let (store, directory) = store("full");
    let executor = StoreExecutor::new(functions(), store).proxy_if(ProxyRule::over(100));
    // The other side cannot make the directory again, since there is a file now.
    let path = directory.path().to_owned();
    drop(directory);
    std::fs::write(&path, "in the way").unwrap();
    let error = executor.submit::<_, Bytes>("zeros", &1000_usize).await.unwrap_err();
    assert!(matches!(error, ExecutorError::Task(TaskError::Result { .. })), "{error:?}");
    let error = executor.submit::<_, u64>("len", &Bytes::from(vec![0; 1000])).await.unwrap_err();
    assert!(matches!(error, ExecutorError::Store(_)), "{error:?}");
    std::fs::remove_file(path).unwrap();
}

/// Never answers.
struct Silence(Mutex<Option<oneshot::Sender<()>>>);

#[async_trait]
impl Executor for Silence {
    async fn execute(&self, _function: &str, _message: Bytes) -> Result<Bytes, ExecutorError> {
        if let Some(called) = self.0.lock().unwrap().take() {
            called.send(()).unwrap();
        }
        std::future::pending().await
    }
}

#[tokio::test]
async fn arguments_go_when_nobody_waits_any_more() {
    let (store, directory) = store("cancelled");
    let (called, was_called) = oneshot::channel();
    let executor = StoreExecutor::new(Silence(Mutex::new(Some(called))), store).proxy_if(ProxyRule::always());
    let call = tokio::spawn(async move { executor.submit::<_, ()>("anything", &1).await });
    was_called.await.unwrap();
    assert_eq!(objects_in(&directory), 1);
    call.abort();
    while objects_in(&directory) > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Answers anything.
struct Liar(Vec<u8>);

#[async_trait]
impl Executor for Liar {
    async fn execute(&self, _function: &str, _message: Bytes) -> Result<Bytes, ExecutorError> {
        Ok(self.0.clone().into())
    }
}

/// Arbitrary bytes, some behind an identifier.
fn messages() -> impl Strategy<Value = Vec<u8>> {
    let start = prop_oneof![Just(&b""[..]), Just(&b"PXQ1"[..]), Just(&b"PXR1"[..])];
    let start_and_rest = (start, prop::collection::vec(any::<u8>(), 0..100));
    start_and_rest.prop_map(|(start, rest)| [start, &rest].concat())
}

#[test]
fn messages_that_are_none_are_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (functions, (store, _directory)) = (functions(), store("lies"));
    proptest!(|(message in messages())| {
        let answer = runtime.block_on(functions.call("nothing", message.clone().into()));
        prop_assert!(answer.starts_with(b"PXR1"));
        for answer in [message, answer.to_vec()] {
            let executor = StoreExecutor::new(Liar(answer), store.clone());
            let outcome = runtime.block_on(executor.call("nothing").submit::<String>());
            prop_assert!(outcome.is_err(), "{outcome:?}");
        }
    });
}

#[tokio::test]
async fn a_value_or_a_proxy_survives_serialization() {
    let (store, _directory) = store("survives");
    let proxy: Proxy<String> = store.proxy(&"far".to_owned()).await.unwrap();
    for (maybe, text) in [(MaybeProxy::Value("near".to_owned()), "near"), (MaybeProxy::Proxy(proxy), "far")] {
        let json = serde_json::to_string(&maybe).unwrap();
        let again: MaybeProxy<String> = serde_json::from_str(&json).unwrap();
        assert_eq!(again.is_proxy(), maybe.is_proxy());
        assert_eq!(again.resolve_async().await.unwrap(), text);
    }
}
