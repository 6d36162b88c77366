//! The documents of the API, for people and for generators: OpenAPI of what is asked, AsyncAPI of
//! what is told, and a page that shows them.
//!
//! Handlers and JSON shapes describe themselves, by utoipa; `operations` describes what is posted,
//! `refusals` what is answered instead. Here it becomes one document.

mod events;
pub(in crate::rest) mod operations;
mod page;
mod refusals;
mod schemas;

use crate::http::auth;
use crate::http::gws_json::Uris;
use crate::model::Reason;
use axum::Router;
use axum::http::header;
use axum::routing::get;
use operations::ResourceKind;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use utoipa::openapi::path::{HttpMethod, OperationBuilder, PathItem};
use utoipa::openapi::schema::Type;
use utoipa::openapi::{self, Content, Object, ResponseBuilder};

/// Where the documents and their page are. Open to everybody: they say nothing of anybody.
pub(super) fn routes<S: Clone + Send + Sync + 'static>(
    closed: openapi::OpenApi,
    open: openapi::OpenApi,
    public_url: &str,
) -> Router<S> {
    let documents = [
        (OPENAPI, openapi_document(closed, open, public_url)),
        (ASYNCAPI, events::asyncapi(public_url)),
    ];
    documents.into_iter().fold(page::routes(), |router, (path, document)| {
        let text: Arc<str> = document.to_string().into();
        let answer = async move || ([(header::CONTENT_TYPE, "application/json")], text.to_string());
        router.route(path, get(answer))
    })
}

const OPENAPI: &str = "/api/v2/openapi.json";
const ASYNCAPI: &str = "/api/v2/asyncapi.json";

/// What the OpenAPI document says of the documents and of their page.
fn own_paths() -> [(&'static str, PathItem); 3] {
    let of = |id: &str, summary: &str, media_type: &str, schema: Type| {
        let content = Content::new(Some(Object::with_type(schema)));
        OperationBuilder::new()
            .operation_id(Some(id))
            .summary(Some(summary))
            .tag("documents")
            .response("200", ResponseBuilder::new().content(media_type, content))
    };
    let json = |id, summary| of(id, summary, "application/json", Type::Object);
    let html = |id, summary| of(id, summary, "text/html", Type::String);
    [
        (OPENAPI, json("read_openapi", "This document.")),
        (ASYNCAPI, json("read_asyncapi", "What is told over CometD: the AsyncAPI document.")),
        (page::PATH, html("read_docs", "A page that shows both documents.")),
    ]
    .map(|(path, operation)| (path, PathItem::new(HttpMethod::Get, operation)))
}

const DESCRIPTION: &str = "\
Supervisor monitoring for contact centres: the operations of the Genesys Web Services API v2.

An operation is posted to its resource with its `operationName`. `{\"statusCode\":0}` says that it \
is accepted; what comes of it arrives over CometD at `/api/v2/notifications`, see the AsyncAPI \
document at `/api/v2/asyncapi.json`. A refusal has a `statusCode` and a `statusMessage` and has \
changed nothing. Parameters that are not known are let be.

A login is HTTP Basic; its answer sets a cookie that serves instead. Where issuers are configured, \
an access token of theirs (RFC 9068) is a login, and browsers log in at `/api/v2/login`.";

fn info(title: &str, description: &str) -> Value {
    json!({
        "title": title,
        "version": env!("CARGO_PKG_VERSION"),
        "description": description,
        "license": {
            "name": "Apache-2.0",
            "url": "https://www.apache.org/licenses/LICENSE-2.0.html",
        },
    })
}

/// What an admin changes is below these.
const ENTRIES: [&str; 3] = ["/api/v2/users", "/api/v2/devices", "/api/v2/groups"];

/// Whether a login is needed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Login {
    Needed,
    NotNeeded,
}

