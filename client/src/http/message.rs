//! What an answer says, read without a socket: its head, and where its body ends.

use bytes::{Buf, BytesMut};

/// Longest head that is read. Endpoints send a few hundred bytes.
pub const MAX_HEAD_LEN: usize = 16 << 10;

/// Most header lines that are read.
const MAX_HEADERS: usize = 64;

/// Longest line before a chunk; without extensions, which nobody uses, it has up to 18 bytes.
const MAX_CHUNK_LINE_LEN: usize = 256;

/// What makes bytes no answer in HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer is not HTTP as an endpoint speaks it: {0}")]
pub struct Malformed(&'static str);

/// The part of an answer before its body.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    /// As in RFC 9110, section 15.
    pub status: u16,
    /// Where the body ends.
    pub body: Body,
    /// Whether the connection may carry another request.
    pub keep_alive: bool,
}

/// How much of a body is to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// That many bytes.
    Counted(u64),
    /// Chunks, each with its length before it (RFC 9112, section 7.1).
    Chunked(Chunk),
}

/// Where in a chunked body the next byte is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chunk {
    /// Before the line that says how long a chunk is.
    Length,
    /// This many bytes before the end of a chunk.
    Data(u64),
    /// After the last byte of a chunk, before the end of its line.
    DataEnd,
    /// After the last chunk.
    Trailer,
    /// After everything.
    End,
}

/// What comes next in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// That many bytes of data, at least one.
    Data(u64),
    /// Nothing any more.
    End,
    /// More bytes are needed to tell.
    Unknown,
}

impl Head {
    /// Takes a head from the front of `buffer`, once it is there whole.
    pub fn take(buffer: &mut BytesMut) -> Result<Option<Self>, Malformed> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut answer = httparse::Response::new(&mut headers);
        let len = match answer.parse(buffer) {
            Ok(httparse::Status::Complete(len)) if len <= MAX_HEAD_LEN => len,
            Ok(httparse::Status::Partial) if buffer.len() < MAX_HEAD_LEN => return Ok(None),
            Ok(_) => return Err(Malformed("its head does not end")),
            Err(_) => return Err(Malformed("its head makes no sense")),
        };
        let head = Self::of(&answer)?;
        buffer.advance(len);
        Ok(Some(head))
    }

    fn of(answer: &httparse::Response<'_, '_>) -> Result<Self, Malformed> {
        let status = answer.code.filter(|code| (100..600).contains(code)).ok_or(Malformed("no status"))?;
        let mut keep_alive = answer.version == Some(1);
        let (mut len, mut chunked) = (None, false);
        for header in answer.headers.iter() {
            if header.name.eq_ignore_ascii_case("content-length") {
                let announced = content_length(header.value)?;
                if len.is_some_and(|len| len != announced) {
                    return Err(Malformed("it has two lengths"));
                }
                len = Some(announced);
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                if chunked || !header.value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                    return Err(Malformed("its transfer coding is not chunked"));
                }
                chunked = true;
            } else if header.name.eq_ignore_ascii_case("connection") {
                let mut options = header.value.split(|byte| *byte == b',');
                keep_alive &= !options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"));
            }
        }
        let body = match (status, len, chunked) {
            (100..200 | 204 | 304, ..) => Body::Counted(0),
            (_, Some(len), false) => Body::Counted(len),
            (_, None, true) => Body::Chunked(Chunk::Length),
            (_, Some(_), true) => return Err(Malformed("it is chunked and has a length")),
            // Such a body lasts until the connection ends, so that nobody sees whether it is whole.
            (_, None, false) => return Err(Malformed("it does not say how long it is")),
        };
        Ok(Self { status, body, keep_alive })
    }
}

fn content_length(value: &[u8]) -> Result<u64, Malformed> {
    let digits = value.trim_ascii();
    let text = std::str::from_utf8(digits).ok().filter(|_| digits.iter().all(u8::is_ascii_digit));
    text.and_then(|text| text.parse().ok()).ok_or(Malformed("its length is not a number"))
}

