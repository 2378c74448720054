//! TLS from the configured PEM files.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// Why TLS could not be set up; all are faults of the configuration or its files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No certificate could be read.
    #[error("certfile: {path} has no PEM certificate that can be read: {problem}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// No key could be read.
    #[error("keyfile: {path} has no PEM private key that can be read: {problem}")]
    Key {
        /// The file; `certfile` if there is no `keyfile`.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Certificate and key do not fit together, or are of an unsupported kind.
    #[error("certfile and keyfile do not work together: {0}")]
    Mismatch(#[from] rustls::Error),
}

/// Reads the certificate chain and the key; the key is taken from `certfile` if there is no `keyfile`.
pub fn acceptor(certfile: &Path, keyfile: Option<&Path>) -> Result<TlsAcceptor, TlsError> {
    let chain = certificates(certfile)
        .map_err(|problem| TlsError::Certificate { path: certfile.to_owned(), problem })?;
    let keyfile = keyfile.unwrap_or(certfile);
    let key = std::fs::read(keyfile)
        .map_err(|error| error.to_string())
        .and_then(|pem| PrivateKeyDer::from_pem_slice(&pem).map_err(|error| error.to_string()))
        .map_err(|problem| TlsError::Key { path: keyfile.to_owned(), problem })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = std::fs::read(path).map_err(|error| error.to_string())?;
    let chain = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| error.to_string())?;
    if chain.is_empty() { Err(io::Error::from(io::ErrorKind::InvalidData).to_string()) } else { Ok(chain) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_may_be_in_the_certificates_file() {
        let certificate = rcgen::generate_simple_self_signed(["localhost".into()]).expect("generates");
        let directory = tempfile::tempdir().expect("creates");
        let (both, cert) = (directory.path().join("both.pem"), directory.path().join("cert.pem"));
        let key = certificate.signing_key.serialize_pem();
        std::fs::write(&both, format!("{key}{}", certificate.cert.pem())).expect("writes");
        std::fs::write(&cert, certificate.cert.pem()).expect("writes");
        assert!(acceptor(&both, None).is_ok());
        assert!(acceptor(&cert, Some(&both)).is_ok());
        assert!(matches!(acceptor(&cert, None), Err(TlsError::Key { path, .. }) if path == cert));
    }

    #[test]
    fn files_that_do_not_fit_are_named() {
        let directory = tempfile::tempdir().expect("creates");
        let missing = directory.path().join("missing.pem");
        assert!(
            matches!(acceptor(&missing, None), Err(TlsError::Certificate { path, .. }) if path == missing)
        );
        let empty = directory.path().join("empty.pem");
        std::fs::write(&empty, "").expect("writes");
        assert!(matches!(acceptor(&empty, None), Err(TlsError::Certificate { path, .. }) if path == empty));
        let pair = || rcgen::generate_simple_self_signed(["localhost".into()]).expect("generates");
        let (cert, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
        std::fs::write(&cert, pair().cert.pem()).expect("writes");
        std::fs::write(&key, pair().signing_key.serialize_pem()).expect("writes");
        assert!(matches!(acceptor(&cert, Some(&key)), Err(TlsError::Mismatch(_))));
    }
}
