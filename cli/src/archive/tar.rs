//! tar as POSIX.1-2001 has it (pax), written by hand because no crate writes its sparse files.
//!
//! Each entry is a ustar header; what does not fit there (long or odd names, sizes over 8 GiB, nanoseconds, extended
//! attributes) stands in a pax header before it. Extended attributes, ACLs among them, are `SCHILY.xattr.*` as GNU tar and
//! bsdtar read them; files with holes are GNU sparse format 1.0, where the list of extents leads the data.

use std::collections::HashMap;
use std::io::Write;

use anyhow::Result;
use copal_engine::format::node::{HardLink, Metadata, NodeKind, Timestamp};
use copal_engine::repo::{Node, Reader};

use super::{Holes, write_content, write_zeros};

const BLOCK: u64 = 512;
/// GNU tar reads archives in records of so many bytes, and complains about a shorter last one.
const RECORD: u64 = 10_240;

/// Writes entries one after another.
pub(crate) struct TarWriter<'w, W: Write> {
    out: &'w mut W,
    written: u64,
    /// Where the first name of a file with several stands.
    links: HashMap<(u64, u64), Vec<u8>>,
}

/// What the ustar header says beside the attributes.
struct Entry<'e> {
    name: &'e [u8],
    kind: u8,
    size: u64,
    link: &'e [u8],
    device: Option<u64>,
}

impl<'w, W: Write> TarWriter<'w, W> {
    /// Begins an archive.
    pub(crate) fn new(out: &'w mut W) -> Self {
        Self { out, written: 0, links: HashMap::new() }
    }

    /// Appends an entry under `name` (relative). False: tar has no such thing (a socket), and nothing was written.
    pub(crate) fn append(&mut self, reader: &Reader, name: &[u8], node: &Node) -> Result<bool> {
        let m = &node.metadata;
        let plain = |kind| Entry { name, kind, size: 0, link: b"", device: None };
        match &m.kind {
            NodeKind::Socket => return Ok(false),
            _ if self.is_repeated(m.hardlink, name) => {
                let first = self.links[&identity(m.hardlink.expect("it is repeated"))].clone();
                self.header(m, &Entry { link: &first, ..plain(b'1') }, Vec::new())?;
            }
            NodeKind::File { .. } => self.file(reader, name, node)?,
            NodeKind::Dir => {
                let name = [name, b"/"].concat();
                self.header(m, &Entry { name: &name, ..plain(b'5') }, Vec::new())?;
            }
            NodeKind::Symlink { target } => self.header(m, &Entry { link: target, ..plain(b'2') }, Vec::new())?,
            NodeKind::Fifo => self.header(m, &plain(b'6'), Vec::new())?,
            NodeKind::CharDevice { rdev } => {
                self.header(m, &Entry { device: Some(*rdev), ..plain(b'3') }, Vec::new())?;
            }
            NodeKind::BlockDevice { rdev } => {
                self.header(m, &Entry { device: Some(*rdev), ..plain(b'4') }, Vec::new())?;
            }
        }
        Ok(true)
    }

    /// Ends the archive: two blocks of zeros, and more to fill a record.
    pub(crate) fn finish(mut self) -> Result<()> {
        let end = (self.written + 2 * BLOCK).next_multiple_of(RECORD);
        self.zeros(end - self.written)
    }

    fn is_repeated(&mut self, link: Option<HardLink>, name: &[u8]) -> bool {
        let Some(link) = link else { return false };
        let mut repeated = true;
        self.links.entry(identity(link)).or_insert_with(|| {
            repeated = false;
            name.to_vec()
        });
        repeated
    }

