//! Refused logins: counted, and logged once a minute.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tracing::warn;

/// The time between two log lines.
const INTERVAL: Duration = Duration::from_mins(1);

/// The refused logins since the last log line. The first one is logged at once, later ones once a minute.
#[derive(Clone, Default)]
pub(super) struct Refusals(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// A line was logged less than a minute ago, and a task logs the next.
    is_logged: bool,
    count: u64,
    last: Option<SocketAddr>,
}

impl Refusals {
    /// A login was refused.
    pub(super) fn add(&self, peer: Option<SocketAddr>) {
        let mut state = self.state();
        state.count += 1;
        state.last = peer;
        if state.is_logged {
            return;
        }
        state.is_logged = true;
        log(&mut state);
        drop(state);
        let refusals = self.clone();
        tokio::spawn(async move { refusals.log_later().await });
    }

    /// Logs the next ones after each minute, until there are none.
    async fn log_later(&self) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            let mut state = self.state();
            if state.count == 0 {
                state.is_logged = false;
                return;
            }
            log(&mut state);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn log(state: &mut State) {
    let peer = state.last.map(|peer| peer.to_string());
    warn!(count = state.count, peer, "HTTP logins refused: the token is missing or wrong (api.token)");
    state.count = 0;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_refusal_is_logged_at_once_and_others_once_a_minute() {
        let refusals = Refusals::default();
        let waiting = || {
            let state = refusals.state();
            (state.count, state.is_logged)
        };
        refusals.add(None);
        assert_eq!(waiting(), (0, true));
        for _ in 0..5 {
            refusals.add(Some(([127, 0, 0, 1], 80).into()));
        }
        assert_eq!(waiting(), (5, true));
        tokio::time::sleep(INTERVAL + Duration::from_millis(1)).await;
        assert_eq!(waiting(), (0, true));
        tokio::time::sleep(INTERVAL).await;
        assert_eq!(waiting(), (0, false));
    }
}
