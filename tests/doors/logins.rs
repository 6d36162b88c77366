//! First logins from an address that somebody guesses from without end.

use crate::crash::{made, my_device, on};
use crate::support::process::{ANY, Process};
use crate::support::rest_client::{RestClient, http_client};
use crate::support::server::{AGENT, SUPERVISOR};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// More than may wait of one address, and the one whose password is hashed.
const GUESSERS: usize = 280;
/// So many guesses are refused without being looked at: the places are taken, and stay so.
const REFUSED: usize = 200;

/// Each guess is at another name; passwords have the hash that users have in production.
#[tokio::test(flavor = "multi_thread")]
async fn guesses_at_invented_names_keep_no_first_login_from_the_same_address_out() {
    let place = tempfile::tempdir().unwrap();
    let mut process = Process::start("serve", place.path(), &on(ANY, ANY, ANY, "")).await;
    let printed = process.printed_until(&my_device(SUPERVISOR)).await;
    process.ready().await;
    let rest = process.door("rest");
    let (refused, is_full) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let http = http_client();
    let mut guessers = JoinSet::new();
    for guesser in 0..GUESSERS {
        let (http, refused, is_full) = (http.clone(), refused.clone(), is_full.clone());
        guessers.spawn(async move {
            for number in 0.. {
                let name = format!("guess-{guesser}-{number}");
                let guess = http.get(format!("http://{rest}/api/v2/me"));
                let answer = guess.basic_auth(name, Some("x")).send().await;
                if answer.is_ok_and(|answer| answer.status().as_u16() == 503)
                    && refused.fetch_add(1, Ordering::Relaxed) == REFUSED
                {
                    is_full.notify_one();
                }
            }
        });
    }
    is_full.notified().await;
    for account in [AGENT, SUPERVISOR] {
        let password = made(place.path(), &printed, account.user);
        RestClient::new(rest, account.user, &password).get("/me").await;
    }
    let before = refused.load(Ordering::Relaxed);
    guessers.abort_all();
    assert!(before > REFUSED, "nobody was refused: {before}");
}
