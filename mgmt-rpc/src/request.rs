//! What a handler is called with: argument and payload of a call, typed by its row.

use std::marker::PhantomData;

use crate::failure::Failure;
use crate::server::Upload;
use crate::table::{WantArgument, WantPayload};
use crate::untrusted::{Parse, Untrusted};
use crate::wire::Exception;

/// Argument and payload as they came.
pub struct Request {
    /// What followed the first `+` of the call's name.
    pub argument: String,
    /// What followed the header.
    pub payload: Payload,
}

/// The payload as it came.
pub enum Payload {
    /// All of it.
    Bytes(Vec<u8>),
    /// As it arrives, in calls that stream.
    Stream(Upload),
}

/// In a row: the argument or the payload must be empty.
pub enum Empty {}
/// In a row: it must not be empty, and is a `T`.
pub struct Required<T>(PhantomData<T>);
/// In a row: it may be empty, and is a `T` then too.
pub struct Optional<T>(PhantomData<T>);
/// In a row: the payload is handed on as it arrives, of any length.
pub enum Stream {}

/// What a row says of its argument.
pub trait ArgumentSlot {
    /// Whether there must be one.
    const WANT: WantArgument;
    /// What the handler gets.
    type Value;
    /// Checks the grammar.
    ///
    /// # Errors
    /// The first rule that is broken.
    fn read(argument: Untrusted<'_>) -> Result<Self::Value, Exception>;
}

/// What a row says of its payload.
pub trait PayloadSlot {
    /// Whether there must be one.
    const WANT: WantPayload;
    /// What the handler gets.
    type Value;
    /// Takes the payload.
    ///
    /// # Errors
    /// The first rule of its grammar that is broken.
    fn take(payload: Payload) -> Result<Self::Value, Failure>;
}

impl ArgumentSlot for Empty {
    const WANT: WantArgument = WantArgument::None;
    type Value = ();
    fn read(_argument: Untrusted<'_>) -> Result<(), Exception> {
        Ok(())
    }
}

impl<T: Parse> ArgumentSlot for Required<T> {
    const WANT: WantArgument = WantArgument::Required;
    type Value = T;
    fn read(argument: Untrusted<'_>) -> Result<T, Exception> {
        argument.parse()
    }
}

impl<T: Parse> ArgumentSlot for Optional<T> {
    const WANT: WantArgument = WantArgument::Optional;
    type Value = T;
    fn read(argument: Untrusted<'_>) -> Result<T, Exception> {
        argument.parse()
    }
}

impl PayloadSlot for Empty {
    const WANT: WantPayload = WantPayload::Empty;
    type Value = ();
    fn take(_payload: Payload) -> Result<(), Failure> {
        Ok(())
    }
}

impl<T: Parse> PayloadSlot for Required<T> {
    const WANT: WantPayload = WantPayload::Required;
    type Value = T;
    fn take(payload: Payload) -> Result<T, Failure> {
        parse_whole(&payload)
    }
}

impl<T: Parse> PayloadSlot for Optional<T> {
    const WANT: WantPayload = WantPayload::Optional;
    type Value = T;
    fn take(payload: Payload) -> Result<T, Failure> {
        parse_whole(&payload)
    }
}

impl PayloadSlot for Stream {
    const WANT: WantPayload = WantPayload::Stream;
    type Value = Upload;
    fn take(payload: Payload) -> Result<Upload, Failure> {
        match payload {
            Payload::Stream(upload) => Ok(upload),
            Payload::Bytes(_) => Err(Failure::internal("a streaming call was given its payload whole")),
        }
    }
}

fn parse_whole<T: Parse>(payload: &Payload) -> Result<T, Failure> {
    match payload {
        Payload::Bytes(bytes) => Ok(Untrusted::new(bytes).parse()?),
        Payload::Stream(_) => Err(Failure::internal("a call that does not stream was given a stream")),
    }
}
