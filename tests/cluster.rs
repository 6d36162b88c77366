//! A gateway of two SIP backends, as real processes: what is armed is armed on both, and one that
//! is killed takes nothing with it but its calls.

mod machine;
mod random;

use crate::crash::{coach, my_device, on};
use crate::support::drain::{asked_by_options, drain};
use crate::support::process::{ANY, Process};
use crate::support::rest_client::RestClient;
use crate::support::server::{AGENT, CUSTOMER, SUPERVISOR, bystander, directory};
use crate::support::talk::{COACH, PATIENCE, TALK, Trio};
use crate::support::wait;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Two SIP backends with the same devices, each with a state of its own, and a gateway of both.
struct House {
    place: TempDir,
    nodes: [Option<Process>; 2],
    gateway: Process,
}

impl House {
    async fn start() -> House {
        let place = tempfile::tempdir().unwrap();
        let nodes = [node(&place, 0, [ANY, ANY]).await, node(&place, 1, [ANY, ANY]).await];
        let urls = nodes.each_ref().map(|node| format!("'http://{}'", node.door("grpc")));
        let backends = format!("backends = [{}]\nstate_dir = 'gateway'", urls.join(", "));
        let config = with_token(&place, on(ANY, ANY, ANY, &backends)) + &directory() + &bystander();
        let gateway = Process::start("gateway", place.path(), &config).await;
        gateway.ready().await;
        House { place, nodes: nodes.map(Some), gateway }
    }

    fn node(&self, index: usize) -> &Process {
        self.nodes[index].as_ref().expect("it runs")
    }

    /// Kills a node; where it was, for one that takes its place.
    async fn kill(&mut self, index: usize) -> [String; 2] {
        let node = self.nodes[index].take().expect("it runs");
        let doors = ["grpc", "sip"].map(|name| node.door(name).to_string());
        node.kill().await;
        doors
    }

    async fn revive(&mut self, index: usize, doors: [String; 2]) {
        let doors = doors.each_ref().map(String::as_str);
        self.nodes[index] = Some(node(&self.place, index, doors).await);
    }

    fn supervisor(&self) -> RestClient {
        RestClient::of(SUPERVISOR, self.gateway.door("rest"))
    }

    /// Waits until the supervisor's device shows this in its monitoring state.
    async fn shows(&self, what: &str, is_so: impl Fn(&Value) -> bool) {
        let supervisor = self.supervisor();
        let look = async || {
            let state = supervisor.device(SUPERVISOR).await["supervisorMonitoringState"].take();
            is_so(&state).then_some(())
        };
        assert!(wait::found(PATIENCE, look).await.is_some(), "{what}");
    }

    /// What each living node says of its metrics for a name.
    async fn armed_at(&self, index: usize) -> bool {
        let (_, text) = self.node(index).says("/metrics").await;
        text.lines().any(|line| {
            line.starts_with("undertone_monitors") && line.contains("armed") && line.ends_with(" 1")
        })
    }
}

async fn node(place: &TempDir, index: usize, [grpc, sip]: [&str; 2]) -> Process {
    let folder = place.path().join(format!("node-{index}"));
    std::fs::create_dir_all(&folder).unwrap();
    let config = with_token(place, on(ANY, grpc, sip, "")) + &directory() + &bystander();
    Process::start("sip-backend", &folder, &config).await
}

