//! HTTP proxies on loopback: a real one, and one that answers what the test says.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use crate::{free_port, until};

/// A running tinyproxy, killed when dropped.
pub struct TinyProxy {
    port: u16,
    dir: tempfile::TempDir,
    _child: Child,
}

impl TinyProxy {
    /// Starts one with these lines in its configuration; none if it is not installed.
    pub async fn start(lines: &str) -> Result<Option<Self>> {
        let (port, dir) = (free_port()?, tempfile::tempdir()?);
        let (config, log) = (dir.path().join("tinyproxy.conf"), dir.path().join("log"));
        let text = format!(
            "Port {port}\nListen 127.0.0.1\nTimeout 60\nMaxClients 20\nLogLevel Connect\nLogFile \"{}\"\n{lines}\n",
            log.display()
        );
        fs::write(&config, text)?;
        let child = Command::new("tinyproxy")
            .arg("-d")
            .arg("-c")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let Ok(child) = child else { return Ok(None) };
        let address = (Ipv4Addr::LOCALHOST, port);
        until("tinyproxy listens", || std::net::TcpStream::connect(address).is_ok()).await?;
        Ok(Some(Self { port, dir, _child: child }))
    }

    /// Its URL, with `user:password@` where it wants one.
    pub fn url(&self, credentials: &str) -> String {
        format!("http://{credentials}127.0.0.1:{}", self.port)
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(Path::new(self.dir.path()).join("log")).unwrap_or_default()
    }
}

/// What a scripted proxy does with a connection.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Sends this, and keeps the connection.
    Bytes(Vec<u8>),
    /// Leads to this address, whatever was asked for.
    Lead(SocketAddr),
}

/// A proxy that answers what the test says, and remembers what it was asked.
pub struct ScriptedProxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl ScriptedProxy {
    /// Starts one.
    pub async fn start(answer: Answer) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = asked.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, answer.clone(), heard.clone()));
            }
        });
        Ok(Self { address, asked, task })
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The first line of every request.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for ScriptedProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, answer: Answer, asked: Arc<Mutex<Vec<String>>>) -> Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < 8192 {
        head.push(stream.read_u8().await?);
    }
    let text = String::from_utf8_lossy(&head);
    let line = text.lines().next().context("a request")?.to_owned();
    asked.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    match answer {
        Answer::Bytes(bytes) => {
            stream.write_all(&bytes).await?;
            // Until the client gives up.
            stream.read_u8().await?;
        }
        Answer::Lead(to) => {
            let mut onward = TcpStream::connect(to).await?;
            stream.write_all(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n").await?;
            copy_bidirectional(&mut stream, &mut onward).await?;
        }
    }
    Ok(())
}