impl Body {
    /// What comes next, if `buffer` is what was received so far. Takes lengths and line ends out of it, no data.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Next, Malformed> {
        match self {
            Self::Counted(0) => Ok(Next::End),
            Self::Counted(rest) => Ok(Next::Data(*rest)),
            Self::Chunked(chunk) => loop {
                match chunk {
                    Chunk::Data(rest) => return Ok(Next::Data(*rest)),
                    Chunk::End => return Ok(Next::End),
                    _ => match chunk.successor(buffer)? {
                        Some(next) => *chunk = next,
                        None => return Ok(Next::Unknown),
                    },
                }
            },
        }
    }

    /// `count` bytes of data, which [`Body::next`] promised, were taken.
    pub fn taken(&mut self, count: u64) {
        match self {
            Self::Counted(rest) => *rest = rest.saturating_sub(count),
            Self::Chunked(Chunk::Data(rest)) if *rest > count => *rest -= count,
            Self::Chunked(chunk) => *chunk = Chunk::DataEnd,
        }
    }
}

impl Chunk {
    /// The place after the line at the front of `buffer`, which is taken; none if it is not there whole.
    fn successor(&self, buffer: &mut BytesMut) -> Result<Option<Self>, Malformed> {
        match self {
            Self::DataEnd => match buffer.get(..2) {
                Some(b"\r\n") => {
                    buffer.advance(2);
                    Ok(Some(Self::Length))
                }
                Some(_) => Err(Malformed("a chunk is longer than it says")),
                None => Ok(None),
            },
            Self::Trailer => trailer(buffer),
            _ => length(buffer),
        }
    }
}

fn length(buffer: &mut BytesMut) -> Result<Option<Chunk>, Malformed> {
    // The parser takes a line without digits for the last chunk, which would make an object short.
    if buffer.first().is_some_and(|byte| !byte.is_ascii_hexdigit()) {
        return Err(Malformed("a chunk has no length"));
    }
    match httparse::parse_chunk_size(buffer) {
        Ok(httparse::Status::Complete((len, data))) => {
            buffer.advance(len);
            Ok(Some(if data == 0 { Chunk::Trailer } else { Chunk::Data(data) }))
        }
        Ok(httparse::Status::Partial) if buffer.len() < MAX_CHUNK_LINE_LEN => Ok(None),
        _ => Err(Malformed("the length of a chunk is not a number")),
    }
}

