//! Memory mappings: what is stored through one is read by everybody, and durable after msync.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use anyhow::{Context, Result, ensure};
use brickyard_tests::kernel::Mapping;
use brickyard_tests::{Place, seed};

const LENGTH: usize = 3 * (1 << 20) + 4096;

/// A shared mapping sees writes and writes are seen by reads; msync makes stores durable.
#[test]
fn a_shared_mapping_and_the_file_are_one() -> Result<()> {
    let mut place = Place::new()?;
    let path = place.join("mapped");
    let mut expected = seed::bytes(9, 0, LENGTH);
    std::fs::write(&path, &expected)?;
    let file = File::options().read(true).write(true).open(&path)?;
    {
        let mut mapping = Mapping::shared(&file, LENGTH).context("mmap(MAP_SHARED)")?;
        ensure!(mapping.read(0, LENGTH) == expected, "the mapping shows other bytes");
        for at in [0, 4095, 1 << 20, LENGTH - 5] {
            mapping.write(at, b"store");
            expected[at..at + 5].copy_from_slice(b"store");
        }
        mapping.sync()?;
        ensure!(std::fs::read(&path)? == expected, "a read does not see what was stored");
        file.write_all_at(b"written", 2_000_000)?;
        expected[2_000_000..2_000_007].copy_from_slice(b"written");
        ensure!(mapping.read(0, LENGTH) == expected, "the mapping does not see a write");
        mapping.write(2_500_000, b"unsynced");
        expected[2_500_000..2_500_008].copy_from_slice(b"unsynced");
    }
    drop(file);
    place.cool()?;
    ensure!(std::fs::read(&path)? == expected, "stores were lost by a clean restart");
    place.finish()
}

/// So they are where the file is open past the kernel's pages, as virtual machines and databases have it.
#[test]
fn a_mapping_of_a_directly_opened_file() -> Result<()> {
    let place = Place::new()?;
    let path = place.join("mapped");
    let mut expected = seed::bytes(10, 0, LENGTH);
    std::fs::write(&path, &expected)?;
    let direct = rustix::fs::OFlags::DIRECT.bits() as i32;
    let file = File::options().read(true).write(true).custom_flags(direct).open(&path)?;
    let mut mapping =
        Mapping::shared(&file, LENGTH).context("mmap(MAP_SHARED) of a file opened with O_DIRECT")?;
    ensure!(mapping.read(0, LENGTH) == expected, "the mapping shows other bytes");
    for at in [0, 4095, 1 << 20, LENGTH - 5] {
        mapping.write(at, b"store");
        expected[at..at + 5].copy_from_slice(b"store");
    }
    mapping.sync()?;
    let mut read = vec![0; LENGTH];
    file.read_exact_at(&mut read, 0)?;
    ensure!(read == expected, "a direct read does not see what was stored");
    file.write_all_at(&[7; 8192], 2 << 20)?;
    expected[2 << 20..(2 << 20) + 8192].fill(7);
    ensure!(mapping.read(0, LENGTH) == expected, "the mapping does not see a direct write");
    drop((mapping, file));
    ensure!(std::fs::read(&path)? == expected, "another reader sees other bytes");
    place.finish()
}
