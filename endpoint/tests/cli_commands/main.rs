//! The program `endpoint` as people and scripts run it: every test has a ProxyStore home of its own.

#![cfg(test)]

mod lifecycle;
mod objects;
mod support;
