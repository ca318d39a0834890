//! The vocabulary of the cluster: what every room says to another.
//!
//! - [`id`], [`chunk`], [`layout`], [`map`]: names of things and where bytes are
//! - [`meta`]: calls to the namespace; [`brick`]: calls to a brick; [`status`]: what went wrong
//!   and what to do about it; [`durability`]: what commits say of a change
//! - [`frame`], [`handshake`], [`net`]: how a call travels, over QUIC, TLS or memory; [`join`]:
//!   how a machine gets its certificate
//!
//! Not here: any decision. This crate knows no file, no disk and no clock but deadlines of calls.
//!
//! What travels is versioned by [`handshake::PROTOCOL_VERSION`]: headers are postcard, so enum
//! variants and fields are only added at the end, and golden bytes in the tests hold that still.

pub mod brick;
pub mod chunk;
pub mod durability;
pub mod ended;
pub mod frame;
pub mod fuzz;
pub mod handshake;
pub mod id;
pub mod join;
pub mod layout;
pub mod map;
pub mod mark;
pub mod meta;
pub mod net;
pub mod status;
pub mod timing;
