//! Bytes over a bare TCP connection, as a measure of what the wire and this machine carry at all.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use anyhow::Result;

use crate::contestant::Contestant;
use crate::world::{FAR, World};

/// Where the server listens.
const PORT: u16 = 7000;

/// What a program reads and writes at once.
const BUFFER: usize = 1 << 20;

/// A connection over which a number is answered by as many bytes.
pub struct Tcp {
    connection: TcpStream,
}

impl Tcp {
    /// Connects. The congestion control is the system's.
    pub fn start(world: &World) -> Result<Self> {
        let listener = world.far.within(|| Ok(TcpListener::bind((FAR, PORT))?))?;
        // Ends with the connection.
        thread::spawn(move || listener.accept().map_err(Into::into).and_then(|(peer, _)| serve(peer)));
        let connection = world.near.within(|| Ok(TcpStream::connect((FAR, PORT))?))?;
        connection.set_nodelay(true)?;
        Ok(Self { connection })
    }
}

fn serve(mut peer: TcpStream) -> Result<()> {
    peer.set_nodelay(true)?;
    let mut len = [0; 8];
    let buffer = vec![0; BUFFER];
    while peer.read_exact(&mut len).is_ok() {
        let mut left = u64::from_be_bytes(len) as usize;
        while left > 0 {
            let part = left.min(BUFFER);
            peer.write_all(&buffer[..part])?;
            left -= part;
        }
    }
    Ok(())
}

impl Contestant for Tcp {
    fn name(&self) -> &'static str {
        "bare TCP"
    }

    fn put(&self, _len: usize) -> Result<()> {
        Ok(())
    }

    fn fetch(&self, len: usize) -> Result<()> {
        let mut connection = &self.connection;
        connection.write_all(&(len as u64).to_be_bytes())?;
        let mut buffer = vec![0; BUFFER];
        let mut left = len;
        while left > 0 {
            let part = left.min(BUFFER);
            connection.read_exact(&mut buffer[..part])?;
            left -= part;
        }
        Ok(())
    }
}
