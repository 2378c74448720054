//! The sample configuration says what the code does.

use proxystore_shared::config::parse;
use proxystore_shared::config::relay::RelayConfig;

const SAMPLE: &str = include_str!("../../../config/relay.toml");

/// Lines like `#key = value` are settings, `# text` is prose.
fn with_every_key() -> String {
    let activate = |line: &str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|first: char| first.is_ascii_lowercase()) => rest.to_owned(),
        _ => line.to_owned(),
    };
    SAMPLE.lines().map(activate).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_sample_is_the_default() {
    let sample: RelayConfig = parse(SAMPLE).expect("parses");
    sample.validate().expect("valid");
    assert_eq!(format!("{sample:?}"), format!("{:?}", RelayConfig::default()));
}

#[test]
fn every_key_of_the_sample_exists() {
    let complete: RelayConfig = parse(&with_every_key()).expect("parses");
    complete.validate().expect("valid");
    assert!(complete.host.is_some() && complete.keyfile.is_some() && complete.auth.method.is_some());
    assert!(complete.udp.host.is_some() && complete.datagrams.bytes_per_day.is_some());
    assert_eq!(complete.message_limit(), RelayConfig::default().message_limit());
    let kwargs = complete.auth.kwargs;
    assert!(kwargs.client_id.is_some() && kwargs.audience.is_some() && kwargs.introspect_url.is_some());
}
