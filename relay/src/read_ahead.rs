//! A connection that is read in large pieces while there is much to read, and holds no buffer while there is not.
//!
//! The websocket library reads as many bytes at a time as each client's buffer has, and keeps that buffer for as
//! long as the client is connected. A small one suits clients that are idle for hours, but a client that sends
//! would cost a system call for every kilobyte.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

/// Bytes for the first read: an offer, which has two or three kilobytes.
const FIRST_LEN: usize = 4 * 1024;

/// Bytes for one read while there is much to read: the longest frame of datagrams, about.
const AHEAD_LEN: usize = 64 * 1024;

/// What is handed over at first of what was read: the longest head of a frame (RFC 6455, section 5.2). The library
/// reserves the length of a message beside what it has of it already, and would keep the difference.
const HEAD_LEN: usize = 14;

/// See the module.
#[derive(Debug)]
pub struct ReadAhead<S> {
    stream: S,
    /// Read, but not yet asked for.
    ahead: BytesMut,
    /// The last read got all that was asked for, so that there may be more.
    is_busy: bool,
}

impl<S> ReadAhead<S> {
    /// A connection from which nothing was read.
    pub fn new(stream: S) -> Self {
        Self { stream, ahead: BytesMut::new(), is_busy: false }
    }
}

impl<S: AsyncRead + Unpin> ReadAhead<S> {
    /// Ready with an empty buffer at the end of the stream.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let len = if self.is_busy { AHEAD_LEN } else { FIRST_LEN };
        self.ahead.reserve(len);
        let read = poll_read_buf(Pin::new(&mut self.stream), context, &mut self.ahead);
        self.is_busy = self.ahead.len() >= len;
        if self.ahead.is_empty() {
            self.ahead = BytesMut::new();
        }
        read.map_ok(|_| ())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadAhead<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut most = buffer.remaining();
        if this.ahead.is_empty() {
            ready!(this.poll_fill(context))?;
            most = most.min(HEAD_LEN);
        }
        let len = this.ahead.len().min(most);
        buffer.put_slice(&this.ahead[..len]);
        this.ahead.advance(len);
        if this.ahead.is_empty() && !this.is_busy {
            this.ahead = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadAhead<S> {
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn everything_arrives_in_order_whatever_the_pieces() {
        let sent: Vec<u8> = (0..1_000_000u32).map(|index| (index % 251) as u8).collect();
        for piece in [1, 7, 2048, 100_000] {
            let (mut writer, reader) = tokio::io::duplex(150_000);
            let mut reader = ReadAhead::new(reader);
            let copy = sent.clone();
            let writing = tokio::spawn(async move { writer.write_all(&copy).await });
            let (mut received, mut buffer) = (Vec::new(), vec![0; piece]);
            loop {
                match reader.read(&mut buffer).await.expect("reads") {
                    0 => break,
                    len => received.extend_from_slice(&buffer[..len]),
                }
            }
            assert!(received == sent, "pieces of {piece}");
            writing.await.expect("ends").expect("writes");
        }
    }

    #[tokio::test]
    async fn an_idle_connection_holds_no_buffer() {
        let (mut writer, reader) = tokio::io::duplex(1 << 20);
        let mut reader = ReadAhead::new(reader);
        let mut buffer = [0; 2048];
        writer.write_all(&[1; 10_000]).await.expect("writes");
        let mut received = reader.read(&mut buffer).await.expect("reads");
        assert!(received == HEAD_LEN && !reader.ahead.is_empty(), "the first read goes ahead");
        while received < 10_000 {
            received += reader.read(&mut buffer).await.expect("reads");
        }
        let idle = futures_util::FutureExt::now_or_never(reader.read(&mut buffer));
        assert!(idle.is_none() && reader.ahead.capacity() == 0);
    }
}
