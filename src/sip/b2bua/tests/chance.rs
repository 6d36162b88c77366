//! Chance against the model that the harness carries.

use super::harness::{AGENT, CUSTOMER, DEVICES, Harness, OTHER, SUPERVISOR, SUPERVISOR2, sdp};
use crate::media::{Codec, LeakReason, MediaEvent};
use crate::model::{
    Activity, CallId, Command, DeviceId, FeatureCode, FeatureCodeDialled, Mode, Number, Reason,
    Refusal, Scope, TransferStep, UserData, UserDataChange,
};
use crate::sip::b2bua::{B2buaConfig, FeatureCodeConfig, RestoredCalls};
use crate::sip::leg::{EndReason, LegEvent, LegId, LegSource};
use crate::supervision;
use proptest::prelude::*;
use std::time::Duration;

type Step = (u8, u8, u8, u8);

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn nobody_hears_whom_the_table_does_not_allow_and_nothing_is_left_over(
        ways in any::<u8>(),
        ports in prop_oneof![4 => Just(1_000_000_usize), 1 => 0..40_usize],
        steps in prop::collection::vec(any::<Step>(), 1..120),
    ) {
        let (config, kept) = (ways_of(ways), RestoredCalls::default());
        let mut harness = match steps.len() % 3 {
            0 => Harness::with(config, kept),
            _ => Harness::behind(config, kept),
        };
        if steps.len() % 3 == 1 {
            harness.move_behind(OTHER, "mute");
            harness.move_behind(SUPERVISOR2, "mute");
        }
        if ways % 3 == 0 {
            let city = harness.trunks.iter_mut().find(|route| route.name == "city");
            city.expect("known").codecs = vec![Codec::G729];
            harness.move_behind(SUPERVISOR2, "mute");
        }
        harness.b2bua.environment.free = ports;
        for step in steps {
            play(&mut harness, step);
        }
        end(&mut harness);
    }
}

/// A configuration.
fn ways_of(bits: u8) -> B2buaConfig {
    let bit = |place: u8| bits >> place & 1 == 1;
    B2buaConfig {
        call_waiting: !bit(0),
        signal_hold: bit(1),
        has_music: bit(2) != bit(0),
        feature_codes: FeatureCodeConfig { enabled: true, ..FeatureCodeConfig::default() },
        monitor_party_on_hold: !bit(2),
        agent_side_only: bit(3) && bit(4),
        supervision: supervision::SupervisionConfig {
            debrief: bit(5),
            takeover: bit(6),
            max_supervisors_per_device: 1 + usize::from(bit(7)),
            ..supervision::SupervisionConfig::default()
        },
        ..B2buaConfig::default()
    }
}

