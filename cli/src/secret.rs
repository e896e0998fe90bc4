//! Passwords and key files: where they come from, and where they go. None ever stands on a command line.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, anyhow, bail};
use copal_engine::Error;
use copal_engine::format::bundle::{BUNDLE_TEXT_MAX, Bundle};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

/// Bytes that wipe themselves.
pub(crate) type Password = Zeroizing<Vec<u8>>;

/// Longest password that is taken, in bytes.
const PASSWORD_MAX: u64 = 64 << 10;

/// The password in a file: all of it but line ends behind it.
pub(crate) fn from_file(path: &Path) -> Result<Password> {
    let what = || format!("cannot read the password file {}", path.display());
    let mut text = Zeroizing::new(Vec::new());
    File::open(path).with_context(what)?.take(PASSWORD_MAX + 1).read_to_end(&mut text).with_context(what)?;
    checked(text, &format!("the password file {}", path.display()))
}

/// The password that a command prints.
pub(crate) fn from_command(command: &std::ffi::OsStr) -> Result<Password> {
    let mut child = Command::new("sh")
        .arg("-c")
        .arg(command)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start sh for the password command")?;
    let mut text = Zeroizing::new(Vec::new());
    let pipe = child.stdout.take().expect("it was asked for");
    pipe.take(PASSWORD_MAX + 1).read_to_end(&mut text).context("cannot read what the password command prints")?;
    let status = child.wait().context("the password command went away")?;
    if !status.success() {
        bail!("the password command failed: {status}");
    }
    checked(text, "what the password command prints")
}

/// The password in the environment.
pub(crate) fn from_environment(variable: &str) -> Option<Result<Password>> {
    use std::os::unix::ffi::OsStringExt;
    let text = std::env::var_os(variable)?;
    Some(checked(Zeroizing::new(text.into_vec()), variable))
}

fn checked(mut text: Password, what: &str) -> Result<Password> {
    if text.len() as u64 > PASSWORD_MAX {
        bail!("{what} is longer than a password can be");
    }
    while matches!(text.last(), Some(b'\n' | b'\r')) {
        text.pop();
    }
    if text.is_empty() {
        bail!("{what} is empty; an empty password is none");
    }
    Ok(text)
}

/// Asks on the terminal, if there is one to ask on.
pub(crate) fn prompt(question: &str) -> Result<Option<Password>> {
    if !io::stderr().is_terminal() {
        return Ok(None);
    }
    let Ok(terminal) = OpenOptions::new().read(true).write(true).open("/dev/tty") else { return Ok(None) };
    checked(read_hidden(&terminal, question)?, "what you typed").map(Some)
}

/// Asks twice, because nobody can tell later what a new password was.
pub(crate) fn prompt_new() -> Result<Option<Password>> {
    let Some(first) = prompt("new password")? else { return Ok(None) };
    match prompt("once more")? {
        Some(second) if *second == *first => Ok(Some(first)),
        _ => bail!("the two passwords differ; nothing was changed"),
    }
}

/// Reads a line byte by byte, without echo; the terminal's state is put back also when Ctrl-C is typed.
fn read_hidden(mut terminal: &File, question: &str) -> Result<Password> {
    let before = tcgetattr(terminal).context("cannot read the terminal's state")?;
    let mut hidden = before.clone();
    hidden.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
    hidden.special_codes[SpecialCodeIndex::VMIN] = 1;
    hidden.special_codes[SpecialCodeIndex::VTIME] = 0;
    tcsetattr(terminal, OptionalActions::Flush, &hidden).context("cannot hide what is typed")?;
    let line =
        terminal.write_all(format!("{question}: ").as_bytes()).map_err(Into::into).and_then(|()| read_line(terminal));
    let restored = tcsetattr(terminal, OptionalActions::Flush, &before);
    let _ = terminal.write_all(b"\n");
    restored.context("cannot put the terminal's state back")?;
    line
}

fn read_line(mut terminal: &File) -> Result<Password> {
    let mut line = Zeroizing::new(Vec::with_capacity(256));
    loop {
        let mut byte = [0];
        if terminal.read(&mut byte)? == 0 {
            return Ok(line);
        }
        match byte[0] {
            b'\r' | b'\n' => return Ok(line),
            // Ctrl-C, and Ctrl-D on an empty line.
            3 => return Err(Error::Interrupted.into()),
            4 if line.is_empty() => return Ok(line),
            // Backspace takes a whole character of UTF-8.
            8 | 127 => while line.pop().is_some_and(|b| b & 0xc0 == 0x80) {},
            // Ctrl-U.
            21 => line.clear(),
            byte if (line.len() as u64) < PASSWORD_MAX => line.push(byte),
            _ => bail!("that is longer than a password can be"),
        }
    }
}

/// A key file.
pub(crate) fn read_bundle(path: &Path) -> Result<Bundle> {
    let what = || format!("cannot read the key file {}", path.display());
    let file = File::open(path).with_context(what)?;
    let mode = file.metadata().with_context(what)?.permissions().mode();
    if mode & 0o077 != 0 && mode & 0o170000 == 0o100000 {
        eprintln!("copal: the key file {} can be read by others; chmod 600 it", path.display());
    }
    let mut text = Zeroizing::new(String::with_capacity(BUNDLE_TEXT_MAX + 1));
    file.take(BUNDLE_TEXT_MAX as u64 + 1).read_to_string(&mut text).with_context(what)?;
    Bundle::from_text(&text).map_err(|e| Error::WrongKey(format!("{} is no key file: {e}", path.display())).into())
}

/// Writes a new key file, readable by its owner alone, durable before it returns. Never replaces a file.
pub(crate) fn write_bundle(path: &Path, bundle: &Bundle) -> Result<()> {
    let what = || format!("cannot write the key file {}", path.display());
    let directory = parent(path);
    fs::create_dir_all(directory).with_context(what)?;
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => {
                anyhow!("{} is there already and is not replaced; give another name", path.display())
            }
            _ => anyhow::Error::from(e).context(what()),
        })?;
    file.write_all(bundle.to_text().as_bytes()).and_then(|()| file.sync_all()).with_context(what)?;
    File::open(directory).and_then(|d| d.sync_all()).with_context(what)
}

/// The directory that a path lies in.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => Path::new("/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_lose_line_ends_only() {
        let read = |text: &[u8]| checked(Zeroizing::new(text.to_vec()), "x").map(|p| p.to_vec()).ok();
        assert_eq!(read(b" a b \r\n\n"), Some(b" a b ".to_vec()));
        assert_eq!(read(b"\n"), None);
        assert_eq!(read(&vec![b'a'; PASSWORD_MAX as usize + 1]), None);
    }

    #[test]
    fn commands_that_fail_give_no_password() {
        assert_eq!(*from_command("printf 'a\\nb\\n'".as_ref()).unwrap(), *b"a\nb");
        assert!(from_command("echo x; exit 3".as_ref()).unwrap_err().to_string().contains('3'));
        assert!(from_command("true".as_ref()).is_err());
    }
}
