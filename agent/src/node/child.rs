//! The child that works on one volume: started in its directory, told by its standard input, heard on its standard output.

use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use zeroize::Zeroizing;

use crate::volume::job::{Event, Job};

/// How long a child has after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);

/// One at work; it does not outlive this value.
pub(super) struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    /// Starts it in `volume`. It inherits no variable and no descriptor but its standard streams.
    pub(super) async fn start(job: &Job, volume: &OwnedFd) -> Result<Self> {
        let program = std::env::current_exe().context("cannot find this very program")?;
        let mut child = Command::new(program)
            .arg("child")
            .env_clear()
            // By the descriptor, so that no path is resolved a second time.
            .current_dir(format!("/proc/self/fd/{}", volume.as_raw_fd()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the child for the volume")?;
        let text = Zeroizing::new(serde_json::to_vec(job)?);
        let mut stdin = child.stdin.take().expect("it is a pipe");
        stdin.write_all(&text).await.context("the child does not listen")?;
        drop(stdin);
        let lines = BufReader::new(child.stdout.take().expect("it is a pipe")).lines();
        Ok(Self { child, lines })
    }

    /// What it says next; `None` when it has ended.
    pub(super) async fn next(&mut self) -> Result<Option<Event>> {
        loop {
            let Some(line) = self.lines.next_line().await.context("cannot hear the child")? else { return Ok(None) };
            match serde_json::from_str(&line) {
                Ok(event) => return Ok(Some(event)),
                Err(e) => tracing::warn!("the child says what is no event: {e}"),
            }
        }
    }

    /// Tells it to end, and sees to it.
    pub(super) async fn end(mut self) {
        if let Some(pid) = self.child.id().and_then(|pid| rustix::process::Pid::from_raw(pid as i32)) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        if tokio::time::timeout(GRACE, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}
