//! The HTTP server over real sockets.

mod batches;
mod clients;
mod documents;
mod objects;
mod python;
mod ranges;
mod support;
mod uploads;
