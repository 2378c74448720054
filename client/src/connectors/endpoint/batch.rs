//! Many objects in one request, if the home endpoint has routes for that; otherwise many requests at once.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use proxystore_shared::ObjectId;
use proxystore_shared::batch::{BatchError, Entry, MAX_KEYS, MEDIA_TYPE, PREFIX_LEN, Stored, Wanted};
use proxystore_shared::http::v1;

use super::home::Home;
use super::{EndpointConnector, KIND, MAX_OBJECT_LEN, answer, store};
use crate::connector::{Connector, ConnectorError};
use crate::http::{MAX_PIECE_LEN, Request, Response};
use crate::{Key, Object};

/// Requests that are under way at once, where there are no batches.
const CONCURRENCY: usize = 16;

/// Media type of a list of ids.
const JSON: &str = "application/json";

/// Whether the endpoint has routes for batches. Asked once, with a batch of nothing, so that a refusal costs little.
async fn has_batches(home: &Home) -> Result<bool, ConnectorError> {
    let ask = async || {
        let response = home.client.send(&wanted(&[])).await?;
        let served = response.is_success();
        response.object(answer::MAX_LEN).await.map(|_| served)
    };
    home.batches.get_or_try_init(ask).await.copied()
}

/// Stores objects at `home`, in order; none if one of them is empty, which endpoints refuse one by one, too.
pub async fn put(home: Arc<Home>, objects: &[Object]) -> Result<Vec<Key>, ConnectorError> {
    if let Some(place) = objects.iter().position(Object::is_empty) {
        let reason = format!("number {} of the batch is empty", place + 1);
        return Err(ConnectorError::Refused { target: home.client.name().to_owned(), reason });
    }
    if !has_batches(&home).await? {
        let requests: Vec<_> = objects.iter().map(|object| store(home.clone(), object.clone())).collect();
        return stream::iter(requests).buffered(CONCURRENCY).try_collect().await;
    }
    let ids: Vec<_> = objects.iter().map(|_| ObjectId::random()).collect();
    let mut body = Object::new();
    for (id, object) in ids.iter().zip(objects) {
        body.push(Entry { object_id: id.clone(), len: Some(object.len() as u64) }.encode());
        object.segments().iter().for_each(|segment| body.push(segment.clone()));
    }
    let request = Request { content_type: MEDIA_TYPE, ..Request::post(v1::BATCH_PUT, body) };
    let longest = objects.iter().map(Object::len).max().unwrap_or_default();
    let response = answer::accept(home.client.send(&request).await?, longest as u64).await?;
    let Stored { stored } = answer::json(response).await?;
    if stored != objects.len() as u64 {
        let reason = format!("it stored {stored} of the {} objects of a batch", objects.len());
        return Err(ConnectorError::Refused { target: home.client.name().to_owned(), reason });
    }
    let key = |object_id| Key::Endpoint { object_id, endpoint_id: Some(home.id) };
    Ok(ids.into_iter().map(key).collect())
}

/// The objects of these keys: those at `home` in batches, others one by one, since the way to other endpoints
/// may break for one and not the other.
pub async fn get(
    connector: &EndpointConnector,
    home: Arc<Home>,
    keys: &[Key],
) -> Result<Vec<Option<Object>>, ConnectorError> {
    let (mut here, mut elsewhere) = (Vec::new(), Vec::new());
    let batches = has_batches(&home).await?;
    for (place, key) in keys.iter().enumerate() {
        match key {
            Key::Endpoint { object_id, endpoint_id }
                if batches && endpoint_id.is_none_or(|at| at == home.id) =>
            {
                here.push((place, object_id.clone()));
            }
            Key::Endpoint { .. } => elsewhere.push((place, key)),
            key => return Err(ConnectorError::ForeignKey { key: key.clone(), kind: KIND.to_owned() }),
        }
    }
    let mut objects = vec![None; keys.len()];
    for chunk in here.chunks(MAX_KEYS) {
        let (places, ids): (Vec<_>, Vec<_>) = chunk.iter().cloned().unzip();
        let mut response = answer::accept(home.client.send(&wanted(&ids)).await?, 0).await?;
        for (place, id) in places.into_iter().zip(&ids) {
            objects[place] = next(&mut response, id).await?;
        }
        response.finish().await?;
    }
    let requests: Vec<_> = elsewhere
        .into_iter()
        .map(|(place, key)| async move { Ok((place, connector.get(key).await?)) })
        .collect();
    let mut others = stream::iter(requests).buffer_unordered(CONCURRENCY);
    while let Some((place, object)) = others.try_next().await? {
        objects[place] = object;
    }
    Ok(objects)
}

/// A request for objects.
fn wanted(ids: &[ObjectId]) -> Request<'static> {
    // Texts in a list always serialize.
    let list = serde_json::to_vec(&Wanted { keys: ids.to_vec() }).unwrap_or_default();
    Request { content_type: JSON, ..Request::post(v1::BATCH_GET, list.into()) }
}

/// Reads the next object of an answer, which must be the one called `id`.
async fn next(response: &mut Response, id: &ObjectId) -> Result<Option<Object>, ConnectorError> {
    let refuse = |response: &Response, error: BatchError| response.nonsense(&error.to_string());
    let prefix = exactly(response, PREFIX_LEN).await?;
    let prefix = prefix[..].try_into().map_err(|_| refuse(response, BatchError::Truncated))?;
    let rest = Entry::len_after(prefix).map_err(|error| refuse(response, error))?;
    let entry = Entry::decode(&exactly(response, rest).await?).map_err(|error| refuse(response, error))?;
    if entry.object_id != *id {
        return Err(response.nonsense(&format!("it sent {} in place of {id}", entry.object_id)));
    }
    let Some(mut rest) = entry.len else { return Ok(None) };
    if rest > MAX_OBJECT_LEN {
        return Err(response.nonsense(&format!("it announced an object of {rest} bytes")));
    }
    let mut object = Object::new();
    while rest > 0 {
        let piece = exactly(response, usize::try_from(rest).unwrap_or(usize::MAX).min(MAX_PIECE_LEN)).await?;
        rest -= piece.len() as u64;
        object.push(piece);
    }
    Ok(Some(object))
}

async fn exactly(response: &mut Response, count: usize) -> Result<Bytes, ConnectorError> {
    let bytes = response.read(count).await?;
    if bytes.len() == count { Ok(bytes) } else { Err(response.nonsense("its batch ends early")) }
}
