//! Networks made of namespaces: an internet with a relay, and sites behind routers, firewalls and proxies.
//!
//! ```text
//!  a ──eth─ lan ─ a-router0 ─wan─┐
//!                                ├─ net (203.0.113.0/24, 2001:db8::/64) ── relay
//!  b ──eth─ lan ─ b-router0 ─wan─┘
//! ```
//!
//! Nothing in them leads to a network of the machine. A test describes two sites, `Pair::with("").a(Nat::Symmetric)
//! .b(Nat::PortRestricted).start()`, talks to the endpoints there, and does to the networks what happens to networks.
//! Dropping the pair ends its programs and deletes its namespaces; what killed tests leave is removed by the next.

mod endpoint;
mod inside;
mod namespace;
mod nat;
mod pair;
mod plan;
mod program;
mod proxy;
mod relay;
mod router;
mod segment;
mod site;
mod wire;

use nix::unistd::geteuid;

pub use endpoint::{DEADLINE, Endpoint, Fetched, PathKind, Peer, hung};
pub use inside::Inside;
pub use namespace::Namespace;
pub use nat::{Nat, Wall};
pub use pair::{Home, Pair, PairBuilder};
pub use plan::{Plan, ProxyLogin};
pub use program::Program;
pub use relay::Relay;
pub use router::Router;
pub use segment::{Plug, Segment, Stack, Subnet};
pub use site::{Ground, Site};
pub use wire::Wire;

use crate::skipped;

/// What networks are made with.
const TOOLS: [&str; 4] = ["ip", "nft", "conntrack", "tinyproxy"];

/// Whether networks can be made here; says why not.
pub fn possible() -> bool {
    if !geteuid().is_root() {
        skipped("networks in namespaces: only root can make them");
        return false;
    }
    let missing: Vec<&str> = TOOLS.into_iter().filter(|tool| !is_installed(tool)).collect();
    if !missing.is_empty() {
        skipped(&format!("networks in namespaces: {} missing", missing.join(", ")));
        return false;
    }
    match Namespace::new("probe") {
        Ok(_) => true,
        Err(error) => {
            skipped(&format!("networks in namespaces: the system refuses them: {error:#}"));
            false
        }
    }
}

/// Whether a program can be found.
pub fn is_installed(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(tool).is_file())
}