    fn file(&mut self, reader: &Reader, name: &[u8], node: &Node) -> Result<()> {
        let (extents, has_holes) = extents(reader, node)?;
        if !has_holes {
            let size = node.size();
            self.header(&node.metadata, &Entry { name, kind: b'0', size, link: b"", device: None }, Vec::new())?;
            write_content(reader, node, Holes::Zeros, self.out)?;
            self.written += size;
            return self.pad(size);
        }
        let map = sparse_map(&extents);
        let data: u64 = extents.iter().map(|(_, len)| len).sum();
        let size = map.len() as u64 + data;
        let records = vec![
            ("GNU.sparse.major".into(), b"1".to_vec()),
            ("GNU.sparse.minor".into(), b"0".to_vec()),
            ("GNU.sparse.name".into(), name.to_vec()),
            ("GNU.sparse.realsize".into(), node.size().to_string().into_bytes()),
        ];
        let stand_in = sparse_name(name);
        self.header(&node.metadata, &Entry { name: &stand_in, kind: b'0', size, link: b"", device: None }, records)?;
        self.out.write_all(&map)?;
        write_content(reader, node, Holes::LeftOut, self.out)?;
        self.written += size;
        self.pad(size)
    }

    fn header(&mut self, m: &Metadata, entry: &Entry<'_>, mut records: Vec<(String, Vec<u8>)>) -> Result<()> {
        records.extend(pax_records(m, entry));
        let text = encode_records(&records);
        let place = Entry { name: b"PaxHeaders/entry", kind: b'x', size: text.len() as u64, link: b"", device: None };
        self.out.write_all(&ustar(m, &place))?;
        self.out.write_all(&text)?;
        self.written += BLOCK + text.len() as u64;
        self.pad(text.len() as u64)?;
        self.out.write_all(&ustar(m, entry))?;
        self.written += BLOCK;
        Ok(())
    }

    fn pad(&mut self, size: u64) -> Result<()> {
        self.zeros(size.next_multiple_of(BLOCK) - size)
    }

    fn zeros(&mut self, count: u64) -> Result<()> {
        write_zeros(self.out, count)?;
        self.written += count;
        Ok(())
    }
}

fn identity(link: HardLink) -> (u64, u64) {
    (link.dev, link.ino)
}

/// Where data is (neighbours joined), and whether there are holes between.
fn extents(reader: &Reader, node: &Node) -> Result<(Vec<(u64, u64)>, bool)> {
    let (mut extents, mut has_holes): (Vec<(u64, u64)>, _) = (Vec::new(), false);
    reader.each_piece(node, &mut |piece| {
        match (piece.data, extents.last_mut()) {
            (None, _) => has_holes = true,
            (Some(_), Some((start, len))) if *start + *len == piece.offset => *len += piece.len,
            (Some(_), _) => extents.push((piece.offset, piece.len)),
        }
        Ok(())
    })?;
    // A hole at the end shows only by an empty extent behind it: tar makes the file as long as its last extent.
    if has_holes && extents.last().is_none_or(|(start, len)| start + len < node.size()) {
        extents.push((node.size(), 0));
    }
    Ok((extents, has_holes))
}

/// The count and then start and length of each extent, a line each, filled with zeros to whole blocks.
fn sparse_map(extents: &[(u64, u64)]) -> Vec<u8> {
    let mut map = format!("{}\n", extents.len());
    extents.iter().for_each(|(start, len)| map.push_str(&format!("{start}\n{len}\n")));
    let mut map = map.into_bytes();
    map.resize(map.len().next_multiple_of(BLOCK as usize), 0);
    map
}

/// What a tar that knows no sparse files extracts: `dir/GNUSparseFile.0/name`.
fn sparse_name(name: &[u8]) -> Vec<u8> {
    let at = name.iter().rposition(|&b| b == b'/').map_or(0, |slash| slash + 1);
    [&name[..at], b"GNUSparseFile.0/", &name[at..]].concat()
}

fn pax_records(m: &Metadata, entry: &Entry<'_>) -> Vec<(String, Vec<u8>)> {
    let mut records = Vec::new();
    let mut add = |key: &str, value: Vec<u8>| records.push((key.to_owned(), value));
    let fits = |text: &[u8], room: usize| text.len() <= room && text.is_ascii();
    if !fits(entry.name, 100) {
        add("path", entry.name.to_vec());
    }
    if !fits(entry.link, 100) {
        add("linkpath", entry.link.to_vec());
    }
    if entry.size >= 1 << 33 {
        add("size", entry.size.to_string().into_bytes());
    }
    for (key, id) in [("uid", m.uid), ("gid", m.gid)] {
        if id >= 1 << 21 {
            add(key, id.to_string().into_bytes());
        }
    }
    for (key, name) in [("uname", &m.user), ("gname", &m.group)] {
        if !fits(name, 31) {
            add(key, name.clone());
        }
    }
    add("mtime", decimal(m.mtime));
    add("atime", decimal(m.atime));
    if entry.kind != b'1' {
        for xattr in &m.xattrs {
            add(&format!("SCHILY.xattr.{}", keyword(&xattr.name)), xattr.value.clone());
        }
    }
    records
}

