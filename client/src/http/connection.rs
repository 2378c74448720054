//! A connection on which neither side may stand still.

use std::future::Future;
use std::io::{self, ErrorKind, IoSlice};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// To open a connection within a site.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Received at once where the length of what comes is not known: a head and a small object together.
const BUFFER_LEN: usize = 64 << 10;

/// Smaller pieces than this come through the buffer: a copy takes less time than a call of the system for each.
const SMALL_LEN: usize = 16 << 10;

/// Pieces handed to the system in one write; Linux takes at most 1,024.
const SLICES_AT_ONCE: usize = 256;

/// A connection to one server.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// Received, not yet looked at.
    pub buffer: BytesMut,
    /// How long nothing may move in either direction while something is owed.
    patience: Duration,
    /// When it was last of use.
    pub used: Instant,
}

impl Connection {
    /// Connects. Fails with `TimedOut` if nobody answers.
    pub async fn open(host: &str, port: u16, patience: Duration) -> io::Result<Self> {
        let stream = in_time(CONNECT_TIMEOUT, TcpStream::connect((host, port))).await?;
        // Small requests must not wait for the acknowledgement of earlier ones. Failing that, they are just slower.
        let _ = stream.set_nodelay(true);
        Ok(Self { stream, buffer: BytesMut::new(), patience, used: Instant::now() })
    }

    /// Whether the other side has neither closed the connection nor said anything unasked.
    pub fn is_quiet(&self) -> bool {
        let nothing = |error: io::Error| error.kind() == ErrorKind::WouldBlock;
        self.buffer.is_empty() && self.stream.try_read(&mut [0]).is_err_and(nothing)
    }

    /// Sends all pieces, and tells whether it could: it stops when the other side answers before it has
    /// everything, for then it wants no more.
    pub async fn send(&mut self, pieces: &[Bytes]) -> io::Result<bool> {
        for pieces in pieces.chunks(SLICES_AT_ONCE) {
            let mut slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            let mut rest = &mut slices[..];
            IoSlice::advance_slices(&mut rest, 0);
            while !rest.is_empty() {
                if self.has_answer()? {
                    return Ok(false);
                }
                match self.stream.try_write_vectored(rest) {
                    Ok(written) => IoSlice::advance_slices(&mut rest, written),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        let either = Interest::READABLE | Interest::WRITABLE;
                        in_time(self.patience, self.stream.ready(either)).await?;
                    }
                    // Whoever refuses may close its side at once; its reasons arrived before that.
                    Err(error) => return if self.has_answer()? { Ok(false) } else { Err(error) },
                }
            }
        }
        Ok(true)
    }

    /// Whether something was received. Does not wait.
    fn has_answer(&mut self) -> io::Result<bool> {
        self.buffer.reserve(BUFFER_LEN);
        match self.stream.try_read_buf(&mut self.buffer) {
            Ok(0) => Err(ended()),
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(!self.buffer.is_empty()),
        }
    }

    /// Receives more into the buffer.
    pub async fn receive(&mut self) -> io::Result<()> {
        self.buffer.reserve(BUFFER_LEN);
        receive(&self.stream, self.patience, &mut self.buffer).await.map(|_| ())
    }

    /// Appends some bytes to `target`, at most `wanted` of them, and tells how many. Large pieces go there straight
    /// from the socket.
    pub async fn read(&mut self, target: &mut BytesMut, wanted: usize) -> io::Result<usize> {
        target.reserve(wanted);
        if self.buffer.is_empty() {
            if wanted >= SMALL_LEN {
                return receive(&self.stream, self.patience, &mut target.limit(wanted)).await;
            }
            self.receive().await?;
        }
        let count = self.buffer.len().min(wanted);
        target.extend_from_slice(&self.buffer[..count]);
        self.buffer.advance(count);
        Ok(count)
    }
}

/// At least one byte.
async fn receive(stream: &TcpStream, patience: Duration, target: &mut impl BufMut) -> io::Result<usize> {
    loop {
        match stream.try_read_buf(target) {
            Ok(0) => return Err(ended()),
            Ok(count) => return Ok(count),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                in_time(patience, stream.readable()).await?;
            }
            Err(error) => return Err(error),
        }
    }
}

fn ended() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "it ended early")
}

async fn in_time<T>(limit: Duration, future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, future).await.map_err(|_| io::Error::from(ErrorKind::TimedOut))?
}
