//! The servers that endpoints are compared with: objects in memory behind nothing but axum, and QUIC behind nothing.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_LENGTH;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::ListenerExt as _;
use bytes::Bytes;
use clap::Parser;
use futures_util::{StreamExt as _, stream};
use tokio::net::TcpListener;

/// Started by the suites.
#[derive(Debug, Parser)]
#[command(about = "Servers that endpoints are compared with; the suites start them")]
struct Arguments {
    /// The port, on loopback: TCP for HTTP, the same number of UDP for QUIC.
    port: u16,
    /// The key of the QUIC server; without it there is none.
    key: Option<PathBuf>,
}

/// An object as its frames arrived.
type Objects = Arc<Mutex<HashMap<String, Vec<Bytes>>>>;

#[tokio::main]
async fn main() -> Result<()> {
    let Arguments { port, key } = Arguments::parse();
    if let Some(key) = key {
        tokio::spawn(async move { proxystore_bench::quic::serve(&key, port).await });
    }
    let app = Router::new().route("/{name}", get(read).put(write)).with_state(Objects::default());
    // As an endpoint does: otherwise the end of an answer may wait for the acknowledgement of what came before.
    let listener = TcpListener::bind(("127.0.0.1", port)).await?.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    Ok(axum::serve(listener, app).await?)
}

async fn write(State(objects): State<Objects>, Path(name): Path<String>, body: Body) -> StatusCode {
    let mut frames = Vec::new();
    let mut body = body.into_data_stream();
    while let Some(frame) = body.next().await {
        match frame {
            Ok(frame) => frames.push(frame),
            Err(_) => return StatusCode::BAD_REQUEST,
        }
    }
    objects.lock().unwrap_or_else(PoisonError::into_inner).insert(name, frames);
    StatusCode::OK
}

async fn read(State(objects): State<Objects>, Path(name): Path<String>) -> Response {
    let frames = objects.lock().unwrap_or_else(PoisonError::into_inner).get(&name).cloned();
    let Some(frames) = frames else { return StatusCode::NOT_FOUND.into_response() };
    let len: usize = frames.iter().map(Bytes::len).sum();
    let frames = stream::iter(frames.into_iter().map(Ok::<_, std::convert::Infallible>));
    ([(CONTENT_LENGTH, len.to_string())], Body::from_stream(frames)).into_response()
}
