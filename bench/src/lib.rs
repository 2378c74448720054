//! What the suites share: programs that they start, a client that costs little, and figures side by side.

pub mod commands;
pub mod figures;
pub mod load;
pub mod options;
pub mod programs;
pub mod quic;
