//! One connection, from accept to close: one request, one answer.

use std::io;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::is_gone;
use super::socket::{Arrival, Socket};
use super::upload::{Close, Upload};
use crate::config::Limits;
use crate::cx::Directory;
use crate::dispatch::{Body, Response, Service};
use crate::failure::{limit_reached, too_long};
use crate::reply::EventStream;
use crate::table::{Cancel, Door, WantPayload};
use crate::wire::{BadHeader, Event, Exception, Header};

/// How long a client may take nothing of an answer before it is given up.
const ANSWER_STALL: Duration = Duration::from_secs(60);

/// How long a client that was answered before it had sent everything has to read the answer.
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// What came of reading a request.
enum Arrived {
    /// All of it.
    Whole(Header, Vec<u8>),
    /// The header, and more than may follow it.
    TooLong(Header),
    /// The header of a streaming call, and what had come behind it.
    Streaming(Header, Vec<u8>),
}

/// Why there is no request.
enum Unreadable {
    /// To be answered.
    Answer(Exception),
    /// Nobody is there to be answered, or nothing was asked.
    Close,
}

/// Reads the request, has it carried out, and writes the answer.
pub(super) async fn converse<H: Directory>(
    socket: &Socket,
    door: Door,
    service: &Service<H>,
    stop: &CancellationToken,
) {
    let deadline = Instant::now() + service.limits().read_timeout();
    let arrived = tokio::select! {
        arrived = read_request(socket, door, service, deadline) => arrived,
        () = stop.cancelled() => Err(Unreadable::Close),
    };
    let (header, body, end_seen) = match arrived {
        Ok(Arrived::Whole(header, payload)) => (header, Body::Whole(payload), true),
        Ok(Arrived::TooLong(header)) => (header, Body::TooLong, false),
        Ok(Arrived::Streaming(header, head)) => {
            let timeout = service.limits().read_timeout();
            let close = match service.rule(door, &header.method) {
                Some((_, Cancel::Never)) => Close::Ends,
                Some((_, Cancel::InPayload | Cancel::OnHangUp)) | None => Close::BreaksOff,
            };
            let upload = Upload::new(socket.clone(), (head, close), timeout, stop.clone());
            (header, Body::Stream(upload), false)
        }
        Err(Unreadable::Answer(exception)) => {
            tracing::info!(error = %exception, "unreadable request");
            return answer(socket, service.encode(&exception), false).await;
        }
        Err(Unreadable::Close) => return,
    };
    let rule = service.rule(door, &header.method);
    let cancelled = match rule {
        Some((_, Cancel::OnHangUp) | (WantPayload::Stream, _)) => stop.child_token(),
        Some(_) | None => CancellationToken::new(),
    };
    // Kept until the connection ends: it counts among its source's.
    let (response, _place) = {
        let mut call = std::pin::pin!(service.call(door, header, body, cancelled.clone()));
        match rule {
            Some((_, Cancel::OnHangUp)) => tokio::select! {
                response = &mut call => response,
                _ = socket.hung_up() => {
                    cancelled.cancel();
                    call.await
                }
            },
            Some((_, Cancel::Never | Cancel::InPayload)) | None => call.await,
        }
    };
    match response {
        Response::Bytes(bytes) => answer(socket, Some(bytes), end_seen).await,
        Response::Silence => answer(socket, None, end_seen).await,
        Response::Events(events) => send_events(socket, events, stop).await,
    }
}

async fn read_request<H: Directory>(
    socket: &Socket,
    door: Door,
    service: &Service<H>,
    deadline: Instant,
) -> Result<Arrived, Unreadable> {
    let limit = service.limits().request_length();
    let mut bytes = Vec::new();
    let mut searched = 0;
    let end = loop {
        let fresh = bytes.get(searched..).unwrap_or_default();
        if let Some(end) = fresh.iter().position(|byte| *byte == 0) {
            break searched.saturating_add(end);
        }
        searched = bytes.len();
        if searched >= limit {
            return Err(Unreadable::Answer(too_long(limit)));
        }
        match socket.read_into(&mut bytes, limit, deadline).await {
            Ok(Arrival::Bytes) => {}
            Ok(Arrival::End) | Err(_) if bytes.is_empty() => return Err(Unreadable::Close),
            Ok(Arrival::End) => return Err(Unreadable::Answer(BadHeader::NoEnd.exception())),
            Err(error) => return Err(unreadable(&error, service.limits())),
        }
    };
    let mut payload = bytes.split_off(end.saturating_add(1));
    bytes.truncate(end);
    let header = Header::decode(&bytes).map_err(|bad| Unreadable::Answer(bad.exception()))?;
    if let Some((WantPayload::Stream, _)) = service.rule(door, &header.method) {
        return Ok(Arrived::Streaming(header, payload));
    }
    let room = limit.saturating_sub(end.saturating_add(1));
    loop {
        // One byte past the limit tells a request of exactly that length from a longer one.
        if payload.len() > room {
            return Ok(Arrived::TooLong(header));
        }
        match socket.read_into(&mut payload, room.saturating_add(1), deadline).await {
            Ok(Arrival::Bytes) => {}
            Ok(Arrival::End) => return Ok(Arrived::Whole(header, payload)),
            Err(error) => return Err(unreadable(&error, service.limits())),
        }
    }
}

/// What becomes of a connection that could not be read from.
fn unreadable(error: &io::Error, limits: &Limits) -> Unreadable {
    if error.kind() == io::ErrorKind::TimedOut {
        return Unreadable::Answer(limit_reached("read_timeout_s", limits.read_timeout_s));
    }
    if !is_gone(error) {
        tracing::debug!(%error, "connection closed without a request");
    }
    Unreadable::Close
}

async fn answer(socket: &Socket, bytes: Option<Vec<u8>>, end_seen: bool) {
    let Some(bytes) = bytes else { return };
    match socket.write_all(&bytes, ANSWER_STALL).await {
        Ok(()) => {
            socket.half_close();
            if !end_seen {
                socket.drain(DRAIN_TIME).await;
            }
        }
        Err(error) if is_gone(&error) => tracing::debug!("the client did not wait for its answer"),
        Err(error) => tracing::info!(%error, "the client did not take its answer"),
    }
}

/// Sends events until there are no more, the client leaves or takes nothing, or the daemon ends.
async fn send_events(socket: &Socket, mut events: Box<dyn EventStream>, stop: &CancellationToken) {
    let sending = async {
        socket.write_all(&Event::connection_established().encode(), ANSWER_STALL).await?;
        while let Some(event) = events.next().await {
            socket.write_all(&event.encode(), ANSWER_STALL).await?;
        }
        io::Result::Ok(())
    };
    let sent = tokio::select! {
        sent = sending => sent,
        gone = socket.hung_up() => gone,
        () = stop.cancelled() => Ok(()),
    };
    match sent {
        Ok(()) => socket.half_close(),
        Err(error) if is_gone(&error) => {}
        Err(error) => tracing::info!(%error, "a subscriber to events is cut off"),
    }
}
