//! The token that an endpoint shows its relay.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use proxystore_shared::config::endpoint::EndpointConfig;

use super::output::Failure;

/// Environment variable with the token.
pub const TOKEN_VARIABLE: &str = "PROXYSTORE_RELAY_TOKEN";

/// File in the endpoint's folder with the token.
const TOKEN_FILE: &str = "relay_token";

/// Permission bits that let anybody but the owner at the file.
const OTHERS: u32 = 0o077;

/// The token, if the configuration wants one: from the environment, else from the file.
pub fn relay_token(
    config: &EndpointConfig,
    dir: &Path,
    variable: Option<String>,
) -> Result<Option<String>, Failure> {
    if config.relay.address.is_none() || config.relay.auth.method.is_none() {
        return Ok(None);
    }
    let token = match variable.filter(|token| !token.trim().is_empty()) {
        Some(token) => token,
        None => read_token(&dir.join(TOKEN_FILE))?,
    };
    let token = token.trim().to_owned();
    // Anything else could not travel in the header (RFC 6750, section 2.1), and must not be quoted in an error.
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::new(
            "the relay token is empty or contains spaces or other characters no token has",
        ));
    }
    Ok(Some(token))
}

fn read_token(path: &Path) -> Result<String, Failure> {
    let shown = path.display();
    let mode = match fs::metadata(path) {
        Ok(metadata) => metadata.mode() & 0o7777,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(Failure::new("the relay server wants authentication (relay.auth.method = \"globus\"), and there is no token").hint(format!(
                "set {TOKEN_VARIABLE}, or write the token to {shown} (mode 0600); for a relay without authentication, remove `method` from config.toml, or configure with --no-relay-auth"
            )));
        }
        Err(error) => return Err(Failure::io(format!("read {shown}"))(error)),
    };
    if mode & OTHERS != 0 {
        return Err(Failure::new(format!(
            "the token file {shown} has mode {mode:04o}, so others can read it"
        ))
        .hint(format!("chmod 600 {shown}, and consider a new token")));
    }
    fs::read_to_string(path).map_err(Failure::io(format!("read {shown}")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use proxystore_shared::config::parse;

    use super::*;

    const WITH_AUTH: &str = "name = 'a'\nuuid = '12345678-1234-4234-9234-123456789abc'\nport = 1\n\
        [relay]\naddress = 'wss://relay'\nauth.method = 'globus'";

    #[test]
    fn the_environment_comes_before_the_file() {
        let config = parse(WITH_AUTH).unwrap();
        let dir = tempfile::tempdir().unwrap();
        assert!(format!("{:?}", relay_token(&config, dir.path(), None)).contains("--no-relay-auth"));
        let file = dir.path().join(TOKEN_FILE);
        fs::write(&file, "secret-f\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(format!("{:?}", relay_token(&config, dir.path(), None)).contains("chmod 600"));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(relay_token(&config, dir.path(), None).unwrap().as_deref(), Some("secret-f"));
        assert_eq!(relay_token(&config, dir.path(), Some("e".into())).unwrap().as_deref(), Some("e"));
        assert!(relay_token(&config, dir.path(), Some("a\nb".into())).is_err());
    }

    #[test]
    fn no_token_is_wanted_without_authentication() {
        let dir = tempfile::tempdir().unwrap();
        for text in [
            WITH_AUTH.replace("auth.method = 'globus'", ""),
            WITH_AUTH.replace("address = 'wss://relay'", ""),
        ] {
            assert_eq!(relay_token(&parse(&text).unwrap(), dir.path(), None).unwrap(), None);
        }
    }
}
