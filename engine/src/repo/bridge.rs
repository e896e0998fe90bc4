//! Where async stops: threads that compute wait here for what the store does.
//!
//! The store is async because it waits on networks; everything above is plain threads. Nothing else in the engine blocks
//! on a runtime, and nothing heavy on the CPU runs on this one.

use std::future::Future;
use std::sync::Arc;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;

/// A handle to the runtime that drives all stores of this process's engine.
#[derive(Clone)]
pub struct Bridge {
    handle: Handle,
    /// Kept alive as long as a bridge exists.
    _runtime: Arc<OwnRuntime>,
}

/// Shut down without waiting when the last bridge goes, because that may happen on any thread.
struct OwnRuntime(Option<Runtime>);

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Bridge {
    /// Starts a runtime of two threads: they only move bytes between buffers and sockets.
    pub fn start() -> std::io::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(2).thread_name("copal-store").enable_all().build()?;
        Ok(Self { handle: runtime.handle().clone(), _runtime: Arc::new(OwnRuntime(Some(runtime))) })
    }

    /// Waits for a small call. Must not be called from a task of a runtime.
    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.handle.block_on(future)
    }

    /// Lets a task run beside the caller.
    pub fn spawn<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.handle.spawn(future)
    }

    /// Waits for many small calls, at most `width` at once; results in the order of `jobs`.
    ///
    /// The first error is returned, and what has not begun does not begin.
    pub fn map<I, T, E, F, Fut>(&self, jobs: Vec<I>, width: usize, call: F) -> Result<Vec<T>, E>
    where
        I: Send + 'static,
        T: Send + 'static,
        E: Send + 'static,
        F: Fn(I) -> Fut,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
    {
        self.wait(async {
            let mut results: Vec<Option<T>> = (0..jobs.len()).map(|_| None).collect();
            let mut running = tokio::task::JoinSet::new();
            for (n, job) in jobs.into_iter().enumerate() {
                while running.len() >= width {
                    collect(&mut running, &mut results).await?;
                }
                let call = call(job);
                running.spawn(async move { (n, call.await) });
            }
            while !running.is_empty() {
                collect(&mut running, &mut results).await?;
            }
            Ok(results.into_iter().map(|r| r.expect("every job was collected")).collect())
        })
    }
}

async fn collect<T: 'static, E: 'static>(
    running: &mut tokio::task::JoinSet<(usize, Result<T, E>)>,
    results: &mut [Option<T>],
) -> Result<(), E> {
    let (n, result) = running.join_next().await.expect("not empty").expect("a call of the store does not panic");
    results[n] = Some(result?);
    Ok(())
}
