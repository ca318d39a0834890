//! What is left of a journal that may be damaged.
//!
//! A brick refuses a journal with a gap in it. Salvage goes on behind the gap, since there is nothing else to
//! go back to, and says what may be older for it.
//!
//! 1. A record counts only when it is whole: magic, store, both checksums. Its place in the order is its number,
//!    not where it was found (`records_behind_a_gap_count`).
//! 2. A record that was there and is not whole, or whose number is missing, is lost; whether more came after
//!    the last one that is known is said, too, when anything hints at it (`what_is_lost_is_said`). A last
//!    record of which nothing at all is left can't be told from one that never was.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use bytes::Bytes;

use super::super::aligned::Aligned;
use super::super::disk::Disk;
use super::super::journal::{FIRST_RECORD, HEAD_BYTES, RecordHead, SECTOR, SegmentHead};
use super::super::record::BLOCK;

/// How much is read at a time.
const READ_BYTES: usize = 1 << 20;
/// Where magic and store are in a record's head.
const MARKS: [Range<usize>; 2] = [0..4, 8..16];
/// So many bytes of these are right in a head that is damaged and still one.
const LIKE: usize = 6;

/// See the module's head.
#[derive(Debug, Default)]
pub struct Scan {
    /// Whole records.
    pub records: BTreeMap<u64, Bytes>,
    /// Records of which the head is left.
    broken: BTreeSet<u64>,
    /// Number of the first record of the newest segment, if it is known.
    first: Option<u64>,
    /// Why there may be records behind the last one that is known.
    open: Option<String>,
}

/// What is lost behind a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// The last one that may be lost.
    pub upto: u64,
    /// Which, in words.
    pub what: String,
}

/// One segment, in memory.
struct Image {
    bytes: Bytes,
    unreadable: Vec<Range<u64>>,
    head: Option<SegmentHead>,
    /// Where records end that were seen, by number.
    ends: BTreeMap<u64, u64>,
}

impl Image {
    /// Reads a segment; what can't be read is zeros.
    fn read<D: Disk>(segment: &D) -> Image {
        let len = segment.len() / BLOCK as u64 * BLOCK as u64;
        let (mut bytes, mut unreadable) = (Vec::with_capacity(len as usize), Vec::new());
        let mut at = 0;
        while at < len {
            let mut memory = Aligned::zeros((len - at).min(READ_BYTES as u64) as usize);
            if segment.read(&mut [(at, &mut memory)]).is_err() {
                for (here, block) in (at..).step_by(BLOCK).zip(memory.chunks_mut(BLOCK)) {
                    let mut one = Aligned::zeros(BLOCK);
                    match segment.read(&mut [(here, &mut one)]) {
                        Ok(()) => block.copy_from_slice(&one),
                        Err(_) => {
                            block.fill(0);
                            unreadable.push(here..here + BLOCK as u64);
                        }
                    }
                }
            }
            bytes.extend_from_slice(&memory);
            at += memory.len() as u64;
        }
        Image { bytes: bytes.into(), unreadable, head: None, ends: BTreeMap::new() }
    }

    fn sector(&self, at: u64) -> Option<&[u8]> {
        self.bytes.get(at as usize..at as usize + SECTOR)
    }

    /// Whether the head of the segment says nothing because none was ever written.
    fn is_blank(&self) -> bool {
        self.bytes.len() as u64 >= FIRST_RECORD
            && self.bytes.iter().take(FIRST_RECORD as usize).all(|byte| *byte == 0)
            && self.unreadable.first().is_none_or(|range| range.start >= FIRST_RECORD)
    }

    /// Whether something of a record of this journal is at `at`, or may be.
    fn hints(&self, store: u64, at: u64) -> bool {
        let Some(sector) = self.sector(at) else { return false };
        if self.unreadable.iter().any(|range| range.contains(&at)) {
            return true;
        }
        let wanted = RecordHead::of(store, 0, &[], SECTOR).encode();
        let right = MARKS.into_iter().flatten().filter(|byte| sector[*byte] == wanted[*byte]).count();
        // A whole head is one of an earlier lap.
        right >= LIKE && !matches!(RecordHead::decode(sector), Ok(Some(_)))
    }
}

impl Scan {
    /// Finds all records of this store.
    pub fn read<D: Disk>(segments: &[D; 2], store: u64) -> Scan {
        let mut this = Scan::default();
        let mut images = segments.each_ref().map(Image::read);
        for image in &mut images {
            if !this.find_head(image, store) {
                this.records.clear();
                this.broken.clear();
                return this;
            }
            this.find_records(image, store);
        }
        this.first = images.iter().filter_map(|image| image.head).map(|head| head.first).max();
        this.look_behind(&images, store);
        this
    }

