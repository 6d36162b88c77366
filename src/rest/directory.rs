//! Users, their groups, and the contacts by which a supervisor finds an agent's number.

use super::{
    ErrorBody, IdPath, Members, NumberQuery, OfNumber, Read, ReadQuery, Reply, RequestContext,
    RestState, id, reply, shortened, unexpected,
};
use crate::http::error::HttpError;
use crate::http::gws_json::{self, ContactJson, DirectoryUserJson, GroupJson};
use crate::model::{Answer, Query as Wanted, Refusal, UserId};
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Groups {
    Whole { groups: Vec<GroupJson> },
    Uris { uris: Vec<String> },
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OneGroup {
    group: GroupJson,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Contacts {
    Whole { contacts: Vec<ContactJson> },
    Uris { uris: Vec<String> },
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OneContact {
    contact: ContactJson,
}

/// Which kind of group or contact is wanted.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct OfType {
    /// AgentGroup of groups, User of contacts; there is nothing of any other type.
    #[serde(rename = "type")]
    kind: Option<String>,
}

type OfTypeQuery = Result<Query<OfType>, QueryRejection>;

impl OfType {
    fn is(&self, kind: &str) -> bool {
        self.kind.as_deref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(kind))
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Users {
    Whole { users: Vec<DirectoryUserJson> },
    Uris { uris: Vec<String> },
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OneDirectoryUser {
    user: DirectoryUserJson,
}

/// The user that asks; for an admin all.
#[utoipa::path(
    get, path = "/api/v2/users", params(Read),
    responses(
        (status = 200, description = "The users.", body = Reply<Users>),
        (status = "default", body = ErrorBody)
    )
)]
pub(super) async fn read_users(
    State(rest): State<RestState>,
    from: RequestContext,
    query: ReadQuery,
) -> Result<Json<Reply<Users>>, HttpError> {
    let read = super::read(query)?;
    let users: Vec<DirectoryUserJson> = match rest.read(&from, Wanted::Users).await? {
        Answer::Users(views) => {
            views.iter().map(|view| gws_json::directory_user(&rest.uris, view)).collect()
        }
        other => return Err(unexpected(&other)),
    };
    Ok(reply(match read.fields {
        Some(_) => Users::Whole { users },
        None => Users::Uris { uris: users.into_iter().map(|user| user.uri).collect() },
    }))
}

/// A user: the one that asks, and any for an admin.
#[utoipa::path(
    get, path = "/api/v2/users/{id}",
    params(("id" = String, Path, description = "a user"), Members),
    responses(
        (status = 200, description = "The user.", body = Reply<OneDirectoryUser>),
        (status = "default", body = ErrorBody)
    )
)]
pub(super) async fn read_user(
    State(rest): State<RestState>,
    from: RequestContext,
    path: IdPath,
) -> Result<Json<Reply<OneDirectoryUser>>, HttpError> {
    match rest.read(&from, Wanted::User(id("/users", path)?)).await? {
        Answer::User(view) => {
            Ok(reply(OneDirectoryUser { user: gws_json::directory_user(&rest.uris, &view) }))
        }
        other => Err(unexpected(&other)),
    }
}

/// The groups of the answer to a read.
pub(super) async fn groups(
    rest: &RestState,
    from: &RequestContext,
    wanted: Wanted,
) -> Result<Vec<GroupJson>, HttpError> {
    match rest.read(from, wanted).await? {
        Answer::Groups(views) => {
            Ok(views.iter().map(|view| gws_json::group(&rest.uris, view)).collect())
        }
        other => Err(unexpected(&other)),
    }
}

async fn list_groups(
    rest: &RestState,
    from: &RequestContext,
    (query, kind): (ReadQuery, OfTypeQuery),
    wanted: Wanted,
) -> Result<Json<Reply<Groups>>, HttpError> {
    let (read, kind) = (super::read(query)?, super::read(kind)?);
    let mut groups = groups(rest, from, wanted).await?;
    groups.retain(|_| kind.is(GroupJson::TYPE));
    Ok(reply(match read.fields {
        Some(_) => Groups::Whole { groups },
        None => Groups::Uris { uris: groups.into_iter().map(|group| group.uri).collect() },
    }))
}

