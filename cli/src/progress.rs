//! What a running operation shows: bars on a terminal, `status` lines in JSON, problems one by one.
//!
//! Workers only count; one thread draws. Problems are shown at once, above the bar, and kept for the summary.

use std::io::{IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use copal_engine::progress::{Problem, Progress};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::open::Context;
use crate::output::{Output, lossy, shown};
use crate::{size, time};

/// Problems that are kept for the summary; the count tells of the rest.
pub(crate) const PROBLEMS_KEPT: usize = 1000;

/// Shows one operation, from [`Shown::start`] to [`Shown::finish`].
pub(crate) struct Shown {
    shared: Arc<Shared>,
    drawer: Option<JoinHandle<()>>,
}

/// What was wrong, when all is done.
pub(crate) struct Problems {
    /// How many.
    pub(crate) count: u64,
    /// The first [`PROBLEMS_KEPT`].
    pub(crate) first: Vec<Problem>,
}

struct Shared {
    out: Output,
    /// What is done, as in restic's JSON: `archival`, `restore`.
    during: &'static str,
    bar: Option<ProgressBar>,
    begun: Instant,
    expected: [AtomicU64; 2],
    done: [AtomicU64; 2],
    problem_count: AtomicU64,
    problems: Mutex<Vec<Problem>>,
    current: Mutex<PathBuf>,
    ended: Mutex<bool>,
    wake: Condvar,
}

impl Shown {
    /// Begins to show.
    pub(crate) fn start(context: &Context, during: &'static str) -> Self {
        let fps = frames_a_second(context);
        let bar = fps.filter(|_| !context.out.json).map(new_bar);
        let shared = Arc::new(Shared {
            out: context.out,
            during,
            bar,
            begun: Instant::now(),
            expected: Default::default(),
            done: Default::default(),
            problem_count: AtomicU64::new(0),
            problems: Mutex::default(),
            current: Mutex::default(),
            ended: Mutex::new(false),
            wake: Condvar::new(),
        });
        let drawer = fps.map(|fps| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.draw(Duration::from_secs_f64(1.0 / fps)))
        });
        Self { shared, drawer }
    }

    /// For the engine.
    pub(crate) fn progress(&self) -> &dyn Progress {
        &*self.shared
    }

    /// Removes the bar and gives what was wrong.
    pub(crate) fn finish(self) -> Problems {
        *self.shared.ended.lock().expect("no panic while held") = true;
        self.shared.wake.notify_all();
        if let Some(drawer) = self.drawer {
            let _ = drawer.join();
        }
        if let Some(bar) = &self.shared.bar {
            bar.finish_and_clear();
        }
        Problems {
            count: self.shared.problem_count.load(Ordering::Relaxed),
            first: std::mem::take(&mut *self.shared.problems.lock().expect("no panic while held")),
        }
    }
}

impl Problems {
    /// As the summary of a command has them.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        self.first
            .iter()
            .map(|p| json!({"kind": p.kind.as_str(), "item": lossy(p.path.as_os_str().as_bytes()), "message": p.message}))
            .collect()
    }
}

/// How often to draw; `None`: not at all.
fn frames_a_second(context: &Context) -> Option<f64> {
    let json = context.out.json;
    if context.global.no_progress || context.out.quiet || !(json || std::io::stderr().is_terminal()) {
        return None;
    }
    let usual = if json { 1.0 } else { 10.0 };
    let given = std::env::var("COPAL_PROGRESS_FPS").ok().and_then(|text| text.trim().parse::<f64>().ok());
    Some(given.filter(|fps| *fps > 0.0 && fps.is_finite()).unwrap_or(usual).clamp(0.001, 60.0))
}

fn new_bar(fps: f64) -> ProgressBar {
    let style = ProgressStyle::with_template("[{bar:30}] {msg}").expect("a template of ours").progress_chars("=> ");
    ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(fps.ceil() as u8)).with_style(style)
}

impl Progress for Shared {
    fn expect(&self, files: u64, bytes: u64) {
        self.expected[0].fetch_add(files, Ordering::Relaxed);
        self.expected[1].fetch_add(bytes, Ordering::Relaxed);
    }

    fn start(&self, path: &Path) {
        // Whoever is late is not waited for: it is only shown.
        if let Ok(mut current) = self.current.try_lock() {
            current.clear();
            current.push(path);
        }
        if self.out.verbose >= 2 {
            self.tell(|out| {
                let item = path.as_os_str().as_bytes();
                match out.json {
                    true => {
                        json!({"message_type": "verbose_status", "action": "start", "item": lossy(item)}).to_string()
                    }
                    false => shown(item),
                }
            });
        }
    }

    fn advance(&self, files: u64, bytes: u64) {
        self.done[0].fetch_add(files, Ordering::Relaxed);
        self.done[1].fetch_add(bytes, Ordering::Relaxed);
    }

