//! The relay over real sockets on 127.0.0.1, spoken to by a websocket client that knows nothing of its insides.

mod authentication;
mod configuration;
mod connections;
mod datagrams;
mod forwarding;
mod harness;
mod negotiation;
mod program;
mod refusals;
mod registration;
mod slow_clients;
mod stun;
mod tls;