/// One thing that may happen, legal or not: phones and networks are not bound to our idea of order.
fn play(harness: &mut Harness, (what, who, how, more): Step) {
    match what % 46 {
        0 | 1 => {
            let source = match who % 6 {
                5 => LegSource::Trunk("city".into()),
                index => LegSource::Account(DEVICES[index as usize].0.into()),
            };
            let to =
                ["5001", "5002", "5001", "5005", "7001", "0123", "999", "5001"][how as usize % 8];
            harness.incoming(source, to, description(more));
        }
        2..=5 => {
            if let Some(leg) =
                pick(harness, who, |line| line.outgoing && !line.answered && !line.ended)
            {
                match how % 8 {
                    0 => harness.leg(LegEvent::Progress {
                        leg,
                        status: 183,
                        media: description(more),
                    }),
                    1 => harness.leg(LegEvent::Progress { leg, status: 180, media: None }),
                    2 => harness.leg(LegEvent::Refused {
                        leg,
                        status: [486, 480, 603, 408, 302, 503][more as usize % 6],
                    }),
                    3 => harness.leg(LegEvent::Answered {
                        leg,
                        media: description(more).unwrap_or_default(),
                    }),
                    _ => harness.answer(leg),
                }
            }
        }
        6 | 7 => {
            if let Some(leg) =
                pick(harness, who, |line| !line.ended && (line.answered || !line.outgoing))
            {
                let reason =
                    [EndReason::Bye, EndReason::Cancelled, EndReason::NoAck, EndReason::Expired]
                        [how as usize % 4];
                harness.leg(LegEvent::Ended { leg, reason });
            }
        }
        8 | 9 => {
            if let Some(leg) = pick(harness, who, |line| line.answered && !line.ended) {
                harness.leg(LegEvent::Offered { leg, media: description(more) });
            }
        }
        10 => {
            if let Some(leg) = pick(harness, who, |line| line.offered && !line.ended) {
                match description(more) {
                    Some(media) => harness.leg(LegEvent::OfferAnswered { leg, media }),
                    None => harness.leg(LegEvent::OfferRefused {
                        leg,
                        status: [488, 481, 500][how as usize % 3],
                    }),
                }
            }
        }
        11 => {
            if let Some(leg) =
                pick(harness, who, |line| line.answered && !line.outgoing && !line.ended)
            {
                harness.leg(LegEvent::Confirmed { leg, media: description(more) });
            }
        }
        12 | 13 => {
            let (supervisor, target) = supervisor_and_target(who, how);
            let activity = Activity::ALL[more as usize % 3];
            let _ = harness.command(Command::StartMonitoring {
                supervisor,
                target,
                activity,
                mode: Mode::ALL[how as usize % 2],
                scope: Scope::ALL[more as usize / 3 % 2],
                confirm_joins: who > 200,
                agent_side_only: more % 7 == 0,
            });
        }
        14 => {
            let (supervisor, _) = supervisor_and_target(who, how);
            let _ = harness.command(Command::StopMonitoring { supervisor });
        }
        15 => {
            let (supervisor, _) = supervisor_and_target(who, how);
            if let Some(call) = any_call(harness, more) {
                let _ = harness.command(Command::SwitchMonitoring {
                    supervisor,
                    call,
                    activity: Activity::ALL[how as usize % 3],
                });
            }
        }
        16 => {
            if let Some((supervisor, call)) = harness.asked.pop() {
                let _ = harness.command(Command::AdmitMonitoring {
                    supervisor,
                    call,
                    admitted: how % 4 != 0,
                });
            }
        }
        17 | 18 => {
            let device = device(who);
            if let Some(call) = any_call(harness, more) {
                let _ = harness.command(match how % 6 {
                    0 => Command::Hold { device, call },
                    1 => Command::Retrieve { device, call },
                    2 => Command::Mute { device, call, on: true },
                    3 => Command::Mute { device, call, on: false },
                    4 => Command::Answer { device, call },
                    _ => Command::Hangup { device, call },
                });
            }
        }
        19 => {
            let _ = harness.command(Command::Dial {
                device: device(who),
                destination: ["5002", "7001", "0123", "5001", "999"][how as usize % 5].into(),
                user_data: attached(more),
            });
        }
        20 => {
            let _ = match how % 4 {
                0 => harness
                    .command(Command::SetDoNotDisturb { device: device(who), on: more % 2 == 0 }),
                1 => harness.command(Command::SetForwarding {
                    device: device(who),
                    to: [None, Some("5002".into()), Some("5001".into()), Some("0123".into())]
                        [more as usize % 4]
                        .clone(),
                }),
                _ => Ok(()),
            };
        }
        21 => match how % 4 {
            0 => harness.wait(Duration::from_secs(25)),
            1 => {
                harness.leg(LegEvent::Registered { device: device(who), registered: more % 4 != 0 })
            }
            _ => harness.wait(Duration::from_secs(1)),
        },
        22 => {
            if let Some(leg) = pick(harness, who, |line| !line.closed) {
                let call = harness.lines[&leg].call;
                match (how % 8, call) {
                    (0, Some(call)) => harness.media(MediaEvent::LeakGuard {
                        call,
                        leg,
                        reason: LeakReason::NotPermitted,
                    }),
                    _ => harness.media(MediaEvent::Inactive { leg }),
                }
            }
        }
        23 => {
            if let Some(call) = any_call(harness, more) {
                let _ = harness.command(Command::Transfer {
                    device: device(who),
                    call,
                    step: TransferStep::SingleStep {
                        destination: elsewhere(how),
                        user_data: attached(more),
                    },
                });
            }
        }
        24 => {
            if let Some(leg) = pick(harness, who, |line| line.answered && !line.ended) {
                harness.leg(LegEvent::Referred {
                    leg,
                    to: elsewhere(how),
                    replaces: None,
                    is_secure: false,
                });
            }
        }
        26..=28 => {
            if let Some(call) = any_call(harness, more) {
                let device = device(who);
                let step = match how % 3 {
                    0 => TransferStep::Initiate {
                        destination: elsewhere(how / 3),
                        user_data: attached(who),
                    },
                    1 => TransferStep::Complete,
                    _ => TransferStep::SingleStep {
                        destination: elsewhere(how / 3),
                        user_data: attached(who),
                    },
                };
                let _ = match what % 2 {
                    0 => harness.command(Command::Transfer { device, call, step }),
                    _ => harness.command(Command::Conference { device, call, step }),
                };
            }
        }
        29 => {
            let both = (
                pick(harness, who, |line| line.answered && !line.ended),
                pick(harness, more, |line| !line.ended),
            );
            if let (Some(leg), Some(other)) = both {
                harness.leg(LegEvent::Referred {
                    leg,
                    to: elsewhere(how),
                    replaces: Some(other),
                    is_secure: false,
                });
            }
        }
        30 => {
            if let Some(replaced) = pick(harness, who, |_| true) {
                let source = match (&harness.lines[&replaced].party, how % 4) {
                    (Ok(device), 0..3) => LegSource::Account(device.clone()),
                    (Err(_), 0..3) => LegSource::Trunk("city".into()),
                    _ => LegSource::Account(OTHER.into()),
                };
                harness.replaces(source, replaced, description(more));
            }
        }
        31 => {
            if let Some(call) = any_call(harness, more) {
                let _ = match how % 3 {
                    0 => harness.command(Command::SendDtmf {
                        device: device(who),
                        call,
                        digits: "12#".parse().expect("digits"),
                    }),
                    _ => harness.command(Command::RemoveParticipant {
                        device: device(who),
                        call,
                        participant: elsewhere(how / 3),
                    }),
                };
            }
        }
        33 | 34 => {
            if let Some(leg) = pick(harness, who, |line| !line.ended) {
                // Of two strangers with one number on one call the model would not know which is
                // which.
                let stranger = format!("077{}", leg.0);
                let again = format!("088{}", leg.0);
                let names = ["5001", "5002", "1002", "5005", "7001", "1001", &stranger, &again];
                let place = match harness.is_internal_line(leg) {
                    true => how as usize % 8,
                    false => 6 + how as usize % 2,
                };
                harness.is_named(leg, names[place]);
            }
        }
        40 => {
            // One of several phones that a switch rings for us answers, and is named.
            if let Some(leg) =
                pick(harness, who, |line| line.outgoing && !line.answered && !line.ended)
                    .filter(|leg| harness.is_internal_line(*leg))
            {
                let stranger = format!("077{}", leg.0);
                harness.is_named(leg, ["5001", "5002", "1001", &stranger][how as usize % 4]);
                if !harness.lines[&leg].ended {
                    harness.answer(leg);
                }
            }
        }
        41 => {
            // A switch joins what is behind two of our legs to it, or our two legs.
            let mut talking = [who, more]
                .into_iter()
                .filter_map(|chance| pick(harness, chance, |line| line.answered && !line.ended));
            if let (Some(leg), Some(other)) = (talking.next(), talking.next())
                && harness.is_internal_line(leg)
                && harness.is_internal_line(other)
                && harness.lines[&leg].call != harness.lines[&other].call
            {
                let name = |harness: &Harness, of: LegId| match &harness.lines[&of].party {
                    Ok(device) => {
                        let known = DEVICES.iter().find(|(name, _)| *name == device.as_str());
                        known.map_or("?", |(_, number)| number).to_owned()
                    }
                    Err(_) => format!("077{}", of.0),
                };
                let (first, second) = (name(harness, other), name(harness, leg));
                harness.is_named(leg, &first);
                if !harness.lines[&other].ended && how % 4 != 0 {
                    harness.is_named(other, &second);
                }
            }
        }
        35 | 36 => {
            if let Some(call) = any_call(harness, more) {
                let device = device(who);
                let _ = match how % 3 {
                    0 => harness.command(Command::Reject { device, call }),
                    _ => harness.command(Command::Redirect {
                        device,
                        call,
                        destination: elsewhere(how / 3),
                    }),
                };
            }
        }
        37 => {
            if let Some(call) = any_call(harness, more).filter(|_| how % 2 == 0) {
                let _ = harness.command(Command::ClearCall { device: device(who), call });
            }
        }
        38 => {
            if let (Some(call), Some(other)) = (any_call(harness, more), any_call(harness, how)) {
                let device = device(who);
                let _ = harness.command(Command::SwapCalls { device, call, other });
            }
        }
        39 => {
            if let Some(call) = any_call(harness, more) {
                let change = match how % 4 {
                    0 => UserDataChange::Clear,
                    1 => UserDataChange::Delete("a".into()),
                    _ => UserDataChange::Set(attached(how)),
                };
                let _ =
                    harness.command(Command::ChangeUserData { device: device(who), call, change });
            }
        }
        42 => {
            let codes = ["*815001", "*805002", "*825001", "*83", "*815005", "*81"];
            let source = LegSource::Account(device(who));
            harness.incoming(source, codes[how as usize % 6], description(more));
        }
        43 | 44 => {
            if let Some(dialled) = harness.dialled.pop() {
                answer_code(harness, dialled, (how, more));
            }
        }
        45 => {
            if let Some(leg) = pick(harness, who, |line| line.answered && !line.ended) {
                let digit = ['4', '5', '6', '1'][how as usize % 4];
                harness.media(MediaEvent::Key { leg, digit });
            }
        }
        25 => {
            let (supervisor, _) = supervisor_and_target(who, how);
            if let Some(call) = any_call(harness, more) {
                let muted = how % 2 == 0;
                let _ = harness.command(Command::MuteMonitoredParty { supervisor, call, muted });
            }
        }
        _ => {
            // Events that come too late: the leg has ended.
            if let Some(leg) = pick(harness, who, |line| line.ended) {
                match how % 7 {
                    6 => harness.leg(LegEvent::Referred {
                        leg,
                        to: elsewhere(more),
                        replaces: None,
                        is_secure: false,
                    }),
                    0 => harness.leg(LegEvent::Answered { leg, media: sdp(5000, "0", "sendrecv") }),
                    1 => harness.leg(LegEvent::Ended { leg, reason: EndReason::Bye }),
                    2 => harness.leg(LegEvent::Refused { leg, status: 486 }),
                    3 => harness.leg(LegEvent::Confirmed { leg, media: None }),
                    4 => harness.leg(LegEvent::Progress {
                        leg,
                        status: 183,
                        media: description(more),
                    }),
                    _ => harness.media(MediaEvent::Inactive { leg }),
                }
            }
        }
    }
}

