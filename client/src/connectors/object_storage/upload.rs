//! Small objects go in one request, large ones in parts, several at once.

use futures_util::StreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload, WriteMultipart};
use tokio::runtime::Handle;

use super::bucket::Bucket;
use super::errors::connector_error;
use crate::Object;
use crate::connector::{ConnectorError, ObjectStream};

/// Bytes in a part, and in an object that goes in one request. Services take no fewer than 5 MiB in a part; more
/// takes long to repeat.
const PART_LEN: usize = 16 << 20;

/// Parts under way at once: enough to fill a link to which one connection is too slow.
const PARTS_AT_ONCE: usize = 4;

/// S3 and Google take no more parts of an object. Longer parts make room if the length is known beforehand, else
/// 160 GB is the most.
const PARTS_AT_MOST: u64 = 10_000;

/// Stores a stream. In case of an error there is no object.
pub(super) async fn upload(
    bucket: &Bucket,
    client: &dyn ObjectStore,
    path: &Path,
    mut stream: ObjectStream,
) -> Result<(), ConnectorError> {
    let failed = |error| connector_error(bucket, error);
    let mut start = Object::new();
    while start.len() <= PART_LEN {
        let Some(chunk) = stream.chunks.next().await else {
            let payload = PutPayload::from_iter(start.into_segments());
            return client.put(path, payload).await.map(drop).map_err(failed);
        };
        start.push(chunk?);
    }
    let parts = client.put_multipart(path).await.map_err(failed)?;
    let part_len = part_len(stream.len);
    let parts = WriteMultipart::new_with_chunk_size(parts, part_len);
    let mut upload = Upload { parts: Some(parts), part_len };
    for chunk in start.into_segments() {
        upload.push(chunk).await.map_err(failed)?;
    }
    while let Some(chunk) = stream.chunks.next().await {
        upload.push(chunk?).await.map_err(failed)?;
    }
    upload.finish().await.map_err(failed)
}

fn part_len(len: Option<u64>) -> usize {
    let needed = len.unwrap_or(0).div_ceil(PARTS_AT_MOST);
    PART_LEN.max(usize::try_from(needed).unwrap_or(usize::MAX))
}

/// An upload in parts. Dropped before its end it is aborted, so that no parts are left that nobody sees.
struct Upload {
    parts: Option<WriteMultipart>,
    part_len: usize,
}

impl Upload {
    /// Takes bytes when there is room for a part of them.
    async fn push(&mut self, mut chunk: bytes::Bytes) -> Result<(), object_store::Error> {
        let Some(parts) = &mut self.parts else { return Ok(()) };
        while !chunk.is_empty() {
            parts.wait_for_capacity(PARTS_AT_ONCE).await?;
            parts.put(chunk.split_to(chunk.len().min(self.part_len)));
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<(), object_store::Error> {
        let Some(parts) = self.parts.take() else { return Ok(()) };
        parts.finish().await.map(drop)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let (Some(parts), Ok(runtime)) = (self.parts.take(), Handle::try_current()) {
            runtime.spawn(async move {
                // Nothing more can be done about parts that cannot be removed.
                let _ = parts.abort().await;
            });
        }
    }
}
