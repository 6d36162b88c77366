//! Every URI that a user is given answers that user.

use crate::support::desktop::Desktop;
use crate::support::rest_client::read;
use crate::support::server::Server;
use serde_json::Value;
use std::collections::BTreeSet;

/// What is read besides: everything that can hold a URI.
const READS: [&str; 10] = [
    "/me?subresources=*",
    "/me/devices",
    "/me/calls",
    "/me/groups",
    "/devices",
    "/groups",
    "/contacts",
    "/features",
    "/workbins",
    "/me/channels",
];

/// Panics unless every URI in these messages answers 200, and every one in what is read there, and
/// so on: also that of a leg that the user was told to be released.
pub(super) async fn answer(server: &Server, desktop: &Desktop, told: &[Value], step: &str) {
    let client = server.client(desktop.account);
    let mut found = BTreeSet::new();
    told.iter().for_each(|message| collect(message, &mut found));
    for path in READS {
        collect(&client.get(path).await, &mut found);
    }
    let mut next: Vec<String> = found.iter().cloned().collect();
    while let Some(uri) = next.pop() {
        let (status, body) = read(client.getting_uri(&uri)).await;
        let row = format!("{step}: {} was given {uri}: {body}", desktop.account.user);
        assert_eq!((status.as_u16(), body["statusCode"].as_u64()), (200, Some(0)), "{row}");
        let mut there = BTreeSet::new();
        collect(&body, &mut there);
        next.extend(there.into_iter().filter(|uri| found.insert(uri.clone())));
    }
}

fn collect(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| {
            let texts = match value {
                Value::Array(texts) if key == "uris" => texts.as_slice(),
                one if key == "uri" || key.ends_with("Uri") => std::slice::from_ref(one),
                other => return collect(other, found),
            };
            found.extend(texts.iter().map(|uri| uri.as_str().unwrap().to_owned()));
        }),
        Value::Array(values) => values.iter().for_each(|value| collect(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
