//! One large file, written and read in pieces of 1 MiB.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::cold::drop_caches;
use crate::measure::{Scale, Unit, Workload};

const PIECE: usize = 1 << 20;

/// Write with fsync, then a cold read that is compared.
#[derive(Debug)]
pub struct Sequential;

/// Fills a piece with bytes that differ by piece and do not compress.
pub fn fill(number: u64, piece: &mut [u8]) {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for word in piece.chunks_exact_mut(8) {
        // Xorshift: quick enough not to be what is measured.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
}

fn megabytes_per_second(pieces: u64, start: Instant) -> f64 {
    (pieces * PIECE as u64) as f64 / 1e6 / start.elapsed().as_secs_f64().max(1e-9)
}

impl Workload for Sequential {
    fn rows(&self) -> Vec<(String, Unit)> {
        ["sequential write, 1 MiB, + fsync", "sequential read, 1 MiB, cold"]
            .map(|name| (name.to_owned(), Unit::MegabytesPerSecond))
            .into()
    }

    fn run(&self, dir: &Path, scale: &Scale) -> Result<Vec<f64>> {
        let path = dir.join("large");
        // The bytes are made beforehand: a few different pieces in turns.
        let pieces: Vec<Vec<u8>> = (0..8)
            .map(|number| {
                let mut piece = vec![0; PIECE];
                fill(number, &mut piece);
                piece
            })
            .collect();
        let start = Instant::now();
        let mut file = File::create(&path)?;
        for number in 0..scale.file_mib {
            file.write_all(&pieces[(number % 8) as usize])?;
        }
        file.sync_all()?;
        let write = megabytes_per_second(scale.file_mib, start);
        drop(file);
        drop_caches()?;
        let mut piece = vec![0; PIECE];
        let start = Instant::now();
        let mut file = File::open(&path)?;
        for number in 0..scale.file_mib {
            file.read_exact(&mut piece).with_context(|| format!("reading at {number} MiB"))?;
            ensure!(piece == pieces[(number % 8) as usize], "wrong bytes at {number} MiB");
        }
        Ok(vec![write, megabytes_per_second(scale.file_mib, start)])
    }
}
