//! When new chains are made, and of which bricks: at the birth of a cluster, and while it is so
//! small that its chains would not give every brick a share.
//!
//! Chains are never taken away, since files are laid out by them; so a table of more chains is
//! for new files only, and costs nothing. Once there are [`CHAINS_A_BRICK`] chains for every
//! brick, bricks that join get their share by moving members instead ([`super::plan`]).
//!
//! 1. No chains are made before there are bricks enough for all copies
//!    (`a_cluster_is_born_when_there_are_enough`).
//! 2. Making a table leaves none due (`growth_ends`).

use std::collections::BTreeSet;

use wire::id::BrickId;
use wire::map::{ClusterMap, plan_chains};
use wire::meta::Wishes;

/// Memberships for each brick in the newest table from which on no more chains are made.
pub const CHAINS_A_BRICK: usize = 4;

/// The bricks that a new table is to be made of, if one is due.
pub fn due(map: &ClusterMap, wishes: &Wishes) -> Option<Vec<(BrickId, String)>> {
    let usable: Vec<_> = map
        .bricks
        .values()
        .filter(|b| b.alive && !wishes.draining.contains(&b.id))
        .map(|b| (b.id, b.host.clone()))
        .collect();
    let replicas = usize::from(map.replicas.max(1));
    if usable.len() < replicas {
        return None;
    }
    let Some(table) = map.current_table().and_then(|version| map.tables.get(&version)) else {
        let enough = if wishes.birth_bricks == 0 {
            let hosts: BTreeSet<&str> = usable.iter().map(|(_, host)| host.as_str()).collect();
            hosts.len() >= replicas
        } else {
            usable.len() >= wishes.birth_bricks as usize
        };
        return enough.then_some(usable);
    };
    let idle = usable.iter().any(|(brick, _)| map.chains_of(*brick).next().is_none());
    let small = table.len() * replicas < CHAINS_A_BRICK * usable.len();
    (idle && small && plan_chains(&usable, map.replicas).len() > table.len()).then_some(usable)
}
