//! `get`: an object becomes a file, continued where an earlier attempt broke off, and verified before it appears.

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use indicatif::ProgressBar;
use proxystore_shared::{Digest, EndpointId, ObjectId, ObjectKey};
use reqwest::header::{IF_RANGE, RANGE};
use reqwest::{Method, Response};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use super::args::Get;
use super::client::{Client, ClientError, in_time, next_chunk};
use super::delivery::{self, Reports};
use super::output::{Failure, Printer};
use super::partial_file::PartialFile;
use super::place::Place;
use super::progress::{Pace, progress_bar};
use super::resume::{Partial, Plan, plan};
use super::{connect, standard_stream};
use crate::handover::Progress;

/// The object that was asked for.
struct Wanted {
    client: Client,
    /// Where the endpoint takes files, if it does.
    socket: PathBuf,
    object_id: ObjectId,
    at: Option<EndpointId>,
}

/// An object that arrived whole.
struct Received {
    size: u64,
    digest: Digest,
    /// Bytes that travelled now.
    travelled: u64,
}

/// Runs `get`.
pub async fn get(options: &Get, printer: Printer) -> Result<(), Failure> {
    let (object_id, at) = parse_key(&options.key)?;
    let place = Place::existing(&options.name)?;
    let (client, _) = connect(&place)?;
    let wanted = Wanted { client, socket: place.files_socket(), object_id, at };
    let started = Instant::now();
    let to_stdout = options.output == "-";
    let received = match to_stdout {
        true => to_standard_output(&wanted, printer).await?,
        false => to_file(&wanted, Path::new(&options.output), printer).await?,
    };
    let pace = Pace::since(started, received.travelled);
    let value = json!({
        "object_id": wanted.object_id, "output": options.output, "size": received.size,
        "received": received.travelled, "digest": received.digest,
        "seconds": pace.seconds, "bytes_per_second": pace.bytes_per_second,
    });
    let text = format!("{}: {}", options.output, pace.describe(received.travelled));
    match (to_stdout, printer.is_json()) {
        (false, _) => printer.result(&value, &text),
        (true, true) => printer.result_aside(&value, &text),
        (true, false) => Ok(()),
    }
}

fn parse_key(text: &str) -> Result<(ObjectId, Option<EndpointId>), Failure> {
    let wrong = |error: proxystore_shared::id::IdError| {
        Failure::new(format!("{text:?} is not a key: {error}"))
            .hint("a key is OBJECT_ID@ENDPOINT_ID, as `put` prints it, or OBJECT_ID alone")
    };
    if !text.contains('@') {
        return Ok((text.parse().map_err(wrong)?, None));
    }
    let key: ObjectKey = text.parse().map_err(wrong)?;
    Ok((key.object_id, Some(key.endpoint_id)))
}

impl Wanted {
    async fn request(&self, rest_of: Option<Partial>) -> Result<(Response, Plan), ClientError> {
        let mut request = self.client.object(Method::GET, &self.object_id, self.at)?;
        if let Some(partial) = rest_of {
            request = request.header(RANGE, partial.range()).header(IF_RANGE, partial.if_range());
        }
        let response = self.client.exchange(request).await?;
        let plan = plan(rest_of, response.status(), response.headers(), response.content_length());
        Ok((response, plan))
    }

    /// Has the endpoint write the whole object into `file` by itself, if it can.
    async fn delivered_to(&self, file: &mut PartialFile) -> Result<Option<(Response, Plan)>, Failure> {
        let request = self.client.object(Method::GET, &self.object_id, self.at)?;
        let Some(stream) = delivery::hand_over(&self.socket, file.emptied()?).await? else { return Ok(None) };
        let response = in_time(delivery::exchange(stream, request)).await??;
        let size = delivery::object_size(response.headers());
        let plan = plan(None, response.status(), response.headers(), size);
        Ok(Some((response, plan)))
    }

    /// The failure for an answer with nothing to write.
    async fn failure(&self, plan: Plan, response: Response) -> Failure {
        match plan {
            Plan::Nonsense(why) => ClientError::Nonsense(why.into()).into(),
            _ => match self.client.accept(response).await {
                Err(error) => error.into(),
                Ok(_) => ClientError::Nonsense("it has no object".into()).into(),
            },
        }
    }
}

async fn to_file(wanted: &Wanted, target: &Path, printer: Printer) -> Result<Received, Failure> {
    let mut file = PartialFile::open(target)?;
    let outcome = fill(wanted, &mut file, printer).await;
    match outcome {
        Ok(received) => file.finish().map(|()| received),
        Err(failure) => {
            if file.len() == 0 {
                file.remove();
            }
            Err(failure)
        }
    }
}

