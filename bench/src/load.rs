//! A client that costs as little as a client can, the same for HTTP and for Redis: requests are made before the clock
//! runs, of an answer only what tells its length is looked at, and bodies are discarded.

use std::io;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// For one request, or a round of small ones, whoever answers; Python takes a minute for the largest.
const DEADLINE: Duration = Duration::from_secs(300);

/// For a first session between two endpoints.
const FIRST: Duration = Duration::from_secs(30);

/// From then on until they have their best path; the first requests go through the relay.
const SETTLED: Duration = Duration::from_secs(2);

/// Bytes of one read: what loopback hands over at once, small enough for the processor's cache.
const BUFFER_LEN: usize = 256 * 1024;

/// Bodies up to this length go out with their head in one write.
const JOINED: usize = 64 * 1024;

/// Longest line of a head.
const MAX_LINE: usize = 8 * 1024;

/// What is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    /// HTTP/1.1 with keep-alive.
    Http,
    /// Redis' RESP2.
    Redis,
}

/// A request, ready to be sent any number of times.
#[derive(Debug, Clone)]
pub struct Request {
    protocol: Protocol,
    head: Vec<u8>,
    body: Bytes,
}

impl Request {
    /// An HTTP request.
    pub fn http(method: &str, target: &str, body: Bytes) -> Self {
        let len = match method {
            "GET" => String::new(),
            _ => format!("Content-Type: application/octet-stream\r\nContent-Length: {}\r\n", body.len()),
        };
        let head = format!("{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n{len}\r\n");
        Self::joined(Protocol::Http, head.into_bytes(), body)
    }

    /// A Redis command.
    pub fn redis(words: &[&[u8]]) -> Self {
        let mut head = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            head.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            head.extend_from_slice(word);
            head.extend_from_slice(b"\r\n");
        }
        Self::joined(Protocol::Redis, head, Bytes::new())
    }

    fn joined(protocol: Protocol, mut head: Vec<u8>, mut body: Bytes) -> Self {
        if body.len() <= JOINED {
            head.extend_from_slice(&std::mem::take(&mut body));
        }
        Self { protocol, head, body }
    }
}

/// Does the work; fails if it takes more than five minutes.
pub async fn in_time<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(DEADLINE, work).await.context("no answer")?
}

/// A connection that stays open.
pub struct Connection {
    port: u16,
    stream: TcpStream,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Something of the answer has arrived.
    is_answered: bool,
}

impl Connection {
    /// To a port of loopback.
    pub async fn open(port: u16) -> Result<Self> {
        let (stream, buffer) = (connect(port).await?, vec![0; BUFFER_LEN].into());
        Ok(Self { port, stream, buffer, start: 0, end: 0, is_answered: false })
    }

    /// Repeats a request that goes to a peer until the two endpoints have a session, and waits for their best path.
    pub async fn meet(&mut self, request: &Request) -> Result<()> {
        let deadline = Instant::now() + FIRST;
        while let Err(error) = self.exchange(request).await {
            ensure!(Instant::now() < deadline, "no session: {error:#}");
            sleep(Duration::from_millis(100)).await;
        }
        sleep(SETTLED).await;
        Ok(())
    }

    /// Sends the request and reads the whole answer; returns the length of its body. An answer that reports a failure
    /// is an error.
    pub async fn exchange(&mut self, request: &Request) -> Result<usize> {
        in_time(self.exchange_without_deadline(request)).await
    }

    /// [`Connection::exchange`], but for the timer that it makes for each request: rounds of many have one for all
    /// ([`in_time`]).
    ///
    /// A server may close a connection between two requests (RFC 9112, section 9.3.1); Python's does after a thousand.
    pub async fn exchange_without_deadline(&mut self, request: &Request) -> Result<usize> {
        match self.attempt(request).await {
            Err(error) if error.is::<io::Error>() && !self.is_answered => {
                self.stream = connect(self.port).await?;
                self.attempt(request).await
            }
            outcome => outcome,
        }
    }

    async fn attempt(&mut self, request: &Request) -> Result<usize> {
        self.is_answered = false;
        self.stream.write_all(&request.head).await?;
        if !request.body.is_empty() {
            self.stream.write_all(&request.body).await?;
        }
        match request.protocol {
            Protocol::Http => self.http_answer().await,
            Protocol::Redis => self.redis_answer().await,
        }
    }

