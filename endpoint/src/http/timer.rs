//! The timer by which the HTTP library bounds the wait for each request of a connection.
//!
//! The library makes a timer before each request and drops it when the request has come. To make and to drop one of the
//! runtime's takes a lock each, to move one to a later time does not: so the last one is kept for the next request.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};
use tokio::time;

use crate::lock::lock;

type Sleeping = Pin<Box<time::Sleep>>;

/// Makes the timers of one connection, which has one at a time; another at the same time would work as well.
#[derive(Default)]
pub struct ConnectionTimer {
    spare: Arc<Mutex<Option<Sleeping>>>,
}

impl Timer for ConnectionTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(Instant::now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        let deadline = deadline.into();
        let sleeping = match lock(&self.spare).take() {
            Some(mut sleeping) => {
                sleeping.as_mut().reset(deadline);
                sleeping
            }
            None => Box::pin(time::sleep_until(deadline)),
        };
        Box::pin(Lent { sleeping: Some(sleeping), spare: self.spare.clone() })
    }
}

/// A timer in use.
struct Lent {
    /// Until this is dropped.
    sleeping: Option<Sleeping>,
    spare: Arc<Mutex<Option<Sleeping>>>,
}

impl Future for Lent {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.sleeping.as_mut().map_or(Poll::Ready(()), |sleeping| sleeping.as_mut().poll(cx))
    }
}

impl Sleep for Lent {}

impl Drop for Lent {
    fn drop(&mut self) {
        *lock(&self.spare) = self.sleeping.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_timer_keeps_its_own_time_although_it_is_the_last_one_again() {
        let timer = ConnectionTimer::default();
        let (start, short, endless) = (Instant::now(), Duration::from_millis(20), Duration::from_secs(3600));
        drop(timer.sleep(endless));
        timer.sleep(short).await;
        timer.sleep(short).await;
        assert!(start.elapsed() >= 2 * short);
        let (mut never, soon) = (timer.sleep(endless), timer.sleep(short));
        tokio::select! {
            () = never.as_mut() => panic!("an hour has not passed"),
            () = soon => {}
        }
    }
}