fn trailer(buffer: &mut BytesMut) -> Result<Option<Chunk>, Malformed> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    match httparse::parse_headers(buffer, &mut headers) {
        Ok(httparse::Status::Complete((len, _))) => {
            buffer.advance(len);
            Ok(Some(Chunk::End))
        }
        Ok(httparse::Status::Partial) if buffer.len() < MAX_HEAD_LEN => Ok(None),
        _ => Err(Malformed("it has a trailer that makes no sense")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head(text: &str) -> Result<Option<Head>, Malformed> {
        Head::take(&mut text.as_bytes().into())
    }

    fn body_of(headers: &str) -> Result<Body, Malformed> {
        Ok(head(&format!("HTTP/1.1 200 OK\r\n{headers}\r\n"))?.expect("whole").body)
    }

    #[test]
    fn a_head_is_taken_and_no_more() {
        let mut buffer = BytesMut::from("HTTP/1.1 404 Not Found\r\ncontent-LENGTH: 7\r\n\r\nmissing");
        let expected = Head { status: 404, body: Body::Counted(7), keep_alive: true };
        assert_eq!(Head::take(&mut buffer), Ok(Some(expected)));
        assert_eq!(buffer, "missing");
        assert_eq!(head("HTTP/1.1 200 OK\r\nContent-Le"), Ok(None));
    }

    #[test]
    fn a_body_whose_end_cannot_be_told_is_refused() {
        assert_eq!(body_of("Transfer-Encoding: Chunked\r\n"), Ok(Body::Chunked(Chunk::Length)));
        assert_eq!(body_of("Content-Length: 5\r\nContent-Length: 5\r\n"), Ok(Body::Counted(5)));
        for headers in [
            "",
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: -5\r\n",
            "Content-Length: 5, 5\r\n",
            "Content-Length: \r\n",
            "Content-Length: 99999999999999999999999\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        ] {
            assert!(body_of(headers).is_err(), "{headers}");
        }
    }

    #[test]
    fn the_server_says_whether_the_connection_lasts() {
        let lasts = |text| head(text).unwrap().unwrap().keep_alive;
        assert!(lasts("HTTP/1.1 204 OK\r\n\r\n"));
        assert!(!lasts("HTTP/1.0 204 OK\r\n\r\n"));
        assert!(!lasts("HTTP/1.1 204 OK\r\nConnection: TE, Close\r\n\r\n"));
    }

    #[test]
    fn an_endless_head_is_refused() {
        let mut endless = "HTTP/1.1 200 OK\r\n".to_owned();
        endless += &"X: aaaaaaaaaaaaaaaa".repeat(1000);
        assert!(head(&endless).is_err());
    }

    #[test]
    fn a_chunk_that_lies_is_refused() {
        for text in ["\r\n\r\n", "g\r\n", "-1\r\n", ";ext\r\n", "fffffffffffffffff\r\n", "0\r\n\0bad\r\n\r\n"]
        {
            let mut body = Body::Chunked(Chunk::Length);
            assert!(body.next(&mut text.into()).is_err(), "{text:?}");
        }
        let long = format!("5;{}", "x".repeat(1000));
        assert!(Body::Chunked(Chunk::Length).next(&mut long.as_str().into()).is_err());
        assert!(Body::Chunked(Chunk::DataEnd).next(&mut "more".into()).is_err());
        assert!(Body::Chunked(Chunk::Trailer).next(&mut "x".repeat(MAX_HEAD_LEN).as_str().into()).is_err());
    }

    /// Gives `wire` to the decoder in pieces of these lengths, over and over.
    fn decode(wire: &[u8], pieces: &[usize]) -> Result<Option<Vec<u8>>, Malformed> {
        let (mut buffer, mut data) = (BytesMut::new(), Vec::new());
        let mut body = Body::Chunked(Chunk::Length);
        let (mut wire, mut pieces) = (wire, pieces.iter().cycle());
        loop {
            match body.next(&mut buffer)? {
                Next::End => return Ok(Some(data)),
                Next::Data(rest) if !buffer.is_empty() => {
                    let count = buffer.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
                    data.extend_from_slice(&buffer.split_to(count));
                    body.taken(count as u64);
                }
                _ if wire.is_empty() => return Ok(None),
                _ => {
                    let (piece, rest) = wire.split_at(wire.len().min(*pieces.next().unwrap()));
                    buffer.extend_from_slice(piece);
                    wire = rest;
                }
            }
        }
    }

    proptest! {
        #[test]
        fn chunks_come_back_however_they_are_cut(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..60), 0..8),
            pieces in prop::collection::vec(1..20_usize, 1..5),
            trailer in prop_oneof![Just(""), Just("Checksum: 5\r\n")],
        ) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend_from_slice(format!("{:X} ; a=b\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(format!("0\r\n{trailer}\r\n").as_bytes());
            prop_assert_eq!(decode(&wire, &pieces), Ok(Some(chunks.concat())));
            prop_assert_eq!(decode(&wire[..wire.len() - 1], &pieces), Ok(None), "cut short, but whole");
        }

        #[test]
        fn no_bytes_make_the_parsers_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            start in prop_oneof![Just(""), Just("HTTP/1.1 200 OK\r\n"), Just("5\r\nhello\r\n"), Just("0\r\n")],
        ) {
            let bytes = [start.as_bytes(), &bytes].concat();
            let _ = Head::take(&mut bytes.as_slice().into());
            let _ = decode(&bytes, &[7]);
        }
    }
}
