//! SIPp as a trunk that says what its calls are about, and as the phone of an agent who rejects and
//! redirects them at the desktop.

use super::programs::{Sipp, folder};
use super::{AGENT_HZ, COLLEAGUE_HZ, CUSTOMER_HZ, SOON, calls, until};
use crate::support::baresip::Baresip;
use crate::support::ports::free_port;
use crate::support::server::{AGENT, Account, COLLEAGUE, CUSTOMER, Server};
use crate::support::wait;
use serde_json::json;
use std::time::Duration;

/// Somebody behind the trunk who calls, and somebody who is called.
const CALLER: Account = Account { device: "", number: "01701234", user: "", password: "none" };
const CALLEE: Account = Account { device: "", number: "0123", user: "", password: "none" };

/// The values of the header fields of one name, in the first message that begins like this.
pub(super) fn fields(messages: &str, line: &str, name: &str) -> Vec<String> {
    let message = messages.split(line).nth(1).unwrap_or_else(|| panic!("no {line}: {messages}"));
    let head = message.split("\n\n").next().unwrap_or_default();
    let head = head.split("\r\n\r\n").next().unwrap_or_default();
    let named = head.lines().filter_map(|field| field.split_once(": "));
    let named = named.filter(|(found, _)| found.eq_ignore_ascii_case(name));
    named.map(|(_, value)| value.trim().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_trunk_of_sipp_says_is_call_data_and_what_an_agent_adds_goes_out_by_it() {
    let (port, target) = (free_port(), free_port());
    let trunk = format!(
        "[[sip.trunk]]\nname = 'carrier'\nsources = ['127.0.0.1:{port}']\n\
         target = '127.0.0.1:{target}'\nprefixes = ['0']\nqualify = 0\n\
         user_data_headers = {{ 'X-Account' = 'AccountNumber' }}\n\
         send_user_data = {{ 'X-Account' = 'AccountNumber' }}\n"
    );
    let server = Server::configured(&trunk).await;
    let place = folder();
    let _agent = Baresip::start(&server, AGENT, AGENT_HZ, &place);
    server.registered(AGENT).await;
    let parties = (CALLER, AGENT.number);
    let talk = Duration::from_secs(4);
    let callee = Sipp::trunk_as("agent", &server, target, (CALLEE, AGENT.number), talk, &place);
    let caller = Sipp::trunk_as("trunk_customer", &server, port, parties, talk, &place);
    let call = until(&server, AGENT, &["Established"]).await;
    let attached = || async { calls(&server, AGENT).await[0]["userData"].clone() };
    let said = json!({"AccountNumber": "4711", "User-to-User": "K-47"});
    assert_eq!(attached().await, said, "and nothing that nobody asked for");

    let leg = format!("/me/calls/{call}");
    let update = json!({"operationName": "UpdateUserData", "userData": {"AccountNumber": "4712"}});
    server.post(AGENT, &leg, update).await;
    let changed = json!({"AccountNumber": "4712", "User-to-User": "K-47"});
    let is_told = wait::found(SOON, async || (attached().await == changed).then_some(())).await;
    assert!(is_told.is_some(), "{}", attached().await);
    let transfer = json!({
        "operationName": "SingleStepTransfer",
        "destination": {"phoneNumber": CALLEE.number},
        "userData": {"Note": "not for the trunk"},
    });
    server.post(AGENT, &leg, transfer).await;
    caller.messages(SOON).await;
    let got = callee.messages(SOON).await;
    assert_eq!(fields(&got, "INVITE sip:0123@", "X-Account"), ["4712"]);
    let passed = ["4b2d3437;purpose=isdn-uui;encoding=hex"];
    assert_eq!(fields(&got, "INVITE sip:0123@", "User-to-User"), passed);
    assert!(!got.contains("not for the trunk"), "{got}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_at_sipp_is_rejected_at_the_desktop_and_its_caller_finds_it_busy() {
    let server = Server::start().await;
    let place = folder();
    Sipp::register(&server, AGENT, &place).await;
    let agent = Sipp::agent_as("agent_rings", &server, AGENT, AGENT_HZ, &place);
    server.registered(AGENT).await;
    let customer = Sipp::customer_as(
        "customer_refused",
        &server,
        CUSTOMER,
        AGENT.number,
        CUSTOMER_HZ,
        Duration::from_secs(1),
        &place,
    );
    let call = until(&server, AGENT, &["Ringing"]).await;
    server.post(AGENT, &format!("/me/calls/{call}"), json!({"operationName": "Reject"})).await;
    customer.messages(SOON).await;
    let got = agent.messages(SOON).await;
    assert_eq!(fields(&got, "CANCEL sip:", "Reason"), ["SIP;cause=603;text=\"Decline\""]);
    until(&server, AGENT, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_at_sipp_is_redirected_at_the_desktop_and_baresip_answers_it() {
    let server = Server::start().await;
    let place = folder();
    Sipp::register(&server, AGENT, &place).await;
    let agent = Sipp::agent_as("agent_rings", &server, AGENT, AGENT_HZ, &place);
    let colleague = Baresip::start(&server, COLLEAGUE, COLLEAGUE_HZ, &place);
    server.registered(AGENT).await;
    server.registered(COLLEAGUE).await;
    let customer = Sipp::customer(
        &server,
        CUSTOMER,
        AGENT.number,
        CUSTOMER_HZ,
        Duration::from_secs(2),
        &place,
    );
    let call = until(&server, AGENT, &["Ringing"]).await;
    let leg = format!("/me/calls/{call}");
    let redirect =
        |to: &str| json!({"operationName": "Redirect", "destination": {"phoneNumber": to}});
    let (_, _, refused) = server.client(AGENT).ask(&leg, &redirect("999")).await;
    assert_eq!(refused["statusCode"], 6, "{refused}");
    assert_eq!(calls(&server, AGENT).await[0]["state"], "Ringing", "it rings on");
    server.post(AGENT, &leg, redirect(COLLEAGUE.number)).await;
    let got = agent.messages(SOON).await;
    assert_eq!(fields(&got, "CANCEL sip:", "Reason"), ["SIP;cause=302;text=\"Moved Temporarily\""]);
    assert_eq!(until(&server, COLLEAGUE, &["Established"]).await, call, "it is the same call");
    customer.messages(SOON).await;
    super::has("the colleague", &colleague.finished().await, &[(CUSTOMER_HZ, true)]);
}
