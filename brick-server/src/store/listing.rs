//! Listing chunks in order, a page at a time.

use wire::chunk::ChunkKey;
use wire::id::ChainId;

use super::StoreError;
use super::disk::Disk;
use super::engine::Engine;
use super::index::Index;
use super::lease::lock;
use super::record::Header;

impl<D: Disk, I: Index> Engine<D, I> {
    /// See [`super::ChunkStore::list`].
    pub(super) fn list_page(
        &self,
        chain: Option<ChainId>,
        after: Option<ChunkKey>,
        max: usize,
    ) -> Result<(Vec<(ChunkKey, Header)>, bool), StoreError> {
        let max = max.max(1);
        let mut out: Vec<(ChunkKey, Header)> = Vec::new();
        let mut after = after;
        loop {
            // The overlay first: what leaves it in between is then found in the index.
            let (mut page, overlay_ends) = lock(&self.overlay).page(after, max);
            let stored = self.index.headers(after, max).map_err(|e| self.index_failed(e))?;
            let index_ends = (stored.len() == max).then(|| stored.last().map(|(key, _)| *key)).flatten();
            let horizon = overlay_ends.into_iter().chain(index_ends).min();
            for (key, header) in stored {
                page.entry(key).or_insert(Some(header));
            }
            for (key, header) in page {
                if horizon.is_some_and(|horizon| key > horizon) {
                    break;
                }
                if let Some(header) = header.filter(|h| chain.is_none_or(|chain| h.chain == chain)) {
                    out.push((key, header));
                }
            }
            if out.len() > max {
                out.truncate(max);
                return Ok((out, false));
            }
            match horizon {
                None => return Ok((out, true)),
                Some(_) if out.len() == max => return Ok((out, false)),
                Some(horizon) => after = Some(horizon),
            }
        }
    }
}
