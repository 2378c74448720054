use proxystore::{BorrowError, OwnedProxy, Proxy, RefMutProxy, RefProxy, unregister_store};

use crate::{file_store, sent};

#[tokio::test]
async fn an_object_goes_with_its_owner_and_its_borrowers() {
    let (_directory, store) = file_store("owned");
    let owner = store.owned_proxy(&vec![1, 2]).await.unwrap();
    let key = owner.key().clone();
    let reader = owner.borrow().unwrap();
    drop(owner);
    assert!(store.exists(&key).await.unwrap(), "somebody still reads it");
    assert_eq!(*reader, [1, 2]);
    drop(reader);
    assert!(!store.exists(&key).await.unwrap());
}

#[tokio::test]
async fn many_read_or_one_writes() {
    let (_directory, store) = file_store("rules");
    let owner = store.owned_proxy(&1_u8).await.unwrap();
    let key = owner.key().clone();
    let readers = (owner.borrow().unwrap(), owner.borrow().unwrap());
    let refused = owner.mut_borrow().unwrap_err();
    assert_eq!(refused, BorrowError::Borrowed { key: key.clone(), count: 2 });
    drop(readers);
    let writer = owner.mut_borrow().unwrap();
    assert_eq!(owner.borrow().unwrap_err(), BorrowError::MutablyBorrowed { key: key.clone() });
    assert_eq!(owner.mut_borrow().unwrap_err(), BorrowError::MutablyBorrowed { key });
    drop(writer);
    owner.borrow().unwrap();
}

#[tokio::test]
async fn a_change_is_seen_by_all_who_read_later() {
    let (_directory, store) = file_store("changes");
    let owner = store.owned_proxy(&1_u8).await.unwrap();
    assert_eq!(*owner.borrow().unwrap().resolve_async().await.unwrap(), 1);
    let mut writer = owner.mut_borrow().unwrap();
    writer.update(2).await.unwrap();
    assert_eq!(*writer, 2);
    drop(writer);
    let reader = owner.borrow().unwrap();
    assert_eq!(*reader.resolve_async().await.unwrap(), 2);
    let elsewhere: RefProxy<u8> = sent(&reader);
    assert_eq!(*elsewhere.resolve_async().await.unwrap(), 2);
    unregister_store("changes");
}

#[tokio::test]
async fn a_task_elsewhere_borrows_to_change() {
    let (_directory, store) = file_store("borrowed-elsewhere");
    let owner = store.owned_proxy(&"old".to_owned()).await.unwrap();
    let lent = owner.mut_borrow().unwrap();
    let mut elsewhere: RefMutProxy<String> = sent(&lent);
    assert_eq!(*elsewhere.resolve_async().await.unwrap(), "old");
    elsewhere.update("new".to_owned()).await.unwrap();
    drop(elsewhere);
    assert!(owner.borrow().is_err(), "it comes back when what was lent here is dropped");
    drop(lent);
    assert_eq!(*owner.borrow().unwrap().resolve_async().await.unwrap(), "new");
    unregister_store("borrowed-elsewhere");
}

#[tokio::test]
async fn a_copy_has_an_owner_of_its_own() {
    let (_directory, store) = file_store("copies");
    let owner = store.owned_proxy(&5_u8).await.unwrap();
    let copy = owner.try_clone().await.unwrap();
    let (key, copied) = (owner.key().clone(), copy.key().clone());
    assert_ne!(key, copied);
    drop(owner);
    assert!(!store.exists(&key).await.unwrap());
    assert_eq!(*copy.borrow().unwrap().resolve_async().await.unwrap(), 5);
    let _writer = copy.mut_borrow().unwrap();
    assert!(copy.try_clone().await.unwrap_err().to_string().contains("borrowed mutably"));
}

#[tokio::test]
async fn ownership_is_passed_on() {
    let (_directory, store) = file_store("passed-on");
    let owner = store.owned_proxy(&5_u8).await.unwrap();
    let key = owner.key().clone();
    let reader = owner.borrow().unwrap();
    let owner = owner.release().unwrap_err();
    drop(reader);
    let message: Proxy<u8> = sent(&owner.release().unwrap());
    assert!(store.exists(&key).await.unwrap());
    let new_owner = OwnedProxy::own(message);
    assert_eq!(*new_owner.borrow().unwrap().resolve_async().await.unwrap(), 5);
    drop(new_owner);
    assert!(!store.exists(&key).await.unwrap());
    unregister_store("passed-on");
}
