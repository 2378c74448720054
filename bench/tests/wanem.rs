//! The emulator on real devices: packets cross, and not before their time.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::Result;
use proxystore_tests::net::{self, Namespace, Wire};

/// For a packet that must arrive.
const PATIENCE: Duration = Duration::from_secs(10);

/// For one that must not.
const MOMENT: Duration = Duration::from_millis(200);

#[test]
fn packets_take_their_time_and_arrive_as_often_as_asked() -> Result<()> {
    if !net::possible() {
        return Ok(());
    }
    let (near, far) = (Namespace::new("near")?, Namespace::new("far")?);
    let _wire = Wire::lay([&near, &far], "wan0", &["--round-trip", "80", "--duplicate", "1"])?;
    near.ip("address add 10.9.0.1/24 dev wan0\nlink set wan0 up")?;
    far.ip("address add 10.9.0.2/24 dev wan0\nlink set wan0 up")?;
    let sender = near.within(|| Ok(UdpSocket::bind("10.9.0.1:0")?))?;
    let receiver = far.within(|| Ok(UdpSocket::bind("10.9.0.2:7000")?))?;
    let mut datagram = [0; 100];
    for number in 0..20u8 {
        let start = Instant::now();
        sender.send_to(&[number], "10.9.0.2:7000")?;
        receiver.set_read_timeout(Some(PATIENCE))?;
        for _ in 0..2 {
            let (len, from) = receiver.recv_from(&mut datagram)?;
            assert_eq!((&datagram[..len], from), (&[number][..], sender.local_addr()?));
        }
        assert!(start.elapsed() >= Duration::from_millis(40), "faster than the wire");
    }
    receiver.set_read_timeout(Some(MOMENT))?;
    assert!(receiver.recv_from(&mut datagram).is_err(), "twice and no more");
    Ok(())
}
