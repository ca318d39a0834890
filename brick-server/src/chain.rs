//! The law of chains: who may do what, decided from the map alone. No I/O, no clock.

pub mod copied;
pub mod gates;
pub mod rules;
pub mod writers;
