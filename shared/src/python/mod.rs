//! What Python endpoints say to each other over WebRTC data channels.
//!
//! A [`request::EndpointRequest`] is pickled and cut into chunks ([`chunk`]), which travel in any order. Nothing is
//! unpickled in general: [`pickle`] reads values and runs nothing, and one shape of message is accepted.

pub mod chunk;
mod pickle;
pub mod request;
