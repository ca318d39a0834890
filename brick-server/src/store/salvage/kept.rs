//! What is kept in the output between the bricks: whose copies of which chunks are in it.
//!
//! ```text
//! OUT/.brickyard-salvage/state   "BYSALV" | version u16 | postcard of [`Kept`] | crc32c u32 of all before
//! OUT/.brickyard-salvage/...     contents of which it can't be told whether they are the newest, a chunk each
//! ```
//! It is of no use any more when every brick was salvaged, and may be removed then.
//!
//! 1. What was not written by salvage is not written over (`a_strange_output_is_refused`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::copies::{Class, Source};
use super::{SalvageError, at};

/// Where it is, in the output.
pub const KEPT_DIR: &str = ".brickyard-salvage";
const STATE_FILE: &str = "state";
const MAGIC: &[u8; 6] = b"BYSALV";
const VERSION: u16 = 1;
const HEAD_BYTES: usize = MAGIC.len() + 2;

/// See the module's head. Keys of chunks are inode and index.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The cluster's id, if one of the bricks knew it.
    pub cluster: Option<String>,
    pub chunk_bytes: u32,
    /// A brick is being salvaged.
    pub busy: bool,
    pub sources: BTreeSet<Source>,
    pub chunks: BTreeMap<(u64, u64), Vec<Class>>,
    /// Where the file of an inode is, as bytes, below the output.
    pub paths: BTreeMap<u64, Vec<u8>>,
    /// What bricks call it.
    pub names: BTreeMap<u64, BTreeMap<Source, Vec<u8>>>,
    /// Files with what could not be told.
    pub asides: BTreeSet<Vec<u8>>,
    /// Chunks that a brick had, at least at this version, and has no more.
    pub gone: BTreeMap<(u64, u64), BTreeMap<Source, u64>>,
    /// Chains of which a brick has chunks.
    pub chains: BTreeSet<(Source, u32)>,
}

impl Kept {
    /// Opens the output, which is made if it is not there.
    pub fn open(out: &Path, cluster: Option<String>, chunk_bytes: u32) -> Result<Kept, SalvageError> {
        fs::create_dir_all(out).map_err(at(out))?;
        let dir = out.join(KEPT_DIR);
        let file = dir.join(STATE_FILE);
        let mut this = match fs::read(&file) {
            Ok(bytes) => Kept::decode(&bytes).map_err(|why| SalvageError::State { file, why })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                for entry in fs::read_dir(out).map_err(at(out))? {
                    let name = entry.map_err(at(out))?.file_name();
                    if name != "lost+found" && name != KEPT_DIR {
                        return Err(SalvageError::Strange(out.to_owned()));
                    }
                }
                Kept { chunk_bytes, ..Kept::default() }
            }
            Err(error) => return Err(at(&file)(error)),
        };
        if this.busy {
            return Err(SalvageError::Interrupted(out.to_owned()));
        }
        if this.chunk_bytes != chunk_bytes {
            let (found, said) = (this.chunk_bytes >> 20, chunk_bytes >> 20);
            return Err(SalvageError::OtherChunks { out: out.to_owned(), found, said });
        }
        if let (Some(found), Some(ours)) = (&this.cluster, &cluster)
            && found != ours
        {
            let (found, ours) = (found.clone(), ours.clone());
            return Err(SalvageError::OtherCluster { out: out.to_owned(), found, ours });
        }
        this.cluster = this.cluster.or(cluster);
        fs::create_dir_all(&dir).map_err(at(&dir))?;
        Ok(this)
    }

    fn decode(bytes: &[u8]) -> Result<Kept, String> {
        let (body, sum) = bytes.split_at_checked(bytes.len().saturating_sub(4)).ok_or("it is too short")?;
        if body.len() < HEAD_BYTES || !body.starts_with(MAGIC) || crc32c::crc32c(body).to_le_bytes() != *sum {
            return Err("it is damaged".to_owned());
        }
        let version = u16::from_le_bytes([body[HEAD_BYTES - 2], body[HEAD_BYTES - 1]]);
        if version != VERSION {
            return Err(format!("it has version {version}, this program knows {VERSION}"));
        }
        postcard::from_bytes(&body[HEAD_BYTES..]).map_err(|error| error.to_string())
    }

    /// Writes it.
    pub fn save(&self, out: &Path) -> Result<(), SalvageError> {
        let dir = out.join(KEPT_DIR);
        let (new, file) = (dir.join("state.new"), dir.join(STATE_FILE));
        let mut bytes = [&MAGIC[..], &VERSION.to_le_bytes()].concat();
        let body = postcard::to_stdvec(self).map_err(|e| at(&file)(io::Error::other(e)))?;
        bytes.extend_from_slice(&body);
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        let write = || {
            let mut to = File::create(&new)?;
            to.write_all(&bytes)?;
            to.sync_all()?;
            fs::rename(&new, &file)
        };
        write().map_err(at(&file))
    }

    /// What a brick is called: its number, and that of its disk if there are several of that brick.
    pub fn label(&self, source: Source) -> String {
        let alone = self.sources.iter().filter(|other| other.0 == source.0).count() < 2;
        match (source.0, alone) {
            (u32::MAX, _) => format!("brick-unknown-{:016x}", source.1),
            (brick, true) => format!("brick-{brick}"),
            (brick, false) => format!("brick-{brick}-{:016x}", source.1),
        }
    }

    /// Where the bytes of a content are that is kept beside.
    pub fn side(&self, out: &Path, key: (u64, u64), class: &Class) -> PathBuf {
        let name = format!("{}-{}-{:016x}-{}", key.0, key.1, class.digest, class.len);
        out.join(KEPT_DIR).join(name)
    }

    /// Bricks that had this chunk, are members of its chain still, and have it no more, with the version they had.
    pub fn removed(&self, key: (u64, u64)) -> Vec<(Source, u64)> {
        let Some(gone) = self.gone.get(&key) else { return Vec::new() };
        let copies = || self.chunks.get(&key).into_iter().flatten().flat_map(|class| &class.copies);
        let is_member = |source| {
            copies().filter_map(|c| c.known).any(|known| self.chains.contains(&(source, known.chain)))
        };
        gone.iter()
            .map(|(source, version)| (*source, *version))
            .filter(|(source, _)| is_member(*source))
            .collect()
    }
}
