//! Changes as lines of text: one JSON object each.
//!
//! 1. A line is one line, whatever the names are: control characters are escaped (`names_of_all_kinds`).
//! 2. A name that is not UTF-8 is given in hexadecimal, too, and only such a name is (`names_of_all_kinds`).

use std::fmt::Write;

use wire::id::JournalIndex;
use wire::meta::{Change, Changes, FileKind, Name, What};

fn kind(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symlink",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
        FileKind::CharDevice => "character device",
        FileKind::BlockDevice => "block device",
    }
}

fn what(what: &What) -> &'static str {
    match what {
        What::Create => "create",
        What::Mkdir => "mkdir",
        What::Mknod => "mknod",
        What::Symlink => "symlink",
        What::Link => "link",
        What::Unlink => "unlink",
        What::Rmdir => "rmdir",
        What::RenameFrom { .. } => "rename_from",
        What::RenameTo { .. } => "rename_to",
        What::SetAttr => "setattr",
        What::Truncate => "truncate",
        What::SetXattr => "setxattr",
        What::Write => "write",
    }
}

fn add_name(line: &mut String, field: &str, name: &Name) {
    add_text(line, field, name.as_bytes());
}

/// A field with a name in it, after others.
pub(in crate::mount) fn add_text(line: &mut String, field: &str, bytes: &[u8]) {
    line.push_str(",\"");
    line.push_str(field);
    line.push_str("\":\"");
    for char in String::from_utf8_lossy(bytes).chars() {
        match char {
            '"' | '\\' => line.extend(['\\', char]),
            '\n' => line.push_str("\\n"),
            // Some programs end lines at those, too.
            '\0'..='\x1f' | '\x7f' | '\u{85}' | '\u{2028}' | '\u{2029}' => {
                // Writing to a string cannot fail.
                let _ = write!(line, "\\u{:04x}", u32::from(char));
            }
            char => line.push(char),
        }
    }
    line.push('"');
    if std::str::from_utf8(bytes).is_err() {
        let _ = write!(line, ",\"{field}_hex\":\"");
        bytes.iter().for_each(|byte| {
            let _ = write!(line, "{byte:02x}");
        });
        line.push('"');
    }
}

fn add_change(text: &mut String, index: JournalIndex, change: &Change) {
    let _ = write!(text, "{{\"index\":{index},\"what\":\"{}\"", what(&change.what));
    add_name(text, "name", &change.name);
    let _ = write!(text, ",\"inode\":{},\"kind\":\"{}\"", change.ino, kind(change.kind));
    match &change.what {
        What::RenameFrom { dir, name } => {
            add_name(text, "to", name);
            let _ = write!(text, ",\"to_dir\":{dir}");
        }
        What::RenameTo { dir, name } => {
            add_name(text, "from", name);
            let _ = write!(text, ",\"from_dir\":{dir}");
        }
        _ => {}
    }
    let time_ms = change.at.secs.saturating_mul(1000).saturating_add(i64::from(change.at.nanos / 1_000_000));
    let _ = writeln!(text, ",\"time_ms\":{time_ms}}}");
}

/// The lines of what was told.
pub(super) fn lines(told: &Changes) -> String {
    let mut text = String::new();
    if told.lost {
        let _ = writeln!(text, "{{\"lost\":true,\"index\":{}}}", told.until);
    }
    told.changes.iter().for_each(|(index, change)| add_change(&mut text, *index, change));
    if told.gone {
        text.push_str("{\"gone\":true}\n");
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use wire::id::Ino;
    use wire::meta::Timestamp;

    use super::*;

    fn name(bytes: &[u8]) -> Name {
        Name::new(bytes.to_vec()).unwrap()
    }

    fn told(changes: Vec<(Name, What)>, lost: bool, gone: bool) -> String {
        let changes = changes.into_iter().zip(7..).map(|((name, what), index)| {
            let at = Timestamp { secs: 12, nanos: 345_678_901 };
            (JournalIndex(index), Change { at, name, ino: Ino(300), kind: FileKind::File, what })
        });
        lines(&Changes { changes: changes.collect(), until: JournalIndex(99), lost, gone })
    }

    /// What programs read.
    #[test]
    fn lines_are_golden() {
        let other = || name(b"b");
        let changes = vec![
            (name(b"a"), What::Create),
            (name(b"a"), What::RenameFrom { dir: Ino(1), name: other() }),
            (name(b"b"), What::RenameTo { dir: Ino(9), name: name(b"a\xff") }),
        ];
        let expected = r#"{"index":7,"what":"create","name":"a","inode":300,"kind":"file","time_ms":12345}
{"index":8,"what":"rename_from","name":"a","inode":300,"kind":"file","to":"b","to_dir":1,"time_ms":12345}
{"index":9,"what":"rename_to","name":"b","inode":300,"kind":"file","from":"a�","from_hex":"61ff","from_dir":9,"time_ms":12345}
"#;
        assert_eq!(told(changes, false, false), expected);
        assert_eq!(told(vec![], true, false), "{\"lost\":true,\"index\":99}\n");
        assert!(told(vec![(name(b"a"), What::Unlink)], false, true).ends_with("}\n{\"gone\":true}\n"));
    }

    /// Quotes, backslashes, line ends of all kinds, other letters and bytes that are no text.
    #[test]
    fn names_of_all_kinds() {
        let shown = |bytes: &[u8]| {
            let line = told(vec![(name(bytes), What::Write)], false, false);
            assert_eq!((line.lines().count(), line.matches(char::is_control).count()), (1, 1), "{line:?}");
            let field = line.split_once(",\"name\":").unwrap().1;
            field.split_once(",\"inode\"").unwrap().0.to_owned()
        };
        assert_eq!(shown(b"a b"), r#""a b""#);
        assert_eq!(shown(br#"a"b\c"#), r#""a\"b\\c""#);
        assert_eq!(shown(b"a\nb\r\x01\x7f"), r#""a\nb\u000d\u0001\u007f""#);
        assert_eq!(shown("ü€𝄞".as_bytes()), "\"ü€𝄞\"");
        assert_eq!(shown("\u{85}\u{2028}".as_bytes()), r#""\u0085\u2028""#);
        assert_eq!(shown(b"\xff\xfea"), "\"\u{fffd}\u{fffd}a\",\"name_hex\":\"fffe61\"");
    }
}