    /// Nothing of it is known, for this reason.
    pub fn none(why: String) -> Scan {
        Scan { open: Some(why), ..Scan::default() }
    }

    /// A record that makes no sense.
    pub fn reject(&mut self, seq: u64) {
        self.records.remove(&seq);
        self.broken.insert(seq);
    }

    /// `false`: the journal is not this store's.
    fn find_head(&mut self, image: &mut Image, store: u64) -> bool {
        for at in [0, BLOCK] {
            match image.bytes.get(at..at + BLOCK).map(SegmentHead::decode) {
                Some(Ok(Some(head))) if head.store != store => {
                    self.open = Some("it belongs to another brick and is not used".to_owned());
                    return false;
                }
                Some(Ok(Some(head))) => {
                    image.head = Some(head);
                    return true;
                }
                Some(Err(error)) => self.open = Some(error.to_string()),
                _ => {}
            }
        }
        true
    }

    fn find_records(&mut self, image: &mut Image, store: u64) {
        let mut at = FIRST_RECORD;
        while let Some(sector) = image.sector(at) {
            let head = match RecordHead::decode(sector) {
                Ok(head) => head.filter(|head| head.store == store),
                Err(error) => {
                    self.open = Some(error.to_string());
                    None
                }
            };
            let end = head.map_or(at, |head| at + u64::from(head.stride_bytes));
            let Some(head) = head.filter(|_| end <= image.bytes.len() as u64) else {
                at += SECTOR as u64;
                continue;
            };
            let from = at as usize + HEAD_BYTES;
            let body = image.bytes.slice(from..from + head.body_bytes as usize);
            if crc32c::crc32c(&body) != head.body_crc {
                self.broken.insert(head.seq);
            } else if self.records.insert(head.seq, body.clone()).is_some_and(|other| other != body) {
                // Two of one number: nobody knows which.
                self.reject(head.seq);
            }
            image.ends.insert(head.seq, end);
            at = end;
        }
        self.records.retain(|seq, _| !self.broken.contains(seq));
    }

    fn last(&self) -> u64 {
        let ends = [self.records.keys().next_back(), self.broken.iter().next_back()];
        let seen = ends.into_iter().flatten().copied().max().unwrap_or(0);
        seen.max(self.first.map_or(0, |first| first.saturating_sub(1)))
    }

    /// Looks for hints that there was more.
    fn look_behind(&mut self, images: &[Image; 2], store: u64) {
        if self.open.is_some() {
            return;
        }
        let last = self.last();
        for (n, image) in images.iter().enumerate() {
            let other = &images[1 - n];
            if image.bytes.len() < other.bytes.len() || (image.bytes.len() as u64) < FIRST_RECORD {
                self.open = Some(format!("journal.{n} is not as long as it was"));
                return;
            }
            if image.head.is_some() {
                continue;
            }
            let unused = image.is_blank() && other.head.is_some_and(|head| head.first == 1);
            let older = other.head.is_some_and(|head| image.ends.contains_key(&(head.first - 1)));
            let newer = image.ends.keys().next_back().is_some_and(|seq| *seq == last);
            if !(unused || older || newer) {
                self.open = Some(format!("the beginning of journal.{n} is gone"));
                return;
            }
        }
        let begun = images.iter().find(|image| image.head.is_some_and(|head| head.first == last + 1));
        let (image, at) = match begun {
            Some(image) => (image, FIRST_RECORD),
            None => {
                let holds = |image: &&Image| image.ends.contains_key(&last);
                let Some(image) = images.iter().find(holds) else { return };
                (image, image.ends[&last])
            }
        };
        if image.hints(store, at) {
            self.open = Some(format!("record {} was begun and is not whole", last + 1));
        }
    }

    /// Number of the record from which on everything should be here, whatever the index has.
    pub fn first(&self) -> u64 {
        self.first.unwrap_or(1)
    }