/// What a gateway does about a feature code, or does not.
fn answer_code(harness: &mut Harness, dialled: FeatureCodeDialled, (how, more): (u8, u8)) {
    let FeatureCodeDialled { id, device, code, from: _ } = dialled;
    if how % 5 == 0 {
        let refusal = Refusal::new(Reason::NotPermitted, "No.");
        let _ = harness.command(Command::RefuseFeatureCode { device, code: id, refusal });
        return;
    }
    let command = match code {
        FeatureCode::Start { activity, mode, scope, .. } => Command::StartMonitoring {
            supervisor: device,
            target: supervisor_and_target(0, how).1,
            activity,
            mode,
            scope,
            confirm_joins: more % 2 == 0,
            agent_side_only: more % 7 == 0,
        },
        FeatureCode::Stop => Command::StopMonitoring { supervisor: device },
        FeatureCode::Switch { call, activity } => {
            Command::SwitchMonitoring { supervisor: device, call, activity }
        }
    };
    let _ = harness.answer_code(Some(&id), command);
}

/// Everybody goes home.
fn end(harness: &mut Harness) {
    for supervisor in [AGENT, OTHER, SUPERVISOR, SUPERVISOR2] {
        let _ = harness.command(Command::StopMonitoring { supervisor: supervisor.into() });
    }
    assert!(harness.monitors.is_empty(), "{:?}", harness.monitors);
    assert!(harness.kept.is_empty());
    while let Some(leg) = pick(harness, 0, |line| !line.ended) {
        let line = harness.lines[&leg].clone();
        if line.outgoing && !line.answered {
            harness.leg(LegEvent::Refused { leg, status: 480 });
        } else {
            harness.hangs_up(leg);
        }
    }
    // A key that no gateway has answered.
    harness.wait(Duration::from_secs(11));
    harness.assert_empty();
}

