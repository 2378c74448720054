//! A large object on its way in, which nobody sees until it is complete.
//!
//! It is appended piece by piece to a key of its own, which expires if it is never finished, and renamed in the end.

use std::sync::Arc;

use futures_util::stream::{Stream, TryStreamExt};
use redis::{cmd, pipe};
use tokio::runtime::Handle;
use uuid::Uuid;

use super::link::Request;
use super::transfer::{Payload, Redis};
use crate::Object;
use crate::connector::ConnectorError;

/// How long an unfinished object is kept if its writer died: an hour is enough for the largest object at 150 kB a
/// second.
const PART_LIFETIME_SECS: u32 = 3600;

/// Stores an object of several chunks, or nothing.
pub(super) async fn store(
    redis: &Arc<Redis>,
    name: &str,
    chunks: impl Stream<Item = Result<Object, ConnectorError>>,
) -> Result<(), ConnectorError> {
    let mut part = Part::new(redis, name);
    let outcome = async {
        part.fill(chunks).await?;
        part.publish(name).await
    };
    let outcome = outcome.await;
    part.settled = true;
    if let Err(error) = &outcome {
        // Under its own name, too, if it was renamed and only the answer was lost.
        redis.undo(&[part.name.clone(), name.to_owned()], error).await;
    }
    outcome
}

/// An object that is not complete, under a name that nobody else knows.
struct Part {
    redis: Arc<Redis>,
    name: String,
    /// Renamed or removed.
    settled: bool,
}

impl Part {
    fn new(redis: &Arc<Redis>, name: &str) -> Self {
        Self { redis: redis.clone(), name: part_name(name), settled: false }
    }

    async fn fill(
        &self,
        chunks: impl Stream<Item = Result<Object, ConnectorError>>,
    ) -> Result<(), ConnectorError> {
        let mut chunks = std::pin::pin!(chunks);
        let mut stored = 0;
        while let Some(chunk) = chunks.try_next().await? {
            let len = stored + chunk.len() as u64;
            self.redis.check_len(len)?;
            if stored == 0 {
                self.start(&chunk).await?;
            } else {
                self.append(&chunk, len).await?;
            }
            stored = len;
        }
        Ok(())
    }

    async fn start(&self, chunk: &Object) -> Result<(), ConnectorError> {
        let mut command = cmd("SET");
        command.arg(&self.name).arg(Payload(chunk)).arg("EX").arg(PART_LIFETIME_SECS);
        self.redis.ask_in_turn(&command).await
    }

    /// Appends the chunk that makes the object `len` bytes long. Were it sent again over another connection, it
    /// might be there twice, so it is not; and if the server forgot the beginning meanwhile, the length tells.
    async fn append(&self, chunk: &Object, len: u64) -> Result<(), ConnectorError> {
        let mut command = cmd("APPEND");
        command.arg(&self.name).arg(Payload(chunk));
        let link = self.redis.link();
        let _turn = link.turn().await;
        let stored: u64 = link.ask_once(Request::One(&command)).await?;
        if stored == len {
            return Ok(());
        }
        let reason = format!("it has {stored} of the {len} bytes that were sent");
        Err(ConnectorError::Broken { target: self.redis.settings.target(), reason })
    }

    /// Both or none: an object must not expire.
    async fn publish(&self, name: &str) -> Result<(), ConnectorError> {
        let mut commands = pipe();
        commands.atomic().cmd("PERSIST").arg(&self.name).ignore();
        commands.cmd("RENAME").arg(&self.name).arg(name).ignore();
        self.redis.link().ask_once(Request::Many(&commands)).await
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Whoever puts may give up in the middle.
        if !self.settled
            && let Ok(runtime) = Handle::try_current()
        {
            let (redis, name) = (self.redis.clone(), std::mem::take(&mut self.name));
            // If that fails, the part expires.
            runtime.spawn(async move { redis.remove(&[name]).await });
        }
    }
}

/// In a cluster only keys of one slot can be renamed into each other; the slot is that of what is in braces.
fn part_name(name: &str) -> String {
    let id = Uuid::new_v4();
    if name.contains('{') { format!("{name}.{id}.part") } else { format!("{{{name}}}.{id}.part") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_in_the_slot_of_its_object() {
        assert!(part_name("some-uuid").starts_with("{some-uuid}."));
        assert!(part_name("{tag}name").starts_with("{tag}name."));
    }
}
