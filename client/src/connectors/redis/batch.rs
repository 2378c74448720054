//! Many objects in few requests.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use redis::{cmd, pipe};

use super::link::Request;
use super::transfer::{Payload, Redis, WINDOW};
use crate::Object;
use crate::connector::ConnectorError;

/// In one request of a batch, in bytes: large enough that the time between requests does not count, small enough
/// that one is made while the other is carried out. Larger objects go alone.
const BATCH_LEN: usize = 512 << 10;

/// Objects in one request of a batch: Redis serves nobody else meanwhile.
const BATCH_COUNT: usize = 1000;

/// Questions to the nodes of a cluster that are under way at once.
const CLUSTER_WINDOW: usize = 64;

impl Redis {
    /// Stores objects. In case of an error it removes those that it stored.
    pub async fn set_batch(
        self: &Arc<Self>,
        names: &[String],
        objects: &[Object],
    ) -> Result<(), ConnectorError> {
        objects.iter().try_for_each(|object| self.check_len(object.len() as u64))?;
        let requests: Vec<_> = groups(objects.iter().map(Object::len))
            .into_iter()
            .map(|group| self.set_group(&names[group.clone()], &objects[group]))
            .collect();
        let outcome = stream::iter(requests).buffered(WINDOW).try_collect().await;
        if let Err(error) = &outcome {
            self.undo(names, error).await;
        }
        outcome
    }

    async fn set_group(self: &Arc<Self>, names: &[String], objects: &[Object]) -> Result<(), ConnectorError> {
        if let ([name], [object]) = (names, objects) {
            return self.set(name, object.clone()).await;
        }
        let mut command = cmd("MSET");
        for (name, object) in names.iter().zip(objects) {
            command.arg(name).arg(Payload(object));
        }
        self.ask_in_turn(&command).await
    }

    /// The objects, in the order of the names.
    pub async fn get_batch(
        self: &Arc<Self>,
        names: &[String],
    ) -> Result<Vec<Option<Object>>, ConnectorError> {
        let lens = self.lens(names).await?;
        let requests: Vec<_> =
            groups(lens.into_iter()).into_iter().map(|group| self.get_group(&names[group])).collect();
        stream::iter(requests).buffered(WINDOW).try_concat().await
    }

    async fn get_group(self: &Arc<Self>, names: &[String]) -> Result<Vec<Option<Object>>, ConnectorError> {
        if let [name] = names {
            return Ok(vec![self.get(name).await?]);
        }
        let objects: Vec<Option<Bytes>> = self.ask_in_turn(cmd("MGET").arg(names)).await?;
        if objects.len() != names.len() {
            let reason = format!("{} answers to {} questions", objects.len(), names.len());
            return Err(ConnectorError::Refused { target: self.settings.target(), reason });
        }
        Ok(objects.into_iter().map(|object| object.map(Object::from)).collect())
    }

    /// How long the objects are, zero if there is none, so that as many are asked for at once as is good.
    async fn lens(&self, names: &[String]) -> Result<Vec<usize>, ConnectorError> {
        let question = |name| {
            let mut command = cmd("STRLEN");
            command.arg(name);
            command
        };
        if self.settings.is_cluster() {
            // The nodes take no pipelines of objects that are at several nodes.
            let requests: Vec<_> =
                names.iter().map(|name| async move { self.ask::<usize>(&question(name)).await }).collect();
            return stream::iter(requests).buffered(CLUSTER_WINDOW).try_collect().await;
        }
        let mut lens = Vec::with_capacity(names.len());
        for names in names.chunks(BATCH_COUNT) {
            let mut questions = pipe();
            names.iter().for_each(|name| {
                questions.add_command(question(name));
            });
            lens.extend(self.link().ask::<Vec<usize>>(Request::Many(&questions)).await?);
        }
        Ok(lens)
    }
}

/// Neighbours that fit in one request.
fn groups(lens: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut total: usize = 0;
    for (index, len) in lens.enumerate() {
        total = total.saturating_add(len);
        match groups.last_mut() {
            Some(group) if total <= BATCH_LEN && group.len() < BATCH_COUNT => group.end += 1,
            _ => {
                groups.push(index..index + 1);
                total = len;
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_limited_in_bytes_and_in_number() {
        assert!(groups([].into_iter()).is_empty());
        let half = BATCH_LEN / 2;
        assert_eq!(groups([half, half, 1, 3 * half, 0].into_iter()), [0..2, 2..3, 3..4, 4..5]);
        assert_eq!(groups([0; BATCH_COUNT + 1].into_iter()), [0..BATCH_COUNT, BATCH_COUNT..BATCH_COUNT + 1]);
    }
}
