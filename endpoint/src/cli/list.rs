//! `list`: the endpoints of this user.

use std::fs;
use std::io::ErrorKind;

use futures_util::future::join_all;
use proxystore_shared::EndpointId;
use proxystore_shared::config::endpoint::is_valid_name;
use serde::Serialize;

use super::lifecycle::{Evidence, Status};
use super::output::{Failure, Printer, table};
use super::place::{Place, home, http_address};

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    status: Status,
    uuid: Option<EndpointId>,
    address: Option<String>,
}

/// Runs `list`.
pub async fn list(printer: Printer) -> Result<(), Failure> {
    let places = endpoints()?;
    let rows: Vec<Row> = join_all(places.iter().map(|place| describe(place, printer))).await;
    let text = match rows.is_empty() {
        true => format!("No valid endpoint configurations in {}.", home()?.display()),
        false => table(["NAME", "STATUS", "UUID", "ADDRESS"], rows.iter().map(columns)),
    };
    printer.result(&rows, &text)
}

fn columns(row: &Row) -> [String; 4] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    [
        row.name.clone(),
        row.status.to_string(),
        or_dash(row.uuid.map(|uuid| uuid.to_string())),
        or_dash(row.address.clone()),
    ]
}

/// Folders with a configuration, in order of name.
fn endpoints() -> Result<Vec<Place>, Failure> {
    let home = home()?;
    let entries = match fs::read_dir(&home) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Failure::io(format!("read {}", home.display())))?,
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut places: Vec<Place> = names
        .filter(|name| is_valid_name(name))
        .map(|name| Place { dir: home.join(&name), name })
        .filter(|place| place.config_path().is_file())
        .collect();
    places.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(places)
}

async fn describe(place: &Place, printer: Printer) -> Row {
    let config = place.config().inspect_err(|failure| printer.warn(failure.message())).ok();
    let evidence = Evidence::gather(place, config.as_ref()).await;
    Row {
        name: place.name.clone(),
        status: evidence.status(),
        uuid: config.as_ref().map(|config| config.uuid),
        address: config.as_ref().and_then(http_address),
    }
}
