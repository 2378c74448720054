//! The address that clients find this host at.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::Duration;

use proxystore_shared::config::endpoint::{EndpointConfig, HostType};

use super::output::{Failure, Printer};

/// For the resolver, which may wait for a name server that is down.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Finds the host as `host_type` asks for.
pub async fn resolve(config: &EndpointConfig, printer: Printer) -> Result<String, Failure> {
    match config.host_type {
        HostType::Ip => Ok(own_address(printer).await.to_string()),
        HostType::Fqdn => full_name().await,
        HostType::Static => config.host.clone().ok_or_else(|| {
            Failure::new("the configuration says host_type = \"static\" and has no host")
                .hint("set `host` in config.toml, or `host_type` to \"ip\" or \"fqdn\"")
        }),
    }
}

async fn own_address(printer: Printer) -> IpAddr {
    let name = host_name().unwrap_or_default();
    let looked_up = tokio::time::timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((name.as_str(), 0))).await;
    let resolved: Vec<IpAddr> = match looked_up {
        Ok(Ok(addresses)) => addresses.map(|address| SocketAddr::ip(&address)).collect(),
        _ => Vec::new(),
    };
    let interfaces: Vec<IpAddr> = if_addrs::get_if_addrs()
        .map(|interfaces| interfaces.iter().map(if_addrs::Interface::ip).collect())
        .unwrap_or_default();
    choose(&resolved, &interfaces).unwrap_or_else(|| {
        printer.warn("this host's name has no address, and there is no network interface: using 127.0.0.1, which only this host can reach");
        Ipv4Addr::LOCALHOST.into()
    })
}

/// What the name resolves to, else an interface's address; IPv4 before IPv6. Link-local IPv6 addresses are no
/// use without the name of an interface.
fn choose(resolved: &[IpAddr], interfaces: &[IpAddr]) -> Option<IpAddr> {
    let usable = |address: &&IpAddr| match address {
        IpAddr::V4(_) => true,
        IpAddr::V6(address) => !address.is_unicast_link_local(),
    };
    let first = |addresses: &[IpAddr], loopback: bool| {
        let fitting = || addresses.iter().filter(usable).filter(|address| loopback || !address.is_loopback());
        fitting().find(|address| address.is_ipv4()).or_else(|| fitting().next()).copied()
    };
    first(resolved, true).or_else(|| first(interfaces, false))
}

fn host_name() -> Option<String> {
    nix::unistd::gethostname().ok()?.into_string().ok()
}

/// The resolver's canonical name for this host, which only C's `getaddrinfo` and programs using it tell.
async fn full_name() -> Result<String, Failure> {
    let name = host_name().ok_or_else(|| {
        Failure::new("this host has no name")
            .hint("configure the endpoint with `--host ip` or with an address")
    })?;
    if name.contains('.') {
        return Ok(name);
    }
    let asked = tokio::task::spawn_blocking(|| {
        Command::new("hostname").arg("-f").stdin(Stdio::null()).stderr(Stdio::null()).output()
    });
    let told = match tokio::time::timeout(RESOLVE_TIMEOUT, asked).await {
        Ok(Ok(Ok(output))) if output.status.success() => String::from_utf8(output.stdout).ok(),
        _ => None,
    };
    Ok(told.map(|told| told.trim().to_owned()).filter(|told| !told.is_empty()).unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_name_decides_then_the_interfaces() {
        for (resolved, interfaces, chosen) in [
            (&["2001:db8::1", "10.0.0.1"][..], &["10.0.0.2"][..], Some("10.0.0.1")),
            (&["127.0.1.1"], &["10.0.0.2"], Some("127.0.1.1")),
            (&["fe80::1"], &["10.0.0.2"], Some("10.0.0.2")),
            (&[], &["127.0.0.1", "::1", "2001:db8::2", "10.0.0.2"], Some("10.0.0.2")),
            (&[], &["127.0.0.1", "2001:db8::2"], Some("2001:db8::2")),
            (&[], &["127.0.0.1", "::1"], None),
        ] {
            let chosen = chosen.map(|text| text.parse().unwrap());
            assert_eq!(choose(&addresses(resolved), &addresses(interfaces)), chosen, "{resolved:?}");
        }
    }
}