    async fn http_answer(&mut self) -> Result<usize> {
        let mut failure = None;
        self.line(|line| {
            if !line.starts_with(b"HTTP/1.1 2") {
                failure = Some(String::from_utf8_lossy(line).into_owned());
            }
        })
        .await?;
        let mut len = None;
        while let Some(header) = self.line(|line| (!line.is_empty()).then(|| body_len(line))).await? {
            len = len.or(header);
        }
        let len = match len {
            Some(len) => {
                self.skip(len).await?;
                len
            }
            None => self.skip_chunks().await?,
        };
        failure.map_or(Ok(len), |status| bail!("{status}"))
    }

    /// The chunked coding (RFC 9112, section 7.1), which nobody here ends with trailers.
    async fn skip_chunks(&mut self) -> Result<usize> {
        let mut total = 0;
        loop {
            let len = self.line(|line| parse(line, 16)).await?.context("no chunk length")?;
            self.skip(len + 2).await?;
            if len == 0 {
                return Ok(total);
            }
            total += len;
        }
    }

    async fn redis_answer(&mut self) -> Result<usize> {
        let len = self.line(|line| match line {
            [b'+' | b':', ..] => Ok(None),
            [b'$', len @ ..] => Ok(Some(parse(len, 10).context("nothing stored")?)),
            other => bail!("{}", String::from_utf8_lossy(other)),
        });
        let len = len.await??;
        if let Some(len) = len {
            self.skip(len + 2).await?;
        }
        Ok(len.unwrap_or(0))
    }

    /// Reads a line and hands it over without its end.
    async fn line<T>(&mut self, read: impl FnOnce(&[u8]) -> T) -> Result<T> {
        loop {
            let unread = &self.buffer[self.start..self.end];
            if let Some(len) = unread.iter().position(|byte| *byte == b'\n') {
                let line = &unread[..len];
                let outcome = read(line.strip_suffix(b"\r").unwrap_or(line));
                self.start += len + 1;
                return Ok(outcome);
            }
            ensure!(unread.len() < MAX_LINE, "a line of more than {MAX_LINE} bytes");
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            self.fill().await?;
        }
    }

    async fn skip(&mut self, mut len: usize) -> Result<()> {
        loop {
            let taken = len.min(self.end - self.start);
            self.start += taken;
            len -= taken;
            if len == 0 {
                return Ok(());
            }
            (self.start, self.end) = (0, 0);
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> io::Result<()> {
        match self.stream.read(&mut self.buffer[self.end..]).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            len => {
                self.end += len;
                self.is_answered = true;
                Ok(())
            }
        }
    }
}

async fn connect(port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The number behind `Content-Length:`, if this is that header.
fn body_len(line: &[u8]) -> Option<usize> {
    let (name, value) = line.split_at_checked(b"content-length:".len())?;
    name.eq_ignore_ascii_case(b"content-length:").then(|| parse(value, 10)).flatten()
}

fn parse(digits: &[u8], radix: u32) -> Option<usize> {
    usize::from_str_radix(std::str::from_utf8(digits).ok()?.trim(), radix).ok()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// Answers requests with these bytes, a few at a time.
    async fn answering(answers: &'static [&'static [u8]]) -> Connection {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let port = listener.local_addr().expect("bound").port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("accepts");
            for answer in answers {
                let _ = stream.read(&mut [0; 1024]).await;
                for piece in answer.chunks(7) {
                    stream.write_all(piece).await.expect("writes");
                    tokio::task::yield_now().await;
                }
            }
        });
        Connection::open(port).await.expect("connects")
    }

    #[tokio::test]
    async fn answers_are_read_to_their_end() {
        let mut connection = answering(&[
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n",
            b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno",
            b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        ])
        .await;
        let get = Request::http("GET", "/", Bytes::new());
        assert_eq!(connection.exchange(&get).await.expect("answers"), 5);
        assert_eq!(connection.exchange(&get).await.expect("answers"), 13);
        assert!(connection.exchange(&get).await.is_err_and(|error| error.to_string().contains("404")));
        assert_eq!(connection.exchange(&get).await.expect("answers"), 0);
    }

    #[tokio::test]
    async fn redis_answers_are_read_to_their_end() {
        let mut connection = answering(&[b"+OK\r\n", b"$3\r\na\nb\r\n", b"$-1\r\n", b":1\r\n"]).await;
        let get = Request::redis(&[b"GET", b"key"]);
        assert_eq!(get.head, b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n");
        assert_eq!(connection.exchange(&get).await.expect("answers"), 0);
        assert_eq!(connection.exchange(&get).await.expect("answers"), 3);
        assert!(connection.exchange(&get).await.is_err());
        assert_eq!(connection.exchange(&get).await.expect("answers"), 0);
    }
}
