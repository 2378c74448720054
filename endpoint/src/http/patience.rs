//! How long a client may keep us waiting.

use std::future::Future as _;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// A deadline that every bit of progress moves. Costs nothing until something has to be waited for.
pub struct Patience {
    limit: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

impl Patience {
    /// Patience for `limit` at a time.
    pub fn new(limit: Duration) -> Self {
        Self { limit, sleep: None, waiting: false }
    }

    /// There was progress.
    pub fn renew(&mut self) {
        self.waiting = false;
    }

    /// There was no progress: ready with an error once that has been so for too long.
    pub fn poll_exhausted(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let limit = self.limit;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep(limit)));
        if !self.waiting {
            sleep.as_mut().reset(Instant::now() + limit);
            self.waiting = true;
        }
        ready!(sleep.as_mut().poll(cx));
        let message = format!("the client made no progress for {} s", limit.as_secs());
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, message))
    }
}

/// A connection whose writes fail once the other side has taken nothing for too long.
///
/// Reads are left alone: only who reads knows whether the other side owes anything.
pub struct PatientWriter<T> {
    inner: T,
    patience: Patience,
}

impl<T> PatientWriter<T> {
    /// Wraps a connection.
    pub fn new(inner: T, limit: Duration) -> Self {
        Self { inner, patience: Patience::new(limit) }
    }

    fn judge<R>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if result.is_ready() {
            self.patience.renew();
            return result;
        }
        self.patience.poll_exhausted(cx).map(Err)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for PatientWriter<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for PatientWriter<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.judge(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.judge(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_flush(cx);
        self.judge(cx, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    #[tokio::test]
    async fn a_write_that_nobody_takes_fails() {
        let (ours, _theirs) = duplex(16);
        let mut writer = PatientWriter::new(ours, Duration::from_millis(50));
        let error = writer.write_all(&[0; 100]).await.expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn progress_renews_patience() {
        let limit = Duration::from_secs(1);
        let (ours, mut theirs) = duplex(10);
        let reader = tokio::spawn(async move {
            for _ in 0..5 {
                sleep(limit / 3).await;
                theirs.read_exact(&mut [0; 10]).await.expect("the writer is there");
            }
        });
        PatientWriter::new(ours, limit).write_all(&[0; 50]).await.expect("the reader is slow, but reads");
        reader.await.expect("reader");
    }
}
