//! Bits of a mode that programs get rights from go when somebody changes the file who must not keep them.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Result, ensure};
use brickyard_tests::run::{NOBODY, need};
use brickyard_tests::{Place, Run};

/// A group that nobody is in.
const FOREIGN_GROUP: u32 = 4711;

fn mode(path: &Path) -> Result<u32> {
    Ok(std::fs::metadata(path)?.permissions().mode() & 0o7777)
}

/// Makes a file of that user with this mode.
fn file(path: &Path, mode: u32) -> Result<()> {
    std::fs::write(path, [1; 8192])?;
    std::os::unix::fs::chown(path, Some(NOBODY), Some(FOREIGN_GROUP))?;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?)
}

#[test]
fn who_changes_the_content_takes_them_away() -> Result<()> {
    let place = Place::new()?;
    for order in [
        "dd if=/dev/zero of=\"$1\" bs=4096 count=1 conv=notrunc oflag=direct status=none",
        "dd if=/dev/zero of=\"$1\" bs=4096 count=1 conv=notrunc status=none",
        "truncate -s 100 \"$1\"",
        "fallocate -p -o 0 -l 4096 \"$1\"",
    ] {
        for (before, after) in
            [(0o6755, 0o755), (0o4755, 0o755), (0o2755, 0o755), (0o6644, 0o2644), (0o755, 0o755)]
        {
            let path = place.join("file");
            file(&path, before)?;
            Run::as_user(NOBODY, "sh").args(["-c", order, "sh"]).arg(&path).cwd("/").ok()?;
            ensure!(mode(&path)? == after, "{order}: {before:o} is {:o} now", mode(&path)?);
            std::fs::remove_file(&path)?;
        }
    }
    // Who may keep them does.
    let path = place.join("kept");
    file(&path, 0o6755)?;
    let order = "dd if=/dev/zero of=\"$1\" bs=4096 count=1 conv=notrunc oflag=direct status=none";
    Run::bash(order).arg("sh").arg(&path).ok()?;
    ensure!(mode(&path)? == 0o6755);
    place.finish()
}

#[test]
fn who_is_not_in_the_group_takes_its_bit_away_with_a_list() -> Result<()> {
    need(&[("setfacl", "acl")])?;
    let place = Place::new()?;
    let path = place.join("file");
    file(&path, 0o2755)?;
    Run::new("setfacl").args(["-m", "u:1001:rwx"]).arg(&path).ok()?;
    ensure!(mode(&path)? == 0o2775, "root keeps it");
    Run::as_user(NOBODY, "setfacl").args(["-m", "u:1002:rwx"]).arg(&path).cwd("/").ok()?;
    ensure!(mode(&path)? == 0o775, "{:o}", mode(&path)?);
    // Other attributes have nothing to do with it.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o2775))?;
    Run::as_user(NOBODY, "setfattr").args(["-n", "user.a", "-v", "b"]).arg(&path).cwd("/").ok()?;
    ensure!(mode(&path)? == 0o2775);
    place.finish()
}
