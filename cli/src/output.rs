//! What is printed, and where: data on stdout, everything else on stderr.

use std::io::{self, BufWriter, StdoutLock, Write};

use serde::Serialize;
use serde_json::json;

/// How much and in what form to print.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// Machine output.
    pub(crate) json: bool,
    /// Neither summaries nor notes.
    pub(crate) quiet: bool,
    /// How often `-v` was given.
    pub(crate) verbose: u8,
}

impl Output {
    /// Buffered stdout; to be flushed by the caller, so that a full disk is noticed.
    pub(crate) fn stdout(&self) -> BufWriter<StdoutLock<'static>> {
        BufWriter::with_capacity(64 << 10, io::stdout().lock())
    }

    /// One JSON document, or one line of JSON.
    pub(crate) fn line(&self, value: &impl Serialize) -> anyhow::Result<()> {
        let mut out = self.stdout();
        write_line(&mut out, value)?;
        Ok(out.flush()?)
    }

    /// Text on stdout, unless quiet or JSON was asked for.
    pub(crate) fn say(&self, text: impl AsRef<str>) -> io::Result<()> {
        if self.quiet || self.json {
            return Ok(());
        }
        let mut out = self.stdout();
        writeln!(out, "{}", text.as_ref())?;
        out.flush()
    }

    /// A line on stderr that a user should read once. Kept back by `-q`.
    pub(crate) fn note(&self, text: impl AsRef<str>) {
        if !self.quiet {
            self.warn(text);
        }
    }

    /// A line on stderr that a user must read.
    pub(crate) fn warn(&self, text: impl AsRef<str>) {
        let _ = writeln!(io::stderr(), "{}", log_line(self.json, "warn", text.as_ref()));
    }
}

/// A line for stderr: JSON where machine output is asked for, so that a program can read both streams.
pub(crate) fn log_line(json: bool, level: &str, message: &str) -> String {
    if json {
        return json!({"message_type": "log", "schema": 1, "level": level, "message": message}).to_string();
    }
    format!("copal: {message}")
}

/// One line of JSON.
pub(crate) fn write_line(out: &mut impl Write, value: &impl Serialize) -> anyhow::Result<()> {
    serde_json::to_writer(&mut *out, value).map_err(io::Error::from)?;
    Ok(out.write_all(b"\n")?)
}

/// Names and texts from a snapshot as they may be shown: no control character reaches a terminal.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
        }
        chunk.invalid().iter().for_each(|b| text.push_str(&format!("\\x{b:02x}")));
    }
    text
}

/// Bytes as JSON has them: what is no UTF-8 becomes U+FFFD.
pub(crate) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A table with a head: columns as wide as their widest cell, two blanks between them, the last one free.
pub(crate) fn table(out: &mut impl Write, head: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    let count = |text: &str| text.chars().count();
    let widths: Vec<usize> = (0..head.len())
        .map(|n| rows.iter().map(|row| count(&row[n])).chain([count(head[n])]).max().unwrap_or(0))
        .collect();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (n, cell) in cells.enumerate() {
            let blanks = if n + 1 == head.len() { 0 } else { widths[n] - count(cell) + 2 };
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', blanks));
        }
        writeln!(out, "{}", text.trim_end())
    };
    line(&mut head.iter().copied())?;
    rows.iter().try_for_each(|row| line(&mut row.iter().map(String::as_str)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_get_no_control_characters() {
        assert_eq!(shown(b"a\x1b[31m\n\xff\xc3\xa9"), "a\\u{1b}[31m\\n\\xff\u{e9}");
    }

    #[test]
    fn columns_line_up() {
        let mut out = Vec::new();
        let rows = [vec!["a".into(), "b".into()], vec!["long".into(), "c".into()]];
        table(&mut out, &["ID", "Path"], &rows).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "ID    Path\na     b\nlong  c\n");
    }
}
