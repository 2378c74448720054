//! A file handed to the endpoint: where it runs on the same host, a command has it write an object there, or read it from there,
//! by itself.
//!
//! Otherwise every byte goes over a connection on loopback between the two processes, which the system copies twice, and
//! is hashed by both (docs/decisions/0016). The command connects to a socket in the endpoint's folder, which only
//! the endpoint's user may do, and sends one byte, accompanied by a descriptor of the file that it has opened itself
//! (unix(7), `SCM_RIGHTS`): the endpoint opens nothing by name. What follows is HTTP, one request for
//! `/v1/objects/{object_id}` without an object in it:
//!
//! - `GET` has the object written from the file's beginning on. The answer's body is lines of [`Progress`].
//! - `PUT` has it read from the file's position on, which moves along, for the command too. The answer comes at the end.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// The header of an answer that says how many bytes the object has.
pub const OBJECT_SIZE: &str = "object-size";

/// What accompanies a descriptor: some byte must.
const GREETING: &[u8] = b"f";

/// How far the endpoint is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// The object's first so many bytes are in the file.
    Written(u64),
    /// It will not get any further, for this reason.
    Failed(String),
}

/// Connects to an endpoint's socket and gives it a file. The connection is ready for a request.
pub async fn give(socket: &Path, file: &File) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(socket).await?;
    stream.async_io(Interest::WRITABLE, || send(&stream, file)).await?;
    Ok(stream)
}

/// Takes the file that a connection begins with; fails if that is none into which an object can be written.
pub async fn take(stream: &UnixStream) -> io::Result<File> {
    let file = stream.async_io(Interest::READABLE, || receive(stream)).await?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "what was handed over is not a file"));
    }
    Ok(file)
}

fn send(stream: &UnixStream, file: &File) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [file.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(stream, &[IoSlice::new(GREETING)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive(stream: &UnixStream) -> io::Result<File> {
    // Of more descriptors than there is room for, the system closes the rest.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut greeting = [0; GREETING.len()];
    recvmsg(stream, &mut [IoSliceMut::new(&mut greeting)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    let nothing = || io::Error::new(io::ErrorKind::InvalidInput, "nothing was handed over");
    Ok(File::from(descriptor.ok_or_else(nothing)?))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::fd::OwnedFd;

    use tokio::io::AsyncWriteExt as _;
    use tokio::net::UnixListener;

    use super::*;

    async fn handed_over(file: &File) -> io::Result<File> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path)?;
        let given = give(&path, file).await?;
        let (taken, _) = listener.accept().await?;
        let file = take(&taken).await;
        drop(given);
        file
    }

    #[tokio::test]
    async fn a_file_is_the_same_on_both_sides() {
        let mut mine = tempfile::tempfile().unwrap();
        let mut theirs = handed_over(&mine).await.unwrap();
        theirs.write_all(b"hello").unwrap();
        io::Seek::rewind(&mut mine).unwrap();
        let mut read = String::new();
        mine.read_to_string(&mut read).unwrap();
        assert_eq!(read, "hello");
    }

    #[tokio::test]
    async fn what_is_no_file_is_refused() {
        let (reader, _writer) = io::pipe().unwrap();
        let error = handed_over(&File::from(OwnedFd::from(reader))).await.unwrap_err();
        assert!(error.to_string().contains("not a file"), "{error}");
    }

    #[tokio::test]
    async fn a_connection_that_hands_over_nothing_is_refused() {
        for said in [&b""[..], b"GET / HTTP/1.1\r\n\r\n"] {
            let (mut one, other) = UnixStream::pair().unwrap();
            one.write_all(said).await.unwrap();
            one.shutdown().await.unwrap();
            let error = take(&other).await.unwrap_err();
            assert!(error.to_string().contains("nothing was handed over"), "{error}");
        }
    }
}
