//! Has an endpoint on this host write an object into a file, or read it from there, by itself ([`crate::handover`]).

use std::error::Error;
use std::fs::File;
use std::io;
use std::path::Path;

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt as _, TryStreamExt as _};
use hyper::client::conn::http1;
use hyper::header::HeaderMap;
use hyper_util::rt::TokioIo;
use reqwest::{Body, RequestBuilder, Response};
use tokio::io::{AsyncBufReadExt as _, Lines};
use tokio::net::UnixStream;
use tokio_util::io::StreamReader;

use super::client::{ClientError, in_time};
use crate::handover::{self, OBJECT_SIZE, Progress};

/// A connection to an endpoint that has `file`. None if the endpoint takes no files: it runs elsewhere, or not at all, or is
/// Python's.
pub async fn hand_over(socket: &Path, file: &File) -> Result<Option<UnixStream>, ClientError> {
    Ok(in_time(handover::give(socket, file)).await?.ok())
}

/// Sends a request about the object that is in the file, or is to be there.
pub async fn exchange(stream: UnixStream, request: RequestBuilder) -> Result<Response, ClientError> {
    let broken = |error: &dyn Error| ClientError::Broken(error.to_string());
    let request = request.build().and_then(TryInto::try_into).map_err(|error| broken(&error))?;
    send(stream, request).await.map_err(|error| broken(&error))
}

async fn send(stream: UnixStream, request: hyper::Request<Body>) -> hyper::Result<Response> {
    let (mut requests, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the answer.
    tokio::spawn(connection);
    Ok(requests.send_request(request).await?.map(Body::wrap).into())
}

/// How many bytes the object of an answer has.
pub fn object_size(headers: &HeaderMap) -> Option<u64> {
    headers.get(OBJECT_SIZE)?.to_str().ok()?.parse().ok()
}

/// What an answer tells of its progress.
pub struct Reports {
    lines: Lines<StreamReader<BoxStream<'static, io::Result<Bytes>>, Bytes>>,
}

impl Reports {
    /// Those in the body of an answer.
    pub fn of(response: Response) -> Self {
        let bytes = response.bytes_stream().map_err(io::Error::other).boxed();
        Self { lines: StreamReader::new(bytes).lines() }
    }

    /// The next one; none at the end.
    pub async fn next(&mut self) -> Result<Option<Progress>, ClientError> {
        let line =
            in_time(self.lines.next_line()).await?.map_err(|error| ClientError::Broken(error.to_string()))?;
        line.map(|line| serde_json::from_str(&line).map_err(|error| ClientError::Nonsense(error.to_string())))
            .transpose()
    }
}
