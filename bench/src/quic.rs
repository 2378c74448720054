//! Bare QUIC with the settings of our endpoints: a server that answers each stream with as many bytes as it asks for.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use noq::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use noq::{ClientConfig, Connection, Endpoint, ServerConfig, TokioRuntime};
use proxystore_endpoint::identity::Identity;
use proxystore_endpoint::transport::quic::{endpoint_config, transport_config};
use proxystore_endpoint::transport::{socket, tls};

/// Longest answer.
const MAX_ANSWER: usize = 1 << 20;

fn endpoint(identity: &Identity, port: u16, server: Option<ServerConfig>) -> Result<Endpoint> {
    let socket = socket::open(Some(Ipv4Addr::LOCALHOST.into()), port)?;
    Ok(Endpoint::new(endpoint_config(identity)?, server, socket, Arc::new(TokioRuntime))?)
}

/// Serves on `port` until it is killed.
pub async fn serve(identity: &Path, port: u16) -> Result<()> {
    let identity = Identity::load(identity)?;
    let crypto = QuicServerConfig::try_from(tls::server_config(&identity)?)?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(Arc::new(transport_config()));
    let endpoint = endpoint(&identity, port, Some(config))?;
    while let Some(incoming) = endpoint.accept().await {
        // A benchmark has one client, and ends with it.
        let Ok(connection) = incoming.await else { continue };
        while answer(&connection).await.is_ok() {}
    }
    Ok(())
}

async fn answer(connection: &Connection) -> Result<()> {
    let (mut send, mut receive) = connection.accept_bi().await?;
    let wanted = receive.read_to_end(MAX_ANSWER).await?;
    let len: usize = std::str::from_utf8(&wanted)?.parse()?;
    send.write_all(&vec![7; len.min(MAX_ANSWER)]).await?;
    Ok(send.finish()?)
}

/// A client of [`serve`].
pub struct Client {
    connection: Connection,
    _endpoint: Endpoint,
}

impl Client {
    /// Connects to a server with the same key.
    pub async fn connect(identity: &Path, port: u16) -> Result<Self> {
        let identity = Identity::load(identity)?;
        let expected = tls::Expected::Key(identity.public_key());
        let crypto = QuicClientConfig::try_from(tls::client_config(&identity, expected)?)?;
        let mut config = ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::new(transport_config()));
        let endpoint = endpoint(&identity, 0, None)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let connection = endpoint.connect_with(config, address, tls::SERVER_NAME)?.await;
        Ok(Self { connection: connection.context("no QUIC server")?, _endpoint: endpoint })
    }

    /// Asks for `len` bytes on a stream of their own.
    pub async fn round_trip(&self, len: usize) -> Result<()> {
        let (mut send, mut receive) = self.connection.open_bi().await?;
        send.write_all(len.to_string().as_bytes()).await?;
        send.finish()?;
        let received = receive.read_to_end(MAX_ANSWER).await?.len();
        ensure!(received == len, "{received} bytes of {len}");
        Ok(())
    }
}
