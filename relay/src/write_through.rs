//! A connection whose owner hands over messages as they are, past the websocket library's buffer.
//!
//! The library copies what is written into a buffer, and keeps that buffer, as large as the largest message was, for as
//! long as the client is connected. Here messages go from the outbox to the system, many in one call, and nothing stays.
//! What the library writes itself (pongs, pings, answers, the close frame) comes behind what was handed over before.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::{Bytes, Message};

/// First byte of a text and of a binary message in one frame (RFC 6455, section 5.2).
const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;

/// Pieces in one system call: heads and payloads of half as many messages.
const MAX_SLICES: usize = 64;

/// See the module.
#[derive(Debug)]
pub struct WriteThrough<S> {
    stream: S,
    /// Heads and payloads that the system has not taken yet.
    waiting: VecDeque<Bytes>,
}

impl<S> WriteThrough<S> {
    /// A connection to which nothing was written.
    pub fn new(stream: S) -> Self {
        Self { stream, waiting: VecDeque::new() }
    }

    /// Hands over a text or binary message; flushing writes it. The library must have been flushed before.
    pub fn hand_over(&mut self, message: Message) {
        let (first, payload) = match message {
            Message::Text(text) => (TEXT, text.into()),
            Message::Binary(bytes) => (BINARY, bytes),
            // Nobody puts anything else into an outbox.
            _ => return,
        };
        self.waiting.push_back(head(first, payload.len()));
        self.waiting.push_back(payload);
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(piece) = self.waiting.front_mut() {
            if written < piece.len() {
                piece.advance(written);
                return;
            }
            written -= piece.len();
            self.waiting.pop_front();
        }
        self.waiting = VecDeque::new();
    }
}

/// The head of an unmasked frame (RFC 6455, section 5.2).
fn head(first: u8, len: usize) -> Bytes {
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len @ ..126), _) => Bytes::copy_from_slice(&[first, len]),
        (_, Ok(len)) => [&[first, 126], len.to_be_bytes().as_slice()].concat().into(),
        _ => [&[first, 127], (len as u64).to_be_bytes().as_slice()].concat().into(),
    }
}

impl<S: AsyncWrite + Unpin> WriteThrough<S> {
    /// Ready when the system has taken everything that was handed over.
    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            for (slice, piece) in slices.iter_mut().zip(&self.waiting) {
                *slice = IoSlice::new(piece);
            }
            let count = self.waiting.len().min(MAX_SLICES);
            let stream = Pin::new(&mut self.stream);
            let written = ready!(stream.poll_write_vectored(context, &slices[..count]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteThrough<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteThrough<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_drain(context))?;
        Pin::new(&mut this.stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(context))?;
        Pin::new(&mut this.stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(context))?;
        Pin::new(&mut this.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{SinkExt, StreamExt};
    use tokio::io::AsyncWriteExt;
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    #[tokio::test]
    async fn messages_of_every_length_arrive_in_order() {
        // Small, so that messages are written in pieces.
        let (near, far) = tokio::io::duplex(100);
        let mut near = WebSocketStream::from_raw_socket(WriteThrough::new(near), Role::Server, None).await;
        let mut far = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
        let lengths = [0, 1, 125, 126, 1000, 65_535, 65_536, 200_000];
        let writing = tokio::spawn(async move {
            for len in lengths {
                near.get_mut().hand_over(Message::text("x".repeat(len)));
                near.get_mut().hand_over(Message::binary(vec![7; len]));
                near.send(Message::Ping(Bytes::new())).await.expect("comes behind");
            }
            near.get_mut().shutdown().await.expect("shuts down");
        });
        for len in lengths {
            let mut next = async || far.next().await.expect("more").expect("sound");
            assert_eq!(next().await, Message::text("x".repeat(len)));
            assert_eq!(next().await, Message::binary(vec![7; len]));
            assert_eq!(next().await, Message::Ping(Bytes::new()));
        }
        writing.await.expect("ends");
    }

    #[tokio::test]
    async fn nothing_stays_when_everything_is_written() {
        let (near, _far) = tokio::io::duplex(1 << 20);
        let mut near = WriteThrough::new(near);
        near.hand_over(Message::binary(vec![7; 100_000]));
        near.flush().await.expect("fits");
        assert_eq!(near.waiting.capacity(), 0);
    }
}
