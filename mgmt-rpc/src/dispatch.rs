//! The one path from a request to its answer.
//!
//! The order of checks, of which the first that fails answers: the header's grammar (already done) · the
//! source exists · policy, for sources other than dom0 · the destination exists · the method exists · the
//! payload is wanted or not, and not too long · the argument is wanted or not, and its grammar · the
//! destination is one that the call takes · what the handler checks. To a source other than dom0, policy's
//! refusal and everything that would tell whether something exists are the same bytes.
//!
//! Each call is logged once, here, with its outcome and duration. A handler runs as a task of its own: it
//! goes on when the client leaves, and a panic in it ends nothing but its call.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use libvirt_qubes::ids::VmName;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::config::Limits;
use crate::cx::{Cx, Directory};
use crate::failure::{Failure, access_denied, chain, internal_error, limit_reached, too_long};
use crate::permission::{Decision, Policy, Question};
use crate::reply::{EventStream, Reply};
use crate::request::{Payload, Request};
use crate::server::Upload;
use crate::table::{Access, Cancel, Destination, Door, Found, Table, WantArgument, WantPayload};
use crate::untrusted::Untrusted;
use crate::wire::exception::quoted;
use crate::wire::header::{BadHeader, malformed};
use crate::wire::{Class, Exception, Header, VmRef, answer::encode_ok};

/// How exceptions are told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Manners {
    /// Whether they carry the causes of errors as a traceback.
    pub tracebacks: Tracebacks,
    /// Whether refusals are answered.
    pub refusals: Refusals,
}

/// Whether exceptions carry the causes of errors as a traceback.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tracebacks {
    /// They do not.
    #[default]
    Off,
    /// They do: debug mode.
    On,
}

/// What becomes of `PermissionDenied` and `ProtocolError`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Refusals {
    /// They are answered.
    #[default]
    Answered,
    /// The connection is closed without a byte, as by the deployed releases.
    Silent,
}

/// What answers requests: the world, the table of calls, and who may make them.
pub struct Service<H: 'static> {
    host: Arc<H>,
    table: Table<H>,
    policy: Box<dyn Policy>,
    limits: Arc<Limits>,
    manners: Manners,
    sources: Arc<Sources>,
}

/// The payload of a request, as far as the server took it.
pub enum Body {
    /// All of it.
    Whole(Vec<u8>),
    /// More than the limit.
    TooLong,
    /// Of a call whose row says that it streams.
    Stream(Upload),
}

/// What is sent back.
pub enum Response {
    /// An OK or EXCEPTION message, whole.
    Bytes(Vec<u8>),
    /// Events.
    Events(Box<dyn EventStream>),
    /// The connection is closed without a byte.
    Silence,
}

impl<H: Directory> Service<H> {
    /// A service for these calls.
    pub fn new(host: Arc<H>, table: Table<H>, policy: impl Policy, limits: Limits, manners: Manners) -> Self {
        Self {
            host,
            table,
            policy: Box::new(policy),
            limits: Arc::new(limits),
            manners,
            sources: Arc::new(Sources::default()),
        }
    }

    /// The limits of the configuration.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What the calls are carried out on.
    pub fn host(&self) -> &Arc<H> {
        &self.host
    }

    /// Answers a request that is there whole, as a connection to a main socket would. A call whose payload is read as it comes needs a
    /// connection, and is refused here.
    pub async fn answer(&self, request: &[u8]) -> Response {
        let refuse =
            |exception: Exception| self.encode(&exception).map_or(Response::Silence, Response::Bytes);
        let limit = self.limits.request_length();
        let Some(end) = request.iter().position(|byte| *byte == 0).filter(|end| *end < limit) else {
            let bad = if request.len() < limit { BadHeader::NoEnd.exception() } else { too_long(limit) };
            return refuse(bad);
        };
        let (head, rest) = request.split_at(end);
        let header = match Header::decode(head) {
            Ok(header) => header,
            Err(bad) => return refuse(bad.exception()),
        };
        let payload = rest.get(1..).unwrap_or_default();
        let body = match self.rule(Door::Main, &header.method) {
            Some((WantPayload::Stream, _)) => return refuse(malformed("this call needs a connection")),
            _ if request.len() > limit => Body::TooLong,
            _ => Body::Whole(payload.to_vec()),
        };
        let (response, _place) = self.call(Door::Main, header, body, CancellationToken::new()).await;
        response
    }

