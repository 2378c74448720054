//! The relay behind `wss://`.

use std::sync::Arc;

use proxystore_relay::{Relay, StartError, TlsError};
use proxystore_shared::EndpointId;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_tungstenite::{Connector, connect_async_tls_with_config};

use crate::harness::{Client, soon, start};

/// A relay with a certificate for `localhost`, key in the same file, and what its clients have to trust.
async fn start_with_tls(handshake_timeout: u64) -> (Relay, CertificateDer<'static>, TempDir) {
    let pair = rcgen::generate_simple_self_signed(["localhost".into()]).expect("generates");
    let directory = tempfile::tempdir().expect("creates");
    let certfile = directory.path().join("both.pem");
    let pem = format!("{}{}", pair.cert.pem(), pair.signing_key.serialize_pem());
    std::fs::write(&certfile, pem).expect("writes");
    let relay = start(|config| {
        config.certfile = Some(certfile);
        config.limits.handshake_timeout = handshake_timeout;
    })
    .await;
    (relay, pair.cert.der().clone(), directory)
}

async fn connect(relay: &Relay, certificate: CertificateDer<'static>) -> Client {
    let mut roots = RootCertStore::empty();
    roots.add(certificate).expect("a certificate");
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("supported")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let url = format!("wss://localhost:{}/", relay.local_addr().port());
    let connector = Some(Connector::Rustls(Arc::new(config)));
    let connecting = Box::pin(connect_async_tls_with_config(url, None, false, connector));
    let (socket, _) = soon("connecting", connecting).await.expect("connects");
    Client { socket, id: EndpointId::random() }
}

#[tokio::test]
async fn clients_talk_through_tls_and_are_told_that_the_relay_stops() {
    let (relay, certificate, _directory) = start_with_tls(10).await;
    let mut a = connect(&relay, certificate.clone()).await;
    let mut b = connect(&relay, certificate).await;
    a.register().await;
    b.register().await;
    a.reaches(&mut b).await;
    b.reaches(&mut a).await;
    let closes = async { (a.close_code().await, b.close_code().await) };
    let ((), codes) = soon("stopping", async { tokio::join!(relay.stop(), closes) }).await;
    assert_eq!(codes, (1001, 1001));
}

#[tokio::test]
async fn a_connection_that_never_says_hello_is_dropped() {
    let (relay, _certificate, _directory) = start_with_tls(1).await;
    let mut stream = TcpStream::connect(relay.local_addr()).await.expect("connects");
    let mut rest = Vec::new();
    soon("the relay hangs up", stream.read_to_end(&mut rest)).await.expect("reads");
    assert!(rest.is_empty());
}

#[tokio::test]
async fn plain_websockets_are_refused() {
    let (relay, _certificate, _directory) = start_with_tls(10).await;
    assert!(Client::connect_with(&relay, None).await.is_err());
}

#[tokio::test]
async fn a_missing_certificate_is_named() {
    let config = proxystore_shared::config::relay::RelayConfig {
        certfile: Some("/nonexistent/cert.pem".into()),
        ..Default::default()
    };
    let error = Relay::start(config).await.expect_err("no certificate");
    assert!(matches!(&error, StartError::Tls(TlsError::Certificate { .. })), "{error}");
    assert!(error.to_string().contains("/nonexistent/cert.pem"), "{error}");
}
