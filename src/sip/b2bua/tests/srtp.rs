//! Legs with SRTP: a trunk that must have it, and one that may.

use super::harness::{AGENT, Harness, sdp};
use crate::media::MediaCommand;
use crate::media::srtp::{Keys, Suite};
use crate::sip::b2bua::Output;
use crate::sip::leg::{LegCommand, LegEvent, LegId, LegSource};
use crate::sip::sdp::{SdpError, SdpFault};

const SUITE: &str = "AES_CM_128_HMAC_SHA1_80";
/// 30 octets each.
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwd";
const OTHER_KEY: &str = "HRwbGhkYFxYVFBMSERAPDg0MCwoJCAcGBQQDAgEA";

/// A description with a key, under this tag.
fn secret(proto: &str, tag: u32, key: &str) -> Vec<u8> {
    let text = String::from_utf8(sdp(4000, "0 8 101", "sendrecv")).unwrap();
    let text = text.replace("RTP/AVP", proto);
    format!("{text}a=crypto:{tag} {SUITE} inline:{key}\r\n").into_bytes()
}

fn clear() -> Vec<u8> {
    sdp(4000, "0 8 101", "sendrecv")
}

fn text(body: &[u8]) -> String {
    String::from_utf8_lossy(body).into_owned()
}

/// The keys that the engine was told last for a leg; `None`: clear.
fn keys(harness: &Harness, leg: LegId) -> Option<Box<Keys>> {
    let mut told = harness.log.iter().filter_map(|output| match output {
        Output::Media(MediaCommand::Describe { leg: told, srtp, .. }) if told.0 == leg.0 => {
            Some(srtp.clone())
        }
        _ => None,
    });
    told.next_back().expect("described")
}

fn is_described(harness: &Harness, leg: LegId) -> bool {
    let of_leg = |output: &Output| {
        matches!(
            output,
            Output::Media(MediaCommand::Describe { leg: told, .. }) if told.0 == leg.0
        )
    };
    harness.log.iter().any(of_leg)
}

/// The last that is said is that its offer is refused for want of a transport, and the log is told
/// which line it was.
fn is_refused(harness: &mut Harness, leg: LegId) -> bool {
    let is_transport =
        |fault: &SdpFault| fault.error == SdpError::Transport && fault.line.is_some();
    let told = |output: &Output| {
        matches!(
            output,
            Output::Unusable { leg: here, fault } if *here == leg && is_transport(fault)
        )
    };
    let logged = harness.log.iter().any(told);
    let commands = harness.leg_commands();
    logged
        && matches!(
            commands.last(),
            Some(LegCommand::RefuseOffer { leg: here, fault })
                if *here == leg && is_transport(fault)
        )
}

/// The agent dials out over a trunk: the agent's leg and the trunk's.
fn dials(harness: &mut Harness, number: &str) -> (LegId, LegId) {
    let agent = harness.incoming(LegSource::Account(AGENT.into()), number, Some(clear()));
    let trunk = *harness.lines.keys().find(|leg| **leg != agent).expect("two legs");
    (agent, trunk)
}

#[test]
fn a_clear_offer_of_a_peer_that_must_encrypt_is_refused() {
    let mut harness = Harness::new();
    let leg = harness.incoming(LegSource::Trunk("secret".into()), "5001", Some(clear()));
    assert!(is_refused(&mut harness, leg));
    harness.assert_empty();
}

#[test]
fn an_encrypted_offer_of_a_peer_that_does_not_encrypt_is_refused() {
    let mut harness = Harness::new();
    let leg =
        harness.incoming(LegSource::Trunk("city".into()), "5001", Some(secret("RTP/SAVP", 1, KEY)));
    assert!(is_refused(&mut harness, leg));
    harness.assert_empty();
}

#[test]
fn an_answer_that_strips_the_key_is_not_connected() {
    for answer in [
        clear(),
        secret("RTP/AVP", 3, KEY),
        secret("RTP/SAVP", 1, KEY),
        text(&clear()).replace("AVP", "SAVP").into_bytes(),
    ] {
        let mut harness = Harness::new();
        let (agent, trunk) = dials(&mut harness, "09911");
        let offer = text(&harness.lines[&trunk].last_sdp);
        assert!(
            offer.contains("RTP/SAVP") && offer.contains(&format!("a=crypto:3 {SUITE} inline:")),
            "{offer}"
        );
        harness.log.clear();
        harness.leg(LegEvent::Answered { leg: trunk, media: answer });
        assert!(!is_described(&harness, trunk), "never clear RTP");
        let commands = harness.leg_commands();
        assert!(
            commands
                .iter()
                .any(|command| matches!(command, LegCommand::Hangup { leg, .. } if *leg == trunk))
        );
        assert!(commands.contains(&LegCommand::Reject { leg: agent, status: 488 }), "{commands:?}");
        harness.assert_empty();
    }
}

