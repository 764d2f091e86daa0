//! Listening, and stopping without losing anybody's answer.

use super::App;
use crate::error::{Error, Kind, Result};
use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// How long a client may take over the head of a request, and a connection may lie idle between two.
const HEAD: Duration = Duration::from_secs(75);

/// Where to listen.
pub struct Listeners {
    pub public: TcpListener,
    /// For control; without it there is none.
    pub admin: Option<TcpListener>,
}

/// Serves until SIGTERM or SIGINT, then finishes what was begun. Gives the number of requests that `drain` was too short for.
///
/// # Errors
/// Signal handlers cannot be installed; the engine has ended, because its device failed: whoever supervises the server must start it anew.
pub async fn serve(app: App, listeners: Listeners, drain: Duration) -> Result<usize> {
    let refused = |e| Error::new(Kind::Io, format!("cannot install signal handlers: {e}"));
    let mut term = signal(SignalKind::terminate()).map_err(refused)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(refused)?;
    let sampler = tokio::spawn(sample(app.clone()));
    let admin =
        listeners.admin.map(|listener| tokio::spawn(listen(listener, app.admin_router(), std::future::pending())));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let stopped = async {
        let _ = stopped.await;
    };
    let public = tokio::spawn(listen(listeners.public, app.router(), stopped));
    let died = tokio::select! {
        _ = term.recv() => None,
        _ = interrupt.recv() => None,
        why = death(&app) => Some(why),
    };
    app.draining.store(true, Ordering::Relaxed);
    // Its receiver is gone only if listening has ended.
    let _ = stop.send(());
    let left = tokio::select! {
        finished = tokio::time::timeout(drain, public) => if finished.is_ok() { 0 } else { app.metrics.in_flight() },
        // A second signal is impatience.
        _ = term.recv() => app.metrics.in_flight(),
        _ = interrupt.recv() => app.metrics.in_flight(),
    };
    sampler.abort();
    if let Some(admin) = admin {
        admin.abort();
    }
    match died {
        Some(why) => Err(Error::device(format!("{why}; the server has ended, start it again"))),
        None => Ok(left),
    }
}

/// Waits until nothing can be answered any more; why.
async fn death(app: &App) -> String {
    let mut often = tokio::time::interval(Duration::from_millis(100));
    loop {
        often.tick().await;
        if let Some(why) = app.service.dead() {
            return why;
        }
    }
}

async fn sample(app: App) {
    let mut second = tokio::time::interval(Duration::from_secs(1));
    loop {
        second.tick().await;
        app.metrics.sample(&app);
    }
}

/// Accepts connections until `stop`, then lets those that answer finish.
async fn listen(listener: TcpListener, router: Router, stop: impl Future<Output = ()>) {
    let connections = GracefulShutdown::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(_) => {
                // Out of descriptors, most likely: those that close make room.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD);
        let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router.clone()));
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            // A client that breaks off is its own affair.
            let _ = connection.await;
        });
    }
    drop(listener);
    connections.shutdown().await;
}