    /// How the payload of a method is taken, and what a client's close does to it; `None` if there is no
    /// such method.
    pub(crate) fn rule(&self, door: Door, method: &str) -> Option<(WantPayload, Cancel)> {
        self.table.find(door, method).map(|found| (found.row.payload, found.row.cancel))
    }

    /// The bytes of an exception; `None` if it is one that is not answered.
    pub(crate) fn encode(&self, exception: &Exception) -> Option<Vec<u8>> {
        match self.manners.refusals {
            Refusals::Silent if exception.is_silent_in_releases() => None,
            Refusals::Silent | Refusals::Answered => Some(exception.encode()),
        }
    }

    /// Carries out one call. Dropping the future gives up the answer, not the call. Besides the answer there
    /// is the connection's place among those of its source, which counts until it is dropped.
    pub(crate) async fn call(
        &self,
        door: Door,
        header: Header,
        body: Body,
        cancelled: CancellationToken,
    ) -> (Response, Option<Place>) {
        let started = Instant::now();
        let Header { method, argument, source, destination } = &header;
        let named = (method.clone(), argument.clone(), source.to_string(), destination.to_string());
        let row = self.table.find(door, method);
        let is_dom0 = source.is_dom0();
        let (result, place) = match self.place(source) {
            Ok((source, place)) => (self.carry_out(row, header, source, body, cancelled).await, place),
            Err(failure) => (Err(failure), None),
        };
        let (method, argument, source, destination) = named;
        let took_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let response = match result {
            Ok(response) => {
                if row.is_some_and(|found| found.row.access == Access::Read) {
                    tracing::debug!(method, ?argument, source, destination, took_us, "call");
                } else {
                    tracing::info!(method, ?argument, source, destination, took_us, "call");
                }
                response
            }
            Err(failure) => {
                let cause = failure_text(&failure);
                let exception = self.exception(failure, is_dom0);
                tracing::info!(
                    method, ?argument, source, destination, took_us, cause,
                    answered = %exception, "call failed"
                );
                self.encode(&exception).map_or(Response::Silence, Response::Bytes)
            }
        };
        (response, place)
    }

    /// The source's name, and the connection's place among its.
    fn place(&self, source: &VmRef) -> Result<(VmName, Option<Place>), Failure> {
        let named = source.to_string();
        let name = self.host.find(source).ok_or_else(|| {
            // Whoever may connect may know which VMs there are: this is told to all.
            Exception::new(Class::QubesVMNotFoundError, "No such domain: %s", [quoted(&named)])
        })?;
        if name.is_dom0() {
            return Ok((name, None));
        }
        let most = self.limits.connections_per_source.get();
        let place = Place::take(&self.sources, &name, most)
            .ok_or_else(|| limit_reached("connections_per_source", most))?;
        Ok((name, Some(place)))
    }

    async fn carry_out(
        &self,
        found: Option<Found<H>>,
        header: Header,
        source: VmName,
        body: Body,
        cancelled: CancellationToken,
    ) -> Result<Response, Failure> {
        let Header { method, argument, destination, .. } = header;
        if !source.is_dom0() {
            let question =
                Question { method: &method, argument: &argument, source: &source, destination: &destination };
            match self.policy.decide(&question) {
                Decision::Allow | Decision::Ask => {}
                Decision::Deny => return Err(Failure::Denied),
            }
        }
        let named = self.host.find(&destination);
        let destination = named.ok_or_else(|| self.host.missing(&destination))?;
        let Some(found) = found else {
            return Err(Failure::Absent(protocol_error("no such method: %s", &quoted(&method))));
        };
        let payload = self.check_payload(found, body)?;
        check_argument(found, &argument)?;
        check_destination(found, &destination)?;
        let Found { row, dialect, class } = found;
        let cx = Cx {
            host: Arc::clone(&self.host),
            dialect,
            source,
            destination,
            class,
            limits: Arc::clone(&self.limits),
            cancelled,
        };
        let handler = row.handler;
        let task = tokio::spawn(async move { handler(&cx, Request { argument, payload }).await });
        match task.await {
            Ok(Ok(Reply::Content(content))) => {
                Ok(Response::Bytes(encode_ok(&row.encoder(dialect)(&content))))
            }
            Ok(Ok(Reply::Events(events))) => Ok(Response::Events(events)),
            Ok(Err(failure)) => Err(failure),
            Err(broken) => Err(Failure::internal(match broken.try_into_panic() {
                Ok(panic) => format!("panic: {}", panic_text(&*panic)),
                Err(aborted) => aborted.to_string(),
            })),
        }
    }