    fn problem(&self, problem: Problem) {
        self.problem_count.fetch_add(1, Ordering::Relaxed);
        let item = problem.path.as_os_str().as_bytes();
        let text = if self.out.json {
            let error = json!({"message": problem.message});
            json!({"message_type": "error", "error": error, "during": self.during, "item": lossy(item)}).to_string()
        } else {
            format!("{}: {}: {}", problem.kind.as_str(), shown(item), problem.message)
        };
        self.above_bar(|| {
            let _ = writeln!(std::io::stderr(), "{text}");
        });
        let mut problems = self.problems.lock().expect("no panic while held");
        if problems.len() < PROBLEMS_KEPT {
            problems.push(problem);
        }
    }
}

impl Shared {
    fn above_bar(&self, print: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// A line of machine output on stdout, or for people on stderr.
    fn tell(&self, text: impl FnOnce(&Output) -> String) {
        let text = text(&self.out);
        self.above_bar(|| {
            let _ = match self.out.json {
                true => writeln!(std::io::stdout().lock(), "{text}"),
                false => writeln!(std::io::stderr().lock(), "{text}"),
            };
        });
    }

    fn draw(&self, every: Duration) {
        let mut rate = Rate::default();
        let mut ended = self.ended.lock().expect("no panic while held");
        loop {
            ended = self.wake.wait_timeout(ended, every).expect("no panic while held").0;
            if *ended {
                return;
            }
            rate.update(self.begun.elapsed(), self.done[1].load(Ordering::Relaxed));
            match &self.bar {
                Some(bar) => self.draw_bar(bar, &rate),
                None => self.tell(|_| self.status(&rate).to_string()),
            }
        }
    }

    fn numbers(&self) -> [u64; 4] {
        let [[files, bytes], [all_files, all_bytes]] =
            [&self.done, &self.expected].map(|two| [0, 1].map(|n| two[n].load(Ordering::Relaxed)));
        [files, bytes, all_files.max(files), all_bytes.max(bytes)]
    }

    fn draw_bar(&self, bar: &ProgressBar, rate: &Rate) {
        let [files, bytes, all_files, all_bytes] = self.numbers();
        bar.set_length(all_bytes.max(1));
        bar.set_position(bytes);
        let mut text = format!(
            "{}  {files}/{all_files} files  {}/{}  {}/s",
            time::span(self.begun.elapsed().as_millis() as u64),
            size::show(bytes),
            size::show(all_bytes),
            size::show(rate.bytes_a_second as u64),
        );
        if let Some(left) = rate.seconds_left(all_bytes - bytes) {
            text.push_str(&format!("  {} left", time::span(left * 1000)));
        }
        if let Ok(current) = self.current.try_lock() {
            text.push_str(&format!("\n{}", shown(current.as_os_str().as_bytes())));
        }
        bar.set_message(text);
    }

    fn status(&self, rate: &Rate) -> serde_json::Value {
        let [files, bytes, all_files, all_bytes] = self.numbers();
        let current = self.current.lock().expect("no panic while held").clone();
        let current = lossy(current.as_os_str().as_bytes());
        json!({
            "message_type": "status",
            "percent_done": if all_bytes == 0 { 0.0 } else { bytes as f64 / all_bytes as f64 },
            "total_files": all_files,
            "files_done": files,
            "total_bytes": all_bytes,
            "bytes_done": bytes,
            "error_count": self.problem_count.load(Ordering::Relaxed),
            "current_files": if current.is_empty() { vec![] } else { vec![current] },
            "seconds_elapsed": self.begun.elapsed().as_secs(),
            "seconds_remaining": rate.seconds_left(all_bytes - bytes).unwrap_or(0),
        })
    }
}

/// Bytes a second, averaged over the last ten seconds or so.
#[derive(Default)]
struct Rate {
    at: Duration,
    bytes: u64,
    bytes_a_second: f64,
}

impl Rate {
    fn update(&mut self, at: Duration, bytes: u64) {
        let seconds = (at - self.at).as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        let now = bytes.saturating_sub(self.bytes) as f64 / seconds;
        let weight = if self.at.is_zero() { 1.0 } else { 1.0 - (-seconds / 10.0).exp() };
        self.bytes_a_second += (now - self.bytes_a_second) * weight;
        (self.at, self.bytes) = (at, bytes);
    }

    fn seconds_left(&self, bytes: u64) -> Option<u64> {
        (bytes > 0 && self.bytes_a_second >= 1.0).then(|| (bytes as f64 / self.bytes_a_second) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_settle_on_what_is_moved() {
        let mut rate = Rate::default();
        for second in 1..=60 {
            rate.update(Duration::from_secs(second), second * 1000);
        }
        assert!((rate.bytes_a_second - 1000.0).abs() < 1.0);
        assert_eq!((rate.seconds_left(10_000), rate.seconds_left(0)), (Some(10), None));
    }
}
