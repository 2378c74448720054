//! ZMTP 3.1, the protocol of ZeroMQ (RFC 37/ZMTP), as far as publish/subscribe without login takes.
//!
//! Written here since the known implementations allocate whatever length a peer announces: a frame is measured
//! before it is read.

use std::io::{Error, ErrorKind, Result};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// What both sides send first: signature, version, mechanism, role, filler.
const GREETING_LEN: usize = 64;

/// Bits of a frame's first byte.
const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// Bytes before the content of a frame at most: flags and length.
const LONG_HEADER_LEN: usize = 9;

/// Bytes of a frame before the other side is known to be one to talk to.
const HANDSHAKE_LIMIT: usize = 1024;

/// Room made in the buffer before reading, in bytes.
const READ_LEN: usize = 64 << 10;

/// Commands begin with their names and the lengths of these.
const PING: &[u8] = b"\x04PING";
const PONG: &[u8] = b"\x04PONG";

/// Bytes of a PING between its name and what the PONG repeats: how long the peer waits.
const PING_TTL_LEN: usize = 2;

#[derive(Debug, PartialEq)]
pub(super) struct Frame {
    pub more: bool,
    pub command: bool,
    pub body: Bytes,
}

pub(super) struct FrameReader {
    stream: OwnedReadHalf,
    buffer: BytesMut,
    limit: usize,
}

pub(super) struct FrameWriter {
    stream: OwnedWriteHalf,
}

fn invalid(reason: &str) -> Error {
    Error::new(ErrorKind::InvalidData, reason)
}

/// Greets a peer that must be of type `theirs`. Afterwards it may send frames of up to `limit` bytes. Also tells
/// whether it knows PING.
pub(super) async fn handshake(
    stream: TcpStream,
    ours: &str,
    theirs: &[&str],
    limit: usize,
) -> Result<(FrameReader, FrameWriter, bool)> {
    stream.set_nodelay(true)?;
    let (read, write) = stream.into_split();
    let mut writer = FrameWriter { stream: write };
    let mut reader = FrameReader { stream: read, buffer: BytesMut::new(), limit: HANDSHAKE_LIMIT };
    writer.stream.write_all(&greeting()).await?;
    let knows_ping = check_greeting(&reader.take(GREETING_LEN).await?)?;
    writer.send(COMMAND, &ready(ours)).await?;
    let answer = reader.frame().await?;
    let of_type = |name: &&str| socket_type(&answer.body) == Some(name.as_bytes());
    if !answer.command || !theirs.iter().any(of_type) {
        return Err(invalid(&format!("the peer is not a {} socket", theirs.join(" or "))));
    }
    reader.limit = limit;
    Ok((reader, writer, knows_ping))
}

fn greeting() -> [u8; GREETING_LEN] {
    let mut greeting = [0; GREETING_LEN];
    greeting[0] = 0xff;
    greeting[8] = 1;
    greeting[9] = 0x7f;
    (greeting[10], greeting[11]) = (3, 1);
    greeting[12..16].copy_from_slice(b"NULL");
    greeting
}

/// Whether the peer's version has PING.
fn check_greeting(greeting: &[u8]) -> Result<bool> {
    if greeting[0] != 0xff || greeting[9] != 0x7f || greeting[10] < 3 {
        return Err(invalid("the peer does not speak ZMTP 3"));
    }
    if &greeting[12..17] != b"NULL\0" {
        return Err(invalid("the peer wants a login, which is not supported"));
    }
    Ok(greeting[10] > 3 || greeting[11] >= 1)
}

fn ready(socket_type: &str) -> Vec<u8> {
    let mut body = b"\x05READY\x0bSocket-Type".to_vec();
    body.put_u32(socket_type.len() as u32);
    body.extend_from_slice(socket_type.as_bytes());
    body
}

/// Among the properties of a READY, each a name and a value with their lengths before them.
fn socket_type(ready: &[u8]) -> Option<&[u8]> {
    let mut rest = ready.strip_prefix(b"\x05READY")?;
    loop {
        let (name_len, after) = rest.split_first()?;
        let (name, after) = after.split_at_checked((*name_len).into())?;
        let (value_len, after) = after.split_first_chunk::<4>()?;
        let (value, after) = after.split_at_checked(u32::from_be_bytes(*value_len) as usize)?;
        if name.eq_ignore_ascii_case(b"Socket-Type") {
            return Some(value);
        }
        rest = after;
    }
}