    fn check_payload(&self, found: Found<H>, body: Body) -> Result<Payload, Failure> {
        let bytes = match body {
            Body::Stream(upload) => return Ok(Payload::Stream(upload)),
            Body::TooLong => return Err(too_long(self.limits.request_length()).into()),
            Body::Whole(bytes) => bytes,
        };
        match (found.row.payload, bytes.is_empty()) {
            (WantPayload::Empty, false) => Err(protocol_error("unexpected payload", "").into()),
            (WantPayload::Required, true) => Err(protocol_error("expected payload", "").into()),
            (WantPayload::Empty | WantPayload::Optional | WantPayload::Required | WantPayload::Stream, _) => {
                Ok(Payload::Bytes(bytes))
            }
        }
    }

    /// What the source may read of a failure.
    fn exception(&self, failure: Failure, is_dom0: bool) -> Exception {
        match failure {
            Failure::Exception(exception) => exception,
            Failure::Absent(exception) if is_dom0 => exception,
            Failure::Absent(_) | Failure::Denied => access_denied(),
            Failure::Internal(cause) => {
                let id = log_id();
                let cause = chain(&*cause);
                tracing::error!(log_id = id, cause, "internal error");
                match self.manners.tracebacks {
                    Tracebacks::On => internal_error(&id).with_traceback(cause),
                    Tracebacks::Off => internal_error(&id),
                }
            }
        }
    }
}

fn check_argument<H>(found: Found<H>, argument: &str) -> Result<(), Exception> {
    match (found.row.argument, argument.is_empty()) {
        (WantArgument::None, false) => Err(protocol_error("unexpected argument", "")),
        (WantArgument::Required, true) => Err(protocol_error("expected an argument", "")),
        (WantArgument::None | WantArgument::Required | WantArgument::Optional, _) => {
            (found.row.check_argument)(Untrusted::new(argument.as_bytes()))
        }
    }
}

fn check_destination<H>(found: Found<H>, destination: &VmName) -> Result<(), Exception> {
    match (found.row.destination, destination.is_dom0()) {
        (Destination::Dom0, false) => Err(protocol_error("expected destination to be AdminVM", "")),
        (Destination::Vm, true) => Err(protocol_error("expected destination to not be AdminVM", "")),
        (Destination::Dom0 | Destination::Vm | Destination::Any, _) => Ok(()),
    }
}

fn protocol_error(format: &'static str, field: &str) -> Exception {
    match field {
        "" => Exception::plain(Class::ProtocolError, format),
        field => Exception::new(Class::ProtocolError, format, [field]),
    }
}

/// What the log says of a failure besides the answer, which may tell less.
fn failure_text(failure: &Failure) -> Option<String> {
    match failure {
        Failure::Absent(exception) => Some(exception.to_string()),
        Failure::Denied => Some("policy".to_owned()),
        Failure::Exception(_) | Failure::Internal(_) => None,
    }
}

fn log_id() -> String {
    let id = Uuid::new_v4().simple().to_string();
    id.get(..8).unwrap_or(&id).to_owned()
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("of an unknown type")
}

/// How many connections each source but dom0 has.
#[derive(Default)]
struct Sources(Mutex<HashMap<VmName, u32>>);

/// A connection's place among those of its source; given back when it is dropped.
pub(crate) struct Place {
    sources: Arc<Sources>,
    source: VmName,
}

impl Place {
    fn take(sources: &Arc<Sources>, source: &VmName, most: u32) -> Option<Self> {
        let mut counts = sources.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(source.clone()).or_default();
        if *count >= most {
            return None;
        }
        *count = count.saturating_add(1);
        Some(Self { sources: Arc::clone(sources), source: source.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.sources.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.source) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.source);
            }
        }
    }
}
