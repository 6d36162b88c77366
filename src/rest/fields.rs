//! `?fields=a,b`: of each object that is read, the members that the client names.

use super::subresources;
use crate::http::error::HttpError;
use crate::model::Reason;
use axum::Json;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// Answers a GET with the members that its query names. Without `fields`, or with `*` among them,
/// objects are whole. The lists that `subresources` asks for stay; what is named and not there is
/// left out.
pub(super) async fn selected(request: Request, next: Next) -> Response {
    let wanted = match *request.method() {
        Method::GET => request.uri().query().and_then(Fields::of),
        _ => None,
    };
    let response = next.run(request).await;
    match wanted {
        Some(wanted) if response.status() == StatusCode::OK => wanted.only(response).await,
        Some(_) | None => response,
    }
}

/// The members that are wanted of each object.
struct Fields(BTreeSet<String>);

impl Fields {
    /// `None`: all of them.
    fn of(query: &str) -> Option<Self> {
        let mut fields = BTreeSet::new();
        let mut lists = BTreeSet::new();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "fields" => {
                    let words = value.split(',').map(str::trim).filter(|word| !word.is_empty());
                    fields.extend(words.map(str::to_owned));
                }
                "subresources" => {
                    let parts = subresources::wanted(Some(&value)).into_iter();
                    lists.extend(parts.map(|part| part.as_str().to_owned()));
                }
                _ => {}
            }
        }
        if fields.is_empty() || fields.contains("*") {
            return None;
        }
        fields.append(&mut lists);
        Some(Self(fields))
    }

    async fn only(&self, response: Response) -> Response {
        let (mut parts, body) = response.into_parts();
        // Our own answers are as long as they are, and in memory already.
        let Ok(bytes) = to_bytes(body, usize::MAX).await else {
            return HttpError::new(Reason::Internal, "Internal error.").into_response();
        };
        let Ok(Value::Object(mut reply)) = serde_json::from_slice(&bytes) else {
            return (parts, bytes).into_response();
        };
        for value in reply.values_mut() {
            match value {
                Value::Object(one) => self.keep(one),
                Value::Array(list) => {
                    list.iter_mut().filter_map(Value::as_object_mut).for_each(|one| self.keep(one))
                }
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
            }
        }
        parts.headers.remove(header::CONTENT_LENGTH);
        (parts, Json(reply)).into_response()
    }

    fn keep(&self, one: &mut Map<String, Value>) {
        one.retain(|key, _| self.0.contains(key));
    }
}