/// From what the handlers say of themselves, for clients that reach us under this URL.
fn openapi_document(
    closed: openapi::OpenApi,
    mut open: openapi::OpenApi,
    public_url: &str,
) -> Value {
    open.paths.paths.extend(own_paths().map(|(path, item)| (path.to_owned(), item)));
    let uris = Uris::new(public_url);
    let mut paths = BTreeMap::new();
    let mut schemas = operations::schemas(&uris);
    for (document, login) in [(closed, Login::Needed), (open, Login::NotNeeded)] {
        let components = document.components.unwrap_or_default().schemas;
        for (name, schema) in &components {
            schemas.insert(name.clone(), schemas::finished(name, schemas::as_json(schema)));
        }
        for (path, item) in document.paths.paths {
            let methods = [
                ("get", item.get),
                ("post", item.post),
                ("put", item.put),
                ("delete", item.delete),
            ];
            let methods = methods.into_iter().filter_map(|(method, operation)| {
                let finished = finished(&path, method, operation?, login, &uris);
                Some((method.to_owned(), finished))
            });
            let methods = methods.collect::<Map<_, _>>();
            paths.insert(path, Value::Object(methods));
        }
    }
    let paths = Value::Object(paths.into_iter().collect());
    let schemas = schemas::referred_to(&[&paths], schemas);
    json!({
        "openapi": "3.1.0",
        "info": info("Undertone", DESCRIPTION),
        "servers": [{"url": public_url.trim_end_matches('/')}],
        "security": [{"basic": []}, {"cookie": []}, {"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {
                refusals::WRONG_METHOD: refusals::wrong_method(),
                refusals::INVALID_TOKEN: refusals::invalid_token(),
            },
            "securitySchemes": {
                "basic": {"type": "http", "scheme": "basic"},
                "cookie": {"type": "apiKey", "in": "cookie", "name": auth::SESSION_COOKIE},
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "at+jwt"},
            },
        },
    })
}

/// What a handler says of itself, with what holds for all of its kind.
fn finished(
    path: &str,
    method: &str,
    operation: openapi::path::Operation,
    login: Login,
    uris: &Uris,
) -> Value {
    let described = serde_json::to_value(operation)
        .unwrap_or_else(|_| unreachable!("an operation is plain data"));
    let Value::Object(mut described) = described else {
        return described;
    };
    let resource =
        ResourceKind::ALL.into_iter().find(|resource| method == "post" && resource.path() == path);
    described.entry("tags").or_insert_with(|| json!([tag(path)]));
    if let Some(resource) = resource {
        described.insert("summary".to_owned(), json!(resource.summary()));
        described.remove("description");
        described.insert("requestBody".to_owned(), request_body(resource, uris));
    }
    let mut responses = Map::new();
    let said = members(described.remove("responses"));
    // A page that sends its browser elsewhere has no other answer.
    let says_all = said.keys().any(|status| status.starts_with('2'));
    for (status, mut response) in said {
        if status == "default" && says_all {
            continue;
        }
        if let Some(response) = response.as_object_mut() {
            let text = match method {
                "post" => "Accepted. What comes of it arrives over CometD.",
                _ => "What was asked for.",
            };
            response.entry("description").or_insert_with(|| json!(text));
        }
        responses.insert(status, response);
    }
    let mut reasons = reasons(method, resource, login);
    if method != "get" && ENTRIES.iter().any(|entries| path.starts_with(entries)) {
        reasons.extend(refusals::OF_ENTRIES);
    }
    responses.extend(refusals::responses(&reasons));
    let wrong_method = format!("#/components/responses/{}", refusals::WRONG_METHOD);
    responses.insert("405".to_owned(), json!({"$ref": wrong_method}));
    let invalid_token = format!("#/components/responses/{}", refusals::INVALID_TOKEN);
    responses.insert("401".to_owned(), json!({"$ref": invalid_token}));
    described.insert("responses".to_owned(), Value::Object(responses));
    if login == Login::NotNeeded {
        described.insert("security".to_owned(), json!([]));
    }
    Value::Object(described)
}

fn members(value: Option<Value>) -> Map<String, Value> {
    match value {
        Some(Value::Object(members)) => members,
        _ => Map::new(),
    }
}

/// The kind of thing that a path is about: its first word, behind `me`.
fn tag(path: &str) -> &str {
    let mut words = path.trim_start_matches("/api/v2/").split('/');
    words.find(|word| *word != "me").unwrap_or("me")
}

fn request_body(resource: ResourceKind, uris: &Uris) -> Value {
    let schema = json!({"$ref": format!("#/components/schemas/{}", resource.schema_name())});
    let examples = operations::examples(resource, uris);
    json!({
        "required": true,
        "content": {"application/json": {"schema": schema, "examples": examples}},
    })
}

fn reasons(method: &str, resource: Option<ResourceKind>, login: Login) -> BTreeSet<Reason> {
    let of_kind = match (login, method) {
        (Login::NotNeeded, _) => refusals::OF_OPEN,
        (Login::Needed, "get") => refusals::OF_READS,
        (Login::Needed, _) => refusals::OF_OPERATIONS,
    };
    let of_resource = resource
        .into_iter()
        .flat_map(ResourceKind::operations)
        .flat_map(|operation| operations::describe(operation).refusals().into_keys());
    of_kind.iter().copied().chain(of_resource).collect()
}