    /// What of the records behind `applied` is lost. `None`: nothing.
    pub fn lost(&self, applied: u64) -> Option<Lost> {
        if let Some(why) = &self.open {
            return Some(Lost { upto: u64::MAX, what: why.clone() });
        }
        let last = self.last();
        if last < applied {
            let what = format!("it ends with record {last}, and the index has record {applied}");
            return Some(Lost { upto: u64::MAX, what });
        }
        let have: Vec<u64> = self.records.range(applied + 1..).map(|(seq, _)| *seq).collect();
        let count = last - applied - have.len() as u64;
        let upto =
            (0..=last).rev().zip(have.iter().rev().chain([&0])).find(|(wanted, seq)| wanted != *seq)?.0;
        if count == 0 || upto <= applied {
            return None;
        }
        let first = (applied + 1..).zip(have.iter().chain([&0])).find(|(wanted, seq)| wanted != *seq)?.0;
        let what = match (count, upto == last) {
            (1, true) => {
                format!("its last record, {last}, was cut off by a crash before it counted, or is damaged")
            }
            (1, false) => format!("record {first} is lost, {last} is the last one"),
            _ => format!("{count} records are lost, the first is {first}, {last} is the last one"),
        };
        Some(Lost { upto, what })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::super::faulty::FaultyDisk;
    use super::super::super::log::{self, Appended, Log};
    use super::*;

    const STORE: u64 = 0x0706_0504_0302_0100;
    /// Each record takes so much.
    const STRIDE: u64 = 1024;

    /// A journal of records 1 to `count`, with the other segment begun every `lap` ones.
    fn journal(count: u64, lap: u64) -> [FaultyDisk; 2] {
        let segments = [FaultyDisk::new(1 << 30), FaultyDisk::new(1 << 30)];
        log::format(&segments, STORE, 64 << 10).unwrap();
        let mut log = Log::open(segments.clone(), STORE, 0, &mut |_, _| Ok(())).unwrap();
        for n in 1..=count {
            if n > 1 && n % lap == 1 {
                log.switch().unwrap();
            }
            let done = log.append(&[n as u8; 900]).unwrap();
            assert!(matches!(done, Appended::Done { seq, .. } if seq == n));
        }
        segments
    }

    fn at(n: u64) -> u64 {
        FIRST_RECORD + (n - 1) * STRIDE
    }

    fn lost(segments: &[FaultyDisk; 2], applied: u64) -> Option<Lost> {
        Scan::read(segments, STORE).lost(applied)
    }

    /// Whole records are found behind damaged heads and bodies, in both files, and in order.
    #[test]
    fn records_behind_a_gap_count() {
        let segments = journal(25, 10);
        let scan = Scan::read(&segments, STORE);
        // The first five of the first file gave way to the last ones.
        assert_eq!(scan.records.keys().copied().collect::<Vec<u64>>(), (6..=25).collect::<Vec<u64>>());
        assert_eq!((scan.first(), scan.lost(20), scan.lost(25)), (21, None, None));
        segments[0].poke(at(2) + 3, b"x");
        segments[0].poke(at(4) + 500, b"x");
        segments[1].poke(0, &[1; 8192]);
        let scan = Scan::read(&segments, STORE);
        let left: Vec<u64> = scan.records.range(20..).map(|(seq, _)| *seq).collect();
        assert_eq!(left, [20, 21, 23, 25]);
        assert!(scan.records.iter().all(|(seq, body)| body[..] == [*seq as u8; 900]));
        assert_eq!(scan.lost(20).unwrap().upto, 24);
        assert_eq!(scan.lost(20).unwrap().what, "2 records are lost, the first is 22, 25 is the last one");
        assert_eq!(scan.lost(22).unwrap().what, "record 24 is lost, 25 is the last one");
        assert_eq!(scan.lost(24), None);
    }

    /// Every loss that can be known of is told, and none that is none.
    #[test]
    fn what_is_lost_is_said() {
        let upto = |segments: &[FaultyDisk; 2], applied| lost(segments, applied).map(|lost| lost.upto);
        for (count, lap) in [(0, 10), (1, 10), (5, 10), (10, 10), (11, 10), (20, 10), (25, 10)] {
            let whole = journal(count, lap);
            let applied = count.saturating_sub(1) / lap * lap;
            assert_eq!((upto(&whole, applied), upto(&whole, count)), (None, None), "{count}");
            // The index knows of more than the journal has.
            assert_eq!(upto(&whole, count + 1), Some(u64::MAX), "{count}");
            // The beginning of the file in use is gone.
            let active = usize::from(applied / lap % 2 == 1);
            let one = journal(count, lap);
            one[active].poke(0, &[7; 4096]);
            assert_eq!(upto(&one, applied), None, "{count}");
            // Any bit of the last record's head or body.
            for byte in [0, 4, 9, 17, 24, 30, 36, 100, 900].into_iter().filter(|_| count > 0) {
                let one = journal(count, lap);
                let place = at(count - applied) + byte;
                let old = one[active].peek(place, 1)[0];
                one[active].poke(place, &[old ^ 0x20]);
                assert!(upto(&one, applied).is_some_and(|upto| upto >= count), "{count} {byte}");
                assert_eq!(upto(&one, count).unwrap_or(u64::MAX), u64::MAX, "{count} {byte}");
            }
        }
        let foreign = journal(5, 10);
        assert!(Scan::read(&foreign, STORE + 1).records.is_empty());
        assert!(Scan::read(&foreign, STORE + 1).lost(9).unwrap().what.contains("belongs to another brick"));
        let blank = journal(5, 10);
        blank[0].poke(0, &[0; 40_000]);
        assert_eq!(lost(&blank, 0).unwrap().what, "the beginning of journal.0 is gone");
    }
}
