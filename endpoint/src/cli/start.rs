//! `start`: everything that can go wrong is looked at here, in the foreground, before an endpoint runs.

use std::fs;
use std::io;
use std::path::Path;

use proxystore_shared::config::endpoint::EndpointConfig;
use proxystore_shared::directory::{DATABASE_FILE, KEY_FILE};
use toml_edit::DocumentMut;

use super::args::{LogLevel, Start};
use super::lifecycle::{Evidence, Process, Status};
use super::output::{Failure, Printer};
use super::place::Place;
use super::token::{TOKEN_VARIABLE, relay_token};
use super::{daemon, host, serve};
use crate::atomic_file;
use crate::identity::{Identity, IdentityError};
use crate::server::Options;

/// Runs `start`.
pub async fn start(options: &Start, log_level: LogLevel, printer: Printer) -> Result<(), Failure> {
    if options.daemon {
        daemon::detach()?;
    }
    let place = Place::existing(&options.name)?;
    let ready = prepare(&place, printer).await?;
    if options.no_detach {
        serve::run(&place, ready, log_level, options.daemon).await
    } else {
        daemon::start(&place, &ready.config, log_level, printer).await
    }
}

/// Checks, and completes, what the endpoint needs to run.
async fn prepare(place: &Place, printer: Printer) -> Result<Options, Failure> {
    let mut config = place.config()?;
    if config.name != place.name {
        return Err(Failure::new(format!(
            "{} calls the endpoint {:?}",
            place.config_path().display(),
            config.name
        ))
        .hint(format!("the folder's name and `name` must agree: set name = {:?}", place.name)));
    }
    let evidence = Evidence::gather(place, Some(&config)).await;
    if evidence.status() == Status::Running {
        return Err(Failure::new(format!("endpoint {} is already running", place.name))
            .hint(format!("`endpoint stop {}` stops it", place.name)));
    }
    let host = host::resolve(&config, printer).await?;
    if evidence.process != Process::NoFile {
        remove_stale_pid_file(place, &config, &host, evidence.answers, printer)?;
    }
    check_key(place)?;
    warn_of_python_objects(place, &config, printer);
    let relay_token = relay_token(&config, &place.dir, std::env::var(TOKEN_VARIABLE).ok())?;
    if config.host.as_ref() != Some(&host) {
        write_host(&place.config_path(), &host)?;
        config.host = Some(host);
    }
    // The daemon's working directory is not the user's.
    config.storage.database_path = config.storage.database_path.map(|path| place.dir.join(path));
    Ok(Options { dir: place.dir.clone(), config, relay_token })
}

/// On a file system that hosts share, the process may run on another one: then it is not ours to forget.
fn remove_stale_pid_file(
    place: &Place,
    config: &EndpointConfig,
    host: &str,
    answers: bool,
    printer: Printer,
) -> Result<(), Failure> {
    let path = place.pid_path();
    if let Some(configured) = &config.host
        && (configured != host || answers)
    {
        return Err(Failure::new(format!(
            "there is a process id file, and the endpoint may run on another host ({configured})"
        ))
        .hint(format!("stop it there; if it does not run any more, delete {}", path.display())));
    }
    printer.warn(&format!("the endpoint was not stopped properly; removing {}", path.display()));
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Failure::io(format!("remove {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

/// Looks at the key here, where the user is; the server checks that it fits the id, or makes the first one.
fn check_key(place: &Place) -> Result<(), Failure> {
    let path = place.dir.join(KEY_FILE);
    match path.exists() {
        true => Identity::load(&path).map(drop).map_err(|error| key_failure(&error, &path)),
        false => Ok(()),
    }
}

fn key_failure(error: &IdentityError, path: &Path) -> Failure {
    let failure = Failure::new(error.to_string());
    match error {
        IdentityError::Permissions { .. } => failure.hint(format!("chmod 600 {}", path.display())),
        _ => failure,
    }
}

fn warn_of_python_objects(place: &Place, config: &EndpointConfig, printer: Printer) {
    let configured = config.storage.database_path.as_ref().map(|path| place.dir.join(path));
    let database = configured.unwrap_or_else(|| place.dir.join(DATABASE_FILE));
    if database.is_file() {
        printer.warn(&format!(
            "objects that Python ProxyStore stored in {} are not read by this version; they stay there for Python",
            database.display()
        ));
    }
}

/// Sets `host` in the configuration file and leaves everything else, comments included, as it is.
fn write_host(path: &Path, host: &str) -> Result<(), Failure> {
    let failed = || format!("write the host to {}", path.display());
    let text = fs::read_to_string(path).map_err(Failure::io(failed()))?;
    let mut document: DocumentMut =
        text.parse().map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
    document["host"] = toml_edit::value(host);
    atomic_file::replace(path, &document.to_string()).map_err(Failure::io(failed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_written_among_the_comments() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        fs::write(&path, "# mine\nname = \"a\" # of the lab\n\n[relay]\npeer_channels = 2\n").unwrap();
        write_host(&path, "10.0.0.1").unwrap();
        let written = fs::read_to_string(&path).unwrap();
        assert!(written.contains("# mine") && written.contains("# of the lab"), "{written}");
        assert!(written.find("host = \"10.0.0.1\"").unwrap() < written.find("[relay]").unwrap(), "{written}");
        write_host(&path, "10.0.0.2").unwrap();
        assert!(!fs::read_to_string(&path).unwrap().contains("10.0.0.1"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no draft is left");
    }
}
