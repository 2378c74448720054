//! Real processes on real networks, made of namespaces: which sites connect, by which path, and what happens to them
//! when networks fail.

mod alone;
mod faults;
mod matrix;
mod nats;
mod python;
mod report;
mod storm;
