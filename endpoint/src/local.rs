//! The operations on this endpoint's own objects.

use std::io;
use std::sync::Arc;

use futures_util::TryStreamExt as _;
use proxystore_shared::ObjectId;
use proxystore_shared::frame::{ByteRange, ObjectMeta};

use crate::endpoint::{GetOptions, GetOutcome, Incoming, ObjectStream, PutOptions, RequestError};
use crate::reader;
use crate::storage::Storage;

/// Groups read from storage at once: the second is fetched from disk while the first goes to the client.
const READ_AHEAD: usize = 2;

/// Opens an object of `storage`.
pub async fn get(
    storage: &Arc<dyn Storage>,
    id: &ObjectId,
    options: GetOptions,
) -> Result<GetOutcome, RequestError> {
    let Some(object) = storage.open(id).await? else { return Ok(GetOutcome::Missing) };
    let meta = object.meta().clone();
    if options.if_none_match == Some(meta.digest) {
        return Ok(GetOutcome::NotModified(meta));
    }
    let (start, end) = resolve_range(options.range, meta.size)?;
    if reader::is_in_one_group(start, end) {
        // Read before it is answered, so that damage is a failure and not a broken answer.
        let segments = reader::read_one_group(&*object, start, end).await?;
        return Ok(GetOutcome::Found(ObjectStream { meta, start, end, body: segments.into() }));
    }
    let fetch = move |index| {
        let object = object.clone();
        async move { Ok(Arc::new(object.group(index).await?)) }
    };
    let body = reader::stream(start, end, READ_AHEAD, fetch, |_| Ok(()));
    Ok(GetOutcome::Found(ObjectStream { meta, start, end, body }))
}

/// Stores `body` in `storage`.
pub async fn put(
    storage: &Arc<dyn Storage>,
    id: &ObjectId,
    options: PutOptions,
    mut body: Incoming,
) -> Result<ObjectMeta, RequestError> {
    let mut upload = storage.begin(id, options.size, options.create_only).await?;
    let mut received = 0;
    while let Some(bytes) = body.try_next().await.map_err(RequestError::Upload)? {
        received += bytes.len() as u64;
        upload.write(bytes).await?;
    }
    check_arrived(options.size, received)?;
    Ok(upload.commit(None).await?)
}

/// An upload that ends before, or goes on after, the size that its client announced is broken.
pub fn check_arrived(announced: Option<u64>, arrived: u64) -> Result<(), RequestError> {
    match announced {
        Some(size) if size != arrived => {
            let message = format!("{arrived} of {size} bytes arrived");
            Err(RequestError::Upload(io::Error::new(io::ErrorKind::UnexpectedEof, message)))
        }
        _ => Ok(()),
    }
}

/// The part of an object of `size` bytes that `range` asks for; an end beyond the object is the object's end
/// (RFC 9110, section 14.1.2).
pub fn resolve_range(range: Option<ByteRange>, size: u64) -> Result<(u64, u64), RequestError> {
    let Some(range) = range else { return Ok((0, size)) };
    let end = range.end.unwrap_or(size).min(size);
    if range.start >= end && !(range.start == 0 && size == 0) {
        return Err(RequestError::Range { size });
    }
    Ok((range.start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_follow_rfc_9110() {
        let range = |start, end| resolve_range(Some(ByteRange { start, end }), 10);
        assert_eq!(range(0, Some(4)).expect("inside"), (0, 4));
        assert_eq!(range(4, None).expect("inside"), (4, 10));
        assert_eq!(range(4, Some(99)).expect("clipped"), (4, 10));
        assert!(matches!(range(10, None), Err(RequestError::Range { size: 10 })));
        assert!(matches!(range(5, Some(5)), Err(RequestError::Range { size: 10 })));
        assert_eq!(resolve_range(None, 0).expect("empty"), (0, 0));
    }
}
