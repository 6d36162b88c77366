//! Against programs that others wrote: SIPp as customer and as agent, baresip as supervisor and as agent. What they send is real audio, and what
//! they received is looked at: from the WAV files baresip records, and for SIPp, which records nothing, from the wire.

mod programs;
mod tap;

use crate::interop::programs::{Baresip, Sipp, folder};
use crate::interop::tap::Tap;
use crate::support::house::{AGENT, CUSTOMER, House, SUPERVISOR};
use serde_json::json;
use std::time::Duration;
use undertone::phone::audio::{level, peak};

const CUSTOMER_HZ: f32 = 437.0;
const AGENT_HZ: f32 = 613.0;
const SUPERVISOR_HZ: f32 = 1021.0;
/// The programs speak at −16 dBFS; a recording also has the time before the supervisor came.
const HEARD: f32 = -26.0;
const SILENT: f32 = -50.0;
const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn sipp_as_agent_hears_the_whisper_of_baresip_and_sipp_as_customer_does_not() {
    let house = House::start().await;
    let place = folder();
    let tap = Tap::start();
    Sipp::register(&house, AGENT, &place).await;
    let agent = Sipp::agent(&house, AGENT, AGENT_HZ, &place);
    let supervisor = Baresip::start(&house, SUPERVISOR, SUPERVISOR_HZ, &place);
    house.registered(AGENT).await;
    house.registered(SUPERVISOR).await;
    house.coach(json!({})).await;
    let customer = Sipp::customer(&house, CUSTOMER, AGENT.number, CUSTOMER_HZ, Duration::from_secs(5), &place);
    let customer_port = customer.finished(SOON).await;
    let agent_port = agent.finished(SOON).await;
    let recorded = supervisor.finished().await;
    let heard = tap.finish();

    let at_agent = heard.samples_to(agent_port);
    assert!(
        peak(&at_agent, SUPERVISOR_HZ) > HEARD,
        "the whisper is at the agent: {}",
        peak(&at_agent, SUPERVISOR_HZ)
    );
    assert!(
        level(&at_agent, CUSTOMER_HZ) > HEARD,
        "and so is the customer: {}",
        level(&at_agent, CUSTOMER_HZ)
    );
    let at_customer = heard.samples_to(customer_port);
    assert!(
        level(&at_customer, AGENT_HZ) > HEARD,
        "the agent is at the customer: {}",
        level(&at_customer, AGENT_HZ)
    );
    assert!(
        peak(&at_customer, SUPERVISOR_HZ) < SILENT,
        "the whisper is not: {}",
        peak(&at_customer, SUPERVISOR_HZ)
    );
    assert!(
        peak(&recorded, CUSTOMER_HZ) > HEARD && peak(&recorded, AGENT_HZ) > HEARD,
        "the supervisor hears both"
    );
    assert!(peak(&recorded, SUPERVISOR_HZ) < SILENT, "and not himself");
}

#[tokio::test(flavor = "multi_thread")]
async fn baresip_as_agent_records_the_whisper_and_sipp_as_customer_never_gets_it() {
    let house = House::start().await;
    let place = folder();
    let tap = Tap::start();
    let agent = Baresip::start(&house, AGENT, AGENT_HZ, &place);
    let supervisor = Baresip::start(&house, SUPERVISOR, SUPERVISOR_HZ, &place);
    house.registered(AGENT).await;
    house.registered(SUPERVISOR).await;
    house.coach(json!({"supervisorMonitoringMode": "NextCall"})).await;
    let customer = Sipp::customer(&house, CUSTOMER, AGENT.number, CUSTOMER_HZ, Duration::from_secs(5), &place);
    let customer_port = customer.finished(SOON).await;
    let at_agent = agent.finished().await;
    let at_supervisor = supervisor.finished().await;
    let at_customer = tap.finish().samples_to(customer_port);

    assert!(
        peak(&at_agent, SUPERVISOR_HZ) > HEARD,
        "the whisper is in the agent's recording: {}",
        peak(&at_agent, SUPERVISOR_HZ)
    );
    assert!(peak(&at_agent, CUSTOMER_HZ) > HEARD, "and so is the customer");
    assert!(peak(&at_agent, AGENT_HZ) < SILENT, "and not himself");
    assert!(
        peak(&at_supervisor, CUSTOMER_HZ) > HEARD && peak(&at_supervisor, AGENT_HZ) > HEARD,
        "the supervisor hears both"
    );
    assert!(
        level(&at_customer, AGENT_HZ) > HEARD,
        "the agent is at the customer: {}",
        level(&at_customer, AGENT_HZ)
    );
    assert!(
        peak(&at_customer, SUPERVISOR_HZ) < SILENT,
        "the whisper is not: {}",
        peak(&at_customer, SUPERVISOR_HZ)
    );
}

/// What the two above rest on: had he been let through to the customer, the recording would show it.
#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_who_barges_in_is_found_in_what_sipp_gets_as_customer() {
    let house = House::start().await;
    let place = folder();
    let tap = Tap::start();
    let _agent = Baresip::start(&house, AGENT, AGENT_HZ, &place);
    let _supervisor = Baresip::start(&house, SUPERVISOR, SUPERVISOR_HZ, &place);
    house.registered(AGENT).await;
    house.registered(SUPERVISOR).await;
    house.coach(json!({"operationName": "BargeIn"})).await;
    let customer = Sipp::customer(&house, CUSTOMER, AGENT.number, CUSTOMER_HZ, Duration::from_secs(3), &place);
    let at_customer = tap_after(customer, tap).await;
    assert!(
        peak(&at_customer, SUPERVISOR_HZ) > HEARD,
        "he is heard: {}",
        peak(&at_customer, SUPERVISOR_HZ)
    );
}

async fn tap_after(customer: Sipp, tap: Tap) -> Vec<i16> {
    let port = customer.finished(SOON).await;
    tap.finish().samples_to(port)
}
