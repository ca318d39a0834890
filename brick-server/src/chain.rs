//! The law of chains: who may do what, decided from the map alone. No I/O, no clock.

pub mod copied;
pub mod flights;
pub mod gates;
pub mod lineages;
pub mod lost;
pub mod marks;
pub mod pace;
pub mod pieces;
pub mod reach;
pub mod rules;
pub mod runs;
pub mod syncs;
pub mod writers;