/// A name as GNU tar has it in a keyword: `%` and `=` escaped; bytes that are no UTF-8 cannot stand there.
fn keyword(name: &[u8]) -> String {
    String::from_utf8_lossy(name).replace('%', "%25").replace('=', "%3D")
}

/// Seconds with nine digits behind the point; negative times, too.
fn decimal(time: Timestamp) -> Vec<u8> {
    let nanos = i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos);
    let (sign, nanos) = if nanos < 0 { ("-", -nanos) } else { ("", nanos) };
    format!("{sign}{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000).into_bytes()
}

/// `<length> <key>=<value>\n`, where the length counts itself.
fn encode_records(records: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut len = rest + 1;
        while len != rest + len.to_string().len() {
            len = rest + len.to_string().len();
        }
        out.extend_from_slice(format!("{len} {key}=").as_bytes());
        out.extend_from_slice(value);
        out.push(b'\n');
    }
    out
}

fn ustar(m: &Metadata, entry: &Entry<'_>) -> [u8; BLOCK as usize] {
    let mut block = [0; BLOCK as usize];
    let mut text = |at: usize, room: usize, text: &[u8]| {
        let n = text.len().min(room);
        block[at..at + n].copy_from_slice(&text[..n]);
    };
    text(0, 100, entry.name);
    // What does not fit stands in the pax header; here it is 0.
    let octal = |value: u64, digits: usize| {
        let value = if value < 1 << (3 * digits) { value } else { 0 };
        format!("{value:0digits$o}").into_bytes()
    };
    text(100, 8, &octal(m.mode.into(), 7));
    text(108, 8, &octal(m.uid.into(), 7));
    text(116, 8, &octal(m.gid.into(), 7));
    text(124, 12, &octal(entry.size, 11));
    text(136, 12, &octal(m.mtime.secs.max(0) as u64, 11));
    text(148, 8, b"        ");
    text(156, 1, &[entry.kind]);
    text(157, 100, entry.link);
    text(257, 8, b"ustar\x0000");
    text(265, 31, &m.user);
    text(297, 31, &m.group);
    let (major, minor) = entry.device.map_or((0, 0), split_device);
    text(329, 8, &octal(major, 7));
    text(337, 8, &octal(minor, 7));
    let sum: u64 = block.iter().map(|&b| u64::from(b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// Linux's dev_t apart.
fn split_device(rdev: u64) -> (u64, u64) {
    let major = (rdev >> 8 & 0xfff) | (rdev >> 32 & !0xfff);
    let minor = (rdev & 0xff) | (rdev >> 12 & !0xff);
    (major, minor & 0xffff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_records_count_themselves() {
        let records = |value: &str| encode_records(&[("path".into(), value.as_bytes().to_vec())]);
        assert_eq!(records("a"), b"9 path=a\n");
        for n in 0..300 {
            let record = records(&"x".repeat(n));
            let said: usize = std::str::from_utf8(&record).unwrap().split(' ').next().unwrap().parse().unwrap();
            assert_eq!(said, record.len());
        }
    }

    #[test]
    fn times_before_the_epoch_are_one_number() {
        assert_eq!(decimal(Timestamp { secs: -2, nanos: 500_000_000 }), b"-1.500000000");
        assert_eq!(decimal(Timestamp { secs: 1, nanos: 5 }), b"1.000000005");
    }

    #[test]
    fn maps_fill_blocks() {
        let map = sparse_map(&[(0, 5), (4096, 1)]);
        assert!(map.starts_with(b"2\n0\n5\n4096\n1\n\0") && map.len() == 512);
        assert_eq!(sparse_name(b"a/b"), b"a/GNUSparseFile.0/b");
        assert_eq!(split_device(0x0801), (8, 1));
    }
}