/// Brings the file to the whole, verified object. A file that turns out not to be the object's beginning is
/// given up once, and then there is nothing left to give up.
async fn fill(wanted: &Wanted, file: &mut PartialFile, printer: Printer) -> Result<Received, Failure> {
    if file.partial().is_none()
        && let Some((response, plan)) = wanted.delivered_to(file).await?
    {
        let Plan::Write { size: Some(size), digest, .. } = plan else {
            return Err(wanted.failure(plan, response).await);
        };
        follow(file, response, (size, digest), printer).await?;
        // The endpoint has checked it.
        return Ok(Received { size: file.len(), digest, travelled: file.len() });
    }
    loop {
        let partial = file.partial();
        let (response, plan) = wanted.request(partial).await?;
        let (from, expected) = match plan {
            Plan::Write { from, size, digest } => {
                write(file, response, (from, size, digest), printer).await?;
                (from, digest)
            }
            Plan::Complete { digest } => {
                file.hash_existing()?;
                (file.len(), digest)
            }
            Plan::StartOver => {
                printer.warn("the partial file does not belong to the object; starting over");
                file.discard()?;
                continue;
            }
            other => return Err(wanted.failure(other, response).await),
        };
        if file.digest() == expected {
            return Ok(Received { size: file.len(), digest: expected, travelled: file.len() - from });
        }
        file.discard()?;
        if from == 0 {
            return Err(Failure::new(format!(
                "what arrived is not the object: its BLAKE3 is not {expected}; it was deleted"
            ))
            .hint("try again; if it happens again, something between here and the endpoint changes data"));
        }
        printer.warn(&format!(
            "the continued file is not the object (its BLAKE3 is not {expected}); starting over"
        ));
    }
}

/// Writes the body of an answer; a body that breaks off leaves a file that can be continued.
async fn write(
    file: &mut PartialFile,
    mut response: Response,
    (from, size, digest): (u64, Option<u64>, Digest),
    printer: Printer,
) -> Result<(), Failure> {
    match from {
        0 => file.restart(digest)?,
        _ => file.hash_existing()?,
    }
    if let Some(size) = size {
        file.reserve(size)?;
    }
    let bar = progress_bar(printer, size, from);
    let written = copy(file, &mut response, size, &bar).await;
    bar.finish_and_clear();
    written
}

async fn copy(
    file: &mut PartialFile,
    response: &mut Response,
    size: Option<u64>,
    bar: &ProgressBar,
) -> Result<(), Failure> {
    loop {
        match next_chunk(response).await {
            Ok(Some(chunk)) => file.write(&chunk)?,
            Ok(None) => return Ok(()),
            Err(error) => return Err(broken_off(file, size, &error)),
        }
        bar.set_position(file.len());
    }
}

/// Waits while the endpoint writes the object into the file; if that breaks off, the file can be continued.
async fn follow(
    file: &mut PartialFile,
    response: Response,
    (size, digest): (u64, Digest),
    printer: Printer,
) -> Result<(), Failure> {
    file.expect(digest)?;
    file.reserve(size)?;
    let bar = progress_bar(printer, Some(size), 0);
    let followed = watch(file, Reports::of(response), size, &bar).await;
    bar.finish_and_clear();
    followed
}

async fn watch(
    file: &mut PartialFile,
    mut reports: Reports,
    size: u64,
    bar: &ProgressBar,
) -> Result<(), Failure> {
    while file.len() < size {
        match reports.next().await {
            Ok(Some(Progress::Written(len))) => file.handle_written(len)?,
            Ok(Some(Progress::Failed(why))) => return Err(broken_off(file, Some(size), &why)),
            Ok(None) => return Err(broken_off(file, Some(size), &"the endpoint says no more")),
            Err(error) => return Err(broken_off(file, Some(size), &error)),
        }
        bar.set_position(file.len());
    }
    Ok(())
}

fn broken_off(file: &PartialFile, size: Option<u64>, why: &dyn Display) -> Failure {
    let of = size.map(|size| format!(" of {size}")).unwrap_or_default();
    Failure::new(format!("the download broke off after {}{of} bytes: {why}", file.len()))
        .hint("the same command continues it")
}

async fn to_standard_output(wanted: &Wanted, printer: Printer) -> Result<Received, Failure> {
    let (mut response, plan) = wanted.request(None).await?;
    let Plan::Write { size, digest, .. } = plan else { return Err(wanted.failure(plan, response).await) };
    let bar = progress_bar(printer, size, 0);
    let mut out = standard_stream(io::stdout()).map_err(Failure::io("write to standard output"))?;
    let mut hasher = blake3::Hasher::new();
    let mut len = 0;
    while let Some(chunk) = next_chunk(&mut response).await? {
        out.write_all(&chunk).await.map_err(Failure::io("write to standard output"))?;
        hasher.update(&chunk);
        len += chunk.len() as u64;
        bar.set_position(len);
    }
    out.flush().await.map_err(Failure::io("write to standard output"))?;
    bar.finish_and_clear();
    if Digest(hasher.finalize().into()) != digest {
        return Err(Failure::new(format!("what was written is not the object: its BLAKE3 is not {digest}"))
            .hint("do not use the output; try again"));
    }
    Ok(Received { size: len, digest, travelled: len })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_with_or_without_its_endpoint() {
        let endpoint = "12345678-1234-4234-9234-123456789abc";
        assert_eq!(parse_key("a").unwrap(), ("a".parse().unwrap(), None));
        let (id, at) = parse_key(&format!("a@b@{endpoint}")).unwrap();
        assert_eq!((id.as_str(), at), ("a@b", Some(endpoint.parse().unwrap())));
        for wrong in ["", "a@b", &format!("@{endpoint}")] {
            assert!(parse_key(wrong).is_err(), "{wrong}");
        }
    }
}
