//! `check-nat`: what the network around this host lets through, what to expect of it, and what to ask for.
//!
//! [`observe`] looks, [`assess`] decides, [`describe`] puts it into words.

mod advice;
mod assess;
mod describe;
mod observe;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use proxystore_shared::EndpointId;

use super::args::{CheckNat, DEFAULT_RELAY};
use super::output::{Failure, Printer};
use super::place::Place;
use super::token::{TOKEN_VARIABLE, relay_token};
use crate::signaling::RelayLogin;
use crate::transport::tls::install_provider;
use assess::{Expectation, assess};
use observe::{Server, observe};

/// What to look from and at.
struct Target {
    relay: Option<RelayLogin>,
    bind: Option<IpAddr>,
}

/// Runs `check-nat`.
pub async fn check_nat(options: &CheckNat, printer: Printer) -> Result<(), Failure> {
    install_provider();
    let servers = options.servers.iter().map(|text| parse_server(text)).collect::<Result<Vec<_>, _>>()?;
    let target = target(options, printer)?;
    if target.relay.is_none() && servers.is_empty() {
        return Err(Failure::new("the endpoint has no relay, so there is nothing to ask")
            .hint("name servers with --server HOST:PORT"));
    }
    printer.note("Asking; this takes up to three seconds where UDP is blocked.");
    let seen = observe(target.relay.as_ref(), &servers, target.bind)
        .await
        .map_err(Failure::io("open a UDP socket"))?;
    let report = assess(seen);
    printer.result(&report, &describe::describe(&report))?;
    match report.path_to_expect {
        Expectation::Nothing => Err(Failure::new("an endpoint in this network reaches no other")),
        _ => Ok(()),
    }
}

fn target(options: &CheckNat, printer: Printer) -> Result<Target, Failure> {
    let variable = std::env::var(TOKEN_VARIABLE).ok();
    let anonymous = |address: &str| RelayLogin {
        address: address.to_owned(),
        proxy: None,
        token: variable.clone(),
        verify_certificate: true,
        name: "check-nat".into(),
        // Nobody learns of it: this command does not register.
        id: EndpointId::random(),
    };
    let Some(name) = &options.name else {
        // Servers alone are asked alone.
        let default = options.servers.is_empty().then_some(DEFAULT_RELAY);
        let relay = options.relay.as_deref().or(default).map(anonymous);
        return Ok(Target { relay, bind: None });
    };
    let place = Place::existing(name)?;
    let config = place.config()?;
    let token = relay_token(&config, &place.dir, variable.clone()).unwrap_or_else(|failure| {
        // The relay may be as open to questions as it is closed to endpoints.
        printer.warn(failure.message());
        None
    });
    let relay = config.relay.address.as_deref().map(|address| RelayLogin {
        proxy: config.peering.proxy.clone(),
        token,
        verify_certificate: config.relay.verify_certificate,
        ..anonymous(address)
    });
    Ok(Target { relay, bind: config.peering.bind })
}

/// `HOST:PORT`, where an IPv6 address has brackets.
fn parse_server(text: &str) -> Result<Server, Failure> {
    let parsed = text.rsplit_once(':').and_then(|(host, port)| {
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = port.parse().ok().filter(|port| *port != 0)?;
        (!host.is_empty()).then(|| (host.to_owned(), port))
    });
    parsed.ok_or_else(|| {
        Failure::new(format!("{text:?} is not the address of a STUN server"))
            .hint("it reads like stun.example.org:3478 or [2001:db8::1]:3478")
    })
}