/// All of them know the same token.
fn with_token(place: &TempDir, config: String) -> String {
    let file = place.path().join("grpc.token");
    config.replace("[grpc]\n", &format!("[grpc]\ntoken_file = '{}'\n", file.display()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_monitor_acts_on_whichever_node_the_call_is_and_outlives_the_death_of_one() {
    let mut house = House::start().await;
    let supervisor = house.supervisor();
    supervisor.post(&my_device(SUPERVISOR), coach()).await;

    let trio = Trio::register(house.node(1).door("sip")).await;
    trio.call().await;
    trio.hear(COACH).await;
    trio.customer.hang_up().await.unwrap();
    trio.agent.ended(PATIENCE).await.unwrap();
    trio.supervisor.ended(PATIENCE).await.unwrap();

    let is_armed = async || house.armed_at(0).await.then_some(());
    assert!(wait::found(PATIENCE, is_armed).await.is_some(), "it waits on the other node again");
    let doors = house.kill(1).await;
    // Phones register again where there is a node.
    let elsewhere = Trio::register(house.node(0).door("sip")).await;
    elsewhere.call().await;
    elsewhere.hear(COACH).await;

    // Cancelled while that node is away, and it comes back with what was on its disk.
    let cancel = json!({"operationName": "CancelSupervisorMonitoring"});
    supervisor.post(&my_device(SUPERVISOR), cancel).await;
    elsewhere.supervisor.ended(PATIENCE).await.unwrap();
    elsewhere.hear(TALK).await;
    house.revive(1, doors).await;
    let trio = Trio::register(house.node(1).door("sip")).await;
    let is_gone = async || (!house.armed_at(1).await).then_some(());
    assert!(wait::found(PATIENCE, is_gone).await.is_some(), "the node has brought it back");
    trio.call().await;
    trio.hear(TALK).await;
    house.shows("nothing", Value::is_null).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_dies_in_a_coached_call_leaves_the_supervisor_armed_for_the_next_one() {
    let mut house = House::start().await;
    let supervisor = house.supervisor();
    let trio = Trio::register(house.node(0).door("sip")).await;
    trio.call().await;
    supervisor.post(&my_device(SUPERVISOR), coach()).await;
    trio.hear(COACH).await;
    let doors = house.kill(0).await;
    house.revive(0, doors).await;
    // Its calls are gone, which it says itself: nobody waits for a minute.
    house.shows("armed", |state| state["state"] == "Coach").await;
    let calls = RestClient::of(AGENT, house.gateway.door("rest"));
    let none = async || {
        let calls = calls.get("/me/calls?fields=*").await;
        (calls["calls"] == json!([])).then_some(())
    };
    assert!(wait::found(PATIENCE, none).await.is_some(), "the call is still there");
    let file = house.place.path().join("gateway/audit.jsonl");
    let is_lost = async || {
        let audit = std::fs::read_to_string(&file).ok()?;
        audit.contains(r#""event":"lost""#).then_some(())
    };
    assert!(wait::found(PATIENCE, is_lost).await.is_some(), "nobody knows when it ended");
    let elsewhere = Trio::register(house.node(1).door("sip")).await;
    elsewhere.call().await;
    elsewhere.hear(COACH).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_drains_keeps_its_coached_call_and_new_ones_go_to_the_other_node() {
    let house = House::start().await;
    let (node, sip) = (house.node(0), house.node(0).door("sip"));
    let trio = Trio::register(sip).await;
    trio.call().await;
    house.supervisor().post(&my_device(SUPERVISOR), coach()).await;
    trio.hear(COACH).await;
    assert!(asked_by_options(sip, "before").await.starts_with("SIP/2.0 200 "));
    assert_eq!(drain(node, Method::GET, None).await, (200, json!({"draining": false, "calls": 1})));

    let (status, _) = drain(node, Method::POST, Some("https://evil.example")).await;
    assert_eq!(status, 403, "no page of elsewhere");
    let begun = (200, json!({"draining": true, "calls": 1}));
    assert_eq!(drain(node, Method::POST, None).await, begun);
    let (status, text) = node.says("/readyz").await;
    assert!(status == 503 && text.contains("draining"), "{status} {text}");
    let answer = asked_by_options(sip, "while").await;
    assert!(answer.starts_with("SIP/2.0 503 ") && answer.contains("\r\nRetry-After: "), "{answer}");
    let is_told = async || {
        let (_, text) = house.gateway.says("/metrics").await;
        let name = format!("undertone_node_draining{{node=\"http://{}\"}} 1", node.door("grpc"));
        text.contains(&name).then_some(())
    };
    assert!(wait::found(PATIENCE, is_told).await.is_some(), "the gateway knows");
    trio.hear(COACH).await;

    // The agent's phone is at both nodes.
    let elsewhere = Trio::register(house.node(1).door("sip")).await;
    let agents = async || {
        let (_, text) = house.node(1).says("/metrics").await;
        text.contains("undertone_sip_registrations 3").then_some(())
    };
    assert!(wait::found(PATIENCE, agents).await.is_some(), "all three are registered");
    let dial = json!({
        "operationName": "Dial", "destination": {"phoneNumber": CUSTOMER.number},
    });
    let agent = RestClient::of(AGENT, house.gateway.door("rest"));
    agent.post(&format!("{}/calls", my_device(AGENT)), dial).await;
    elsewhere.agent.established(PATIENCE).await.unwrap();
    trio.hear(COACH).await;

    trio.customer.hang_up().await.unwrap();
    trio.agent.ended(PATIENCE).await.unwrap();
    trio.supervisor.ended(PATIENCE).await.unwrap();
    let empty = async || {
        let (_, told) = drain(node, Method::GET, None).await;
        (told == json!({"draining": true, "calls": 0})).then_some(())
    };
    assert!(wait::found(PATIENCE, empty).await.is_some(), "it is empty");
    let taken_back = (200, json!({"draining": false, "calls": 0}));
    assert_eq!(drain(node, Method::DELETE, None).await, taken_back);
    assert_eq!(node.says("/readyz").await.0, 200);
    assert!(asked_by_options(sip, "after").await.starts_with("SIP/2.0 200 "));
}