/// The groups that name the user as an agent or a supervisor.
#[utoipa::path(
    get, path = "/api/v2/me/groups", params(Read, OfType),
    responses(
        (status = 200, description = "The groups.", body = Reply<Groups>),
        (status = "default", body = ErrorBody)
    )
)]
pub(super) async fn read_my_groups(
    State(rest): State<RestState>,
    from: RequestContext,
    query: ReadQuery,
    kind: OfTypeQuery,
) -> Result<Json<Reply<Groups>>, HttpError> {
    list_groups(&rest, &from, (query, kind), Wanted::MyGroups).await
}

/// The groups of which the user may know: the own ones, and all for an admin.
#[utoipa::path(
    get, path = "/api/v2/groups", params(Read, OfType),
    responses(
        (status = 200, description = "The groups.", body = Reply<Groups>),
        (status = "default", body = ErrorBody)
    )
)]
pub(super) async fn read_groups(
    State(rest): State<RestState>,
    from: RequestContext,
    query: ReadQuery,
    kind: OfTypeQuery,
) -> Result<Json<Reply<Groups>>, HttpError> {
    list_groups(&rest, &from, (query, kind), Wanted::Groups).await
}

/// One of those groups.
#[utoipa::path(
    get, path = "/api/v2/groups/{id}",
    params(("id" = String, Path, description = "a group"), Members),
    responses(
        (status = 200, description = "The group.", body = Reply<OneGroup>),
        (status = "default", body = ErrorBody)
    )
)]
pub(super) async fn read_group(
    State(rest): State<RestState>,
    from: RequestContext,
    path: IdPath,
) -> Result<Json<Reply<OneGroup>>, HttpError> {
    match rest.read(&from, Wanted::Group(id("/groups", path)?)).await? {
        Answer::Group(view) => Ok(reply(OneGroup { group: gws_json::group(&rest.uris, &view) })),
        other => Err(unexpected(&other)),
    }
}

/// The users that the user may know of, with their numbers: itself, those of the own groups, and
/// all for an admin.
#[utoipa::path(
    get, path = "/api/v2/contacts", params(Read, OfType, OfNumber),
    responses(
        (status = 200, description = "The contacts.", body = Reply<Contacts>),
        (status = "default", body = ErrorBody)
    )
)]
pub(super) async fn read_contacts(
    State(rest): State<RestState>,
    from: RequestContext,
    query: ReadQuery,
    kind: OfTypeQuery,
    number: NumberQuery,
) -> Result<Json<Reply<Contacts>>, HttpError> {
    let (read, kind) = (super::read(query)?, super::read(kind)?);
    let number = super::read(number)?.number()?;
    let views = match rest.read(&from, Wanted::Contacts).await? {
        Answer::Contacts(views) => views,
        other => return Err(unexpected(&other)),
    };
    let has_number = |contact: &ContactJson| {
        let mut numbers = contact.phone_numbers.iter();
        number
            .as_ref()
            .is_none_or(|wanted| numbers.any(|number| number.phone_number == wanted.as_str()))
    };
    let contacts: Vec<ContactJson> = views
        .iter()
        .filter(|_| kind.is(ContactJson::TYPE))
        .map(|view| gws_json::contact(&rest.uris, view))
        .filter(has_number)
        .collect();
    Ok(reply(match read.fields {
        Some(_) => Contacts::Whole { contacts },
        None => Contacts::Uris { uris: contacts.into_iter().map(|contact| contact.uri).collect() },
    }))
}

/// One of those users: how a supervisor finds an agent's number.
#[utoipa::path(
    get, path = "/api/v2/contacts/{id}",
    params(("id" = String, Path, description = "a user"), OfType, Members),
    responses(
        (status = 200, description = "The contact.", body = Reply<OneContact>),
        (status = "default", body = ErrorBody)
    )
)]
pub(super) async fn read_contact(
    State(rest): State<RestState>,
    from: RequestContext,
    path: IdPath,
    kind: OfTypeQuery,
) -> Result<Json<Reply<OneContact>>, HttpError> {
    let id: UserId = id("/contacts", path)?;
    if !super::read(kind)?.is(ContactJson::TYPE) {
        return Err(Refusal::not_found(format_args!("/contacts/{}", shortened(id.as_str()))).into());
    }
    match rest.read(&from, Wanted::Contact(id)).await? {
        Answer::Contact(view) => {
            Ok(reply(OneContact { contact: gws_json::contact(&rest.uris, &view) }))
        }
        other => Err(unexpected(&other)),
    }
}