#[test]
fn a_clear_leg_and_an_encrypted_one_make_a_call() {
    let mut harness = Harness::new();
    let (agent, trunk) = dials(&mut harness, "09911");
    harness.leg(LegEvent::Answered { leg: trunk, media: secret("RTP/SAVP", 3, KEY) });
    assert_eq!(keys(&harness, agent), None);
    let keys = keys(&harness, trunk).expect("encrypted");
    assert_eq!((keys.theirs.suite(), keys.theirs.material()[29]), (Suite::AesCm128HmacSha1_80, 29));
    assert_ne!(keys.ours, keys.theirs);
    assert_eq!(harness.table(&[("a", agent), ("t", trunk)]), "at ta");
}

#[test]
fn a_caller_who_must_encrypt_is_answered_encrypted() {
    for proto in ["RTP/SAVP", "RTP/SAVPF", "RTP/AVP"] {
        let mut harness = Harness::new();
        let trunk = harness.incoming(
            LegSource::Trunk("secret".into()),
            "5001",
            Some(secret(proto, 7, KEY)),
        );
        let agent = harness.ringing(AGENT);
        assert!(!text(&harness.lines[&agent].last_sdp).contains("crypto"));
        harness.answer(agent);
        let answer = text(&harness.lines[&trunk].last_sdp);
        assert!(
            answer.contains(&format!(" {proto} 0"))
                && answer.contains(&format!("a=crypto:7 {SUITE} inline:")),
            "{answer}"
        );
        assert!(keys(&harness, trunk).is_some());
        assert_eq!(keys(&harness, agent), None);
    }
}

#[test]
fn a_peer_that_may_encrypt_does_as_it_likes() {
    for (answer, encrypted) in
        [(clear(), false), (secret("RTP/AVP", 3, KEY), true), (secret("RTP/SAVP", 3, KEY), true)]
    {
        let mut harness = Harness::new();
        let (_, trunk) = dials(&mut harness, "09921");
        let offer = text(&harness.lines[&trunk].last_sdp);
        assert!(offer.contains("RTP/AVP") && offer.contains("a=crypto:3 "), "{offer}");
        harness.leg(LegEvent::Answered { leg: trunk, media: answer });
        assert_eq!(keys(&harness, trunk).is_some(), encrypted);
    }
    for (offer, encrypted) in
        [(clear(), false), (secret("RTP/AVP", 1, KEY), true), (secret("RTP/SAVP", 1, KEY), true)]
    {
        let mut harness = Harness::new();
        let trunk = harness.incoming(LegSource::Trunk("either".into()), "5001", Some(offer));
        let agent = harness.ringing(AGENT);
        harness.answer(agent);
        assert_eq!(keys(&harness, trunk).is_some(), encrypted);
    }
}

#[test]
fn a_new_key_of_the_peers_is_told_and_a_clear_re_invite_is_refused() {
    let mut harness = Harness::new();
    let (_, trunk) = dials(&mut harness, "09911");
    harness.leg(LegEvent::Answered { leg: trunk, media: secret("RTP/SAVP", 3, KEY) });
    let before = keys(&harness, trunk).unwrap();
    harness.log.clear();
    harness.leg(LegEvent::Offered { leg: trunk, media: Some(secret("RTP/SAVP", 1, OTHER_KEY)) });
    let after = keys(&harness, trunk).unwrap();
    assert_eq!(after.ours, before.ours);
    assert_ne!(after.theirs, before.theirs);
    harness.log.clear();
    harness.leg(LegEvent::Offered { leg: trunk, media: Some(secret("RTP/SAVP", 1, OTHER_KEY)) });
    assert!(!is_described(&harness, trunk), "nothing has changed");
    harness.leg(LegEvent::Offered { leg: trunk, media: Some(clear()) });
    assert!(!is_described(&harness, trunk));
    assert!(is_refused(&mut harness, trunk));
}
