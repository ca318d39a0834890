//! Memory that O_DIRECT accepts: it begins at a multiple of 4 KiB.
//!
//! Large buffers are used again: fresh ones come from the kernel page by page, which took a third of
//! the time of a 1 MiB write.

use std::ops::{Deref, DerefMut};
use std::sync::Mutex;

use super::lease::lock;
use super::record::BLOCK;

/// Smaller buffers come from the allocator, which is fast for them.
const LARGE: usize = 32 << 10;
/// Large buffers that are kept when nobody uses them.
const KEPT: usize = 16;
/// Larger ones than this are not kept, in bytes.
const MOST_KEPT: usize = 2 << 20;

static SPARE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// Bytes that begin at a multiple of 4 KiB in memory.
#[derive(Debug, Default)]
pub struct Aligned {
    // Larger than asked for, so that a multiple of 4 KiB is in it.
    memory: Vec<u8>,
    from: usize,
    len: usize,
}

impl Aligned {
    /// `len` bytes of whatever was in the memory.
    pub fn any(len: usize) -> Aligned {
        let whole = len + BLOCK;
        let spare = (LARGE..=MOST_KEPT).contains(&len).then(|| {
            let mut spare = lock(&SPARE);
            let fits = spare.iter().position(|memory| (whole..=4 * whole).contains(&memory.len()));
            fits.map(|at| spare.swap_remove(at))
        });
        let memory = spare.flatten().unwrap_or_else(|| vec![0; whole]);
        let from = memory.as_ptr().align_offset(BLOCK).min(BLOCK);
        Aligned { memory, from, len }
    }

    /// `len` zeros.
    pub fn zeros(len: usize) -> Aligned {
        let mut this = Aligned::any(len);
        if len >= LARGE {
            this.fill(0);
        }
        this
    }

    /// A copy.
    pub fn of(bytes: &[u8]) -> Aligned {
        let mut this = Aligned::any(bytes.len());
        this.copy_from_slice(bytes);
        this
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        if (LARGE..=MOST_KEPT).contains(&self.len) {
            let mut spare = lock(&SPARE);
            if spare.len() < KEPT {
                spare.push(std::mem::take(&mut self.memory));
            }
        }
    }
}

/// Whether a buffer may be given to a file opened with O_DIRECT.
pub fn is_aligned(bytes: &[u8], align: usize) -> bool {
    (bytes.as_ptr() as usize).is_multiple_of(align) && bytes.len().is_multiple_of(align)
}

impl Deref for Aligned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.from..self.from + self.len]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.from..self.from + self.len]
    }
}

impl AsRef<[u8]> for Aligned {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A buffer that is used again holds zeros when zeros are asked for.
    #[test]
    fn zeros_are_zeros() {
        for _ in 0..4 {
            let mut bytes = Aligned::zeros(100_000);
            assert!(bytes.iter().all(|byte| *byte == 0));
            bytes.fill(7);
            drop(bytes);
            assert!(Aligned::zeros(50_000).iter().all(|byte| *byte == 0));
        }
    }

    /// Wherever the allocator puts it, it begins at a multiple of 4 KiB and holds what it should.
    #[test]
    fn it_is_aligned() {
        for len in [1, 4096, 5000, 1 << 20] {
            let bytes = Aligned::of(&vec![7; len]);
            assert!((bytes.as_ptr() as usize).is_multiple_of(BLOCK));
            assert_eq!(*bytes, vec![7; len]);
            assert_eq!(is_aligned(&bytes, BLOCK), len % BLOCK == 0);
        }
    }
}
