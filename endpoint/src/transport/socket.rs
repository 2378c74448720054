//! The endpoint's one UDP socket, and the addresses at which peers may find it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use if_addrs::get_if_addrs;
use socket2::{Domain, Protocol, Socket, Type};
use tracing::warn;

/// Socket buffers asked for, in bytes. With the usual default of 208 KiB a burst overflows while the process is
/// scheduled out; measured on a 50 ms path, that halves throughput.
const BUFFER_LEN: usize = 4 << 20;

/// Opens the socket on `bind`, or on every interface, both IPv6 and IPv4 where the system has both.
pub fn open(bind: Option<IpAddr>, port: u16) -> io::Result<UdpSocket> {
    let socket = match bind {
        Some(ip) => open_on(SocketAddr::new(ip, port))?,
        None => open_on(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port))
            .or_else(|_| open_on(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)))?,
    };
    raise_buffers(&socket)?;
    Ok(socket.into())
}

fn open_on(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.ip() == IpAddr::from(Ipv6Addr::UNSPECIFIED) {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn raise_buffers(socket: &Socket) -> io::Result<()> {
    socket.set_recv_buffer_size(BUFFER_LEN)?;
    socket.set_send_buffer_size(BUFFER_LEN)?;
    // Linux reports twice what it grants, for its own bookkeeping.
    let granted = socket.recv_buffer_size()? / 2;
    if granted < BUFFER_LEN {
        warn!(
            granted,
            wanted = BUFFER_LEN,
            "the system caps UDP buffers, which slows transfers over long paths; \
             as root: sysctl -w net.core.rmem_max={BUFFER_LEN} net.core.wmem_max={BUFFER_LEN}"
        );
    }
    Ok(())
}

/// Host candidates for a socket bound to `local`: its own address, or every address of the host that another host
/// could use, IPv6 first. A host without a network is reachable from itself only.
pub fn host_candidates(local: SocketAddr) -> Vec<SocketAddr> {
    if !local.ip().is_unspecified() {
        return vec![local];
    }
    let interfaces = get_if_addrs().unwrap_or_else(|error| {
        warn!(%error, "cannot list network interfaces");
        Vec::new()
    });
    let addresses = interfaces.iter().map(|interface| interface.ip());
    let mut candidates: Vec<SocketAddr> = addresses
        .filter(|ip| is_reachable(*ip) && (local.is_ipv6() || ip.is_ipv4()))
        .map(|ip| SocketAddr::new(ip, local.port()))
        .collect();
    candidates.sort_by_key(|address| address.is_ipv4());
    if candidates.is_empty() {
        candidates.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), local.port()));
    }
    candidates
}

/// Loopback and link-local addresses mean nothing to another host.
fn is_reachable(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => !(v4.is_loopback() || v4.is_link_local() || v4.is_unspecified()),
        IpAddr::V6(v6) => !(v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_address_is_the_only_candidate() {
        let socket = open(Some(Ipv4Addr::LOCALHOST.into()), 0).unwrap();
        let local = socket.local_addr().unwrap();
        assert_eq!(host_candidates(local), [local]);
    }

    #[test]
    fn every_interface_yields_addresses_others_can_use() {
        let candidates = host_candidates("[::]:4000".parse().unwrap());
        assert!(!candidates.is_empty());
        assert!(candidates.iter().all(|address| address.port() == 4000 && !address.ip().is_unspecified()));
    }
}
