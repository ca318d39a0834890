//! Memory that O_DIRECT accepts: it begins at a multiple of 4 KiB.

use std::ops::{Deref, DerefMut};

use super::record::BLOCK;

/// Bytes that begin at a multiple of 4 KiB in memory.
#[derive(Debug, Default)]
pub struct Aligned {
    // Larger than asked for, so that a multiple of 4 KiB is in it.
    memory: Vec<u8>,
    from: usize,
    len: usize,
}

impl Aligned {
    /// `len` zeros.
    pub fn zeros(len: usize) -> Aligned {
        let memory = vec![0; len + BLOCK];
        let from = memory.as_ptr().align_offset(BLOCK).min(BLOCK);
        Aligned { memory, from, len }
    }

    /// A copy.
    pub fn of(bytes: &[u8]) -> Aligned {
        let mut this = Aligned::zeros(bytes.len());
        this.copy_from_slice(bytes);
        this
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
