//! Bodies of requests: read whole, within a limit of bytes and of time.

use super::auth::{AuthenticatedUser, address_of};
use super::error::HttpError;
use crate::model::{Reason, UserId};
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body::Body as _;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Reads a whole body of at most `limit` bytes. A longer one is refused as soon as its length is
/// known.
pub(crate) async fn read_whole(request: Request, limit: usize) -> Result<Bytes, HttpError> {
    let declared =
        request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let says_too_large = declared
        .and_then(|text| text.parse::<u64>().ok())
        .is_some_and(|length| length > limit as u64);
    let body = request.into_body();
    if says_too_large {
        drain(body);
        return Err(too_large(limit));
    }
    match tokio::time::timeout(BODY_DEADLINE, Limited::new(body, limit).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large(limit)),
        Ok(Err(_)) => Err(HttpError::new(Reason::InvalidInput, "The body ended early.")),
        Err(_) => Err(HttpError::new(Reason::InvalidInput, "The body took too long.")),
    }
}

/// Longest time for a body: 64 KiB take less on any line that a call centre uses.
const BODY_DEADLINE: Duration = Duration::from_secs(8);

/// Bodies of one user, and from one address, that may be on their way at once.
const BODIES_PER_USER: usize = 64;
const BODIES_PER_ADDRESS: usize = 512;

/// The bodies that are on their way, of each user and from each address: slow ones take nobody
/// else's place.
#[derive(Debug, Default)]
pub(crate) struct BodiesUnderWay(Mutex<BodyCounts>);

#[derive(Debug, Default)]
struct BodyCounts {
    users: BTreeMap<UserId, usize>,
    addresses: BTreeMap<IpAddr, usize>,
}

/// A body is on its way until it is dropped.
struct BodyGuard<'a> {
    bodies: &'a BodiesUnderWay,
    user: UserId,
    address: IpAddr,
}

impl BodiesUnderWay {
    fn counts(&self) -> MutexGuard<'_, BodyCounts> {
        // A lock that another thread died with holds data that is still whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, user: UserId, address: IpAddr) -> Option<BodyGuard<'_>> {
        let mut counts = self.counts();
        let of_user = counts.users.get(&user).copied().unwrap_or(0);
        let from_address = counts.addresses.get(&address).copied().unwrap_or(0);
        if of_user >= BODIES_PER_USER || from_address >= BODIES_PER_ADDRESS {
            return None;
        }
        counts.users.insert(user.clone(), of_user + 1);
        counts.addresses.insert(address, from_address + 1);
        Some(BodyGuard { bodies: self, user, address })
    }
}

impl Drop for BodyGuard<'_> {
    fn drop(&mut self) {
        let mut counts = self.bodies.counts();
        one_less(&mut counts.users, &self.user);
        one_less(&mut counts.addresses, &self.address);
    }
}

fn one_less<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    match counts.get_mut(key) {
        Some(count) if *count > 1 => *count -= 1,
        Some(_) => drop(counts.remove(key)),
        None => {}
    }
}

/// A layer that reads the whole body, of at most `limit` bytes, before the request takes a place
/// among those that are worked on.
pub(crate) async fn read_first(
    State((bodies, limit)): State<(Arc<BodiesUnderWay>, usize)>,
    request: Request,
    next: Next,
) -> Response {
    let user = request.extensions().get::<AuthenticatedUser>().map(|caller| caller.user.clone());
    let Some(user) = user.filter(|_| !request.body().is_end_stream()) else {
        return next.run(request).await;
    };
    let address = address_of(&request);
    let read = match bodies.begin(user, address) {
        Some(_on_its_way) => {
            let (parts, body) = request.into_parts();
            let whole = Request::from_parts(parts.clone(), body);
            read_whole(whole, limit).await.map(|bytes| Request::from_parts(parts, bytes.into()))
        }
        None => Err(HttpError::new(Reason::TooManyRequests, "Too many requests at once.")),
    };
    match read {
        Ok(request) => next.run(request).await,
        Err(refused) => refused.into_response(),
    }
}

fn too_large(limit: usize) -> HttpError {
    HttpError::new(Reason::TooLarge, format!("The body is larger than {limit} bytes."))
}

/// Bytes of a refused body that are read and dropped: closing a connection on which the client
/// still writes resets it, and the client never sees the answer.
const DRAINED: usize = 16 << 20;
/// Longest time for dropping them.
const DRAINED_FOR: Duration = Duration::from_secs(5);

fn drain(body: Body) {
    tokio::spawn(tokio::time::timeout(DRAINED_FOR, async move {
        let mut body = Limited::new(body, DRAINED);
        while let Some(Ok(_)) = body.frame().await {}
    }));
}
