//! `test`: single operations on texts, serialized as Python does it, through the routes of Python's client.

use proxystore_shared::http::python;
use proxystore_shared::{EndpointId, ObjectId};
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::args::{Test, TestAction};
use super::client::{Client, next_chunk, parse_json};
use super::connect;
use super::output::{Failure, Printer};
use super::place::Place;

/// Bytes of an object that are shown at most.
const SHOWN_LEN: usize = 64 << 10;

/// Identifiers of Python's serializers and what they make.
const FORMATS: [(&[u8], &str); 7] = [
    (b"BS\n", "bytes"),
    (b"US\n", "text"),
    (b"NP\n", "NumPy array"),
    (b"PD\n", "pandas data frame"),
    (b"PL\n", "Polars data frame"),
    (b"PK\n", "pickle"),
    (b"CP\n", "cloudpickle"),
];

#[derive(Debug, Deserialize)]
struct ExistsAnswer {
    exists: bool,
}

/// Runs `test`.
pub async fn test(options: &Test, printer: Printer) -> Result<(), Failure> {
    let (client, _) = connect(&Place::existing(&options.name)?)?;
    let at = options.remote;
    match &options.action {
        TestAction::Put { data } => put(&client, data, at, printer).await,
        TestAction::Get { key } => get(&client, key, at, printer).await,
        TestAction::Exists { key } => {
            let response = client.send(client.python(python::EXISTS, key, at)).await?;
            let exists = parse_json::<ExistsAnswer>(response).await?.exists;
            let word = if exists { "True" } else { "False" };
            printer.result(&json!({ "exists": exists }), &format!("Object exists: {word}"))
        }
        TestAction::Evict { key } => {
            client.send(client.python(python::EVICT, key, at)).await?;
            printer.result(&json!({ "evicted": key }), "Evicted object from endpoint.")
        }
    }
}

async fn put(client: &Client, data: &str, at: Option<EndpointId>, printer: Printer) -> Result<(), Failure> {
    let key = ObjectId::random();
    client.send(client.python(python::SET, &key, at).body(format!("US\n{data}"))).await?;
    printer.result(&json!({ "key": key }), &format!("Put object in endpoint with key {key}"))
}

async fn get(
    client: &Client,
    key: &ObjectId,
    at: Option<EndpointId>,
    printer: Printer,
) -> Result<(), Failure> {
    let response = client.exchange(client.python(python::GET, key, at)).await?;
    if response.status() == StatusCode::NOT_FOUND {
        return printer.result(&json!({ "exists": false }), "Object does not exist.");
    }
    let (beginning, size) = read(client.accept(response).await?).await?;
    let shown = describe(&beginning, size)?;
    printer.result(&json!({ "exists": true, "size": size, "result": shown }), &format!("Result: {shown}"))
}

/// The first bytes of the object, and how many there are in all.
async fn read(mut response: Response) -> Result<(Vec<u8>, u64), Failure> {
    let (mut beginning, mut size) = (Vec::new(), 0);
    while let Some(chunk) = next_chunk(&mut response).await? {
        let room = SHOWN_LEN - beginning.len();
        beginning.extend_from_slice(&chunk[..chunk.len().min(room)]);
        size += chunk.len() as u64;
    }
    Ok((beginning, size))
}

fn describe(beginning: &[u8], size: u64) -> Result<String, Failure> {
    let known = FORMATS.iter().find_map(|(mark, name)| Some((*name, beginning.strip_prefix(*mark)?)));
    let Some((name, payload)) = known else {
        return Err(Failure::new(format!("the object of {size} bytes was not serialized by ProxyStore"))
            .hint("`endpoint get` fetches objects of any kind"));
    };
    let cut = if size > beginning.len() as u64 { "..." } else { "" };
    Ok(match name {
        // A cut through a character is at the end, where it does not matter.
        "text" => format!("{}{cut}", String::from_utf8_lossy(payload)),
        "bytes" => format!("b\"{}\"{cut}", payload.escape_ascii()),
        _ => format!("<{name}, {} bytes>", size - 3),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_shown_by_their_format() {
        let show = |bytes: &[u8]| describe(bytes, bytes.len() as u64).unwrap();
        assert_eq!(show("US\nhé".as_bytes()), "hé");
        assert_eq!(show(b"BS\na\x00"), "b\"a\\x00\"");
        assert_eq!(show(b"NP\n1234"), "<NumPy array, 4 bytes>");
        assert_eq!(describe(b"US\nab", 1000).unwrap(), "ab...");
        assert!(describe(b"", 0).is_err() && describe(b"XX\nab", 5).is_err());
    }
}
