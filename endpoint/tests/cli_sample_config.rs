//! The sample configuration is what it says: valid, complete, and the defaults.

use proxystore_shared::config::endpoint::{EndpointConfig, HttpConfig, PeeringConfig};
use proxystore_shared::config::parse;

const SAMPLE: &str = include_str!("../../config/endpoint.toml");

/// The sample with its examples in force: lines that start with `#` and no space are settings.
fn with_examples() -> String {
    let uncommented = |line: &str| match line.strip_prefix('#') {
        Some(setting) if setting.starts_with(char::is_alphabetic) => setting.to_owned(),
        _ => line.to_owned(),
    };
    SAMPLE.lines().map(uncommented).collect::<Vec<_>>().join("\n")
}

/// The keys a table may have, as the parser lists them when it meets another.
fn known_keys(table: &str) -> Vec<String> {
    let header = if table.is_empty() { String::new() } else { format!("[{table}]\n") };
    let required = "name = 'a'\nuuid = '12345678-1234-4234-9234-123456789abc'\nport = 1\n";
    let text = format!("{required}{header}no_such_key = 1");
    let error = toml::from_str::<EndpointConfig>(&text).expect_err("an unknown key");
    let message = error.message().to_owned();
    let (_, expected) = message.split_once("expected ").expect("a list of keys");
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_sample_is_valid_and_shows_the_defaults() {
    let config: EndpointConfig = parse(SAMPLE).unwrap();
    config.validate().unwrap();
    assert_eq!(config.peering, PeeringConfig::default());
    assert_eq!(config.http, HttpConfig::default());
    assert_eq!((config.host, config.storage.memory_limit), (None, None));
}

#[test]
fn the_examples_are_valid() {
    let config: EndpointConfig = parse(&with_examples()).unwrap();
    config.validate().unwrap();
    assert!(config.host.is_some() && config.storage.database_path.is_some() && config.peering.bind.is_some());
}

#[test]
fn every_key_is_there() {
    let sample: toml::Table = with_examples().parse().unwrap();
    for table in ["", "relay", "relay.auth", "storage", "peering", "http"] {
        let path = table.split('.').filter(|name| !name.is_empty());
        let keys = path.fold(&sample, |table, name| table[name].as_table().unwrap());
        for key in known_keys(table) {
            assert!(keys.contains_key(&key), "[{table}] lacks {key}");
        }
    }
}
