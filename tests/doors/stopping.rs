//! SIGTERM while calls go on: every door is open to the end of their grace, for what may still be
//! done about them.

use crate::crash::{coach, my_device, on};
use crate::support::drain::{asked_by_options, drain};
use crate::support::process::{ANY, Process};
use crate::support::rest_client::RestClient;
use crate::support::server::{AGENT, CUSTOMER, SUPERVISOR, directory};
use crate::support::talk::{COACH, PATIENCE, TALK, Trio};
use crate::support::wait;
use nix::sys::signal::Signal;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::path::Path;

/// `serve`, or a SIP backend and a gateway of it.
async fn started(place: &Path, is_split: bool) -> (Process, Option<Process>) {
    let config = on(ANY, ANY, ANY, "").replace("grace = 1", "grace = 600") + &directory();
    if !is_split {
        return (Process::start("serve", place, &config).await, None);
    }
    let backend = Process::start("sip-backend", place, &config).await;
    let url = format!("backend_url = 'http://{}'\n", backend.door("grpc"));
    let gateway = Process::start("gateway", place, &(url + &config)).await;
    (backend, Some(gateway))
}

async fn coach_is_hung_up_while_it_stops(is_split: bool) {
    let place = tempfile::tempdir().unwrap();
    let (backend, gateway) = started(place.path(), is_split).await;
    let desk = gateway.as_ref().unwrap_or(&backend);
    desk.ready().await;
    let trio = Trio::register(backend.door("sip")).await;
    trio.call().await;
    trio.hear(TALK).await;
    let supervisor = RestClient::of(SUPERVISOR, desk.door("rest"));
    supervisor.post(&my_device(SUPERVISOR), coach()).await;
    trio.hear(COACH).await;

    backend.signal(Signal::SIGTERM);
    let draining = async || {
        let (status, text) = backend.says("/readyz").await;
        (status == 503 && text.contains("draining")).then_some(())
    };
    wait::found(PATIENCE, draining).await.expect("it says that it is draining");
    trio.hear(COACH).await;

    // A desktop that comes now comes in, reads, and may begin nothing.
    let agent = RestClient::of(AGENT, desk.door("rest"));
    let answer = async |client: &RestClient, path: &str, body: Value| {
        let answer = client.posting(path, &body).send().await.unwrap();
        (answer.status(), answer.json::<Value>().await.unwrap())
    };
    let calls = agent.get("/me/calls?fields=*").await;
    assert_eq!(calls["calls"].as_array().map(Vec::len), Some(1), "{calls}");
    let dial = json!({
        "operationName": "Dial", "destination": {"phoneNumber": CUSTOMER.number},
    });
    for (client, path, body) in [
        (&agent, format!("{}/calls", my_device(AGENT)), dial),
        (&RestClient::of(SUPERVISOR, desk.door("rest")), my_device(SUPERVISOR), coach()),
    ] {
        let (status, refused) = answer(client, &path, body).await;
        // The supervisor who coaches already is told that instead.
        let is_told = refused["statusMessage"].as_str().unwrap_or_default().contains("stopping");
        assert!(
            (status == StatusCode::SERVICE_UNAVAILABLE && is_told)
                || status == StatusCode::CONFLICT,
            "{path}: {status} {refused}"
        );
    }
    // Cancel, and the agent's call.
    let cancel = json!({"operationName": "CancelSupervisorMonitoring"});
    supervisor.post(&my_device(SUPERVISOR), cancel).await;
    trio.hear(TALK).await;
    let (status, refused) = answer(&supervisor, &my_device(SUPERVISOR), coach()).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{refused}");
    assert_eq!(refused["statusMessage"], "The backend is stopping.");
    let call = calls["calls"][0]["id"].as_str().unwrap();
    let hang_up = json!({"operationName": "Hangup"});
    agent.post(&format!("/me/calls/{call}"), hang_up).await;
    trio.customer.ended(PATIENCE).await.unwrap();
    // Without a call there is nothing to wait for, whatever the grace.
    backend.ends(PATIENCE).await;
    if let Some(gateway) = gateway {
        gateway.terminate(PATIENCE).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_calls_have_their_grace_a_coach_is_cancelled_a_call_hung_up_and_nothing_begun() {
    coach_is_hung_up_while_it_stops(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_of_a_backend_that_stops_behind_its_gateway() {
    coach_is_hung_up_while_it_stops(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_process_says_so_to_switches_and_a_drain_is_taken_back_but_not_sigterm() {
    let place = tempfile::tempdir().unwrap();
    let config = on(ANY, ANY, ANY, "").replace("grace = 1", "grace = 600\nmax_calls = 1");
    let serve = Process::start("serve", place.path(), &(config + &directory())).await;
    serve.ready().await;
    let sip = serve.door("sip");
    let is_answered = async |name: &str, status: &str| {
        let answer = asked_by_options(sip, name).await;
        let has_wait = answer.contains("\r\nRetry-After: ");
        assert!(answer.starts_with(&format!("SIP/2.0 {status} ")), "{name}: {answer}");
        assert_eq!(has_wait, status == "503", "{name}: {answer}");
    };
    let trio = Trio::register(sip).await;
    is_answered("empty", "200").await;
    trio.call().await;
    is_answered("full", "503").await;
    assert_eq!(serve.says("/readyz").await.0, 200, "it works");
    trio.customer.hang_up().await.unwrap();
    trio.agent.ended(PATIENCE).await.unwrap();
    let draining = |is_on, calls| (200, json!({"draining": is_on, "calls": calls}));
    let empty =
        async || (drain(&serve, Method::GET, None).await == draining(false, 0)).then_some(());
    wait::found(PATIENCE, empty).await.expect("the call is over");
    is_answered("emptied", "200").await;

    assert_eq!(drain(&serve, Method::POST, None).await, draining(true, 0));
    is_answered("draining", "503").await;
    let agent = RestClient::of(AGENT, serve.door("rest"));
    let dial = json!({
        "operationName": "Dial", "destination": {"phoneNumber": CUSTOMER.number},
    });
    let answer = agent.posting(&format!("{}/calls", my_device(AGENT)), &dial).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    let refused = answer.json::<Value>().await.unwrap();
    assert_eq!(refused["statusMessage"], "The backend takes no new calls.");
    assert_eq!(drain(&serve, Method::DELETE, None).await, draining(false, 0));
    is_answered("taken-back", "200").await;

    trio.call().await;
    serve.signal(Signal::SIGTERM);
    let stops = async || (serve.says("/readyz").await.0 == 503).then_some(());
    wait::found(PATIENCE, stops).await.expect("it is asked to stop");
    assert_eq!(drain(&serve, Method::DELETE, None).await.0, 409);
    assert_eq!(drain(&serve, Method::GET, None).await, draining(true, 1));
    is_answered("stopping", "503").await;
    trio.customer.hang_up().await.unwrap();
    serve.ends(PATIENCE).await;
}
