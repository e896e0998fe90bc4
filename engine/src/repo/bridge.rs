//! Where async stops: threads that compute wait here for what the store does.
//!
//! The store is async because it waits on networks; everything above is plain threads. Nothing else in the engine blocks
//! on a runtime, and nothing heavy on the CPU runs on this one.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use tokio::runtime::{Builder, Runtime};
use tokio::task::{JoinError, JoinHandle};

/// A handle to the runtime that drives all stores of this process's engine.
#[derive(Clone)]
pub struct Bridge {
    runtime: Arc<OwnRuntime>,
    /// Of a runtime without threads of its own.
    at_work: Option<Arc<AtWork>>,
}

/// Shut down without waiting when the last bridge goes, because that may happen on any thread.
struct OwnRuntime(Option<Runtime>);

impl OwnRuntime {
    fn get(&self) -> &Runtime {
        self.0.as_ref().expect("it is taken only when dropped")
    }
}

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
        Ok(Self { runtime: Arc::new(OwnRuntime(Some(runtime))), at_work: None })
    }

    /// A runtime without threads and without timers of its own: what runs beside the callers runs while one of them waits,
    /// in an order that depends on nothing but what the store answers and when.
    ///
    /// `on_idle` is called, on the thread that waits, whenever nothing of all that can go on before something outside comes
    /// to pass; a simulation lets it happen there. It is given a way to ask whether that still holds, for who must take a lock
    /// first. One thread may wait at a time.
    pub fn single(on_idle: impl Fn(&dyn Fn() -> bool) + Send + Sync + 'static) -> std::io::Result<Self> {
        let at_work = Arc::<AtWork>::default();
        let idle = Arc::clone(&at_work);
        let on_park = move || {
            if idle.is_idle() {
                on_idle(&|| idle.is_idle());
            }
        };
        let runtime = Builder::new_current_thread().on_thread_park(on_park).build()?;
        Ok(Self { runtime: Arc::new(OwnRuntime(Some(runtime))), at_work: Some(at_work) })
    }

    /// Waits for a small call. Must not be called from a task of a runtime.
    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        match &self.at_work {
            None => self.runtime.get().block_on(future),
            Some(at_work) => self.runtime.get().block_on(Watched { future: pin!(future), at_work }),
        }
    }

    /// Runs what is heavy, or waits for a disk, where it does not hold up the calls of others. From a task of the runtime.
    pub async fn beside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
        let _at_work = self.at_work.as_ref().map(AtWork::more);
        tokio::task::spawn_blocking(work).await
    }

    /// Lets a task run beside the caller.
    pub fn spawn<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.runtime.get().spawn(future)
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

/// Whether a runtime of one thread has anything left to do when that thread is about to sleep.
#[derive(Default)]
struct AtWork {
    /// Work on other threads that tasks wait for.
    beside: AtomicUsize,
    /// What a thread waits for may have come, and was not looked at yet.
    woken: AtomicBool,
}

impl AtWork {
    fn is_idle(&self) -> bool {
        self.beside.load(Ordering::Acquire) == 0 && !self.woken.load(Ordering::Acquire)
    }

    fn more(this: &Arc<Self>) -> Beside {
        this.beside.fetch_add(1, Ordering::AcqRel);
        Beside(Arc::clone(this))
    }
}

/// Counted until the task that waits for it has seen its end, not only until that.
struct Beside(Arc<AtWork>);

impl Drop for Beside {
    fn drop(&mut self) {
        self.0.beside.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What a thread waits for, noting when it is woken: the runtime does not tell.
struct Watched<'w, F> {
    future: Pin<&'w mut F>,
    at_work: &'w Arc<AtWork>,
}

impl<F: Future> Future for Watched<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.at_work.woken.store(false, Ordering::Release);
        let waker = Waker::from(Arc::new(Noting { at_work: Arc::clone(self.at_work), waker: cx.waker().clone() }));
        self.future.as_mut().poll(&mut Context::from_waker(&waker))
    }
}

struct Noting {
    at_work: Arc<AtWork>,
    waker: Waker,
}

impl Wake for Noting {
    fn wake(self: Arc<Self>) {
        self.at_work.woken.store(true, Ordering::Release);
        self.waker.wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use tokio::sync::oneshot;

    #[test]
    fn a_single_runtime_is_idle_only_when_nothing_can_go_on() {
        let sender = Arc::new(Mutex::new(None::<oneshot::Sender<u32>>));
        let (idle, calls) = (Arc::clone(&sender), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&calls);
        let bridge = Bridge::single(move |is_idle| {
            assert!(is_idle());
            count.fetch_add(1, Ordering::Relaxed);
            idle.lock().unwrap().take().expect("not idle before it waits").send(7).unwrap();
        })
        .unwrap();
        for _ in 0..100 {
            let (answer, answered) = oneshot::channel();
            let (inner, tell) = (bridge.clone(), Arc::clone(&sender));
            let task = bridge.spawn(async move {
                let slow = || std::thread::sleep(std::time::Duration::from_micros(200));
                inner.beside(slow).await.unwrap();
                let (send, receive) = oneshot::channel();
                *tell.lock().unwrap() = Some(send);
                answer.send(receive.await.unwrap()).unwrap();
            });
            assert_eq!(bridge.wait(answered), Ok(7));
            bridge.wait(task).unwrap();
        }
        assert_eq!(calls.load(Ordering::Relaxed), 100);
    }
}
