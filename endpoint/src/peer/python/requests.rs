//! The operations on the objects of a Python endpoint. It knows only whole objects, and of an object only whether it is
//! there: size and digest are those of the bytes that came.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use proxystore_shared::frame::{ObjectMeta, Refusal};
use proxystore_shared::python::request::{EndpointRequest, Op};
use proxystore_shared::{Digest, EndpointId, ObjectId};
use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::budget::{Budget, OverBudget, Share};
use super::session::{PythonSession, Response};
use crate::endpoint::{GetOptions, GetOutcome, Incoming, ObjectStream, Outgoing, PutOptions, RequestError};
use crate::local::{self, resolve_range};
use crate::peer::PeerError;
use crate::reader;

/// A Python endpoint, and what is needed to ask it.
pub struct PythonPeer {
    pub id: EndpointId,
    pub session: Arc<PythonSession>,
    pub budget: Budget,
    /// How long it may be silent.
    pub limit: Duration,
}

impl From<OverBudget> for PeerError {
    fn from(error: OverBudget) -> Self {
        Self::Refused { reason: Refusal::Full, message: error.to_string() }
    }
}

impl PythonPeer {
    /// Gets an object: all of it, whatever part is asked for.
    pub async fn get(&self, id: &ObjectId, options: GetOptions) -> Result<GetOutcome, PeerError> {
        let (response, share) = self.ask(Op::Get, id, None).await?;
        let Some(data) = response.data else { return Ok(GetOutcome::Missing) };
        let meta = describe(data.clone()).await?;
        if options.if_none_match == Some(meta.digest) {
            return Ok(GetOutcome::NotModified(meta));
        }
        let range = resolve_range(options.range, meta.size);
        let (start, end) = range
            .map_err(|error| PeerError::Refused { reason: Refusal::Range, message: error.to_string() })?;
        let pieces = reader::clip(&data, start, end);
        let body = stream::iter(pieces).map(move |piece| {
            // What has not been read yet counts as memory in use.
            let _ = &share;
            Ok(piece)
        });
        Ok(GetOutcome::Found(ObjectStream { meta, start, end, body: Outgoing::Pieces(body.boxed()) }))
    }

    /// Whether there is an object.
    pub async fn exists(&self, id: &ObjectId) -> Result<bool, PeerError> {
        let (response, _) = self.ask(Op::Exists, id, None).await?;
        response
            .exists
            .ok_or_else(|| PeerError::Protocol("asked whether an object exists, not answered".into()))
    }

    /// What can be known of an object, which travels for it.
    pub async fn stat(&self, id: &ObjectId) -> Result<Option<ObjectMeta>, PeerError> {
        let (response, _share) = self.ask(Op::Get, id, None).await?;
        match response.data {
            Some(data) => describe(data).await.map(Some),
            None => Ok(None),
        }
    }

    /// Has the peer forget an object; tells whether it was there before.
    pub async fn evict(&self, id: &ObjectId) -> Result<bool, PeerError> {
        let existed = self.exists(id).await?;
        self.ask(Op::Evict, id, None).await?;
        Ok(existed)
    }

    /// Stores an object, once it is here as a whole.
    pub async fn put(
        &self,
        id: &ObjectId,
        options: PutOptions,
        body: Incoming,
    ) -> Result<ObjectMeta, RequestError> {
        let failed = |error| RequestError::Peer { peer: self.id, error };
        if options.create_only {
            let message = "a Python endpoint replaces whatever there is; leave out If-None-Match";
            return Err(failed(PeerError::Unsupported(message.into())));
        }
        let (data, _share) = self.collect(options.size, body).await?;
        let meta = describe(data.clone()).await.map_err(failed)?;
        self.ask(Op::Set, id, Some(data)).await.map_err(failed)?;
        Ok(meta)
    }

    async fn collect(
        &self,
        announced: Option<u64>,
        mut body: Incoming,
    ) -> Result<(Vec<Bytes>, Share), RequestError> {
        let full = |error: OverBudget| RequestError::Peer { peer: self.id, error: error.into() };
        let mut share = self.budget.share();
        // What cannot fit is refused before it travels.
        share.set(usize::try_from(announced.unwrap_or(0)).unwrap_or(usize::MAX)).map_err(full)?;
        let (mut data, mut len) = (Vec::new(), 0);
        while let Some(bytes) = body.try_next().await.map_err(RequestError::Upload)? {
            len += bytes.len();
            if announced.is_none_or(|size| size < len as u64) {
                share.set(len).map_err(full)?;
            }
            data.push(bytes);
        }
        local::check_arrived(announced, len as u64)?;
        Ok((data, share))
    }

    async fn ask(&self, op: Op, id: &ObjectId, data: Option<Vec<Bytes>>) -> Result<Response, PeerError> {
        let request = EndpointRequest::new(op, Uuid::new_v4().to_string(), id.as_str().to_owned());
        let (mut response, share) = self.session.ask(request, data, self.limit).await?;
        match response.error.take() {
            Some(message) => Err(PeerError::Refused { reason: refused(&message), message }),
            None => Ok((response, share)),
        }
    }
}

/// What an error of the peer's means for whoever asked.
fn refused(message: &str) -> Refusal {
    if message.starts_with("ObjectSizeExceededError") { Refusal::TooLarge } else { Refusal::Internal }
}

/// Size and digest. The peer does not say when it stored the object; it was not after now.
async fn describe(data: Vec<Bytes>) -> Result<ObjectMeta, PeerError> {
    let size = data.iter().map(|piece| piece.len() as u64).sum();
    // A hundred megabytes take tens of milliseconds, in which others would wait.
    let digest = spawn_blocking(move || Digest::of_pieces(data.iter().map(|piece| &piece[..]))).await;
    let digest = digest.map_err(|panic| PeerError::Lost(panic.to_string()))?;
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(ObjectMeta { size, digest, created_ms: since_epoch.as_millis() as u64 })
}
