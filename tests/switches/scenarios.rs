//! What happens at any switch.

use super::site::{AGENT, Site};
use serde_json::json;
use undertone::attach::SwitchKind;

/// Customer and agent.
const TALK: [&str; 4] = ["agent", "customer", "", ""];
/// The supervisor hears both, and only the agent hears the supervisor.
const COACH: [&str; 4] = ["agent", "customer supervisor", "", "customer agent"];
/// All hear all.
const BARGE_IN: [&str; 4] = ["agent supervisor", "customer supervisor", "", "customer agent"];

pub async fn coach_and_barge_in(kind: SwitchKind) {
    let site = Site::open(kind).await;
    site.call().await;
    site.hear(TALK).await;
    site.monitor("Coach", json!({})).await;
    site.hear(COACH).await;
    site.monitor("BargeIn", json!({})).await;
    site.hear(BARGE_IN).await;
    assert_eq!(site.agent.number(), AGENT.number);
}