impl FrameReader {
    /// The next frame. Dropping this future loses nothing.
    pub async fn frame(&mut self) -> Result<Frame> {
        loop {
            if let Some(frame) = split_frame(&mut self.buffer, self.limit)? {
                return Ok(frame);
            }
            self.read_more().await?;
        }
    }

    async fn take(&mut self, len: usize) -> Result<BytesMut> {
        while self.buffer.len() < len {
            self.read_more().await?;
        }
        Ok(self.buffer.split_to(len))
    }

    async fn read_more(&mut self) -> Result<()> {
        self.buffer.reserve(READ_LEN);
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// Takes a frame off the buffer, if all of it is there.
fn split_frame(buffer: &mut BytesMut, limit: usize) -> Result<Option<Frame>> {
    let Some(&flags) = buffer.first() else { return Ok(None) };
    let mut header = &buffer[1..];
    let len = match flags & LONG {
        0 => header.try_get_u8().map(u64::from),
        _ => header.try_get_u64(),
    };
    let Ok(len) = len else { return Ok(None) };
    if len > limit as u64 {
        return Err(invalid(&format!("a frame of {len} bytes is more than the {limit} that are allowed")));
    }
    if header.len() < len as usize {
        return Ok(None);
    }
    buffer.advance(buffer.len() - header.len());
    let body = buffer.split_to(len as usize).freeze();
    Ok(Some(Frame { more: flags & MORE != 0, command: flags & COMMAND != 0, body }))
}

impl FrameWriter {
    /// Sends a message of one frame.
    pub async fn message(&mut self, body: &[u8]) -> Result<()> {
        self.send(0, body).await
    }

    /// Sends a message of two frames.
    pub async fn pair(&mut self, first: &[u8], second: &[u8]) -> Result<()> {
        self.send(MORE, first).await?;
        self.send(0, second).await
    }

    /// Asks for a sign of life.
    pub async fn ping(&mut self) -> Result<()> {
        self.send(COMMAND, &[PING, &[0; PING_TTL_LEN]].concat()).await
    }

    /// Answers if the command is a PING.
    pub async fn answer(&mut self, command: &[u8]) -> Result<()> {
        match command.strip_prefix(PING).and_then(|ping| ping.get(PING_TTL_LEN..)) {
            Some(context) => self.send(COMMAND, &[PONG, context].concat()).await,
            None => Ok(()),
        }
    }

    /// Says that nothing more comes.
    pub async fn finish(&mut self) -> Result<()> {
        self.stream.shutdown().await
    }

    async fn send(&mut self, flags: u8, body: &[u8]) -> Result<()> {
        let mut header = BytesMut::with_capacity(LONG_HEADER_LEN);
        match u8::try_from(body.len()) {
            Ok(len) => header.extend([flags, len]),
            Err(_) => {
                header.put_u8(flags | LONG);
                header.put_u64(body.len() as u64);
            }
        }
        // In one system call, and a small frame so in one packet.
        self.stream.write_all_buf(&mut header.chain(body)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_taken_off_only_when_whole() {
        let long = [&[LONG, 0, 0, 0, 0, 0, 0, 1, 0][..], &[7; 256]].concat();
        let bytes = [&[MORE, 3, b'a', b'b', b'c', COMMAND, 0][..], &long].concat();
        for cut in 0..=bytes.len() {
            let mut buffer = BytesMut::from(&bytes[..cut]);
            let mut frames = Vec::new();
            while let Some(frame) = split_frame(&mut buffer, 256).unwrap() {
                frames.push((frame.more, frame.command, frame.body.len()));
            }
            let expected = [(5, (true, false, 3)), (7, (false, true, 0)), (bytes.len(), (false, false, 256))];
            let expected = expected.into_iter().filter(|(end, _)| cut >= *end).map(|(_, frame)| frame);
            assert_eq!(frames, expected.collect::<Vec<_>>(), "{cut} bytes");
        }
    }

    #[test]
    fn a_huge_frame_is_refused_by_its_header() {
        let mut buffer = BytesMut::from(&[LONG, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff][..]);
        assert!(split_frame(&mut buffer, 1 << 20).is_err());
    }

    #[test]
    fn properties_of_a_ready_may_come_in_any_order_and_be_cut() {
        let body = b"\x05READY\x08Identity\x00\x00\x00\x02me\x0bsocket-type\x00\x00\x00\x03SUB".to_vec();
        assert_eq!(socket_type(&body), Some(&b"SUB"[..]));
        assert_eq!(socket_type(&ready("XPUB")), Some(&b"XPUB"[..]));
        for cut in 0..body.len() {
            assert_eq!(socket_type(&body[..cut]), None);
        }
    }
}
