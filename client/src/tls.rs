//! Which cryptography TLS uses, for client libraries that take the process's default and panic without one.

use rustls::crypto::{CryptoProvider, ring};

/// Makes ring the process's default, unless the program has chosen already.
pub(crate) fn install_provider() {
    if CryptoProvider::get_default().is_none() {
        // Fails only if another thread was faster, which is as good.
        let _ = ring::default_provider().install_default();
    }
}
