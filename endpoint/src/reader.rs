//! Turns an object that is read in groups into a stream of its bytes.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use proxystore_shared::digest::GROUP_LEN;

use crate::endpoint::{Outgoing, RequestError};
use crate::storage::{Group, StorageError, StoredObject};

/// The bytes `start..end` of an object, whose groups `fetch` gives.
///
/// Up to `ahead` groups are fetched at once and delivered in order; that many, and no more, are held in memory. They
/// are fetched only as the stream is read. `check` sees every group, in order, before its bytes are delivered.
pub fn stream<F>(
    start: u64,
    end: u64,
    ahead: usize,
    mut fetch: impl FnMut(u64) -> F + Send + 'static,
    mut check: impl FnMut(&Group) -> Result<(), RequestError> + Send + 'static,
) -> Outgoing
where
    F: Future<Output = Result<Arc<Group>, RequestError>> + Send + 'static,
{
    let indices = start / GROUP_LEN..end.div_ceil(GROUP_LEN);
    let pieces = stream::iter(indices)
        .map(move |index| {
            let group = fetch(index);
            async move { Ok((index * GROUP_LEN, group.await?)) }
        })
        .buffered(ahead)
        .map(move |fetched: Result<(u64, Arc<Group>), RequestError>| {
            let (first, group) = fetched?;
            check(&group)?;
            let segments = clip(&group.segments, start.saturating_sub(first), end - first);
            Ok::<_, RequestError>(stream::iter(segments).map(Ok))
        })
        .try_flatten();
    Outgoing::Pieces(pieces.boxed())
}

/// Whether the bytes `start..end` of an object lie in one group.
pub fn is_in_one_group(start: u64, end: u64) -> bool {
    end.div_ceil(GROUP_LEN).saturating_sub(start / GROUP_LEN) <= 1
}

/// The bytes `start..end` of an object, which lie in one group.
pub async fn read_one_group(
    object: &dyn StoredObject,
    start: u64,
    end: u64,
) -> Result<Vec<Bytes>, StorageError> {
    let index = start / GROUP_LEN;
    let group = object.group(index).await?;
    let first = index * GROUP_LEN;
    if (start, end) == (first, first + group.len()) {
        return Ok(group.segments);
    }
    Ok(clip(&group.segments, start - first, end - first))
}

/// The bytes `start..end` of `segments`, counted from their beginning.
pub fn clip(segments: &[Bytes], start: u64, end: u64) -> Vec<Bytes> {
    let mut position = 0;
    let mut clipped = Vec::with_capacity(segments.len());
    for segment in segments {
        let len = segment.len() as u64;
        let from = start.clamp(position, position + len) - position;
        let to = end.clamp(position, position + len) - position;
        if from < to {
            clipped.push(segment.slice(from as usize..to as usize));
        }
        position += len;
    }
    clipped
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proxystore_shared::Digest;

    #[tokio::test]
    async fn groups_are_joined_in_order_whatever_order_they_arrive_in() {
        let (start, end) = (GROUP_LEN - 2, 3 * GROUP_LEN + 1);
        let fetch = |index| async move {
            // The first group is the last to arrive.
            tokio::time::sleep(std::time::Duration::from_millis(20 - 5 * index)).await;
            let bytes = Bytes::from(vec![index as u8; GROUP_LEN as usize]);
            Ok(Arc::new(Group { segments: vec![bytes], digest: Digest([0; 32]) }))
        };
        let body = stream(start, end, 4, fetch, |_| Ok(()));
        let bytes = body.try_collect::<Vec<_>>().await.unwrap().concat();
        assert_eq!(bytes.len() as u64, end - start);
        assert_eq!((bytes[..3].to_vec(), bytes[bytes.len() - 2..].to_vec()), (vec![0, 0, 1], vec![2, 3]));
    }

    proptest! {
        #[test]
        fn clip_is_a_slice(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9), 0..9), a in 0u64..80, b in 0u64..80) {
            let whole: Vec<u8> = pieces.concat();
            let (start, end) = (a.min(b).min(whole.len() as u64), a.max(b).min(whole.len() as u64));
            let clipped = clip(&pieces.into_iter().map(Bytes::from).collect::<Vec<_>>(), start, end);
            prop_assert_eq!(clipped.concat(), whole[start as usize..end as usize].to_vec());
        }
    }
}
