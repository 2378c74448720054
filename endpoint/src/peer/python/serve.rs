//! Serves a request of a Python endpoint.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use proxystore_shared::python::request::{EndpointRequest, Op};
use proxystore_shared::{EndpointId, ObjectId};
use tracing::debug;

use super::session::{PythonSession, SendError};
use crate::endpoint::{GetOptions, GetOutcome, ObjectStream, PutOptions, RequestError};
use crate::local;
use crate::peer::PeerError;
use crate::peer::context::Context;
use crate::peer::serve::refusal;

/// One request at a time.
pub(super) struct Server {
    pub context: Arc<Context>,
    pub peer: EndpointId,
    pub session: Arc<PythonSession>,
}

impl Server {
    /// Does what is asked and sends the response, which says so when it could not be done: Python waits for it for ever.
    pub async fn serve(&self, mut request: EndpointRequest) {
        let _busy = self.session.busy();
        let data = request.data.take();
        let mut response = request.response();
        let sent = match self.perform(&request, data, &mut response).await {
            Ok(Some(object)) => self.send_object(&mut response, object).await,
            Ok(None) => self.send(&response).await,
            Err(error) => {
                response.error = Some(error);
                self.send(&response).await
            }
        };
        if let Err(error) = sent {
            debug!(peer = %self.peer, %error, "a Python endpoint's request was not answered");
        }
    }

    /// An object that is to be sent, if one was asked for and is there. An error is text for the peer.
    async fn perform(
        &self,
        request: &EndpointRequest,
        data: Option<Vec<Bytes>>,
        response: &mut EndpointRequest,
    ) -> Result<Option<ObjectStream>, String> {
        let id = ObjectId::try_from(request.key.clone()).map_err(|error| error.to_string())?;
        let storage = &self.context.storage;
        let told = |error: RequestError| refusal(error).1;
        match request.op {
            Op::Get => match local::get(storage, &id, GetOptions::default()).await.map_err(told)? {
                GetOutcome::Found(object) => return Ok(Some(object)),
                GetOutcome::Missing | GetOutcome::NotModified(_) => {}
            },
            Op::Exists => {
                let known = storage.stat(&id).await.map_err(|error| told(error.into()))?;
                response.exists = Some(known.is_some());
            }
            Op::Evict => {
                storage.evict(&id).await.map_err(|error| told(error.into()))?;
            }
            Op::Set => {
                let data = data.ok_or("a set without data")?;
                let size = Some(data.iter().map(|piece| piece.len() as u64).sum());
                let body = stream::iter(data).map(Ok).boxed();
                let options = PutOptions { size, create_only: false };
                local::put(storage, &id, options, body).await.map_err(told)?;
            }
        }
        Ok(None)
    }

    async fn send_object(
        &self,
        response: &mut EndpointRequest,
        object: ObjectStream,
    ) -> Result<(), PeerError> {
        let len = object.end - object.start;
        let limit = self.context.config.read_timeout();
        match self.session.send(response, Some(len), object.body.boxed(), limit).await {
            Ok(()) => Ok(()),
            Err(SendError::Peer(error)) => Err(error),
            Err(SendError::Data(error)) => {
                response.error = Some(refusal(error).1);
                self.send(response).await
            }
        }
    }

    async fn send(&self, response: &EndpointRequest) -> Result<(), PeerError> {
        let limit = self.context.config.read_timeout();
        match self.session.send(response, None, stream::empty().boxed(), limit).await {
            Ok(()) => Ok(()),
            Err(SendError::Peer(error)) => Err(error),
            Err(SendError::Data(error)) => Err(PeerError::Lost(error.to_string())),
        }
    }
}