fn pick(
    harness: &Harness,
    who: u8,
    wanted: impl Fn(&super::harness::Line) -> bool,
) -> Option<LegId> {
    let fitting: Vec<LegId> =
        harness.lines.values().filter(|line| wanted(line)).map(|line| line.leg).collect();
    fitting.get(who as usize % fitting.len().max(1)).copied()
}

fn elsewhere(which: u8) -> Number {
    ["5002", "5001", "0123", "5005", "7001", "999"][which as usize % 6].into()
}

/// Of four, any two are more than a call may have.
fn attached(which: u8) -> UserData {
    let key = ["a", "b", "c", "d"][which as usize % 4];
    UserData::new([(key.into(), "x".repeat(UserData::MOST_BYTES / 2 * usize::from(which % 3)))])
        .unwrap_or_default()
}

fn any_call(harness: &Harness, which: u8) -> Option<CallId> {
    harness.calls.keys().nth(which as usize % harness.calls.len().max(1)).cloned()
}

fn device(who: u8) -> DeviceId {
    DEVICES[who as usize % DEVICES.len()].0.into()
}

fn supervisor_and_target(who: u8, how: u8) -> (DeviceId, DeviceId) {
    let supervisor = [SUPERVISOR, SUPERVISOR, SUPERVISOR2, OTHER][who as usize % 4];
    let target = [AGENT, AGENT, OTHER, SUPERVISOR, CUSTOMER][how as usize % 5];
    (supervisor.into(), target.into())
}

fn description(how: u8) -> Option<Vec<u8>> {
    let port = 4000 + 2 * u16::from(how);
    match how % 16 {
        0 => None,
        1 => Some(b"v=0\r\n".to_vec()),
        2 | 10 | 11 => Some(sdp(port, "18 101", "sendrecv")),
        12 => Some(sdp(port, "18 0 101", "sendrecv")),
        13 => Some(sdp(port, "8 18 101", "sendrecv")),
        3 => Some(sdp(port, "8 0 101", "sendonly")),
        4 => Some(sdp(port, "0", "inactive")),
        5 => Some(sdp(port, "0", "recvonly")),
        6 => Some(sdp(port, "8", "sendrecv")),
        _ => Some(sdp(port, "0 8 101", "sendrecv")),
    }
}
