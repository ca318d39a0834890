//! Which maps a brick has seen, in this life and before.
//!
//! 1. A brick takes no map that is older than one it has seen in any life: a namespace that gives it one was set back
//!    (`an_older_map_is_not_taken_after_a_restart`).
//! 2. What its disk remembers is no map to serve by: that is one that the namespace has given it in this life.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use wire::id::MapEpoch;
use wire::map::ClusterMap;
use wire::mark::MapMark;
use wire::meta::MapMemory;

use crate::brick::Brick;

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// From lives before.
    earlier: Option<Arc<ClusterMap>>,
    /// Epoch of the map that is on the disk.
    noted: AtomicU64,
}

impl Memory {
    /// With what the disk remembers.
    pub(crate) fn new(earlier: Option<ClusterMap>) -> Memory {
        let noted = earlier.as_ref().map_or(0, |map| map.epoch.0);
        Memory { earlier: earlier.map(Arc::new), noted: AtomicU64::new(noted) }
    }

    /// No map below this epoch is taken.
    pub(crate) fn least(&self) -> MapEpoch {
        self.earlier.as_ref().map_or(MapEpoch(0), |map| map.epoch)
    }
}

impl Brick {
    /// The newest map it has seen in any life.
    pub(crate) fn newest_map(&self) -> Option<Arc<ClusterMap>> {
        let now = self.map();
        if now.epoch > MapEpoch(0) { Some(now) } else { self.memory.earlier.clone() }
    }

    /// Which map that is.
    pub(crate) fn saw(&self) -> Option<MapMemory> {
        let map = self.newest_map()?;
        Some(MapMemory { epoch: map.epoch, mark: MapMark::of(&map) })
    }

    /// Whether a map of this epoch, or a later one, is on its disk.
    pub(crate) fn is_noted(&self, epoch: MapEpoch) -> bool {
        self.memory.noted.load(Ordering::Acquire) >= epoch.0
    }

    /// Notes the map on its disk. Waits for that.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) fn note_map(&self) -> io::Result<()> {
        let map = self.map();
        if self.is_noted(map.epoch) {
            return Ok(());
        }
        self.write_map(&map)?;
        self.memory.noted.fetch_max(map.epoch.0, Ordering::AcqRel);
        Ok(())
    }
}
