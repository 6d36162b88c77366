//! SIPp as a trunk that asserts who calls, and as one that sends its own party elsewhere.

use super::call_data::fields;
use super::programs::{Sipp, folder};
use super::{AGENT_HZ, COLLEAGUE_HZ, SOON, SUPERVISOR_HZ, calls, has, until};
use crate::support::baresip::Baresip;
use crate::support::ports::free_port;
use crate::support::server::{AGENT, Account, COLLEAGUE, SUPERVISOR, Server};
use serde_json::json;
use std::time::Duration;

const CALLER: Account = Account { device: "", number: "01701234", user: "", password: "none" };
const CALLEE: Account = Account { device: "", number: "0123", user: "", password: "none" };

#[tokio::test(flavor = "multi_thread")]
async fn a_private_caller_is_known_to_the_agent_and_to_no_carrier_that_it_is_transferred_to() {
    let (port, target) = (free_port(), free_port());
    let trunks = format!(
        "[[sip.trunk]]\nname = 'switch'\nsources = ['127.0.0.1:{port}']\n\
         target = '127.0.0.1:{port}'\ntrusted = true\nqualify = 0\n\
         [[sip.trunk]]\nname = 'carrier'\nsources = ['127.0.0.1:{target}']\n\
         target = '127.0.0.1:{target}'\nprefixes = ['0']\ndiversion = true\nqualify = 0\n"
    );
    let server = Server::configured(&trunks).await;
    let place = folder();
    let _agent = Baresip::start(&server, AGENT, AGENT_HZ, &place);
    server.registered(AGENT).await;
    let (parties, talk) = ((CALLER, AGENT.number), Duration::from_secs(4));
    let callee = Sipp::trunk_as("agent", &server, target, (CALLEE, AGENT.number), talk, &place);
    let caller = Sipp::trunk_as("trunk_private", &server, port, parties, talk, &place);
    let call = until(&server, AGENT, &["Established"]).await;
    let seen = calls(&server, AGENT).await[0].to_string();
    assert!(seen.contains(CALLER.number), "the agent knows who calls: {seen}");

    let to = json!({"phoneNumber": CALLEE.number});
    let transfer = json!({"operationName": "SingleStepTransfer", "destination": to});
    server.post(AGENT, &format!("/me/calls/{call}"), transfer).await;
    let told = caller.messages(SOON).await;
    let named = format!("P-Asserted-Identity: <sip:{}@", CALLEE.number);
    assert!(told.contains(&named), "{told}");
    let got = callee.messages(SOON).await;
    let said = |name: &str| fields(&got, "INVITE sip:0123@", name);
    assert!(said("From")[0].contains("<sip:anonymous@anonymous.invalid>"), "{got}");
    assert_eq!((said("Privacy"), said("P-Asserted-Identity")), (vec!["id".into()], vec![]));
    let by = format!("<sip:{}@127.0.0.1>;reason=unknown", AGENT.number);
    assert_eq!(said("Diversion"), [by]);
    assert!(!got.contains(CALLER.number) && !got.contains("0999"), "{got}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sipp_as_a_trunk_sends_its_party_elsewhere_and_the_whisper_stays_with_the_agent() {
    let port = free_port();
    let trunk = format!(
        "[[sip.trunk]]\nname = 'switch'\nsources = ['127.0.0.1:{port}']\n\
         target = '127.0.0.1:{port}'\nrefer = 'follow'\nqualify = 0\n"
    );
    let server = Server::configured(&trunk).await;
    let place = folder();
    let agent = Baresip::start(&server, AGENT, AGENT_HZ, &place);
    let supervisor = Baresip::start(&server, SUPERVISOR, SUPERVISOR_HZ, &place);
    let colleague = Baresip::start(&server, COLLEAGUE, COLLEAGUE_HZ, &place);
    for account in [AGENT, COLLEAGUE, SUPERVISOR] {
        server.registered(account).await;
    }
    server.coach(json!({})).await;
    let (parties, talk) = ((CALLER, AGENT.number), Duration::from_secs(2));
    let keys = ["-key", "instead", COLLEAGUE.number];
    let caller = Sipp::trunk_with("trunk_refers", &server, port, parties, talk, (&keys, &place));
    until(&server, COLLEAGUE, &["Established"]).await;
    caller.messages(SOON).await;
    has("the agent", &agent.finished().await, &[(COLLEAGUE_HZ, true), (SUPERVISOR_HZ, true)]);
    let heard = [(AGENT_HZ, true), (SUPERVISOR_HZ, false)];
    has("the colleague", &colleague.finished().await, &heard);
    // With scope Call, it was the customer's call.
    let heard = [(AGENT_HZ, true), (COLLEAGUE_HZ, false)];
    has("the supervisor", &supervisor.finished().await, &heard);
}
