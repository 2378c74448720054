//! Configuration files, Python's among them: what an endpoint accepts is written back to something that means the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxystore_shared::config::endpoint::EndpointConfig;
use proxystore_shared::config::parse;
use proxystore_shared::config::relay::RelayConfig;

fuzz_target!(|text: &str| {
    if let Ok(config) = parse::<RelayConfig>(text) {
        let _ = config.validate();
    }
    if let Ok(config) = parse::<EndpointConfig>(text)
        && config.validate().is_ok()
    {
        let written = toml::to_string(&config).expect("a configuration can be written");
        assert_eq!(parse::<EndpointConfig>(&written).expect("what was written is read"), config);
    }
});
