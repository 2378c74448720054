//! Configuration of what a relay offers beyond Python's protocol: UDP ports, and datagrams between its clients.

use serde::Deserialize;

use crate::config::ConfigError;
use crate::relayed::MAX_FRAME_LEN;

/// The port of STUN (RFC 8489, section 18.4) and its neighbour.
const DEFAULT_UDP_PORTS: [u16; 2] = [3478, 3479];

/// Most UDP ports. Two tell how a NAT behaves; a third tells nothing more.
const MAX_UDP_PORTS: usize = 2;

/// Largest bound in bytes: 1 TiB, which is more than any machine has. What is larger is a mistake.
const MAX_BYTES: u64 = 1 << 40;

/// UDP ports that tell clients their public address.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RelayUdp {
    /// Address to listen on; the relay's own if absent.
    pub host: Option<String>,
    /// None, one or two ports; 0 lets the system choose.
    pub ports: Vec<u16>,
}

impl Default for RelayUdp {
    fn default() -> Self {
        Self { host: None, ports: DEFAULT_UDP_PORTS.to_vec() }
    }
}

impl RelayUdp {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let invalid = |problem: &str| Err(ConfigError::Invalid { key: "udp.ports", problem: problem.into() });
        match self.ports[..] {
            [first, second] if first == second && first != 0 => invalid("has the same port twice"),
            _ if self.ports.len() > MAX_UDP_PORTS => invalid("takes two ports at most"),
            _ => Ok(()),
        }
    }
}

/// Datagrams that two clients exchange through the relay.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RelayDatagrams {
    /// Whether they are carried at all.
    pub enabled: bool,
    /// What one client may send in the long run.
    pub bytes_per_second: u64,
    /// What one client may send at once after a pause.
    pub burst_bytes: u64,
    /// What all clients of one user may send in a day; unlimited if absent.
    pub bytes_per_day: Option<u64>,
    /// Bytes waiting for one client; more are dropped.
    pub queue_bytes: usize,
    /// Frames waiting for one client; more are dropped.
    pub queue_frames: usize,
    /// Bytes waiting for all clients together; more are dropped.
    pub total_queue_bytes: usize,
}

impl Default for RelayDatagrams {
    fn default() -> Self {
        Self {
            enabled: true,
            // A line of 1 Gbit/s.
            bytes_per_second: 125_000_000,
            // An eighth of a second of it: a sender that starts fast is not slowed down at once.
            burst_bytes: 16_000_000,
            bytes_per_day: None,
            // 17 ms of a line of 1 Gbit/s. More would only make everything behind it late.
            queue_bytes: 2 << 20,
            // As many bytes in frames of one datagram, about.
            queue_frames: 1024,
            // A quarter of the memory that docker/compose.yaml gives the relay.
            total_queue_bytes: 256 << 20,
        }
    }
}

impl RelayDatagrams {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let invalid = |key, problem: String| Err(ConfigError::Invalid { key, problem });
        if self.bytes_per_second == 0 {
            let problem = "must be at least 1; `enabled = false` turns datagrams off".into();
            return invalid("datagrams.bytes_per_second", problem);
        }
        let sizes = [
            ("datagrams.burst_bytes", self.burst_bytes),
            ("datagrams.bytes_per_day", self.bytes_per_day.unwrap_or(MAX_BYTES)),
            ("datagrams.queue_bytes", self.queue_bytes as u64),
            ("datagrams.total_queue_bytes", self.total_queue_bytes as u64),
        ];
        for (key, bytes) in sizes {
            // Whatever has no room for the largest frame would refuse it for ever.
            if !(MAX_FRAME_LEN as u64..=MAX_BYTES).contains(&bytes) {
                return invalid(key, format!("must be at least {MAX_FRAME_LEN} and at most {MAX_BYTES}"));
            }
        }
        if !(1..=super::MAX_QUEUE_MESSAGES).contains(&self.queue_frames) {
            return invalid("datagrams.queue_frames", "must be at least 1 and at most 65536".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::config::parse;
    use crate::config::relay::RelayConfig;

    #[test]
    fn nonsense_is_refused_by_name() {
        for (text, key) in [
            ("[udp]\nports = [1, 1]", "udp.ports"),
            ("[udp]\nports = [1, 2, 3]", "udp.ports"),
            ("[datagrams]\nbytes_per_second = 0", "datagrams.bytes_per_second"),
            ("[datagrams]\nburst_bytes = 1500", "datagrams.burst_bytes"),
            ("[datagrams]\nbytes_per_day = 9000000000000000000", "datagrams.bytes_per_day"),
            ("[datagrams]\nqueue_bytes = 0", "datagrams.queue_bytes"),
            ("[datagrams]\nqueue_frames = 0", "datagrams.queue_frames"),
            ("[datagrams]\ntotal_queue_bytes = 1", "datagrams.total_queue_bytes"),
        ] {
            let config: RelayConfig = parse(text).expect("parses");
            assert!(config.validate().expect_err(text).to_string().starts_with(key), "{text}");
        }
    }

    #[test]
    fn ports_may_be_chosen_by_the_system_or_left_out() {
        for text in ["[udp]\nports = []", "[udp]\nports = [0, 0]", "[udp]\nports = [3478]"] {
            let config: RelayConfig = parse(text).expect("parses");
            assert!(config.validate().is_ok(), "{text}");
        }
    }
}
